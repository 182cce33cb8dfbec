# SPDX-License-Identifier: GPL-2.0-or-later
"""DNS-SD (RFC 6763) over multicast DNS through zeroconf: find the relays of a segment, and be found.

Each interface has an instance of its own: its name is random and as old as the
interface's addresses, and nothing of one segment is told on another.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from zeroconf import IPVersion, RecordUpdateListener, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from relay.core.clock import jittered
from relay.core.stats import LinkKind
from relay.links.address import SERVICE_TYPE
from relay.links.announcement import announcement
from relay.links.targets import Target
from relay.process.ports import MDNS_PORT, why_not
from relay.process.supervisor import OperatorError, supervise
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableSet, Sequence

    from zeroconf import RecordUpdate, Zeroconf

    from relay.links import Host
    from relay.links.interfaces import Interface

logger = logging.getLogger(__name__)

_NAME_BYTES: Final = 8
#: Of two relays that find each other the one with the lower name dials; the other
#: does so after this time if nobody came.
GRACE_S: Final = 10.0
#: Relays dialled on one segment; announcements beyond it are ignored (each takes about 5 kB).
MAX_FOUND: Final = 64
#: Own names remembered; one forgotten costs a connection to oneself, which the handshake recognises.
MAX_OWN_NAMES: Final = 256
RESOLVE_TIMEOUT_MS: Final = 3000
#: linux/if.h: an interface's name with the zero that ends it.
IFNAMSIZ: Final = 16
#: Nobody tells a radio that somebody came into range, and whoever browses asks ever
#: more rarely, at last once an hour. So this relay says again that it is there: some
#: 200 bytes each time.
ANNOUNCE_S: Final = 20.0
#: An announcement comes back at once. One may be lost; if so many are, something is in the way.
ECHO_S: Final = 3.0
MOST_UNHEARD: Final = 2

#: What to do where relays cannot be found by themselves.
_WITHOUT: Final = "or set discovery = false in [tcp] and name relays in peers there"
_NO_MULTICAST: Final = (
    f"multicast is impossible here, so relays cannot find each other: use another network, {_WITHOUT}"
)
_UNHEARD: Final = (
    f"multicast does not get through, not even to this relay itself: let {MDNS_PORT}/udp through the packet filter, "
    f"{_WITHOUT}"
)


#: For what the kernel says when a socket of multicast DNS cannot be had, or not used as it has to be.
_REMEDIES: Final = {
    errno.EADDRINUSE: "stop what has it",
    errno.EACCES: "allow this program to use it (a sandbox or SELinux forbids it)",
    errno.EPERM: "allow this program to use it (a sandbox or a packet filter forbids it)",
    errno.EMFILE: "allow this program more open files (LimitNOFILE= of its unit)",
    errno.ENFILE: "close other programs, as this machine has no more files to open",
    errno.ENETDOWN: "set this network interface up",
}


class Discovery:
    """Announces and browses on every served interface."""

    def __init__(
        self,
        *,
        random_bytes: Callable[[int], bytes],
        random: Callable[[], float],
        dial: Callable[[Host, Target], Awaitable[None]],
        own_hosts: MutableSet[str],
    ) -> None:
        """``dial`` keeps a connection to a target until it is cancelled.

        ``own_hosts`` has the host names that are announced, without `.local`, while they are.
        """
        self._random_bytes = random_bytes
        self._random = random
        self._dial = dial
        self._own_hosts = own_hosts
        #: Names before an interface changed too: others' caches still tell of them.
        self._own_names: deque[str] = deque(maxlen=MAX_OWN_NAMES)
        self._segments: dict[Interface, asyncio.Task[None]] = {}
        #: Names of interfaces without multicast, where no other has it.
        self._deaf: set[str] = set()

    def update(self, tasks: TaskGroup, host: Host, interfaces: Sequence[Interface], port: int) -> None:
        """Start on new interfaces and addresses, stop on those that went."""
        with_addresses = {interface for interface in interfaces if interface.addresses}
        wanted = {interface for interface in with_addresses if interface.multicast}
        # One among others that has none, such as a tunnel, is nothing to be mended.
        deaf = set() if wanted else {interface.name for interface in with_addresses}
        for interface in self._segments.keys() - wanted:
            self._stop(host, interface)
        for name in self._deaf ^ deaf:
            host.link_state(LinkKind.DNSSD, name, up=False if name in deaf else None, fault=_NO_MULTICAST)
        self._deaf = deaf
        for interface in wanted - self._segments.keys():
            self._segments[interface] = tasks.create_task(
                supervise(
                    "dnssd",
                    functools.partial(self._serve, host, interface, port),
                    random=self._random,
                    on_state=functools.partial(_note_failure, host, interface.name),
                )
            )

    def end(self, host: Host) -> None:
        """Stop everywhere, and say of no interface any more how it is."""
        for interface in list(self._segments):
            self._stop(host, interface)
        for name in self._deaf:
            host.link_state(LinkKind.DNSSD, name, up=None)

    def _stop(self, host: Host, interface: Interface) -> None:
        self._segments.pop(interface).cancel()
        host.link_state(LinkKind.DNSSD, interface.name, up=None)

    async def _serve(self, host: Host, interface: Interface, port: int) -> None:
        """Announce and browse on one interface until cancelled; raise OperatorError where the system forbids it."""
        try:
            await self._announce(host, interface, port)
        except OSError as error:
            cause = await asyncio.to_thread(why_not, error, MDNS_PORT, "udp")
            remedy = _REMEDIES.get(error.errno or 0, "look at this network interface")
            raise OperatorError(f"port {MDNS_PORT}: {cause}; {remedy}, {_WITHOUT}") from error

    async def _announce(self, host: Host, interface: Interface, port: int) -> None:
        name = f"{self._random_bytes(_NAME_BYTES).hex()}.{SERVICE_TYPE}"
        self._own_names.append(name)
        server = self._random_bytes(_NAME_BYTES).hex()
        addresses = sorted(interface.addresses)
        v4 = [address for address in addresses if ipaddress.ip_address(address).version == 4]
        has_v6 = len(v4) < len(addresses)
        zeroconf = AsyncZeroconf(
            interfaces=[*v4, *([interface.index] if has_v6 else [])],
            ip_version=IPVersion.All if v4 and has_v6 else IPVersion.V6Only if has_v6 else IPVersion.V4Only,
        )
        try:
            await confine(zeroconf, interface.name)
            if not zeroconf.zeroconf.engine.senders:
                raise OperatorError(_NO_MULTICAST)
            echo = _Echo(name)
            zeroconf.zeroconf.async_add_listener(echo, None)
            async with TaskGroup() as dialling:
                browser = _Browser(self, host, interface, name, dialling)
                info = AsyncServiceInfo(
                    SERVICE_TYPE,
                    name,
                    port=port,
                    server=f"{server}.local.",
                    parsed_addresses=addresses,
                )
                self._own_hosts.add(server)
                await zeroconf.async_register_service(info)
                AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[browser.changed])
                host.link_state(LinkKind.DNSSD, interface.name, up=True)
                # zeroconf says three times that there is a new service.
                await asyncio.sleep(ECHO_S)
                unheard = 0 if echo.is_heard else MOST_UNHEARD
                while True:
                    fault = _UNHEARD if unheard >= MOST_UNHEARD else ""
                    host.link_state(LinkKind.DNSSD, interface.name, up=not fault, fault=fault)
                    echo.is_heard = False
                    zeroconf.zeroconf.async_send(zeroconf.zeroconf.generate_service_broadcast(info, None))
                    # Relays that were switched on together would speak together for ever.
                    await asyncio.sleep(jittered(ANNOUNCE_S, self._random(), spread=0.25))
                    unheard = 0 if echo.is_heard else unheard + 1
        finally:
            self._own_hosts.discard(server)
            await zeroconf.async_close()

    def is_own(self, name: str) -> bool:
        """Whether a service is announced by this relay."""
        return name in self._own_names

    async def dial(self, host: Host, interface: Interface, own: str, info: AsyncServiceInfo) -> None:
        """Find out where a relay is and stay connected to it until cancelled."""
        addresses = tuple(
            (scoped(address, interface.name), info.port or 0)
            for address in sorted(info.parsed_scoped_addresses(), key=_preference)
            # An announcement can name any address; only those of its own segment are dialled.
            if interface.reaches(address)
        )
        if own > info.name:
            await asyncio.sleep(GRACE_S)
        if addresses:
            await self._dial(host, Target(addresses=addresses, interface=interface.name))


async def confine(zeroconf: AsyncZeroconf, interface: str) -> None:
    """Let its sockets hear one interface only.

    zeroconf chooses where it speaks, not where it listens: it would answer a query of
    any segment, by unicast, with the addresses of this one.
    """
    await zeroconf.zeroconf.async_wait_for_start()
    engine = zeroconf.zeroconf.engine
    name = interface.encode()
    for transport in (*engine.readers, *engine.senders):
        # Those at a link-local address are bound by that already, and only root may bind them again.
        bound = transport.sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, IFNAMSIZ)
        if bound.rstrip(b"\0") != name:
            transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)


def _note_failure(host: Host, interface: str, up: bool, fault: str) -> None:  # noqa: FBT001 - a callback
    """Note that discovery failed on an interface; that it works is known later than that it was started."""
    if not up:
        host.link_state(LinkKind.DNSSD, interface, up=False, fault=fault)
        host.link_failed(LinkKind.DNSSD, interface)


class _Echo(RecordUpdateListener):
    """Hears what this relay says itself, which the kernel gives back to whoever listens on the same interface.

    Where that does not come, nothing of others does.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.is_heard = False

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:  # noqa: ARG002
        self.is_heard = self.is_heard or any(record.new.name == self._name for record in records)

    def async_update_records_complete(self) -> None:
        """Nothing is to be done then."""


