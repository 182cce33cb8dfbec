# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in the way of a radio doing what is asked of it, each with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.config.appliance import MAX_PHONES
from relay.config.net import frequency_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay.config.net import RadioConfig
    from relay.net.wiphy import Wiphy

#: Chips whose drivers have 802.11s and IBSS, and which are sold as USB sticks.
GOOD_RADIOS: Final = "one with an mt7610u or mt7612u chip"
#: Broadcom's full-MAC driver: the Raspberry Pi's own radio.
BROADCOM: Final = "brcmfmac"

#: Phones on an access point of the Raspberry Pi's own radio with its stock firmware: 7 to 10 (raspberrypi/documentation
#: #2520, raspberrypi/linux #3010). It does not say so itself, and tells nobody of those whom it turns away.
BROADCOM_PHONES: Final = 7

_NO_MODE: Final = {
    "mesh": "this radio has no mesh point (802.11s)",
    "ibss": "this radio has no IBSS (ad-hoc mode)",
}
_OTHER: Final = {"mesh": "ibss", "ibss": "mesh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    """A radio as found: ``driver`` "" when it does not say; ``interfaces``: names."""

    wiphy: Wiphy
    driver: str = ""
    interfaces: tuple[str, ...] = ()


def obstacles(radio: Radio, asked: RadioConfig, *, has_supplicant: bool) -> list[str]:
    """Why the radio cannot do what is asked; empty when it can."""
    wiphy = radio.wiphy
    found = []
    if asked.mode not in wiphy.kinds:
        other = _OTHER[asked.mode]
        own = f'set mode = "{other}" on all relays, or ' if other in wiphy.kinds else ""
        chip = f" ({radio.driver}, as on the Raspberry Pi's board)" if radio.driver == BROADCOM else ""
        found.append(f"{_NO_MODE[asked.mode]}{chip}: {own}use a USB radio, {GOOD_RADIOS}")
    if problem := _channel_problem(wiphy, asked.channel):
        found.append(problem)
    if asked.secret and not wiphy.mesh_security:
        found.append(
            f"its driver leaves no room for SAE in a mesh: remove the secret, or use a USB radio, {GOOD_RADIOS}"
        )
    if asked.secret and not has_supplicant:
        found.append("SAE needs wpa_supplicant, which is not installed: install the package wpasupplicant")
    return found


def access_point_obstacles(radio: Radio, channel: int) -> list[str]:
    """Why the radio cannot be an access point on that channel; empty when it can."""
    found = []
    if "ap" not in radio.wiphy.kinds:
        found.append(f"this radio cannot be an access point: use a USB radio, {GOOD_RADIOS}")
    if problem := _channel_problem(radio.wiphy, channel):
        found.append(problem)
    return found


def most_phones(radio: Radio) -> tuple[int, str]:
    """How many phones an access point of this radio holds, and who says so: "driver", "experience" or "nobody"."""
    known = {
        "driver": radio.wiphy.most_stations,
        "experience": BROADCOM_PHONES if radio.driver == BROADCOM else 0,
    }
    count, told = min(((count, told) for told, count in known.items() if count), default=(MAX_PHONES, "nobody"))
    return min(count, MAX_PHONES), told


def _channel_problem(wiphy: Wiphy, number: int) -> str | None:
    channel = wiphy.channel(frequency_of(number))
    usable = wiphy.usable_channels
    choice = f"choose one of {ranges(usable)}" if usable else "set net.country to where this relay is"
    if channel is None:
        return f"it does not know channel {number}: {choice}"
    if channel.disabled:
        return f"channel {number} is not allowed here: {choice}, or set net.country to where this relay is"
    if channel.radar:
        return f"channel {number} is shared with radars, for which it would have to watch: {choice}"
    if channel.listen_only:
        return f"on channel {number} it may only answer others: {choice}, or set net.country to where this relay is"
    return None


def cautions(radio: Radio, asked: RadioConfig) -> list[str]:
    """What is to be known about a radio that can do what is asked."""
    found = []
    if radio.driver == BROADCOM and asked.mode == "ibss":
        found.append(
            "the IBSS of brcmfmac (the Raspberry Pi's own radio) is known to lose neighbours and to stop until it is "
            f"reset: for more than trying out, use a USB radio, {GOOD_RADIOS}"
        )
    if asked.mode == "ibss" and not asked.batman:
        found.append(
            "an IBSS reaches direct neighbours only: relays pass messages on, other programs need batman = true"
        )
    return found


def ranges(numbers: Iterable[int]) -> str:
    """Channel numbers as people write them: "1-11, 36, 40"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
