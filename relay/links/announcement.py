# SPDX-License-Identifier: GPL-2.0-or-later
"""What a stranger announces by DNS-SD, to be resolved: its name is his, and may be none (RFC 6763 section 4.1.1)."""

from __future__ import annotations

from zeroconf import BadTypeInNameException
from zeroconf.asyncio import AsyncServiceInfo

from relay.links.address import SERVICE_TYPE


def announcement(name: str) -> AsyncServiceInfo | None:
    """The relay that is announced by ``name``; None where no relay has such a name.

    zeroconf tells of every name, and raises at one with a line feed in it: one packet of a stranger ended its reader.
    """
    try:
        return AsyncServiceInfo(SERVICE_TYPE, name)
    except BadTypeInNameException:
        return None
