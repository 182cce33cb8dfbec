# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP over IPv4 and IPv6: listens, dials the operator's peers and what DNS-SD finds."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
from typing import TYPE_CHECKING, Final

from relay.core.stats import LOOPBACK, OTHER, HandshakeFailure, LinkKind, SessionError
from relay.links import StreamInfo
from relay.links.interfaces import Snapshot, watch
from relay.process.addresses import plain
from relay.process.ports import why_not
from relay.process.supervisor import OperatorError, keep_trying
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSet, Sequence

    from relay.core.stats import Reason
    from relay.links import Host
    from relay.links.discovery import Discovery
    from relay.links.targets import Target

#: Connections that the kernel keeps for each interface until they are accepted, and how many of
#: them at once: whoever is connected already is served in between.
BACKLOG: Final = 128
ACCEPTED_A_TURN: Final = 8
CONNECT_TIMEOUT_S: Final = 10.0
#: A peer that turned us away for good (itself, another mesh) is tried again after this.
HOPELESS_RETRY_S: Final = 600.0
#: How often to look whether a peer that dialled us is still linked; jittered up to twice this.
LINKED_RECHECK_S: Final = 10.0
HOPELESS: Final = frozenset({HandshakeFailure.SELF, HandshakeFailure.SECRET_REQUIRED, HandshakeFailure.WRONG_KEY})
_UNPLUGGED: Final = "nothing is plugged in, or the other end is switched off: look at both ends of the cable"
_NO_INTERFACE: Final = (
    "there is no interface of this name that is switched on: look at interfaces in [tcp], and plug it in"
)