class _Browser:
    """What was found on one interface."""

    def __init__(self, discovery: Discovery, host: Host, interface: Interface, own: str, dialling: TaskGroup) -> None:
        self._discovery = discovery
        self._host = host
        self._interface = interface
        self._own = own
        self._dialling = dialling
        self._found: dict[str, asyncio.Task[None]] = {}

    def changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:  # noqa: ARG002 - zeroconf passes by name
        """Dial what appears, let go of what is gone."""
        if self._discovery.is_own(name):
            return
        task = self._found.get(name)
        if state_change is ServiceStateChange.Removed:
            # The session, if there is one, ends by itself; only do not dial again.
            if task is not None:
                self._found.pop(name).cancel()
        elif task is None and len(self._found) >= MAX_FOUND:
            self._host.announcement_dropped()
        elif task is None:
            self._found[name] = self._dialling.create_task(self._resolve(zeroconf, name))

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        info = announcement(name)
        if info is not None and await info.async_request(zeroconf, RESOLVE_TIMEOUT_MS):
            await self._discovery.dial(self._host, self._interface, self._own, info)
        self._found.pop(name, None)


def _preference(address: str) -> tuple[int, str]:
    """Link-local IPv6 first: it works without any address assignment."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return (0 if parsed.is_link_local and parsed.version == 6 else 1, address)


def scoped(address: str, interface: str) -> str:
    """Give a link-local IPv6 address the scope it was found on."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return f"{parsed}%{interface}" if parsed.version == 6 and parsed.is_link_local else str(parsed)
