# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the status servers of relays: browses by DNS-SD, and asks each address that is on a segment of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import math
import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, Self

from zeroconf import IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from relay.config.settings import Address
from relay.core.errors import RelayError
from relay.links.address import SERVICE_TYPE
from relay.links.announcement import announcement
from relay.links.interfaces import Snapshot, watch
from relay.process.ports import MDNS_PORT, why_not
from relay.watch.scrape_targets import Identity, ScrapeTarget, merge, read_identity, same_label

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from zeroconf import Zeroconf

#: Announcements that are looked at: each interface of a relay is one, and takes about 5 kB. One more takes the place of
#: the oldest that was asked and did not answer, so that names without relays keep none from being found.
MAX_ANNOUNCED: Final = 512
#: Addresses asked in one look, beside those of relays that are listed: with nobody at any of them 16 looks for all that
#: can be announced, and 8 s each.
MAX_ASKED: Final = 256
#: Of one announcement; an interface has two or three.
MAX_ADDRESSES: Final = 8
RESOLVE_TIMEOUT_MS: Final = 3000
#: A relay on the same segment answers in milliseconds, a busy one in one second.
ANSWER_TIMEOUT_S: Final = 3.0
#: Where nobody is, nobody refuses.
CONNECT_TIMEOUT_S: Final = 1.0
#: Of an answer, its head included: /target.json has under 100 bytes, and the headers of its answer under 1 KiB. No more
#: is looked at, so no library's parser is at work on what a stranger sends for as long as he may.
MAX_ANSWER_BYTES: Final = 4096
#: Asked at once.
MAX_CONNECTIONS: Final = 32
_OK: Final = re.compile(rb"HTTP/1\.[01] 200 ")


class FindingError(RelayError):
    """Relays cannot be found here; the message has the remedy."""


class Finder:
    """Browses from `async with` on; each `look` says which relays there are now."""

    def __init__(self, port: int) -> None:
        """``port``: of the relays' status servers."""
        self._port = port
        #: In order of announcement.
        self._announced: dict[str, tuple[str, ...]] = {}
        #: By name: a neighbour that announces one anew a thousand times a second has it resolved once at a time.
        self._resolving: dict[str, asyncio.Task[None]] = {}
        #: Addresses of announcements by when they were asked last (monotonic seconds), and those that answered then.
        self._asked_s: dict[Address, float] = {}
        self._answering: set[Address] = set()
        #: Announcements of which every address was asked, or is none to ask, and none answers.
        self._in_vain: set[str] = set()
        self._targets: list[ScrapeTarget] = []
        self._asking = asyncio.Semaphore(MAX_CONNECTIONS)
        #: Relays that announce themselves and have no status server for this machine, at the last look.
        self.unanswered = 0
        #: Relays that answered at the last look and are not listed, as MAX_TARGETS others are.
        self.unlisted = 0
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
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop browsing."""
        for task in self._resolving.values():
            task.cancel()
        await self._browser.async_cancel()
        await self._zeroconf.async_close()

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:  # noqa: ARG002 - zeroconf passes by name
        if state_change is ServiceStateChange.Removed:
            self._announced.pop(name, None)
        elif name not in self._resolving and (name in self._announced or self._has_room()):
            self._announced.setdefault(name, ())
            self._resolving[name] = asyncio.ensure_future(self._resolve(zeroconf, name))
            self._resolving[name].add_done_callback(lambda _: self._resolving.pop(name, None))

    def _has_room(self) -> bool:
        """Whether one more announcement can be kept, at the expense of one that led to no relay."""
        if len(self._announced) < MAX_ANNOUNCED:
            return True
        for name in self._announced:
            if name in self._in_vain and name not in self._resolving:
                del self._announced[name]
                return True
        return False

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        info = announcement(name)
        if info is not None and await info.async_request(zeroconf, RESOLVE_TIMEOUT_MS) and name in self._announced:
            self._announced[name] = tuple(info.parsed_scoped_addresses())[:MAX_ADDRESSES]

    async def look(self, now: float) -> list[ScrapeTarget]:
        """Ask everybody, and return what Prometheus should read; ``now`` in monotonic seconds."""
        snapshot = await _interfaces()
        announced = {name: _askable(addresses, snapshot, self._port) for name, addresses in self._announced.items()}
        asked = self._next(announced.values()) | {target.address for target in self._targets}
        answers = dict(zip(asked, await asyncio.gather(*map(self._ask, asked)), strict=True))
        found = {address: identity for address, identity in answers.items() if identity is not None}
        self._asked_s |= dict.fromkeys(asked, now)
        self._answering = set(found)
        self._in_vain = {
            name
            for name, addresses in announced.items()
            if self._asked_s.keys() >= set(addresses) and found.keys().isdisjoint(addresses)
        }
        self.unanswered = sum(
            found.keys().isdisjoint(addresses) and not asked.isdisjoint(addresses) for addresses in announced.values()
        )
        self.same_label = same_label(found.values())
        self._targets = merge(self._targets, found, now)
        self.unlisted = len({one.run for one in found.values()}) - sum(one.seen_s == now for one in self._targets)
        return self._targets

    def _next(self, announced: Collection[Sequence[Address]]) -> set[Address]:
        """Whom to ask: those that answer, then whoever waits longest; of each announcement its first one first."""
        known = {address for addresses in announced for address in addresses}
        self._asked_s = {address: at_s for address, at_s in self._asked_s.items() if address in known}
        in_turn = [address for row in zip_longest(*announced) for address in row if address is not None]
        in_turn.sort(key=lambda address: (address not in self._answering, self._asked_s.get(address, -math.inf)))
        return set(list(dict.fromkeys(in_turn))[:MAX_ASKED])

    async def _ask(self, address: Address) -> Identity | None:
        # Waiting for one's turn is no time of an answer's.
        async with self._asking:
            return await self._ask_now(address)

    async def _ask_now(self, address: Address) -> Identity | None:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    opening = asyncio.open_connection(address.host, address.port, limit=MAX_ANSWER_BYTES)
                    reader, writer = await opening
                try:
                    # By this version an answer comes in one piece and ends with the connection (RFC 9112 section 6.3).
                    writer.write(f"GET /target.json HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
                    return _identity(await _read(reader))
                finally:
                    writer.transport.abort()
        return None


async def _read(reader: asyncio.StreamReader) -> bytes:
    raw = b""
    while len(raw) < MAX_ANSWER_BYTES and (more := await reader.read(MAX_ANSWER_BYTES - len(raw))):
        raw += more
    return raw


def _identity(answer: bytes) -> Identity | None:
    head, _, body = answer.partition(b"\r\n\r\n")
    return read_identity(body) if _OK.match(head) else None


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
