# SPDX-License-Identifier: GPL-2.0-or-later
"""What a radio says of itself: decoding of nl80211's wiphy and interface dumps (linux/nl80211.h).

A wiphy comes in many messages (NL80211_ATTR_SPLIT_WIPHY_DUMP), a band's channels
spread over several of them. A message that cannot be read is left out and counted:
one odd driver must not hide the other radios.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.process.netlink_attributes import Attributes

if TYPE_CHECKING:
    from collections.abc import Iterable

# NL80211_ATTR_*
ATTR_WIPHY: Final = 1
ATTR_WIPHY_NAME: Final = 2
ATTR_IFINDEX: Final = 3
ATTR_IFNAME: Final = 4
ATTR_IFTYPE: Final = 5
ATTR_MAC: Final = 6
ATTR_STA_INFO: Final = 21
ATTR_WIPHY_BANDS: Final = 22
ATTR_MESH_ID: Final = 24
ATTR_SUPPORTED_IFTYPES: Final = 32
ATTR_REG_ALPHA2: Final = 33
ATTR_MESH_CONFIG: Final = 35
ATTR_WIPHY_FREQ: Final = 38
ATTR_SSID: Final = 52
ATTR_FREQ_FIXED: Final = 60
ATTR_4ADDR: Final = 83
ATTR_SUPPORT_MESH_AUTH: Final = 115
ATTR_INTERFACE_COMBINATIONS: Final = 120
ATTR_CHANNEL_WIDTH: Final = 159
ATTR_SPLIT_WIPHY_DUMP: Final = 174
ATTR_MAX_AP_ASSOC_STA: Final = 202
ATTR_WIPHY_SELF_MANAGED_REG: Final = 216

_BAND_FREQS: Final = 1
_BAND_HT_CAPA: Final = 4
_FREQ: Final = 1
_FREQ_DISABLED: Final = 2
_FREQ_NO_IR: Final = 3
_FREQ_RADAR: Final = 5
_COMB_LIMITS: Final = 1
_COMB_MAXNUM: Final = 2
_COMB_NUM_CHANNELS: Final = 4
_LIMIT_MAX: Final = 1
_LIMIT_TYPES: Final = 2
_STA_PLINK_STATE: Final = 6
_PLINK_ESTABLISHED: Final = 4

#: A radio has at most some hundred channels; whoever claims more is not believed further.
MAX_CHANNELS: Final = 512


class InterfaceType(IntEnum):
    """NL80211_IFTYPE_*, those that matter here."""

    UNSPECIFIED = 0
    IBSS = 1
    STATION = 2
    AP = 3
    AP_VLAN = 4
    WDS = 5
    MONITOR = 6
    MESH = 7
    P2P_CLIENT = 8
    P2P_GO = 9
    P2P_DEVICE = 10
    OCB = 11
    NAN = 12


_NAMES: Final = {kind.value: kind.name.lower().replace("_", "-") for kind in InterfaceType}


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A frequency that a radio knows, and what the regulatory domain lets it do there."""

    mhz: int
    disabled: bool = False
    listen_only: bool = False
    radar: bool = False

    @property
    def number(self) -> int:
        """The number by which people know it, 0 outside the bands that have one here."""
        return channel_of(self.mhz)

    @property
    def usable(self) -> bool:
        """Whether a mesh can be begun here, without waiting for radars."""
        return not (self.disabled or self.listen_only or self.radar)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Interfaces that may be up at the same time: at most ``most`` on ``channels`` channels; ``limits`` by types."""

    most: int
    channels: int
    limits: tuple[tuple[int, frozenset[str]], ...] = ()


@dataclass(slots=True, kw_only=True)
class Wiphy:
    """A radio. ``kinds``: names of interface types that it can have; ``most_stations``: for an access point, or 0."""

    index: int
    name: str = ""
    kinds: frozenset[str] = frozenset()
    channels: dict[int, Channel] = field(default_factory=dict)
    high_throughput: bool = False
    mesh_security: bool = False
    own_country: bool = False
    combinations: tuple[Combination, ...] = ()
    most_stations: int = 0

    def channel(self, mhz: int) -> Channel | None:
        """What is known of a frequency."""
        return self.channels.get(mhz)

    @property
    def usable_channels(self) -> list[int]:
        """Numbers of the channels on which a mesh can be begun, ascending."""
        return sorted(channel.number for channel in self.channels.values() if channel.usable and channel.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class WirelessInterface:
    """An interface of a radio. ``mhz``: 0 while it is on no channel."""

    index: int
    name: str
    wiphy: int
    kind: int
    mhz: int = 0
    network: bytes = b""
    four_address: bool = False

    @property
    def kind_name(self) -> str:
        """The type's name, such as "mesh"."""
        return kind_name(self.kind)


def kind_name(kind: int) -> str:
    """The name of an interface type; of one that is not known here, its number."""
    return _NAMES.get(kind, str(kind))


