# SPDX-License-Identifier: GPL-2.0-or-later
"""Newer software of neighbours, on an appliance: given, taken, and started anew for (docs/protocol.md section 6.13).

The core moves parts (relay.core.updates) and asks neighbours whether they stay (relay.core.leaving). `relay slot` says
what is wanted: whether the head is signed comes before all else, and of each piece its hash. Here the two meet. Nothing
of the software is kept but the head and one piece, and what is written is `relay slot`'s to know, so that after a cut
it goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.core.errors import RelayError
from relay.core.messages import Role
from relay.core.rate import Bucket, Rate
from relay.core.stats import UpdateRefused, UpdateTotal
from relay.process.spread_sockets import GiveClient, ask_for_restart, hand_in
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import NoReturn

    from relay.core.node import Node
    from relay.core.update_wire import Offer
    from relay.core.updates import Fetched
    from relay.process.spread_sockets import Own

logger = logging.getLogger(__name__)

#: Bytes of the head of an update, which is the first thing of it (relay.board.manifest).
HEAD_BYTES: Final = 64 << 10
#: For a piece of a MiB, of whoever offers it: then the taking ends, and is begun anew after a while.
PIECE_S: Final = 1800.0
#: For the head; who does not give even that does not keep others from giving theirs for long.
HEAD_S: Final = 120.0
#: Heads that `relay slot` is shown. Each starts a process, so that who offers nonsense without end costs little; who is
#: honest is drawn by lot among them.
HEADS: Final = Rate(per_s=1 / 900, burst=4.0)
#: Reasons for which the same is not tried again; others pass.
_LASTING: Final = frozenset(
    {"damaged", "unsigned", "wrong_key", "bad_signature", "other_board", "older", "same", "too_large", "failed"}
)
#: Heads that are known not to be wanted; with HEADS they are those of ten days.
MAX_REFUSED: Final = 1024
#: Where nothing is lost by it, the machine starts anew after so long whoever is here, and whatever neighbours say.
MAX_QUIET_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds until something is tried again.

    ``ask``: to ask `relay slot --give`, at first and at most: it is a process each time; ``retake``: a taking that was
    cut off; ``restart``: to start the machine anew, at least and at most, drawn each time, so that not all do at once;
    ``away``: that this was not done although it was said so.
    """

    ask: tuple[float, float] = (20.0, 3600.0)
    retake: float = 300.0
    restart: tuple[float, float] = (60.0, 300.0)
    away: float = 120.0


class CutOffError(RelayError):
    """No neighbour gave a piece in time."""


