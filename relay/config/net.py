# SPDX-License-Identifier: GPL-2.0-or-later
"""The section [net] of relay.toml: radios, and what is bridged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from relay.config import countries, settings
from relay.config.passwords import why_trivial
from relay.config.settings import BadValueError, setting

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTO: Final = "auto"
#: The interface of batman-adv, and the bridge: names under which [tcp] and [store.shares] can name them.
BATMAN: Final = "bat0"
BRIDGE: Final = "br-mesh"
#: More radios in one box disturb each other; each costs a task and its notes (some KiB).
MAX_RADIOS: Final = 8
MAX_PORTS: Final = 16
#: A network's name (IEEE 802.11-2020 9.4.2.2 and 9.4.2.97).
MAX_NAME_BYTES: Final = 32
MIN_SECRET_CHARS: Final = 12
#: SAE takes more, wpa_supplicant's control line has to hold twice as much.
MAX_SECRET_BYTES: Final = 128

_CHANNELS: Final = (*range(1, 15), *range(36, 65, 4), *range(100, 145, 4), *range(149, 178, 4))


def frequency_of(channel: int) -> int:
    """The centre, in MHz, of a channel of 2.4 or 5 GHz (IEEE 802.11-2020 annex E)."""
    if channel == 14:
        return 2484
    return 2407 + 5 * channel if channel < 14 else 5000 + 5 * channel


def _interface(value: object) -> str:
    if not isinstance(value, str):
        raise BadValueError(f'write the name of an interface in quotes, or "{AUTO}"')
    (name,) = settings.interfaces([value])
    return name


def _channel(value: object) -> int:
    if type(value) is not int or value not in _CHANNELS:
        raise BadValueError("write a channel: 1 to 14 for 2.4 GHz, 36 to 177 for 5 GHz")
    return value


def _mesh_id(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= MAX_NAME_BYTES or not value.isprintable():
        raise BadValueError(f"write a name of 1 to {MAX_NAME_BYTES} bytes in quotes, the same on all relays")
    return value


def _secret(value: object) -> str:
    """A password of SAE, which lets nobody take guesses home: each costs a try on the air."""
    if value in {"", settings.CREDENTIAL}:
        return str(value)
    remedy = f'write a password of {MIN_SECRET_CHARS} characters or more, in quotes; "" leaves this Wi-Fi open'
    if not isinstance(value, str) or len(value) < MIN_SECRET_CHARS:
        raise BadValueError(remedy)
    if why := why_trivial(value):
        raise BadValueError(f"{why}; {remedy}")
    if len(value.encode()) > MAX_SECRET_BYTES or not value.isprintable():
        raise BadValueError(f"a secret may have {MAX_SECRET_BYTES} bytes, and no tabs or line ends")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioConfig:
    """One radio. ``rate_cap_mbit``: what it may send at most, 0 for all it can."""

    interface: str = setting(AUTO, _interface)
    mode: str = setting("mesh", settings.one_of("mesh", "ibss"))
    mesh_id: str = setting("mesh-relay", _mesh_id)
    channel: int = setting(1, _channel)
    secret: str = setting("", _secret, secret=True)
    batman: bool = setting(False, settings.boolean)
    rate_cap_mbit: float = setting(0.0, settings.number(0, 1000))

    @property
    def mhz(self) -> int:
        """The channel's centre."""
        return frequency_of(self.channel)

    @property
    def cell(self) -> bytes:
        """The BSSID of an IBSS of this name: a locally administered unicast address that says no more than the name."""
        digest = hashlib.sha256(b"mesh-relay ibss " + self.mesh_id.encode()).digest()
        return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]


def _access_point(value: object) -> str:
    return "" if value == "" else settings.interfaces([value])[0]


def _radios(value: object) -> Mapping[str, RadioConfig]:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise BadValueError("write [net.radios.NAME] on a line of its own, the settings of that radio below")
    if len(value) > MAX_RADIOS:
        raise BadValueError(f"at most {MAX_RADIOS} radios")
    found = {name: _radio(name, table) for name, table in value.items()}
    named = [radio.interface for radio in found.values() if radio.interface != AUTO]
    for name, radio in found.items():
        if named.count(radio.interface) > 1:
            raise BadValueError(f'two radios use "{radio.interface}"; give each its own', name, "interface")
    return MappingProxyType(found)


def _radio(name: str, table: dict[str, Any]) -> RadioConfig:
    known = {item.name: item for item in fields(RadioConfig)}
    values = {}
    for key, value in table.items():
        item = known.get(key)
        if item is None:
            close = get_close_matches(key.lower().replace("-", "_"), list(known), n=1, cutoff=0.6)
            remedy = f"did you mean {close[0]}?" if close else f"a radio has: {', '.join(known)}"
            raise BadValueError(f"unknown setting {key}; {remedy}", name, key)
        try:
            values[key] = item.metadata["parse"](value)
        except BadValueError as error:
            raise BadValueError(f"{name}.{key}: {error}", name, key) from error
    radio = RadioConfig(**values)
    if radio.secret and radio.mode == "ibss":
        raise BadValueError(
            f'{name}: an IBSS has no SAE; remove the secret, or set mode = "mesh" '
            "(the relays' own sessions are encrypted either way)",
            name,
            "secret",
        )
    return radio


def _ports(value: object) -> tuple[str, ...]:
    names = settings.interfaces(value)
    if len(names) > MAX_PORTS or len(set(names)) != len(names):
        raise BadValueError(f"list each interface once, and {MAX_PORTS} at most")
    for name in names:
        if name in {AUTO, BRIDGE, "lo"}:
            raise BadValueError(f'"{name}" cannot be bridged; list interfaces such as "eth0", "wlan1" or "{BATMAN}"')
    if len(names) == 1:
        raise BadValueError("a bridge needs two interfaces; list both, or none")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConfig:
    """What `relay net` reads. ``radios`` by the names that the operator gave them."""

    country: str = setting("", countries.country)
    # Marked as secret because a table of radios holds secrets, and is shown as a whole where it is wrong.
    radios: Mapping[str, RadioConfig] = setting(MappingProxyType({}), _radios, secret=True)
    bridge: tuple[str, ...] = setting((), _ports)
    access_point: str = setting("", _access_point)
    access_point_channel: int = setting(1, _channel)

    @property
    def uses_batman(self) -> bool:
        """Whether any radio carries batman-adv."""
        return any(radio.batman for radio in self.radios.values())

    @property
    def bridges_batman(self) -> bool:
        """Whether batman-adv's interface is a port of the bridge."""
        return BATMAN in self.bridge

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """What is wrong between settings that are right by themselves: where it stands, and the remedy."""
        found: list[tuple[tuple[str, ...], str]] = []
        for name, radio in self.radios.items():
            if radio.interface in self.bridge and radio.batman:
                remedy = f'"{radio.interface}" belongs to batman-adv; bridge "{BATMAN}" instead'
                found.append((("net", "bridge"), f"net.bridge: {remedy}"))
            elif radio.interface in self.bridge and radio.mode == "ibss":
                remedy = (
                    f'"{radio.interface}" is an IBSS (radio {name}), whose frames have no room for the address of '
                    f'somebody behind a bridge; set mode = "mesh", or batman = true and bridge "{BATMAN}"'
                )
                found.append((("net", "bridge"), f"net.bridge: {remedy}"))
        if self.bridges_batman and not self.uses_batman:
            remedy = f'"{BATMAN}" is there only with batman = true for a radio'
            found.append((("net", "bridge"), f"net.bridge: {remedy}"))
        return found
