# SPDX-License-Identifier: GPL-2.0-or-later
"""By which names an HTTP server may be called.

A web site elsewhere can give its own name the address of a machine here (DNS rebinding),
and so read through a browser on this network what is meant for this network. It cannot
have that browser say another name.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container


def host_name(host: str) -> str:
    """The name in a Host header (`name`, `name:port`, `[v6]:port`): in lower case, without port and final dot."""
    before, _, port = host.rpartition(":")
    name = before if port.isdecimal() and not host.endswith("]") else host
    return name.lower().rstrip(".")


def is_called_rightly(host: str, names: Container[str]) -> bool:
    """Whether a Host header is an IP address or one of ``names``, which are in lower case."""
    name = host_name(host)
    if name in names:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
