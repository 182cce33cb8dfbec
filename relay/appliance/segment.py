# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay segment INTERFACE`: asks who serves the segment, and starts or stops serving it; answers to our name there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import secrets
import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final, Protocol

from relay.appliance import mdns
from relay.appliance.dhcp_probe import CLIENT_PORT, decode_offer, encode_probe, is_router
from relay.appliance.election import Election, Role, Unopposed
from relay.core.errors import DecodeError
from relay.process import logs
from relay.process.notify import Notifier
from relay.process.ports import MDNS_PORT
from relay.process.stopping import stop_signals, until_stopped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)

#: Read at once: more would be a flood, which the next turn of the loop goes on with.
_PACKETS: Final = 64
_MTU: Final = 2048
#: Socket options without a name in Python (asm-generic/socket.h, linux/icmpv6.h, linux/in.h).
_ATTACH_FILTER: Final = 26
_ICMP6_FILTER: Final = 1
#: Which address a packet is from: interface, address, and one that does not count when sending (ip(7)).
_IP_PKTINFO: Final = 8
_PKTINFO: Final = struct.Struct("@i4s4s")
#: Classic BPF (linux/filter.h): first fragments of UDP over IPv4 to the port of DHCP clients.
_FILTER: Final = (
    (0x30, 0, 0, 9),  # protocol
    (0x15, 0, 6, 17),
    (0x28, 0, 0, 6),  # fragment offset
    (0x45, 4, 0, 0x1FFF),
    (0xB1, 0, 0, 0),  # X: length of the header
    (0x48, 0, 0, 2),  # destination port
    (0x15, 0, 1, CLIENT_PORT),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
_ETH_IP: Final = 0x0800
_BROADCAST: Final = b"\xff" * 6
#: Router solicitation (RFC 4861 section 4.1), to all routers.
_SOLICIT: Final = bytes((133,)) + bytes(7)
_ALL_ROUTERS: Final = "ff02::2"
#: To see that the watchdog is fed even when there is nothing to do.
_LONGEST_S: Final = 20.0


class Server(Protocol):
    """What hands out addresses."""

    async def start(self) -> None:
        """Serve; does nothing when it does already."""

    async def stop(self) -> None:
        """Serve no more."""


class Files:
    """A server that units of systemd start and stop, as files in ``folder`` say (relay-segment@.service)."""

    def __init__(self, folder: Path, name: str) -> None:
        self._serving = folder / name
        self._idle = folder / "idle"

    async def start(self) -> None:
        """Serve."""
        self._idle.unlink(missing_ok=True)
        self._serving.touch()

    async def stop(self) -> None:
        """Serve no more."""
        self._serving.unlink(missing_ok=True)
        self._idle.touch()


class Segment:
    """One interface. ``address``: ours there, while we serve; ``number``: for the election, None if there is none.

    ``name``: ours, without `.local`. Another than mdns.NAME is one that the operator chose, and is answered to also
    while somebody else serves.
    """

    def __init__(
        self, *, interface: str, address: IPv4Address, number: bytes | None, server: Server, name: str = mdns.NAME
    ) -> None:
        self._interface = interface
        self._address = address
        self._number = number
        self._server = server
        self._name = name
        self._transaction = secrets.randbits(32)
        self._woken = asyncio.Event()

    async def run(self, notifier: Notifier) -> None:
        """Work until cancelled; raise OSError when the interface is gone."""
        loop = asyncio.get_running_loop()
        index = socket.if_nametoindex(self._interface)
        with contextlib.ExitStack() as stack:
            packets = stack.enter_context(_open_packets(self._interface))
            routers = stack.enter_context(_open_routers(self._interface))
            names = stack.enter_context(_open_names(self._interface, self._address))
            election = (
                Unopposed()
                if self._number is None
                else Election(number=self._number, now=loop.time(), random=random.random)
            )
            for sock, heard in (
                (packets, lambda data, _: self._on_packet(data, election)),
                (routers, lambda data, _: self._on_router(data, election)),
                (names, lambda data, asker: self._on_query(data, asker, election, names)),
            ):
                loop.add_reader(sock, self._read, sock, heard)
                stack.callback(loop.remove_reader, sock)
            notifier.ready("listening")
            role = Role.LISTENING
            try:
                while True:
                    if election.expire(loop.time()):
                        self._probe(packets, routers)
                    if election.role is not role:
                        role = election.role
                        await self._become(role, names)
                        notifier.status(role.value)
                    notifier.watchdog()
                    # A bridge that was made anew is another one.
                    if socket.if_nametoindex(self._interface) != index:
                        raise OSError(errno.ENODEV, "another interface has the name now")
                    self._woken.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(election.deadline_s - loop.time(), _LONGEST_S)):
                            await self._woken.wait()
            finally:
                if role is Role.SERVING:
                    await self._become(Role.YIELDING, names)

    async def _become(self, role: Role, names: socket.socket) -> None:
        logger.info("%s: %s", self._interface, role.value)
        if role is Role.SERVING:
            await self._server.start()
            _send(names, mdns.announce(self._address), (str(mdns.GROUP), MDNS_PORT))
        else:
            await self._server.stop()
            _send(names, mdns.announce(self._address, ttl_s=0), (str(mdns.GROUP), MDNS_PORT))

    def _probe(self, packets: socket.socket, routers: socket.socket) -> None:
        hardware = packets.getsockname()[4]
        packet = encode_probe(self._transaction, hardware[:6])
        _send(packets, packet, (self._interface, _ETH_IP, 0, 0, _BROADCAST))
        _send(routers, _SOLICIT, (_ALL_ROUTERS, 0, 0, socket.if_nametoindex(self._interface)))

    def _read(self, sock: socket.socket, heard: Callable[[bytes, Any], None]) -> None:
        for _ in range(_PACKETS):
            try:
                data, sender = sock.recvfrom(_MTU)
            except BlockingIOError:
                return
            except OSError:
                # The interface went down, or away.
                self._woken.set()
                return
            heard(data, sender)

    def _on_packet(self, data: bytes, election: Election | Unopposed) -> None:
        try:
            offer = decode_offer(data)
        except DecodeError:
            return
        if offer.transaction != self._transaction:
            return
        now = asyncio.get_running_loop().time()
        if offer.election is None:
            election.heard_server(now)
        else:
            election.heard_relay(offer.election, now)
        self._woken.set()

    def _on_router(self, data: bytes, election: Election | Unopposed) -> None:
        if is_router(data):
            election.heard_server(asyncio.get_running_loop().time())
            self._woken.set()

    def _on_query(
        self, data: bytes, asker: tuple[str, int], election: Election | Unopposed, names: socket.socket
    ) -> None:
        serves = election.role is Role.SERVING
        asked = mdns.asked_for(data, {self._name, mdns.NAME} if serves else {self._name} - {mdns.NAME})
        if asked is None:
            return
        address = self._address if asked == mdns.NAME else own_address(self._interface, asker[0])
        if address is not None:
            # The socket speaks from the address that we serve from, which is not ours now.
            source = _PKTINFO.pack(0, address.packed, bytes(4))
            with contextlib.suppress(OSError):
                control = [(socket.IPPROTO_IP, _IP_PKTINFO, source)]
                names.sendmsg([mdns.announce(address, asked)], control, 0, (str(mdns.GROUP), MDNS_PORT))


