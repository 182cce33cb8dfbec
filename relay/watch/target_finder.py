# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the status servers of relays: browses by DNS-SD, and asks each address that is on a segment of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
from typing import TYPE_CHECKING, Final, Self

import aiohttp
from zeroconf import IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from relay.config.settings import Address
from relay.core.errors import RelayError
from relay.links.address import SERVICE_TYPE
from relay.links.interfaces import Snapshot, watch
from relay.process.ports import MDNS_PORT, why_not
from relay.watch.scrape_targets import Identity, ScrapeTarget, merge, read_identity, same_label

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zeroconf import Zeroconf

#: Announcements that are looked at: each interface of a relay is one, and takes about 5 kB.
MAX_ANNOUNCED: Final = 512
#: Of one announcement; an interface has two or three.
MAX_ADDRESSES: Final = 8
RESOLVE_TIMEOUT_MS: Final = 3000
#: A relay on the same segment answers in milliseconds, a busy one in one second.
ANSWER_TIMEOUT_S: Final = 3.0
#: /target.json has under 100 bytes.
MAX_ANSWER_BYTES: Final = 1024
#: Asked at once.
MAX_CONNECTIONS: Final = 32


class FindingError(RelayError):
    """Relays cannot be found here; the message has the remedy."""


class Finder:
    """Browses from `async with` on; each `look` says which relays there are now."""

    def __init__(self, port: int) -> None:
        """``port``: of the relays' status servers."""
        self._port = port
        self._announced: dict[str, tuple[str, ...]] = {}
        self._resolving: set[asyncio.Task[None]] = set()
        self._targets: list[ScrapeTarget] = []
        #: Relays that announce themselves and have no status server for this machine, at the last look.
        self.unanswered = 0
        #: Labels that several relays had at the last look.
        self.same_label: list[str] = []

    async def __aenter__(self) -> Self:
        """Begin to browse; raise FindingError."""
        for version in (IPVersion.All, IPVersion.V4Only):
            # Without IPv6 in the kernel the first fails; without any network both do.
            try:
                self._zeroconf = AsyncZeroconf(ip_version=version)
                break
            except OSError as error:
                failed = error
        else:
            cause = str(failed)
            if failed.errno == errno.EADDRINUSE:
                cause = await asyncio.to_thread(why_not, failed, MDNS_PORT, "udp")
            raise FindingError(
                f"cannot look for relays by multicast DNS, port {MDNS_PORT}: {cause}; stop what has it, or "
                "list the relays in prometheus.yml yourself (static_configs)"
            )
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._changed])
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, force_close=True),
            # What this machine is set to use for the web leads out of the segment.
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop browsing."""
        for task in self._resolving:
            task.cancel()
        await self._http.close()
        await self._browser.async_cancel()
        await self._zeroconf.async_close()

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self._announced.pop(name, None)
        elif name in self._announced or len(self._announced) < MAX_ANNOUNCED:
            self._announced.setdefault(name, ())
            task = asyncio.ensure_future(self._resolve(zeroconf, service_type, name))
            self._resolving.add(task)
            task.add_done_callback(self._resolving.discard)

    async def _resolve(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        info = AsyncServiceInfo(service_type, name)
        if await info.async_request(zeroconf, RESOLVE_TIMEOUT_MS) and name in self._announced:
            self._announced[name] = tuple(info.parsed_scoped_addresses())[:MAX_ADDRESSES]

    async def look(self, now: float) -> list[ScrapeTarget]:
        """Ask everybody, and return what Prometheus should read; ``now`` in monotonic seconds."""
        snapshot = await _interfaces()
        announced = {name: _askable(addresses, snapshot, self._port) for name, addresses in self._announced.items()}
        asked = {address for addresses in announced.values() for address in addresses}
        asked |= {target.address for target in self._targets}
        answers = dict(zip(asked, await asyncio.gather(*map(self._ask, asked)), strict=True))
        found = {address: identity for address, identity in answers.items() if identity is not None}
        self.unanswered = sum(found.keys().isdisjoint(addresses) for addresses in announced.values())
        self.same_label = same_label(found.values())
        self._targets = merge(self._targets, found, now)
        return self._targets

    async def _ask(self, address: Address) -> Identity | None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
            url = f"http://{address}/target.json"
            async with self._http.get(url, allow_redirects=False) as response:
                raw = await response.content.read(MAX_ANSWER_BYTES)
                return read_identity(raw) if response.status == 200 else None
        return None


def _askable(addresses: Iterable[str], snapshot: Snapshot, port: int) -> list[Address]:
    """Those on a segment of this machine: an announcement can name any address, also one far away."""
    found = []
    for text in addresses:
        parsed = ipaddress.ip_address(text.partition("%")[0])
        if parsed.version == 6 and parsed.is_link_local and "%" not in text:
            continue  # Which segment it is on was not told.
        if any(interface.reaches(text) for interface in snapshot.interfaces.values()):
            found.append(Address(text, port))
    return found


async def _interfaces() -> Snapshot:
    """The interfaces of this machine as they are now."""
    async with contextlib.aclosing(watch()) as snapshots:  # type: ignore[type-var]  # an async generator, said to be less
        async for snapshot in snapshots:
            return snapshot
    return Snapshot()
