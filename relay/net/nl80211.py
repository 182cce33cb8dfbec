# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of nl80211: what radios there are, and joining and leaving networks."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from relay.net import wiphy
from relay.net.errors import KernelRefusedError
from relay.net.generic import Family
from relay.net.wiphy import InterfaceType
from relay.process import netlink_attributes as nla

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from relay.net.wiphy import Wiphy, WirelessInterface

FAMILY: Final = "nl80211"

# NL80211_CMD_*
_GET_WIPHY: Final = 1
_GET_INTERFACE: Final = 5
_SET_INTERFACE: Final = 6
_GET_STATION: Final = 17
_REQ_SET_REG: Final = 27
_GET_REG: Final = 31
_JOIN_IBSS: Final = 43
_LEAVE_IBSS: Final = 44
_JOIN_MESH: Final = 68
_LEAVE_MESH: Final = 69
_RELOAD_REGDB: Final = 126

#: NL80211_MESHCONF_FORWARDING
_MESH_FORWARDING: Final = 19
#: NL80211_CHAN_WIDTH_*: without 802.11n, and 20 MHz with it. Wider ones need neighbours to agree, and reach less far.
_WIDTH_20_NOHT: Final = 0
_WIDTH_20: Final = 1
#: Multicast groups that tell of radios, interfaces and regulatory domains.
GROUPS: Final = ("config", "regulatory")


class Nl80211:
    """The wireless half of the kernel. Use as a context manager; methods raise KernelRefusedError.

    The kernel may have none until the first radio is plugged in and its driver loaded:
    until then there are no radios.
    """

    def __init__(self) -> None:
        self._opened: Family | None = None
        #: Messages that could not be read, so far.
        self.unreadable = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)

    async def _request(
        self, what: str, command: int, body: Iterable[nla.Encoded] = (), *, dump: bool = False
    ) -> list[bytes]:
        if self._opened is None:
            try:
                self._opened = await Family(FAMILY).__aenter__()
            except KernelRefusedError as error:
                if dump and error.code == errno.ENOENT:
                    return []
                raise
        return await self._opened.request(what, command, nla.encode(body), dump=dump)

    async def wiphys(self) -> dict[int, Wiphy]:
        """All radios by their number."""
        body = [nla.flag(wiphy.ATTR_SPLIT_WIPHY_DUMP)]
        found, unreadable = wiphy.decode_wiphys(await self._request("list radios", _GET_WIPHY, body, dump=True))
        self.unreadable += unreadable
        return found

    async def interfaces(self) -> list[WirelessInterface]:
        """All interfaces of radios."""
        answers = await self._request("list the interfaces of radios", _GET_INTERFACE, dump=True)
        found, unreadable = wiphy.decode_interfaces(answers)
        self.unreadable += unreadable
        return found

    async def peers(self, index: int, kind: InterfaceType) -> int:
        """How many neighbours an interface that has joined has."""
        body = [nla.u32(wiphy.ATTR_IFINDEX, index)]
        return wiphy.count_peers(await self._request("count peers", _GET_STATION, body, dump=True), kind)

    async def set_kind(self, index: int, kind: int, *, four_address: bool = False) -> None:
        """Change the type of an interface that is down."""
        body = [nla.u32(wiphy.ATTR_IFINDEX, index), nla.u32(wiphy.ATTR_IFTYPE, kind)]
        if kind == InterfaceType.STATION:
            body.append(nla.u8(wiphy.ATTR_4ADDR, int(four_address)))
        name = wiphy.kind_name(kind)
        await self._request(f"make the interface a {name} one", _SET_INTERFACE, body)

    async def join_mesh(self, index: int, mesh_id: bytes, mhz: int, *, high_throughput: bool, forwarding: bool) -> None:
        """Join an open 802.11s mesh; without ``forwarding`` something above it finds the ways."""
        body = [
            nla.u32(wiphy.ATTR_IFINDEX, index),
            (wiphy.ATTR_MESH_ID, mesh_id),
            nla.u32(wiphy.ATTR_WIPHY_FREQ, mhz),
            nla.u32(wiphy.ATTR_CHANNEL_WIDTH, _WIDTH_20 if high_throughput else _WIDTH_20_NOHT),
            nla.nest(wiphy.ATTR_MESH_CONFIG, [nla.u8(_MESH_FORWARDING, int(forwarding))]),
        ]
        await self._request("join the mesh", _JOIN_MESH, body)

    async def join_ibss(self, index: int, network: bytes, mhz: int, *, cell: bytes, high_throughput: bool) -> None:
        """Join an IBSS, or begin one, on this frequency and no other.

        With a fixed ``cell`` (BSSID, 6 bytes) relays that began apart are one network at
        once; cells of different numbers merge by their clocks, later or, with some drivers, never.
        """
        body = [
            nla.u32(wiphy.ATTR_IFINDEX, index),
            (wiphy.ATTR_SSID, network),
            nla.u32(wiphy.ATTR_WIPHY_FREQ, mhz),
            nla.u32(wiphy.ATTR_CHANNEL_WIDTH, _WIDTH_20 if high_throughput else _WIDTH_20_NOHT),
            nla.flag(wiphy.ATTR_FREQ_FIXED),
            (wiphy.ATTR_MAC, cell),
        ]
        await self._request("join the IBSS", _JOIN_IBSS, body)

    async def leave(self, index: int, kind: int) -> None:
        """Leave what an interface has joined; raise KernelRefusedError also when it had not."""
        command = _LEAVE_MESH if kind == InterfaceType.MESH else _LEAVE_IBSS
        await self._request("leave", command, [nla.u32(wiphy.ATTR_IFINDEX, index)])

    async def country(self) -> str:
        """The regulatory domain; "00" is the one for the whole world."""
        answers = await self._request("ask for the country", _GET_REG, dump=True)
        return wiphy.decode_country(answers)

    async def ask_for_country(self, country: str) -> None:
        """Ask the kernel to go by the rules of a country; whether it does shows in :meth:`country` a little later."""
        body = [nla.text(wiphy.ATTR_REG_ALPHA2, country)]
        await self._request("set the country", _REQ_SET_REG, body)

    async def reload_rules(self) -> None:
        """Have the kernel read its database of rules, which it tries only once, maybe before the disk was there."""
        await self._request("read the rules of countries", _RELOAD_REGDB)
