# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of the client whose text a user reads: each says what to do."""

from relay.links.errors import ClientError

__all__ = [
    "BulletinError",
    "CardError",
    "ClientError",
    "ContactError",
    "DatabaseError",
    "PrivateFileError",
    "SendError",
]


class PrivateFileError(ClientError):
    """A file or folder with secrets that others could read or replace, or that is not what it should be."""


class CardError(ClientError):
    """A contact URI that is not one, or was damaged on the way."""


class ContactError(ClientError):
    """A name that is taken, unknown or not usable as one."""


class BulletinError(ClientError):
    """A notice board that is not known under that name, or cannot be posted to as asked."""


class DatabaseError(ClientError):
    """The message database cannot be used: made by a newer version, damaged, or the disk is full."""


class TakenError(ClientError):
    """A message whose content is not here as it was sent: another command has taken it, or the disk erred."""


class SendError(ClientError):
    """A message that cannot be queued as asked."""
