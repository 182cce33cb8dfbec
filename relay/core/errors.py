# SPDX-License-Identifier: GPL-2.0-or-later
"""The roots of every error this package raises on purpose."""


class RelayError(Exception):
    """Whatever the relay or its client refuses or cannot do; the root to catch."""


class DecodeError(RelayError):
    """Bytes from outside that are not a value of the format they should be in."""
