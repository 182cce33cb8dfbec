# SPDX-License-Identifier: GPL-2.0-or-later
"""The envelopes of this machine's relay as blocks: asked of `relay run` by one session, as any client asks.

A relay answers for what it holds and what has not expired; what is purged, has expired or was never there it calls
missing, and nothing here tells these apart.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from relay.core import session as s
from relay.core.envelope import envelope_id
from relay.libp2p.bitswap import UnavailableError
from relay.links.address import RelayAddress
from relay.links.client_session import Connection, RelayConnectionError
from relay.process.supervisor import keep_trying

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: Envelopes that may be asked for and not answered; 16 KiB each at most. One more is not to be had now.
MAX_ASKED: Final = 256
ANSWER_S: Final = 30.0
#: So long a session without questions is kept: its handshake costs more than all that is asked of a still one.
IDLE_S: Final = 20.0
MAX_DELAY_S: Final = 10.0


class Envelopes:
    """Of one relay; `run` has to run."""

    def __init__(
        self, path: Path, *, secret: bytes | None, random: Callable[[], float], count: Callable[..., None]
    ) -> None:
        """``path``: link.sock. ``secret`` (32 bytes): the mesh's, where it is known here."""
        self._address = RelayAddress(path=path)
        self._secret = secret
        self._random = random
        self._count = count
        self._asked: dict[bytes, asyncio.Future[bytes | None]] = {}
        self._new: list[bytes] = []
        self._wake = asyncio.Event()

    async def read(self, identities: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return those that are held, by identity; raise UnavailableError."""
        futures: dict[bytes, asyncio.Future[bytes | None]] = {}
        loop = asyncio.get_running_loop()
        for identity in dict.fromkeys(identities):
            future = self._asked.get(identity)
            if future is None:
                if len(self._asked) >= MAX_ASKED:
                    self._count("envelopes_busy")
                    raise UnavailableError("too much is asked of the relay at a time")
                future = self._asked[identity] = loop.create_future()
                # Whoever asked may have gone.
                future.add_done_callback(lambda done: done.exception())
                self._new.append(identity)
            futures[identity] = future
        self._wake.set()
        try:
            async with asyncio.timeout(ANSWER_S):
                await asyncio.wait(futures.values())
        except TimeoutError:
            raise UnavailableError("the relay does not answer") from None
        found = {identity: future.result() for identity, future in futures.items()}
        return {identity: envelope for identity, envelope in found.items() if envelope is not None}

    async def run(self) -> NoReturn:
        """Ask until cancelled."""

        def failed(error: Exception) -> None:
            if not isinstance(error, RelayConnectionError):
                raise error
            self._count("relay_unreachable")
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(UnavailableError("the relay does not answer"))
            self._asked.clear()
            self._new.clear()

        await keep_trying(self._serve, random=self._random, on_failure=failed, max_s=MAX_DELAY_S)

    async def _serve(self) -> float:
        await self._next()
        async with await Connection.open(self._address, secret=self._secret) as connection:
            while self._asked:
                if self._new:
                    connection.fetch(self._new)
                    self._new.clear()
                for event in await self._events(connection):
                    match event:
                        case s.Envelopes(items=items):
                            for envelope in items:
                                self._answered(envelope_id(envelope), envelope)
                        case s.Missing(identities=identities):
                            for identity in identities:
                                self._answered(identity, None)
                if not self._asked:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(IDLE_S):
                            await self._next()
        return 0.0

    async def _next(self) -> None:
        self._wake.clear()
        if not self._new:
            await self._wake.wait()

    async def _events(self, connection: Connection) -> list[object]:
        """What the relay says; nothing, where something new is to be asked meanwhile."""
        self._wake.clear()
        if self._new:
            return []
        coming = asyncio.ensure_future(connection.events(ANSWER_S))
        asking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({coming, asking}, return_when=asyncio.FIRST_COMPLETED)
            return list(coming.result()) if coming.done() else []
        finally:
            for each in (coming, asking):
                each.cancel()
            await asyncio.gather(coming, asking, return_exceptions=True)

    def _answered(self, identity: bytes, envelope: bytes | None) -> None:
        future = self._asked.pop(identity, None)
        if future is not None and not future.done():
            future.set_result(envelope)
