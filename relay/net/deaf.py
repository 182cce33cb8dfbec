# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel would believe of anybody on a segment, switched off for an interface.

One router advertisement (RFC 4861) gives a machine addresses and a way out through its
sender, one redirect another way to a single peer. In a mesh, and above all in an open
one, the sender may be a stranger; a relay needs link-local addresses only. So this is
off on what `relay net` sets up: radios, batman-adv's interface, and the bridge, where
whoever manages the machine's network decides for itself what it takes.

The settings are files (Documentation/networking/ip-sysctl.rst): rtnetlink tells them
and sets none of IPv6. CAP_NET_ADMIN may write them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

FOLDER: Final = Path("/proc/sys/net")
#: By the path below FOLDER, with a place for the interface. For IPv4 the kernel also believes redirects where
#: `all` says so, which is the machine's to decide; an appliance says no (ansible/roles/hardening).
DEAF: Final = {
    "ipv6/conf/{}/accept_ra": "0",
    "ipv6/conf/{}/autoconf": "0",
    "ipv6/conf/{}/accept_redirects": "0",
    "ipv6/conf/{}/accept_source_route": "-1",
    "ipv4/conf/{}/accept_redirects": "0",
    "ipv4/conf/{}/accept_source_route": "0",
}
#: Of a number; longer is none.
_MAX_CHARS: Final = 16


def read(interface: str, folder: Path = FOLDER) -> dict[str, str]:
    """What is set now; without what this kernel does not have."""
    found = {}
    for name in DEAF:
        try:
            found[name] = (folder / name.format(interface)).read_text().strip()[:_MAX_CHARS]
        except OSError:
            continue
    return found


def write(interface: str, settings: Mapping[str, str], folder: Path = FOLDER) -> bool:
    """Set what differs; return whether all is as wanted. Only DEAF's are set, whatever ``settings`` names."""
    now = read(interface, folder)
    is_done = True
    for name, value in settings.items():
        if name not in DEAF or now.get(name, value) == value:
            continue
        try:
            (folder / name.format(interface)).write_text(value)
        except OSError as error:
            logger.warning("%s: could not set %s (%s)", interface, name.rpartition("/")[2], error.strerror)
            is_done = False
    return is_done


def make_deaf(interface: str) -> bool:
    """Have the kernel believe nobody there, before it is switched on; return whether it does not."""
    return write(interface, DEAF)
