# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses as other programs write them, written one way."""

from __future__ import annotations

import ipaddress


def plain(address: str) -> str:
    """Write an address one way: without scope, IPv4 not mapped into IPv6."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
