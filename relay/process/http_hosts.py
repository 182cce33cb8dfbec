# SPDX-License-Identifier: GPL-2.0-or-later
"""By which names an HTTP server may be called.

A web site elsewhere can give its own name the address of a machine here (DNS rebinding),
and so read through a browser on this network what is meant for this network. It cannot
have that browser say another name.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

#: A Host header (RFC 9110 section 7.2): what names and addresses are made of and no more, as it is printed on pages and
#: drawn as a code. A name has up to 253 signs, an address a scope of up to 15 (an interface's name, RFC 4007), and a
#: port five digits: longer ones were drawn as codes of three thousand signs.
_HOST: Final = re.compile(
    r"(?P<name>[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}(?:%[a-z0-9_.-]{1,17})?\])(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)


def host_name(host: str) -> str:
    """The name in a Host header (`name`, `name:port`, `[v6]:port`): in lower case, without port and final dot.

    Of what is no such header it is "", which nobody is called.
    """
    found = _HOST.fullmatch(host)
    return found["name"].lower().rstrip(".") if found else ""


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
