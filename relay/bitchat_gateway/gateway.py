# SPDX-License-Identifier: GPL-2.0-or-later
"""The task that owns the :class:`relay.bitchat.mesh.Mesh`: phones on one side, the other relays on the other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from relay.bitchat.announce import Identity
from relay.bitchat.live import is_true, to_datagram
from relay.bitchat.mesh import KeepLetter, LookFor, Mesh, ToRelays

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.bitchat.courier import Letter
    from relay.core.messages import LiveDatagram
    from relay.process.reports import Reporter

#: How long one turn may be put off by what comes in: a phone's burst is one turn then, not a hundred.
TURN_S: Final = 0.005


class Phone(Protocol):
    """A phone that is connected."""

    @property
    def can_take(self) -> bool:
        """Whether frames can be given to it now."""

    def send(self, frames: list[bytes]) -> None:
        """Send it frames, each a packet or a piece of one."""

    def hang_up(self) -> None:
        """End its connection."""


class Letters(Protocol):
    """Where letters for those who are away are kept."""

    def keep(self, letter: Letter) -> None:
        """Keep a letter."""

    def look(self) -> None:
        """Names that are looked for have changed."""


class Gateway:
    """What phones and other relays say goes through here; see the module."""

    def __init__(
        self,
        *,
        nickname: str,
        earliest_ms: int,
        random: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        reporter: Reporter,
        carry_media: bool = False,
    ) -> None:
        """``random`` gives floats in [0, 1), ``random_bytes`` unpredictable bytes.

        ``carry_media``: files and voice go to other islands, too.
        """
        self._random_bytes = random_bytes
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        #: Hands a datagram to the other relays; False: it is lost.
        self.to_relays: Callable[[LiveDatagram], bool] = _nobody
        self.letters: Letters | None = None
        self.mesh = Mesh(
            Identity.generate(random_bytes),
            now=self._loop.time(),
            earliest_ms=earliest_ms,
            draw=random,
            random_bytes=random_bytes,
            nickname=nickname,
            carry_media=carry_media,
        )
        self._phones: dict[int, Phone] = {}
        self._last_number = 0
        self._wake = asyncio.Event()

    # -- phones -----------------------------------------------------------------------

    def opened(self, phone: Phone, *, frame_bytes: int, can_stream: bool) -> int:
        """Note a phone that is connected; return its number."""
        self._last_number = number = self._last_number + 1
        self._phones[number] = phone
        self.mesh.open_link(number, self._loop.time(), frame_bytes=frame_bytes, can_stream=can_stream)
        self._reporter.count("clients_accepted")
        self._wake.set()
        return number

    def closed(self, number: int) -> None:
        """Note that a phone is gone."""
        if self._phones.pop(number, None) is not None:
            self.mesh.close_link(number)

    def received(self, number: int, frame: bytes) -> None:
        """Take a frame of a phone."""
        self.mesh.receive(number, frame, self._loop.time())
        self._wake.set()

    def narrowed(self, number: int, frame_bytes: int) -> None:
        """Note that a phone takes frames of so many bytes from now on, and no stream of several."""
        self.mesh.narrow_link(number, frame_bytes)

    def wake(self) -> None:
        """A phone can take more."""
        self._wake.set()

    def become_another(self) -> None:
        """Hang up on all phones and be somebody else: with the next address nothing joins us to the last one."""
        for number, phone in list(self._phones.items()):
            self.closed(number)
            phone.hang_up()
        self.mesh.change_identity(Identity.generate(self._random_bytes))
        self._reporter.count("identities")

    # -- the other relays -------------------------------------------------------------

    def heard_live(self, datagram: LiveDatagram) -> None:
        """Take what another relay heard."""
        if not is_true(datagram):
            self._reporter.count("live_untrue")
            return
        self._reporter.count("live_received")
        self.mesh.receive_live(datagram.data, self._loop.time())
        self._wake.set()

    def trust(self, unix_ms: int | None) -> None:
        """Take the relay's clock, or none."""
        self.mesh.clock.trust(unix_ms, self._loop.time())
        self._wake.set()

    def found(self, envelope: bytes) -> None:
        """Take an envelope that may be a letter for somebody who is near."""
        self.mesh.found(envelope, self._loop.time())
        self._wake.set()

    # -- its turns --------------------------------------------------------------------

    async def run(self) -> None:
        """Take turns until cancelled."""
        while True:
            self._wake.clear()
            self._turn(self._loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self.mesh.next_s(self._loop.time())):
                    await self._wake.wait()
                    await asyncio.sleep(TURN_S)

    def _turn(self, now: float) -> None:
        self.mesh.take_due(now)
        for event in self.mesh.events():
            match event:
                case ToRelays(data=data):
                    self._reporter.count("live_sent" if self.to_relays(to_datagram(data)) else "live_lost")
                case KeepLetter(letter=letter):
                    if self.letters is not None:
                        self.letters.keep(letter)
                case LookFor():
                    if self.letters is not None:
                        self.letters.look()
        for number, phone in list(self._phones.items()):
            if phone.can_take and (frames := self.mesh.frames_to_send(number, now)):
                phone.send(frames)
        self._measure()

    def _measure(self) -> None:
        now, clock = self._loop.time(), self.mesh.clock
        self._reporter.gauge("clients", len(self._phones))
        self._reporter.gauge("clock_trusted", int(clock.is_trusted))
        self._reporter.gauge("clock_learned", int(clock.is_learned(now)))
        self._reporter.gauge("clock_disputed", int(clock.is_disputed(now)))
        self._reporter.gauge("letters_brief", self.mesh.couriers.brief)
        counts, self.mesh.counts = self.mesh.counts, type(self.mesh.counts)()
        for (kind, outcome), count in counts.items():
            self._reporter.count(f"type_{kind}", count)
            self._reporter.count(_event(outcome), count)


def _nobody(_: LiveDatagram) -> bool:
    return False


def _event(outcome: str) -> str:
    """The event of an outcome; why an app would refuse a packet is of no use to an operator."""
    return "packets_refused" if outcome.startswith("refused_") else f"packets_{outcome}"
