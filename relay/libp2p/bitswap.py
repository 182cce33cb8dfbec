# SPDX-License-Identifier: GPL-2.0-or-later
"""Bitswap both ways: serves blocks to who asks, and gets those that others have.

What a peer asks for is answered on a stream of ours to it, as all implementations do. Blocks that nobody here asked
for are thrown away: nothing is kept because somebody sent it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from relay.core.errors import RelayError
from relay.libp2p.bitswap_message import (
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    Entry,
    Message,
    Want,
    decode_message,
)
from relay.libp2p.connection import Budget, Messages, StreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from relay.libp2p.cid import Cid
    from relay.libp2p.connection import Connection, Stream
    from relay.libp2p.host import Host

#: Wishes of a peer that are remembered: boxo has up to 1,024 at a time. 0.3 MB a peer.
MAX_WISHES: Final = 1024
#: Blocks that we want at a time.
MAX_WANTED: Final = 2048
#: Looked up at a time for one peer; and what one message holds, about.
BATCH: Final = 32
MESSAGE_BYTES: Final = 256 << 10
#: Parts of messages that are not whole, of all peers together.
MAX_HELD_BYTES: Final = 8 << 20
#: A peer that said it has a block and does not send it within that time is passed over.
BLOCK_S: Final = 5.0
#: A stream of ours on which nothing goes is ended.
IDLE_S: Final = 30.0
#: A peer that has just started has all its parts by then.
SETTLE_S: Final = 5.0
MAX_KNOWN: Final = 1024
SEND_S: Final = 30.0
#: Two that dial each other at once have two connections, of which one ends: what was on it is sent by the other. And so
#: long `relay run` is given to come back, a question that fails then is not asked again soon.
RETRIES: Final = 5
RETRY_S: Final = 0.5


class UnavailableError(RelayError):
    """Whether a block is here cannot be said now."""


class Blocks(Protocol):
    """Where blocks are."""

    async def read(self, cids: Sequence[Cid], peer: bytes) -> dict[bytes, bytes]:
        """Return those that are here and that ``peer`` may have, by digest; raise UnavailableError."""

    def wanted(self, cid: Cid, peer: bytes) -> None:
        """A peer wants a block that is not here."""


class _Partner:
    """What is between us and one peer."""

    def __init__(self) -> None:
        #: What it asked for and was not answered yet; and what is not here, so that it has it once it comes.
        self.asked: dict[bytes, Entry] = {}
        self.missing: dict[bytes, Entry] = {}
        #: Wishes of ours that it is to be told.
        self.to_tell: dict[bytes, Entry] = {}
        #: Of both, what is in the message that is being sent.
        self.answering: dict[bytes, Entry] = {}
        self.telling: dict[bytes, Entry] = {}
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class _Wanted:
    """A block that we want."""

    def __init__(self, cid: Cid, future: asyncio.Future[bytes | None]) -> None:
        self.cid = cid
        self.future = future
        self.users = 0
        self.told: set[bytes] = set()
        #: Who may be asked at all; None: everybody. Where all of these said no, nobody is waited for.
        self.among: Collection[bytes] | None = None
        self.refused: set[bytes] = set()
        self.have: dict[bytes, None] = {}
        self.asked: bytes | None = None
        self.timer: asyncio.TimerHandle | None = None


class Bitswap:
    """Of one host."""

    def __init__(self, host: Host, blocks: Blocks, *, count: Callable[..., None]) -> None:
        """``blocks``: what is served; ``count(event, amount)``."""
        self._host = host
        self._blocks = blocks
        self._count = count
        self._partners: dict[bytes, _Partner] = {}
        self._wanted: dict[bytes, _Wanted] = {}
        #: Peers whose bitswap has noticed us, or whom we have dialled anew.
        self._known: dict[bytes, None] = {}
        self._budget = Budget(MAX_HELD_BYTES)
        host.handlers[PROTOCOL] = self._on_stream
        host.on_identified.append(self._on_peer)
        host.on_left.append(self._on_left)

    # -- peers ------------------------------------------------------------------------

    def _on_peer(self, peer: bytes) -> None:
        connection = self._host.identified(peer)
        if connection is None:
            return
        if peer not in self._known:
            asyncio.get_running_loop().call_later(SETTLE_S, self._renew, connection)
        if PROTOCOL not in connection.protocols:
            return
        for wanted in self._wanted.values():
            if wanted.among is None or peer in wanted.among:
                self._tell(peer, wanted)

    def _renew(self, connection: Connection) -> None:
        """Dial a peer anew that has said nothing of bitswap yet, once.

        kubo announces itself when its bitswap is not there yet, and that never hears of connections that are older
        than it: of us it would not ask anything until either starts again.
        """
        peer = connection.peer
        if peer in self._known or not connection.is_open:
            return
        self._note(peer)
        if PROTOCOL in connection.protocols:
            self._host.renew(connection)

    def _note(self, peer: bytes) -> None:
        self._known[peer] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def _on_left(self, peer: bytes) -> None:
        partner = self._partners.pop(peer, None)
        if partner is not None and partner.task is not None:
            partner.task.cancel()
        for wanted in self._wanted.values():
            wanted.told.discard(peer)
            wanted.have.pop(peer, None)
            if wanted.asked == peer:
                self._ask_next(wanted)

    def _partner(self, peer: bytes) -> _Partner:
        return self._partners.setdefault(peer, _Partner())

    def _work(self, peer: bytes, partner: _Partner) -> None:
        partner.wake.set()
        if partner.task is None or partner.task.done():
            partner.task = self._host.spawn(self._talk(peer, partner))

    # -- what peers say ---------------------------------------------------------------

    async def _on_stream(self, stream: Stream) -> None:
        messages = Messages(stream, MAX_MESSAGE_BYTES, self._budget)
        try:
            while (data := await messages.next()) is not None:
                self._receive(stream.peer, decode_message(data))
        finally:
            messages.close()

    def _receive(self, peer: bytes, message: Message) -> None:
        if self._host.connection(peer) is None:
            return
        self._note(peer)
        for cid, block in message.blocks:
            self._on_block(peer, cid, block)
        for cid, is_here in message.haves:
            self._on_have(peer, cid, is_here=is_here)
        if not message.entries and not message.full:
            return
        partner = self._partner(peer)
        if message.full:
            partner.asked.clear()
            partner.missing.clear()
        for entry in message.entries:
            self._on_wish(partner, entry)
        if partner.asked:
            self._work(peer, partner)

    def _on_wish(self, partner: _Partner, entry: Entry) -> None:
        key = entry.cid.encode()
        if entry.cancel:
            partner.asked.pop(key, None)
            partner.missing.pop(key, None)
            return
        partner.missing.pop(key, None)
        if key not in partner.asked and len(partner.asked) + len(partner.missing) >= MAX_WISHES:
            # Those that wait for what is not here give way: they were answered already.
            if not partner.missing:
                self._count("wants_refused")
                return
            del partner.missing[next(iter(partner.missing))]
        partner.asked[key] = entry

    def _on_block(self, peer: bytes, cid: Cid, block: bytes) -> None:
        wanted = self._wanted.pop(cid.digest, None)
        if wanted is None:
            self._count("blocks_unwanted")
            return
        self._count("blocks_received")
        if wanted.timer is not None:
            wanted.timer.cancel()
        if not wanted.future.done():
            wanted.future.set_result(block)
        self._call_off(wanted, but=peer)

    def _on_have(self, peer: bytes, cid: Cid, *, is_here: bool) -> None:
        wanted = self._wanted.get(cid.digest)
        if wanted is None:
            return
        if is_here:
            wanted.have[peer] = None
            if wanted.asked is None:
                self._ask_next(wanted)
        else:
            wanted.have.pop(peer, None)
            wanted.refused.add(peer)
            if wanted.asked == peer:
                self._ask_next(wanted)
            if wanted.among is not None and wanted.told <= wanted.refused and not wanted.future.done():
                wanted.future.set_result(None)

    # -- what we want -----------------------------------------------------------------

    async def fetch(self, cid: Cid, *, timeout_s: float, among: Collection[bytes] | None = None) -> bytes | None:
        """Return a block, which is what its CID says; None where nobody has it within that time.

        ``among``: the peers that may hear that it is wanted, as of the first who wants it; None for all. Where all of
        them say that they have it not, nobody is waited for.
        """
        wanted = self._wanted.get(cid.digest)
        if wanted is None:
            if len(self._wanted) >= MAX_WANTED:
                self._count("fetches_refused")
                return None
            wanted = _Wanted(cid, asyncio.get_running_loop().create_future())
            wanted.among = among
            self._wanted[cid.digest] = wanted
            for peer in self._host.speakers([PROTOCOL]):
                if among is None or peer in among:
                    self._tell(peer, wanted)
        wanted.users += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(wanted.future)
        except TimeoutError:
            return None
        finally:
            wanted.users -= 1
            if not wanted.users and self._wanted.get(cid.digest) is wanted:
                del self._wanted[cid.digest]
                if wanted.timer is not None:
                    wanted.timer.cancel()
                self._call_off(wanted)

    def _tell(self, peer: bytes, wanted: _Wanted) -> None:
        wanted.told.add(peer)
        self._say(peer, Entry(cid=wanted.cid, want=Want.HAVE, wants_no=True))

    def _say(self, peer: bytes, entry: Entry) -> None:
        partner = self._partner(peer)
        partner.to_tell[entry.cid.encode()] = entry
        self._work(peer, partner)

    def _ask_next(self, wanted: _Wanted) -> None:
        if wanted.timer is not None:
            wanted.timer.cancel()
            wanted.timer = None
        if wanted.asked is not None:
            wanted.have.pop(wanted.asked, None)
        wanted.asked = next(iter(wanted.have), None)
        if wanted.asked is not None:
            self._say(wanted.asked, Entry(cid=wanted.cid, want=Want.BLOCK, wants_no=True))
            wanted.timer = asyncio.get_running_loop().call_later(BLOCK_S, self._ask_next, wanted)

    def _call_off(self, wanted: _Wanted, but: bytes | None = None) -> None:
        for peer in wanted.told - {but}:
            if peer in self._partners:
                self._say(peer, Entry(cid=wanted.cid, cancel=True))
        wanted.told.clear()

    # -- what is served ---------------------------------------------------------------

    def arrived(self, cid: Cid) -> None:
        """A block is here now: whoever wanted it has it."""
        for peer, partner in self._partners.items():
            found = [key for key, entry in partner.missing.items() if entry.cid.digest == cid.digest]
            for key in found:
                partner.asked[key] = partner.missing.pop(key)
            if found:
                self._work(peer, partner)

    def again(self, peer: bytes) -> None:
        """Look anew for all that a peer wants and that was not here, or not for him."""
        partner = self._partners.get(peer)
        if partner is not None and partner.missing:
            partner.asked |= partner.missing
            partner.missing = {}
            self._work(peer, partner)

    async def _talk(self, peer: bytes, partner: _Partner) -> None:
        """Tell a peer our wishes and answer its own, until there is nothing to say for a while."""
        for _ in range(RETRIES):
            try:
                await self._talk_on(peer, partner)
            except (StreamError, TimeoutError, UnavailableError):
                partner.asked = partner.answering | partner.asked
                partner.to_tell = partner.telling | partner.to_tell
                await asyncio.sleep(RETRY_S)
            else:
                return
        # It asks again, if it is there; and what we want is told to whoever comes.
        self._count("answers_lost", len(partner.asked))
        partner.asked.clear()
        partner.to_tell.clear()

    async def _talk_on(self, peer: bytes, partner: _Partner) -> None:
        stream: Stream | None = None
        try:
            while True:
                message = await self._next_message(peer, partner)
                if message is None:
                    try:
                        async with asyncio.timeout(IDLE_S):
                            await partner.wake.wait()
                    except TimeoutError:
                        return
                    continue
                if stream is None:
                    stream = await self._host.open(peer, [PROTOCOL])
                async with asyncio.timeout(SEND_S):
                    await stream.send(message.encode())
                self._count("blocks_sent", len(message.blocks))
        finally:
            if stream is not None:
                stream.connection.close_stream(stream)

    async def _next_message(self, peer: bytes, partner: _Partner) -> Message | None:
        partner.wake.clear()
        partner.telling, partner.to_tell = partner.to_tell, {}
        partner.answering = {}
        entries = list(partner.telling.values())
        batch = sorted(partner.asked.items(), key=lambda item: -item[1].priority)[:BATCH]
        blocks: list[tuple[Cid, bytes]] = []
        haves: list[tuple[Cid, bool]] = []
        if batch:
            here = await self._blocks.read([entry.cid for _, entry in batch], peer)
            room = MESSAGE_BYTES
            for key, entry in batch:
                if partner.asked.get(key) is not entry:
                    continue  # called off, or asked for otherwise meanwhile
                block = here.get(entry.cid.digest)
                if block is not None and entry.want is Want.BLOCK:
                    if room <= 0:
                        break
                    blocks.append((entry.cid, block))
                    room -= len(block)
                elif block is not None:
                    haves.append((entry.cid, True))
                else:
                    partner.missing[key] = entry
                    if entry.wants_no:
                        haves.append((entry.cid, False))
                    self._count("wants_missed")
                    self._blocks.wanted(entry.cid, peer)
                partner.answering[key] = partner.asked.pop(key)
            partner.wake.set()
        if not entries and not blocks and not haves:
            return None
        return Message(entries=entries, blocks=blocks, haves=haves)
