# SPDX-License-Identifier: GPL-2.0-or-later
"""Found and found by: libp2p's use of multicast DNS (https://github.com/libp2p/specs/blob/master/discovery/mdns.md).

On each interface an instance of its own, with a name drawn at random and the addresses of that interface alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Final

from zeroconf import IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from relay.core.clock import jittered
from relay.core.errors import DecodeError
from relay.libp2p.connection import StreamError
from relay.libp2p.multiaddr import TcpAddress, parse_address
from relay.links.discovery import confine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zeroconf import Zeroconf

    from relay.libp2p.host import Host
    from relay.links.interfaces import Interface

SERVICE_TYPE: Final = "_p2p._udp.local."
_PREFIX: Final = b"dnsaddr="
_NAME_BYTES: Final = 20
#: Of one TXT record.
MAX_STRINGS: Final = 32
#: Peers of one segment that are looked up at a time, and known; each takes some kB.
MAX_RESOLVING: Final = 16
MAX_FOUND: Final = 128
RESOLVE_TIMEOUT_MS: Final = 3000
#: As of relays (relay.links.discovery): nobody tells a radio that somebody came into range.
ANNOUNCE_S: Final = 20.0


def encode_strings(addresses: Iterable[TcpAddress]) -> bytes:
    """Return the data of a TXT record that says where a peer is."""
    out = b""
    for address in addresses:
        text = _PREFIX + str(address).encode()
        out += bytes([len(text)]) + text
    return out


def decode_strings(data: bytes) -> list[TcpAddress]:
    """Return the addresses in a TXT record that can be dialled here; raise DecodeError for what is none."""
    found: list[TcpAddress] = []
    at = strings = 0
    while at < len(data):
        size = data[at]
        text = data[at + 1 : at + 1 + size]
        if len(text) < size:
            raise DecodeError("a TXT record is cut")
        at += 1 + size
        strings += 1
        if strings > MAX_STRINGS:
            raise DecodeError("a TXT record with too many strings")
        if text.startswith(_PREFIX):
            try:
                address = parse_address(text.removeprefix(_PREFIX).decode())
            except (DecodeError, UnicodeDecodeError):
                continue
            if address.peer is not None:
                found.append(address)
    return found


class Finder:
    """Announces and browses on one interface, until `run` is cancelled."""

    def __init__(
        self,
        host: Host,
        interface: Interface,
        addresses: list[str],
        port: int,
        *,
        random_bytes: Callable[[int], bytes],
        random: Callable[[], float],
        count: Callable[..., None],
    ) -> None:
        """``port``: where the host listens on each of ``addresses``, which are of ``interface``."""
        self._host = host
        self._interface = interface
        self._addresses = addresses
        self._port = port
        self._random = random
        self._count = count
        self._name = f"{random_bytes(_NAME_BYTES).hex()}.{SERVICE_TYPE}"
        self._server = f"{random_bytes(_NAME_BYTES // 2).hex()}.local."
        self._found: dict[str, list[TcpAddress]] = {}
        self._resolving: set[str] = set()

    async def run(self) -> None:
        """Until cancelled; raise OSError where the system has no multicast."""
        addresses = self._addresses
        v4 = [address for address in addresses if ipaddress.ip_address(address).version == 4]
        has_v6 = len(v4) < len(addresses)
        zeroconf = AsyncZeroconf(
            interfaces=[*v4, *([self._interface.index] if has_v6 else [])],
            ip_version=IPVersion.All if v4 and has_v6 else IPVersion.V6Only if has_v6 else IPVersion.V4Only,
        )
        try:
            await confine(zeroconf, self._interface.name)
            mine = [TcpAddress(address, self._port, self._host.identity.peer) for address in addresses]
            info = AsyncServiceInfo(
                SERVICE_TYPE,
                self._name,
                port=self._port,
                server=self._server,
                parsed_addresses=addresses,
                properties=encode_strings(mine),
            )
            await zeroconf.async_register_service(info)
            AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._changed])
            while True:
                await asyncio.sleep(jittered(ANNOUNCE_S, self._random(), spread=0.25))
                zeroconf.zeroconf.async_send(zeroconf.zeroconf.generate_service_broadcast(info, None))
                for found in list(self._found.values()):
                    await self._dial(found)
        finally:
            await zeroconf.async_close()

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:  # noqa: ARG002 - zeroconf passes by name
        if name == self._name:
            return
        if state_change is ServiceStateChange.Removed:
            self._found.pop(name, None)
        elif name not in self._resolving:
            if len(self._resolving) >= MAX_RESOLVING or (name not in self._found and len(self._found) >= MAX_FOUND):
                self._count("announcements_refused")
                return
            self._resolving.add(name)
            self._host.spawn(self._resolve(zeroconf, name))

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if not await info.async_request(zeroconf, RESOLVE_TIMEOUT_MS) or not info.text:
                return
            found = decode_strings(info.text)
            if found:
                self._found[name] = found
                await self._dial(found)
        except DecodeError:
            self._count("announcements_malformed")
        except ValueError:
            # A name that none may have.
            self._count("announcements_malformed")
        finally:
            self._resolving.discard(name)

    async def _dial(self, found: list[TcpAddress]) -> None:
        for address in found:
            # An announcement can name any address; only those of its own segment are dialled.
            if not self._interface.reaches(address.host) or address.peer == self._host.identity.peer:
                continue
            try:
                await self._host.dial(address, scope=self._interface.name)
            except (OSError, StreamError):
                continue
            return
