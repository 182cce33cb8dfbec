# SPDX-License-Identifier: GPL-2.0-or-later
"""Where this appliance's pages are, for its screen and its card: read from files, by processes that have no network."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.appliance.constants import ACCESS_POINT_ADDRESS, OUTPUT, SEGMENT_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What systemd-networkd was given by other people's servers, a file per interface (sd_dhcp_lease_save).
LEASES: Final = Path("/run/systemd/netif/leases")
#: A machine has a cable or two.
MAX_LEASES: Final = 8
_MAX_BYTES: Final = 4096
STATUS_PORT: Final = 9470


def own_addresses(output: Path = OUTPUT, leases: Path = LEASES) -> list[str]:
    """Addresses to be typed, with what they are reached by; none where nothing can be reached."""
    found = []
    if any(output.glob("access-point-*")):
        found.append(f"http://{ACCESS_POINT_ADDRESS.ip}/ (its access point)")
    # One that hands out addresses has its own besides; see relay.appliance.network.
    cable = dict.fromkeys((*_leased(leases), *_handed_out(output)))
    found += [f"http://{address}:{STATUS_PORT}/ (cable)" for address in cable]
    return found


def _leased(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*"))[:MAX_LEASES]:
        for line in _read(path).splitlines():
            name, _, value = line.partition("=")
            if name == "ADDRESS" and _is_address(value):
                yield value


def _handed_out(output: Path) -> Iterator[str]:
    for settings in SEGMENT_SETTINGS:
        try:
            address = json.loads(_read(output / settings.name))["address"]
        except (ValueError, KeyError, TypeError):
            continue
        if _is_address(address):
            yield str(address)


def _is_address(text: object) -> bool:
    try:
        ipaddress.IPv4Address(str(text))
    except ValueError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
