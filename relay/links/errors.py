# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of whoever uses a relay."""

from __future__ import annotations

from relay.core.errors import RelayError


class ClientError(RelayError):
    """Something the user can put right; the text says how."""
