# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters of couriers in the store of this machine's relay: looked for while somebody is near who may have one.

What was there before is read once for each of his buckets, of a few people at a time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NoReturn

from relay.bitchat.couriers import to_envelopes
from relay.links.named_store import NamedStore
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relay.bitchat.courier import Letter
    from relay.bitchat_gateway.gateway import Gateway
    from relay.core.named import Name
    from relay.process.reports import Reporter

#: Letters that wait to be wrapped or put, 16 KiB each; phones give a few in an hour.
MAX_WAITING: Final = 32
#: A fifth of a full store is read in a second or two for those who came. The next few wait so long.
READ_REST_S: Final = 10.0
MAX_DELAY_S: Final = 60.0


class Letters:
    """See the module; a :class:`relay.bitchat_gateway.gateway.Letters`."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        path: Path,
        secret: bytes | None,
        reporter: Reporter,
        random: Callable[[], float],
    ) -> None:
        """``path``: link.sock. ``secret`` (32 bytes): the mesh's, where it is known here."""
        self._gateway = gateway
        self._reporter = reporter
        self._waiting: asyncio.Queue[Letter] = asyncio.Queue(MAX_WAITING)
        self._store = NamedStore(
            self,
            path=path,
            secret=secret,
            random=random,
            on_lost=lambda: reporter.count("letters_relay_lost"),
            rest_s=READ_REST_S,
            max_delay_s=MAX_DELAY_S,
        )

    def keep(self, letter: Letter) -> None:
        """Keep a letter."""
        try:
            self._waiting.put_nowait(letter)
        except asyncio.QueueFull:
            self._reporter.count("letters_lost")

    def look(self) -> None:
        """Look for envelopes of the names that are looked for now."""
        self._store.look()

    async def run(self) -> None:
        """Keep and look until cancelled."""
        async with TaskGroup() as tasks:
            tasks.create_task(self._store.run())
            tasks.create_task(self._keep_letters())

    async def _keep_letters(self) -> NoReturn:
        while True:
            letter = await self._waiting.get()
            is_held = await self._store.put(await asyncio.to_thread(to_envelopes, letter))
            self._reporter.count("letters_kept" if is_held else "letters_refused")

    # -- relay.links.named_store.Seeker -----------------------------------------------

    def is_anybody_wanted(self) -> bool:
        """Whether anybody is near."""
        return self._gateway.mesh.couriers.is_anybody_wanted()

    def take_unread(self) -> frozenset[Name]:
        """Names of those who came."""
        return self._gateway.mesh.couriers.take_unread()

    def found(self, envelope: bytes) -> None:
        """Hand it over, if it is a letter for somebody who is near."""
        self._gateway.found(envelope)

    def read(self, names: frozenset[Name]) -> None:
        """Each letter was handed over as it was found."""