class Spreading:
    """All of it, while :meth:`run` does. ``folder``: of the sockets."""

    def __init__(
        self,
        node: Node,
        folder: Path,
        *,
        restart: str,
        wake: Callable[[], None],
        random: Callable[[], float],
        times: Times | None = None,
    ) -> None:
        """``restart``: "never", "quiet" or "held" (relay.config.run); ``wake`` has sessions say what they have to."""
        self._node = node
        self._folder = folder
        self._restart = restart
        self._wake = wake
        self._random = random
        self._times = times or Times()
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self._changed = asyncio.Event()
        self._described = asyncio.Event()
        self._waiting = asyncio.Event()
        self._own: Own | None = None
        self._giver: GiveClient | None = None
        self._heads = Bucket(HEADS, self._loop.time())
        #: SHA-256 of heads that are not shown again, the oldest first.
        self._refused: dict[bytes, None] = {}
        #: ... and how often the taking of others failed.
        self._failures: dict[bytes, int] = {}
        node.updates.wake = self._woken

    def _woken(self) -> None:
        self._asked.set()
        self._changed.set()

    async def run(self) -> NoReturn:
        """Serve until cancelled."""
        try:
            async with TaskGroup() as tasks:
                for work in (self._describe(), self._give(), self._take(), self._start_anew()):
                    tasks.create_task(work)
        finally:
            self._node.updates.offer(None)
            self._node.updates.cancel()
            self._node.departure.call_off()
            if self._giver is not None:
                self._giver.close()
        raise AssertionError("it does not end")  # pragma: no cover

    # -- giving -----------------------------------------------------------

    async def _describe(self) -> None:
        """Find out what runs here and can be given to others, and whether what a person handed in waits for a start."""
        delay_s, most_s = self._times.ask
        while not self._waiting.is_set():
            # At the start of the machine messages go first, in this, too.
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, most_s)
            try:
                giver = await GiveClient.connect(self._folder)
                giver.close()
            except (OSError, RelayError) as error:
                logger.info("it is not known what can be given to others (%s)", type(error).__name__)
            else:
                self._own = giver.own
                self._described.set()
                if self._own.is_waiting:
                    self._waiting.set()
                self._node.updates.offer(self._own.offer)
                self._wake()

    async def _give(self) -> NoReturn:
        """Read what neighbours ask for, one after the other."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            for link, ask in self._node.updates.take_asks():
                data = await self._read(ask.offset, ask.length)
                self._node.updates.give(link, ask, data)
                self._wake()

    async def _read(self, offset: int, length: int) -> bytes | None:
        for _ in range(2):
            try:
                if self._giver is None:
                    self._giver = await GiveClient.connect(self._folder)
                return await self._giver.read(offset, length)
            except (OSError, RelayError):
                # It ends when nobody has asked for a while.
                if self._giver is not None:
                    self._giver.close()
                self._giver = None
        return None

    # -- taking -----------------------------------------------------------

    async def _take(self) -> None:
        """Take what is newer, until something waits for a start."""
        await self._described.wait()
        while not self._waiting.is_set():
            offer = self._choose()
            if offer is None:
                await self._changed.wait()
                self._changed.clear()
                continue
            wait_s = self._heads.open_at(self._loop.time()) - self._loop.time()
            if wait_s > 0:
                # By then there may be others to choose from.
                await asyncio.sleep(wait_s)
                continue
            try:
                head = await self._fetch(offer.digest, 0, HEAD_BYTES, offer.digest.hex(), HEAD_S)
                self._heads.spend(1, self._loop.time())
                await self._take_one(offer, head)
            except CutOffError:
                self._failed(offer)
            except (OSError, RelayError) as error:
                logger.info("newer software of a neighbour was not handed in (%s)", type(error).__name__)
                self._failed(offer)
                await asyncio.sleep(self._times.retake)

    def _failed(self, offer: Offer) -> None:
        """Others go before it from now on."""
        self._node.stats.add(UpdateRefused.CUT_OFF)
        self._failures[offer.digest] = self._failures.pop(offer.digest, 0) + 1
        while len(self._failures) > MAX_REFUSED:
            del self._failures[next(iter(self._failures))]

    def _choose(self) -> Offer | None:
        """One of what neighbours offer that is newer and failed least, by lot; None: nothing is."""
        own = self._own
        if own is None:
            return None
        newer = [
            offer
            for offer in self._node.updates.candidates()
            if offer.is_newer_than(own.board, own.built) and offer.digest not in self._refused
        ]
        fewest = min((self._failures.get(offer.digest, 0) for offer in newer), default=0)
        newer = [offer for offer in newer if self._failures.get(offer.digest, 0) == fewest]
        return newer[int(self._random() * len(newer))] if newer else None

    async def _take_one(self, offer: Offer, head: bytes) -> None:
        async def read(offset: int, length: int, expected: str) -> bytes:
            if offset + length <= HEAD_BYTES:
                return head[offset : offset + length]
            return await self._fetch(offer.digest, offset, length, expected, PIECE_S)

        said = await hand_in(self._folder, read)
        logger.info("newer software of a neighbour: %s", said.reason or "taken")
        if not said.reason:
            self._node.stats.add(UpdateTotal.WRITTEN)
            self._waiting.set()
            return
        if said.reason in _REASONS:
            self._node.stats.add(_REASONS[said.reason])
        if said.reason in _LASTING:
            self._refused[offer.digest] = None
            while len(self._refused) > MAX_REFUSED:
                del self._refused[next(iter(self._refused))]
        else:
            await asyncio.sleep(self._times.retake)

    async def _fetch(self, digest: bytes, offset: int, length: int, expected: str, patience_s: float) -> bytes:
        """So many bytes with that SHA-256, of whichever neighbour gives them; raise CutOffError."""
        until_s = self._loop.time() + patience_s
        while True:
            self._node.updates.fetch(digest, offset, length, self._loop.time())
            self._wake()
            fetched = await self._fetched(until_s)
            if not expected or hashlib.sha256(fetched.data).hexdigest() == expected:
                return fetched.data
            self._node.updates.was_wrong(fetched)

    async def _fetched(self, until_s: float) -> Fetched:
        try:
            async with asyncio.timeout_at(until_s):
                while (fetched := self._node.updates.take_fetched()) is None:
                    self._changed.clear()
                    await self._changed.wait()
                return fetched
        except TimeoutError as error:
            self._node.updates.cancel()
            raise CutOffError("no neighbour gives it") from error

    # -- starting anew ----------------------------------------------------

    async def _start_anew(self) -> None:
        """Have the machine start anew once newer software waits for that, and nothing is lost by it."""
        await self._waiting.wait()
        if self._restart == "never":
            return
        least_s, most_s = self._times.restart
        since_s = self._loop.time()
        while True:
            await asyncio.sleep(least_s + (most_s - least_s) * self._random())
            is_late = self._restart == "quiet" and self._loop.time() - since_s > MAX_QUIET_S
            if not is_late and ((self._restart == "quiet" and self._is_busy()) or not await self._may_go()):
                continue
            logger.warning("this relay starts anew, with newer software")
            try:
                said = await ask_for_restart(self._folder)
                if not said.reason:
                    await asyncio.sleep(self._times.away)
            except (OSError, RelayError) as error:
                logger.warning("this relay could not start anew (%s)", type(error).__name__)
            self._node.departure.call_off()
            self._wake()

    def _is_busy(self) -> bool:
        """Whether people are here."""
        return any(link.role is Role.CLIENT for link in self._node.links.values())

    async def _may_go(self) -> bool:
        departure = self._node.departure
        departure.begin(self._loop.time(), everything=self._restart == "held")
        while departure.may_go is None:
            self._wake()
            await asyncio.sleep(_LOOK_S)
        return departure.may_go


#: How often it is looked whether neighbours have answered.
_LOOK_S: Final = 0.5
_REASONS: Final = {str(reason): reason for reason in UpdateRefused}
