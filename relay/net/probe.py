# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay net probe`: what each radio can do, what not, and what to do about it. Changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from relay.config.net import RadioConfig
from relay.net import supplicant
from relay.net.inventory import is_blocked, make_radio, nothing_there, pick
from relay.net.nl80211 import Nl80211
from relay.net.suitability import (
    Radio,
    access_point_obstacles,
    cautions,
    most_phones,
    obstacles,
    ranges,
)

if TYPE_CHECKING:
    from relay.config.net import NetConfig
    from relay.net.wiphy import Wiphy, WirelessInterface

VERSION = 1
_PHONES = {
    "driver": "works, for {} phones, says its driver",
    "experience": "works, for {} to 10 phones with the firmware that it comes with",
    "nobody": "works; its driver does not say for how many phones (at most {} are let in)",
}
_NO_RADIO = "no radio here: plug in a USB one, such as one with an mt7610u or mt7612u chip"


def probe(config: NetConfig) -> dict[str, Any]:
    """Look at the radios; return a document of strings, numbers and lists."""
    return asyncio.run(_probe(config))


async def _probe(config: NetConfig) -> dict[str, Any]:
    async with Nl80211() as radios:
        wiphys, interfaces = await radios.wiphys(), await radios.interfaces()
        country, unreadable = await radios.country(), radios.unreadable
    has_supplicant = supplicant.find_program() is not None
    found = [make_radio(wiphy, interfaces) for wiphy in sorted(wiphys.values(), key=lambda wiphy: wiphy.index)]
    return {
        "version": VERSION,
        "country": country,
        "unreadable": unreadable,
        "radios": [describe(radio, is_blocked(radio.wiphy.name), has_supplicant=has_supplicant) for radio in found],
        "configured": [
            _plan(name, asked, config, wiphys, interfaces, has_supplicant=has_supplicant)
            for name, asked in config.radios.items()
        ],
    }


def describe(radio: Radio, blocked: bool, *, has_supplicant: bool) -> dict[str, Any]:  # noqa: FBT001 - told by sysfs
    """What a radio can do; for each mode on the lowest channel that it may use."""
    wiphy = radio.wiphy
    channels = wiphy.usable_channels
    phones, phones_from = most_phones(radio)
    modes = {}
    for mode, secret in (("mesh", ""), ("mesh with secret", "any of those"), ("ibss", "")):
        asked = RadioConfig(
            mode=mode.partition(" ")[0], secret=secret, channel=channels[0] if channels else 1, batman=True
        )
        modes[mode] = {
            "problems": obstacles(radio, asked, has_supplicant=has_supplicant),
            "cautions": cautions(radio, asked),
        }
    return {
        "name": wiphy.name,
        "driver": radio.driver,
        "interfaces": list(radio.interfaces),
        "blocked": blocked,
        "own_country": wiphy.own_country,
        "channels": channels,
        "radar_channels": sorted(
            channel.number for channel in wiphy.channels.values() if channel.radar and not channel.disabled
        ),
        "modes": modes,
        "access_point": {
            "problems": access_point_obstacles(radio, channels[0] if channels else 1),
            "phones": phones,
            "phones_from": phones_from,
        },
        "beside": _beside(wiphy),
    }


def _beside(wiphy: Wiphy) -> dict[str, bool]:
    """Whether an access point can be up at the same time as a mesh or an IBSS."""
    return {
        mode: any(_go_together(limits.limits, limits.most, mode) for limits in wiphy.combinations)
        for mode in ("mesh", "ibss")
    }


def _go_together(limits: tuple[tuple[int, frozenset[str]], ...], most: int, mode: str) -> bool:
    """Whether two limits, or one that is large enough, hold both a mode and an access point."""
    return most >= 2 and any(
        mode in first[1] and "ap" in second[1] and (first is not second or first[0] >= 2)
        for first in limits
        for second in limits
    )


def _plan(
    name: str,
    asked: RadioConfig,
    config: NetConfig,
    wiphys: dict[int, Wiphy],
    interfaces: list[WirelessInterface],
    *,
    has_supplicant: bool,
) -> dict[str, Any]:
    """Which interface a configured radio would take, and whether it would work."""
    choice = pick(asked, config, wiphys, interfaces, has_supplicant=has_supplicant)
    if choice is None:
        return {"name": name, "interface": "", "problems": [nothing_there(asked)], "cautions": []}
    return {
        "name": name,
        "interface": choice.interface.name,
        "problems": obstacles(choice.radio, asked, has_supplicant=has_supplicant),
        "cautions": cautions(choice.radio, asked),
    }


def text(document: dict[str, Any]) -> str:
    """The document for people."""
    lines = []
    for radio in document["radios"]:
        names = ", ".join(radio["interfaces"]) or "no interface"
        lines.append(f"{radio['name']} ({names}), driver {radio['driver'] or 'unknown'}")
        if radio["blocked"]:
            lines.append("  blocked by rfkill: unblock it (`rfkill unblock wifi`)")
        channels = ranges(radio["channels"]) or "none"
        lines.append(f"  channels: {channels}")
        for mode, result in radio["modes"].items():
            lines.append(f"  {mode}: {'works' if not result['problems'] else 'no'}")
            lines += [f"    {problem}" for problem in result["problems"]]
            lines += [f"    mind: {caution}" for caution in result["cautions"]]
        access_point = radio["access_point"]
        problems, told, count = access_point["problems"], access_point["phones_from"], access_point["phones"]
        lines.append(f"  access point: {_PHONES[told].format(count) if not problems else 'no'}")
        lines += [f"    {problem}" for problem in problems]
        together = [mode for mode, works in radio["beside"].items() if works]
        lines.append(f"  access point at the same time: {' or '.join(f'beside {mode}' for mode in together) or 'no'}")
    if not lines:
        lines.append(_NO_RADIO)
    country = document["country"]
    if country in {"", "00"}:
        lines.append("country: not set, so only what is allowed everywhere; set net.country")
    else:
        lines.append(f"country: {country}")
    if document["unreadable"]:
        lines.append(f"{document['unreadable']} messages of drivers could not be read and were left out")
    for plan in document["configured"]:
        lines.append(
            f"radio {plan['name']} of the configuration: {plan['interface'] or 'no interface'}"
            f"{'' if plan['problems'] else ', works'}"
        )
        lines += [f"  {problem}" for problem in plan["problems"]]
        lines += [f"  mind: {caution}" for caution in plan["cautions"]]
    return "\n".join(lines)