def channel_of(mhz: int) -> int:
    """The channel of a frequency, 0 where there is none in 2.4 or 5 GHz."""
    if mhz == 2484:
        return 14
    if 2412 <= mhz <= 2472:
        return (mhz - 2407) // 5
    return (mhz - 5000) // 5 if 5160 <= mhz <= 5885 else 0


def decode_wiphys(messages: Iterable[bytes]) -> tuple[dict[int, Wiphy], int]:
    """Put the messages of a dump together; also return how many could not be read."""
    found: dict[int, Wiphy] = {}
    unreadable = 0
    for message in messages:
        try:
            _merge(Attributes(message), found)
        except DecodeError:
            unreadable += 1
    return found, unreadable


def _merge(attributes: Attributes, found: dict[int, Wiphy]) -> None:
    index = attributes.unsigned(ATTR_WIPHY)
    if index is None:
        raise DecodeError("a wiphy without its number")
    wiphy = found.setdefault(index, Wiphy(index=index))
    wiphy.name = attributes.text(ATTR_WIPHY_NAME) or wiphy.name
    wiphy.mesh_security |= ATTR_SUPPORT_MESH_AUTH in attributes
    wiphy.most_stations = attributes.unsigned(ATTR_MAX_AP_ASSOC_STA) or wiphy.most_stations
    wiphy.own_country |= ATTR_WIPHY_SELF_MANAGED_REG in attributes
    # The types are flags whose numbers are the values.
    wiphy.kinds |= {kind_name(kind) for kind, _ in attributes.nest(ATTR_SUPPORTED_IFTYPES)}
    for _, band in attributes.nest(ATTR_WIPHY_BANDS):
        _merge_band(Attributes(band), wiphy)
    wiphy.combinations += tuple(
        _combination(Attributes(value)) for _, value in attributes.nest(ATTR_INTERFACE_COMBINATIONS)
    )


def _merge_band(band: Attributes, wiphy: Wiphy) -> None:
    wiphy.high_throughput |= bool(band.unsigned(_BAND_HT_CAPA))
    for _, value in band.nest(_BAND_FREQS):
        entry = Attributes(value)
        mhz = entry.unsigned(_FREQ)
        if mhz is None or len(wiphy.channels) >= MAX_CHANNELS:
            continue
        wiphy.channels[mhz] = Channel(
            mhz=mhz,
            disabled=_FREQ_DISABLED in entry,
            listen_only=_FREQ_NO_IR in entry,
            radar=_FREQ_RADAR in entry,
        )


def _combination(attributes: Attributes) -> Combination:
    limits = []
    for _, value in attributes.nest(_COMB_LIMITS):
        limit = Attributes(value)
        kinds = frozenset(kind_name(kind) for kind, _ in limit.nest(_LIMIT_TYPES))
        limits.append((limit.unsigned(_LIMIT_MAX) or 0, kinds))
    return Combination(
        most=attributes.unsigned(_COMB_MAXNUM) or 0,
        channels=attributes.unsigned(_COMB_NUM_CHANNELS) or 0,
        limits=tuple(limits),
    )


def decode_interfaces(messages: Iterable[bytes]) -> tuple[list[WirelessInterface], int]:
    """The interfaces of a dump that have a name; also how many messages could not be read."""
    found = []
    unreadable = 0
    for message in messages:
        try:
            attributes = Attributes(message)
            index, name = attributes.unsigned(ATTR_IFINDEX), attributes.text(ATTR_IFNAME)
            wiphy = attributes.unsigned(ATTR_WIPHY)
            # A P2P device is listed without either: it is no network interface.
            if index is None or not name or wiphy is None:
                continue
            found.append(
                WirelessInterface(
                    index=index,
                    name=name,
                    wiphy=wiphy,
                    kind=attributes.unsigned(ATTR_IFTYPE) or 0,
                    mhz=attributes.unsigned(ATTR_WIPHY_FREQ) or 0,
                    network=attributes.get(ATTR_SSID) or b"",
                    four_address=bool(attributes.unsigned(ATTR_4ADDR)),
                )
            )
        except DecodeError:
            unreadable += 1
    return found, unreadable


def count_peers(messages: Iterable[bytes], kind: InterfaceType) -> int:
    """How many of the stations of a dump are peers; in an 802.11s mesh those whose peering is established."""
    peers = 0
    for message in messages:
        try:
            information = Attributes(message).nest(ATTR_STA_INFO)
            state = information.unsigned(_STA_PLINK_STATE)
        except DecodeError:
            continue
        peers += kind is not InterfaceType.MESH or state == _PLINK_ESTABLISHED
    return peers


def decode_country(messages: Iterable[bytes]) -> str:
    """The regulatory domain that holds for all radios, as two characters; "" when it was not told."""
    for message in messages:
        try:
            attributes = Attributes(message)
            # Radios that know their country themselves are listed with their number.
            if ATTR_WIPHY not in attributes and (country := attributes.text(ATTR_REG_ALPHA2)):
                return country
        except DecodeError:
            continue
    return ""
