# SPDX-License-Identifier: GPL-2.0-or-later
"""The radios of this machine, and which of them is to do what the configuration asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.config.net import AUTO
from relay.net.errors import BlockedError, NotThereError, UnsuitableError
from relay.net.suitability import BROADCOM, Radio, cautions, obstacles
from relay.net.wiphy import InterfaceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from relay.config.net import NetConfig, RadioConfig
    from relay.net.machine import Machine
    from relay.net.wiphy import Wiphy, WirelessInterface

_SYSFS: Final = Path("/sys/class")
#: Types between which an interface is changed; an access point or a monitor is somebody's own.
_OURS_TO_CHANGE: Final = frozenset(
    {InterfaceType.STATION, InterfaceType.IBSS, InterfaceType.MESH, InterfaceType.UNSPECIFIED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An interface, and its radio."""

    interface: WirelessInterface
    radio: Radio


def make_radio(wiphy: Wiphy, interfaces: Iterable[WirelessInterface]) -> Radio:
    """Put together what nl80211 and sysfs tell of a radio."""
    names = tuple(sorted(interface.name for interface in interfaces if interface.wiphy == wiphy.index))
    return Radio(wiphy=wiphy, driver=driver_of(wiphy.name), interfaces=names)


def driver_of(wiphy: str) -> str:
    """The name of a radio's driver, "" when sysfs does not say."""
    try:
        return (_SYSFS / "ieee80211" / wiphy / "device" / "driver").readlink().name
    except OSError:
        return ""


def is_blocked(wiphy: str) -> bool:
    """Whether rfkill has switched a radio off; a radio that rfkill does not know is not blocked."""
    folder = _SYSFS / "ieee80211" / wiphy
    for switch in folder.glob("rfkill*"):
        for kind in ("soft", "hard"):
            try:
                if (switch / kind).read_text().strip() == "1":
                    return True
            except OSError:
                continue
    return False


def candidates(
    interfaces: Iterable[WirelessInterface], config: NetConfig, taken: Iterable[str]
) -> list[WirelessInterface]:
    """Interfaces that "auto" may take: nobody's network hangs on them, and nobody named them."""
    named = {radio.interface for radio in config.radios.values()} | set(config.bridge) | set(taken)
    return [
        interface
        for interface in interfaces
        if interface.name not in named
        and interface.kind in _OURS_TO_CHANGE
        and not (interface.kind == InterfaceType.STATION and interface.mhz)
    ]


def best(choices: Iterable[Choice], asked: RadioConfig, *, has_supplicant: bool) -> Choice | None:
    """The one that can do what is asked, with the fewest cautions; else the one that lacks least."""
    return min(
        choices,
        key=lambda choice: (
            len(obstacles(choice.radio, asked, has_supplicant=has_supplicant)),
            choice.radio.driver == BROADCOM,
            len(cautions(choice.radio, asked)),
            choice.interface.name,
        ),
        default=None,
    )


def pick(
    asked: RadioConfig,
    config: NetConfig,
    wiphys: Mapping[int, Wiphy],
    interfaces: Sequence[WirelessInterface],
    taken: Iterable[str] = (),
    *,
    has_supplicant: bool,
) -> Choice | None:
    """Return the interface that was named, or the best of those that "auto" may take; None if there is none."""
    if asked.interface == AUTO:
        usable = candidates(interfaces, config, taken)
    else:
        usable = [interface for interface in interfaces if interface.name == asked.interface]
    choices = [
        Choice(interface=interface, radio=make_radio(wiphys[interface.wiphy], interfaces))
        for interface in usable
        if interface.wiphy in wiphys
    ]
    return best(choices, asked, has_supplicant=has_supplicant)


def nothing_there(asked: RadioConfig) -> str:
    """Return what to say when there is no interface to pick."""
    what = "there is no radio that nobody uses" if asked.interface == AUTO else f"there is no radio {asked.interface}"
    return f"{what}: plug one in"


async def choose(machine: Machine, name: str, asked: RadioConfig) -> Choice:
    """Find the interface for a configured radio; raise NotThereError, BlockedError or UnsuitableError."""
    radios = machine.radios
    interfaces = await radios.interfaces()
    wiphys = await radios.wiphys()
    has_supplicant = machine.supplicant_program is not None
    taken = [interface for other, interface in machine.taken.items() if other != name]
    choice = pick(asked, machine.config, wiphys, interfaces, taken, has_supplicant=has_supplicant)
    if choice is None:
        raise NotThereError(f"{nothing_there(asked)}; `relay net probe` lists what is there")
    if is_blocked(choice.radio.wiphy.name):
        raise BlockedError(f"{choice.interface.name} is blocked by rfkill: unblock it (`rfkill unblock wifi`)")
    if problems := obstacles(choice.radio, asked, has_supplicant=has_supplicant):
        channel = choice.radio.wiphy.channel(asked.mhz)
        if channel is not None and not channel.usable:
            machine.reporting.count("regulatory_blocked")
        raise UnsuitableError(f"{choice.interface.name}: {'; '.join(problems)}")
    return choice