class TcpLink:
    """The TCP link of a relay."""

    name = "tcp"

    def __init__(
        self,
        *,
        port: int,
        interfaces: Sequence[str],
        peers: Sequence[Target],
        discovery: bool,
        random: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        on_listening: Callable[[int], None],
        announced: MutableSet[str],
    ) -> None:
        """``interfaces``: names to serve, all when empty; loopback is always served.

        ``port`` 0 takes any free one. ``on_listening`` hears the port. ``announced`` has the host
        names of discovery, without `.local`.
        """
        self._port = port
        self._only = frozenset(interfaces)
        self._peers = peers
        self._has_discovery = discovery
        self._random = random
        self._random_bytes = random_bytes
        self._on_listening = on_listening
        self._announced = announced
        self._snapshot = Snapshot()
        #: By name and index, since an interface that comes again under its name is another one.
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        #: Addresses that a task is dialling or has connected to.
        self._dialled: set[tuple[str, int]] = set()
        #: Interfaces whose state was told.
        self._told: set[str] = set()

    async def run(self, host: Host) -> None:
        """Serve until cancelled."""
        # Of this run: its tasks end with it, whatever ends it.
        discovery: Discovery | None = None
        try:
            async with TaskGroup() as tasks:
                # Dialled once the interfaces are known: a session belongs to one of them.
                undialled = list(self._peers)
                async for snapshot in watch():
                    gone = _addresses(self._snapshot) - _addresses(snapshot)
                    self._snapshot = snapshot
                    host.addresses_gone(frozenset(address for _, address in gone))
                    await self._listen(host)
                    if self._has_discovery:
                        if discovery is None:
                            discovery = await self._make_discovery()
                        # Where there is no carrier nobody hears, and that is no fault of discovery.
                        served = [
                            i
                            for i in snapshot.interfaces.values()
                            if self._serves(i.name) and not i.is_loopback and i.name not in snapshot.unplugged
                        ]
                        discovery.update(tasks, host, served, self._port)
                    while undialled:
                        tasks.create_task(self.keep_connected(host, undialled.pop()))
        finally:
            for server in self._servers.values():
                server.close()
            self._servers.clear()
            for name in self._told:
                host.link_state(LinkKind.TCP, name, up=None)
            self._told.clear()
            if discovery is not None:
                discovery.end(host)

    async def _make_discovery(self) -> Discovery:
        # A tenth of a start: whoever dials has been heard by then.
        make = await asyncio.to_thread(_import_discovery)
        return make(
            random_bytes=self._random_bytes,
            dial=self.keep_connected,
            random=self._random,
            own_hosts=self._announced,
        )

    def _serves(self, interface: str) -> bool:
        return not self._only or interface in self._only or interface == LOOPBACK

    def _tell_states(self, host: Host) -> None:
        """Say of each interface that is served, or should be, how it is."""
        # Loopback leads to nobody; it is spoken of where the operator chose it.
        there = {name for name in self._snapshot.interfaces if self._serves(name)} - ({LOOPBACK} - self._only)
        for name in self._told - there - self._only:
            host.link_state(LinkKind.TCP, name, up=None)
        for name in there:
            out = name in self._snapshot.unplugged
            host.link_state(LinkKind.TCP, name, up=not out, fault=_UNPLUGGED if out else "", unplugged=out)
        for name in self._only - there:
            host.link_state(LinkKind.TCP, name, up=False, fault=_NO_INTERFACE, unplugged=True)
        self._told = there | self._only

    # -- listening --------------------------------------------------------

    async def _listen(self, host: Host) -> None:
        """Have a socket on each interface that is served: what comes in by it belongs to that interface.

        Linux takes what is for any of its addresses on any interface, so the address that
        somebody dialled does not tell where he is.
        """
        wanted = {(i.name, i.index) for i in self._snapshot.interfaces.values() if self._serves(i.name)}
        for server in self._servers.keys() - wanted:
            self._servers.pop(server).close()
        loop = asyncio.get_running_loop()
        for name, index in sorted(wanted - self._servers.keys()):
            try:
                sock = _listening_socket(name, self._port)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    continue  # gone again; the next snapshot tells
                cause = await asyncio.to_thread(why_not, error, self._port, "tcp")
                raise OperatorError(
                    f"cannot listen on port {self._port}: {cause}; stop what has it, or set another port in [tcp]"
                ) from error
            self._port = sock.getsockname()[1]
            describe = functools.partial(self._describe, accepted_by=name)
            self._servers[name, index] = await loop.create_server(
                functools.partial(host.stream, describe), sock=sock, backlog=ACCEPTED_A_TURN
            )
            # asyncio takes the one number for how many wait as well.
            sock.listen(BACKLOG)
        self._tell_states(host)
        self._on_listening(self._port)

    def _describe(
        self, transport: asyncio.BaseTransport, *, accepted_by: str = "", target: Target | None = None
    ) -> StreamInfo | None:
        local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if not local or not remote:
            return None  # gone again already
        address = plain(local[0])
        interface = accepted_by or self._snapshot.name_of(address, local[3] if len(local) > 2 else 0)
        if interface is not None and not self._serves(interface):
            return None
        return StreamInfo(
            kind=LinkKind.TCP,
            interface=interface or OTHER,
            initiator=target is not None,
            local=address,
            peer=plain(remote[0]),
            pinned=target.pinned if target else None,
            named=target is not None and not target.interface,
        )

    # -- dialling ---------------------------------------------------------

    async def keep_connected(self, host: Host, target: Target) -> None:
        """Stay connected to a peer, trying its addresses in turn, later after each failure."""
        await keep_trying(lambda: self._dial(host, target), random=self._random)

    async def _dial(self, host: Host, target: Target) -> float | None:
        """Connect and wait for the end of the session; return how long to wait then, None for as long as usual."""
        # Whoever dialled in keeps the link up, and so does another name of the same
        # relay (the one before its restart, say): a second link would be idle.
        # Not so where a key is pinned: only dialling proves who is there.
        if target.pinned is None and (not self._dialled.isdisjoint(target.addresses) or _is_linked(host, target)):
            return LINKED_RECHECK_S * (1 + self._random())
        reason: Reason | None = None
        for address, port in target.addresses:
            self._dialled.add((address, port))
            try:
                reason = await self._connect_once(host, address, port, target)
            finally:
                self._dialled.discard((address, port))
            if reason is not SessionError.CONNECT_FAILED:
                break
        return HOPELESS_RETRY_S if reason in HOPELESS else None

    async def _connect_once(self, host: Host, address: str, port: int, target: Target) -> Reason | None:
        """Connect and wait for the end of the session; return why it ended."""
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[Reason | None] = loop.create_future()

        def protocol() -> asyncio.Protocol:
            return host.stream(
                functools.partial(self._describe, target=target),
                lambda reason: None if closed.done() else closed.set_result(reason),
            )

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                # What is this machine's own leaves by loopback, whatever interface has the address.
                if target.interface and not self._snapshot.is_own(address):
                    sock = await _connected_socket(target.interface, address, port)
                    transport, _ = await loop.create_connection(protocol, sock=sock)
                else:
                    transport, _ = await loop.create_connection(protocol, address, port)
        except OSError:  # a timeout is one, too
            host.link_stats(LinkKind.TCP, target.interface or OTHER).error(SessionError.CONNECT_FAILED)
            return SessionError.CONNECT_FAILED
        try:
            return await closed
        finally:
            transport.abort()


def _import_discovery() -> type[Discovery]:
    from relay.links.discovery import Discovery  # noqa: PLC0415 - see its caller

    return Discovery


def _is_linked(host: Host, target: Target) -> bool:
    for address, _ in target.addresses:
        try:
            literal = plain(address)
        except ValueError:
            continue  # a host name, which may mean anybody
        scope = address.partition("%")[2]
        if host.is_linked(literal, scope):
            return True
    return False


def _bound_socket(family: int, interface: str) -> socket.socket:
    """Return a socket that only hears and uses one interface; anybody may bind one so since Linux 5.7."""
    # By the protocol asyncio knows that it is TCP, and lets nothing small wait for the peer (TCP_NODELAY).
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    except OSError:
        sock.close()
        raise
    return sock


def _listening_socket(interface: str, port: int) -> socket.socket:
    """Return a dual-stack socket to listen with on one interface."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    sock = _bound_socket(family, interface)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - every address of the segment
    except OSError:
        sock.close()
        raise
    return sock


async def _connected_socket(interface: str, address: str, port: int) -> socket.socket:
    """Return a socket connected to a numeric address by one interface."""
    [(family, _, _, _, sockaddr)] = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    sock = _bound_socket(family, interface)
    try:
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _addresses(snapshot: Snapshot) -> frozenset[tuple[int, str]]:
    """Return every address with the index of its interface."""
    return frozenset(
        (interface.index, address) for interface in snapshot.interfaces.values() for address in interface.addresses
    )
