# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's interfaces as rtnetlink has them: looking, changing, and putting back exactly what was there."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError

from relay.net.errors import KernelRefusedError
from relay.net.generic import RawMessage
from relay.process.netlink_attributes import Attributes, encode, u32

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from relay.process.netlink_attributes import Encoded

# linux/rtnetlink.h, linux/if.h, linux/if_link.h
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_NEWROUTE: Final = 24
_RTPROT_KERNEL: Final = 2
_RTN_UNICAST: Final = 1
_IFF_UP: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000
_RTA_OIF: Final = 4
_RTA_CACHEINFO: Final = 12
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_LABEL: Final = 3
_IFA_F_TENTATIVE: Final = 0x40
_TC_ROOT: Final = 0xFFFF_FFFF

#: IN6_ADDR_GEN_MODE_*
ADDRESSES_NONE: Final = 1
#: Link-local addresses from a random number, not from the MAC: announcements carry
#: them beyond the radio, to the Ethernet behind a bridge and into its logs.
ADDRESSES_RANDOM: Final = 3

#: struct ifaddrmsg; struct rtmsg, of which the last is the flags.
_ADDRESS: Final = struct.Struct("=BBBBI")
_ROUTE: Final = struct.Struct("=8sI")
#: RTNH_F_ONLINK, the only flag that is anybody's choice; the others say how the route is doing.
_ROUTE_FLAGS: Final = 0x4
#: A bucket of the rate cap holds what the radio sends in 10 ms, and at least some large packets.
_MIN_BURST_BYTES: Final = 16 * 1024
_BURSTS_PER_S: Final = 100
#: Major number of the queue that caps the rate ("mr"); the default ones have none.
CAP_HANDLE: Final = 0x6D72_0000


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface. ``kind``: "bridge", "batadv"...; "" for a device. ``master``: number of the one it is in, or 0."""

    name: str
    index: int
    up: bool
    carrier: bool
    mtu: int
    master: int
    mac: str
    kind: str
    address_mode: int | None
    link_mode: int


class Links:
    """A connection to rtnetlink. Use as a context manager; methods raise KernelRefusedError."""

    def __init__(self) -> None:
        self._route: Any = AsyncIPRoute()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._route.close()

    async def all(self) -> dict[str, Link]:
        """Every interface by its name."""
        with _Refusals("list interfaces"):
            return {link.name: link async for link in _decoded(await self._route.get_links())}

    async def find(self, name: str) -> Link | None:
        """The interface of that name."""
        return (await self.all()).get(name)

    async def change(self, index: int, what: str, **settings: Any) -> None:
        """Change an interface; ``settings`` as pyroute2's link("set") has them, ``what`` completes "could not ..."."""
        with _Refusals(what):
            await self._route.link("set", index=index, **settings)

    async def set_up(self, index: int) -> None:
        await self.change(index, "switch the interface on", state="up")

    async def set_down(self, index: int) -> None:
        await self.change(index, "switch the interface off", state="down")

    async def set_master(self, index: int, master: int) -> None:
        """Put an interface into a bridge or a batman-adv one; 0 takes it out."""
        await self.change(index, "join the interface with another", master=master)

    async def set_link_mode(self, index: int, mode: int) -> None:
        """Whether an interface that is up works at once (0), or when some program says so (1, IF_LINK_MODE_DORMANT)."""
        await self.change(index, "choose when the interface works", linkmode=mode)

    async def set_address_mode(self, index: int, mode: int) -> None:
        """How IPv6 link-local addresses are made (ADDRESSES_...); nothing where the kernel has no IPv6."""
        inet6 = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", mode]]}
        try:
            await self.change(index, "choose how addresses are made", IFLA_AF_SPEC={"attrs": [["AF_INET6", inet6]]})
        except KernelRefusedError as error:
            if error.code != errno.EAFNOSUPPORT:
                raise

    async def add(self, name: str, kind: str, index: int, **settings: Any) -> None:
        """Make an interface of ``kind`` with a number chosen beforehand, so that it can be told from another's."""
        with _Refusals(f"make the interface {name}"):
            await self._route.link("add", ifname=name, kind=kind, index=index, **settings)

    async def delete(self, index: int) -> None:
        with _Refusals("remove an interface"):
            await self._route.link("del", index=index)

    async def addresses(self, index: int) -> list[bytes]:
        """The addresses of an interface, as the kernel describes them."""
        with _Refusals("list addresses"):
            return [_body(message) async for message in await self._route.get_addr() if message["index"] == index]

    async def add_address(self, address: bytes, index: int) -> None:
        """Give an interface an address that :meth:`addresses` told; one that is there already is fine."""
        family, prefix, flags, scope, owner = _ADDRESS.unpack_from(address)
        attributes: list[Encoded] = list(Attributes(address[_ADDRESS.size :]))
        if owner != index:
            # A label begins with the interface's name.
            attributes = [pair for pair in attributes if pair[0] != _IFA_LABEL]
        body = _ADDRESS.pack(family, prefix, flags & ~_IFA_F_TENTATIVE, scope, index) + encode(attributes)
        await self._send("give an address back", _RTM_NEWADDR, body, tolerate=errno.EEXIST)

    async def delete_address(self, address: bytes, index: int) -> None:
        """Take an address away; its having gone is fine."""
        family, prefix, flags, scope, _ = _ADDRESS.unpack_from(address)
        body = _ADDRESS.pack(family, prefix, flags, scope, index) + address[_ADDRESS.size :]
        await self._send("take an address away", _RTM_DELADDR, body, tolerate=errno.EADDRNOTAVAIL)

    async def routes(self, index: int) -> list[bytes]:
        """The routes out of an interface that somebody set: not those that the kernel makes for each address."""
        with _Refusals("list routes"):
            return [
                _body(message)
                async for message in await self._route.get_routes()
                if message.get("RTA_OIF") == index
                and message["proto"] != _RTPROT_KERNEL
                and message["type"] == _RTN_UNICAST
            ]

    async def add_route(self, route: bytes, index: int) -> None:
        """Set a route that :meth:`routes` told, out of an interface; one that is there already is fine."""
        head, flags = _ROUTE.unpack_from(route)
        attributes = [pair for pair in Attributes(route[_ROUTE.size :]) if pair[0] not in {_RTA_OIF, _RTA_CACHEINFO}]
        attributes.append(u32(_RTA_OIF, index))
        body = _ROUTE.pack(head, flags & _ROUTE_FLAGS) + encode(attributes)
        await self._send("give a route back", _RTM_NEWROUTE, body, tolerate=errno.EEXIST)

    async def root_queue(self, index: int) -> int:
        """The handle of the interface's root qdisc, 0 for one that the kernel chose."""
        with _Refusals("list queues"):
            async for message in await self._route.get_qdiscs(index):
                if message["index"] == index and message["parent"] == _TC_ROOT:
                    return int(message["handle"])
        return 0

    async def cap_rate(self, index: int, bytes_per_s: int) -> None:
        """Let the interface send no more than that, small flows first."""
        with _Refusals("cap the rate"):
            await self._route.tc(
                "add",
                "tbf",
                index,
                CAP_HANDLE,
                rate=bytes_per_s,
                burst=max(_MIN_BURST_BYTES, bytes_per_s // _BURSTS_PER_S),
                limit=_MIN_BURST_BYTES,
            )
            await self._route.tc("add", "fq_codel", index, parent=CAP_HANDLE | 1)

    async def uncap_rate(self, index: int) -> None:
        """Take the cap away, if it is there."""
        if await self.root_queue(index) != CAP_HANDLE:
            return
        with _Refusals("lift the cap on the rate"):
            await self._route.tc("del", index=index, handle=CAP_HANDLE, parent=_TC_ROOT)

    async def _send(self, what: str, kind: int, body: bytes, *, tolerate: int) -> None:
        message = RawMessage()
        message["body"] = body
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
        try:
            with _Refusals(what):
                async for _ in await self._route.nlm_request(message, msg_type=kind, msg_flags=flags):
                    pass
        except KernelRefusedError as error:
            if error.code != tolerate:
                raise


def address_key(address: bytes) -> tuple[int, int, bytes]:
    """Family, prefix length and address of a body that :meth:`Links.addresses` told: what makes it the same one."""
    family, prefix, _, _, _ = _ADDRESS.unpack_from(address)
    attributes = Attributes(address[_ADDRESS.size :])
    return family, prefix, attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""


def is_link_local(address: bytes) -> bool:
    """Whether a body that :meth:`Links.addresses` told is of fe80::/10."""
    family, _, value = address_key(address)
    return family == socket.AF_INET6 and int.from_bytes(value[:2]) & 0xFFC0 == 0xFE80


class _Refusals:
    """Turns what pyroute2 raises into KernelRefusedError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, NetlinkError):
            raise KernelRefusedError(self._what, abs(error.code)) from None
        if isinstance(error, OSError):
            raise KernelRefusedError(self._what, error.errno or errno.EIO) from None


async def _decoded(messages: Any) -> Any:
    async for message in messages:
        yield Link(
            name=message.get("IFLA_IFNAME") or "",
            index=message["index"],
            up=bool(message["flags"] & _IFF_UP),
            carrier=bool(message["flags"] & _IFF_LOWER_UP),
            mtu=message.get("IFLA_MTU") or 0,
            master=message.get("IFLA_MASTER") or 0,
            mac=message.get("IFLA_ADDRESS") or "",
            kind=message.get(("IFLA_LINKINFO", "IFLA_INFO_KIND")) or "",
            link_mode=message.get("IFLA_LINKMODE") or 0,
            address_mode=message.get(("IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_ADDR_GEN_MODE")),
        )


def _body(message: Any) -> bytes:
    """What follows the header, as it came."""
    return bytes(message.data[message.offset + 16 : message.offset + message.length])
