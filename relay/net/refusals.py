# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions for addresses that the packet filter of the appliance dropped: its counters, read by nfnetlink.

(linux/netfilter/nfnetlink.h and nf_tables.h. The rules that count are in relay/appliance/firewall.py.)
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.net.errors import KernelRefusedError
from relay.process.netlink_attributes import Attributes, encode, text
from relay.process.reports import DHCP_REFUSALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.net.net_report import Reporting

TABLE: Final = "relay"
#: Soon enough for whoever looks at metrics.
LOOK_S: Final = 60.0

_NETLINK_NETFILTER: Final = 12
#: NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETOBJ; NLM_F_REQUEST | NLM_F_DUMP; NFPROTO_INET.
_GET_OBJECTS: Final = 10 << 8 | 19
_FLAGS: Final = 0x301
_INET: Final = 1
_ERROR, _DONE = 2, 3
#: struct nlmsghdr; struct nfgenmsg.
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct("=BBH")
#: NFTA_OBJ_*, NFTA_COUNTER_PACKETS, NFT_OBJECT_COUNTER. Numbers are in the order of networks.
_TABLE, _NAME, _TYPE, _DATA = 1, 2, 3, 4
_PACKETS: Final = 2
_COUNTER: Final = 1
_ANSWER_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 5.0


async def read_refusals() -> dict[str, int]:
    """How many packets were dropped so far, by reason; raise KernelRefusedError."""
    loop = asyncio.get_running_loop()
    body = _FAMILY.pack(_INET, 0, 0) + encode([text(_TABLE, TABLE), (_TYPE, _COUNTER.to_bytes(4, "big"))])
    found: dict[str, int] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER) as sock:
            sock.bind((0, 0))
            sock.send(_HEADER.pack(_HEADER.size + len(body), _GET_OBJECTS, _FLAGS, 1, 0) + body)
            async with asyncio.timeout(_TIMEOUT_S):
                while True:
                    answer = await loop.sock_recv(sock, _ANSWER_BYTES)
                    for kind, message in _messages(answer):
                        if kind == _DONE:
                            return found
                        if kind == _ERROR:
                            raise KernelRefusedError("read what was dropped", -struct.unpack_from("=i", message)[0])
                        name, packets = decode_counter(message[_FAMILY.size :])
                        if name in DHCP_REFUSALS:
                            found[name] = packets
    except (OSError, struct.error, DecodeError) as error:
        raise KernelRefusedError("read what was dropped", getattr(error, "errno", 0) or errno.EIO) from None


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each message of a datagram; raise DecodeError for what is none."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            raise DecodeError("a message that is cut off")
        yield kind, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def decode_counter(body: bytes) -> tuple[str, int]:
    """Name and packets of a counter; ("", 0) for any other object. Raise DecodeError."""
    attributes = Attributes(body)
    packets = attributes.nest(_DATA).get(_PACKETS)
    if attributes.get(_TYPE) != _COUNTER.to_bytes(4, "big") or packets is None:
        return "", 0
    return attributes.text(_NAME) or "", int.from_bytes(packets, "big")


class Refusals:
    """Counts them for metrics, as long as the process lives."""

    def __init__(self, reporting: Reporting) -> None:
        self._reporting = reporting
        self._seen: dict[str, int] = {}

    async def run(self) -> None:
        """Look now and then; where there is no such table, or no right to look, there is nothing to count."""
        while True:
            try:
                self._add(await read_refusals())
            except KernelRefusedError:
                self._seen = {}
            await asyncio.sleep(LOOK_S)

    def _add(self, now: dict[str, int]) -> None:
        for reason, packets in now.items():
            before = self._seen.get(reason, 0)
            # The rules were made anew, and count from the beginning.
            self._reporting.count(reason, packets - before if packets >= before else packets)
        self._seen = now