def own_address(interface: str, peer: str) -> IPv4Address | None:
    """Our address on an interface, as the kernel would use it towards ``peer``; None where there is no way there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            # Of UDP: nothing is sent.
            sock.connect((peer, MDNS_PORT))
        except OSError:
            return None
        return IPv4Address(sock.getsockname()[0])


def _open_packets(interface: str) -> socket.socket:
    """Hears answers to DHCP clients, without an address of its own."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    # Filtered before it is bound: nothing else is ever queued.
    program = b"".join(struct.pack("@HBBI", *step) for step in _FILTER)
    buffer = _pinned(program)
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(_FILTER), buffer[1]))
    sock.bind((interface, _ETH_IP))
    sock.setblocking(False)
    return sock


def _pinned(data: bytes) -> tuple[object, int]:
    """A copy of ``data`` and its address; it is there as long as the first is held."""
    import ctypes  # noqa: PLC0415 - 1 MiB that only this process needs

    held = ctypes.create_string_buffer(data, len(data))
    return held, ctypes.addressof(held)


def _open_routers(interface: str) -> socket.socket:
    """Hears router advertisements and nothing else (RFC 3542 section 3.2)."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    passed = bytearray(b"\xff" * 32)
    kind = 134
    passed[kind // 8] &= ~(1 << kind % 8)
    sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(passed))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    # Neighbour discovery must come from the same segment (RFC 4861 section 7.1).
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    index = socket.if_nametoindex(interface)
    sock.setsockopt(
        socket.IPPROTO_IPV6,
        socket.IPV6_JOIN_GROUP,
        socket.inet_pton(socket.AF_INET6, "ff02::1") + struct.pack("@I", index),
    )
    return sock


def _open_names(interface: str, address: IPv4Address) -> socket.socket:
    """Hears multicast DNS, beside the relay's own discovery and whoever else does; speaks from ``address``."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    sock.bind((str(mdns.GROUP), MDNS_PORT))
    request = struct.pack("@4s4si", mdns.GROUP.packed, address.packed, socket.if_nametoindex(interface))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    # Of several addresses the kernel may take one of 169.254.0.0/16, which others need not
    # believe (RFC 6762 section 11).
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
    # RFC 6762 section 11.
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    return sock


def _send(sock: socket.socket, data: bytes, to: tuple[object, ...]) -> None:
    """Send now or not at all: the cable may be out."""
    with contextlib.suppress(OSError):
        sock.sendto(data, to)


def run(interface: str, address: IPv4Address, number: bytes | None, server: Server) -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    logs.setup("info")
    # relay.toml has been read, and the machine is called by it (relay.appliance.apply).
    name = socket.gethostname().lower().partition(".")[0]
    segment = Segment(interface=interface, address=address, number=number, server=server, name=name)
    return asyncio.run(_serve(interface, segment))


async def _serve(interface: str, segment: Segment) -> int:
    notifier = Notifier(os.environ)
    try:
        await until_stopped(stop_signals(), [segment.run(notifier)], notifier)
    except OSError as error:
        # Started again, or with the interface when that comes back.
        logger.warning("%s: %s", interface, error)
        return 1
    return 0
