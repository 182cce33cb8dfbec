# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of the mesh as an asyncio library: what `relay send` and `relay receive` do, for other programs.

    async with Client(config_folder, data_folder, RelayFinder([parse_address("relay.example")])) as client:
        ids = await client.send_text(["Zoë", "choir"], "Tomorrow at nine")
        await client.deliver()
        await client.collect()
        for message in await client.messages():
            print(client.name_of(message.sender), await client.text(message))
            await client.take(message)

All of it is on disk before a call returns, and any call may be cancelled or the process killed: what was
under way goes on the next time. Several processes may use the same folders.
"""

import asyncio
import contextlib
import datetime as dt
import random
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeVar

import relay
from relay.client.address import RelayAddress
from relay.client.body import Body, file_body, spool, text_body
from relay.client.collection import Collected, Collection, prefix_bits, prefixes_of
from relay.client.connection import Connection, RelayConnectionError
from relay.client.contacts import ContactBook
from relay.client.database import Database
from relay.client.delivery import Delivered, Delivery
from relay.client.errors import ClientError, SendError
from relay.client.finding import RelayFinder
from relay.client.identity import Identity
from relay.client.inbox import Inbox, Message, Partial
from relay.client.met import RelaysMet
from relay.client.outbox import Acknowledged, Outbox, Progress, Sent
from relay.client.saving import save
from relay.client.seal import LIFETIMES_DAYS, PRICE_LADDER, buckets_to_read
from relay.client.worker import Worker

PATIENCE_S: Final = 60.0
"""How long a relay may owe an answer, and how long a broken connection is tried again without any progress."""
FIRST_RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 30.0
DEFAULT_LIFETIME_DAYS: Final = LIFETIMES_DAYS[-1]
FIRST_PRICE: Final = PRICE_LADDER[0]
DAY_S: Final = 86_400

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """How far a delivery to one relay is, in envelopes of all messages together."""

    address: RelayAddress
    acknowledged: int
    envelopes: int


@dataclass(frozen=True, slots=True)
class PerRelay(list[tuple[RelayAddress, T | ClientError]]):
    """Results by relay."""


class Client:
    """One person's identity, contacts, outbox and inbox, and the relays they go through."""

    def __init__(
        self,
        config_folder: Path,
        data_folder: Path,
        finder: RelayFinder,
        *,
        clock: Callable[[], float] = time.time,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Use the identity in `config_folder` (made now if there is none) and the messages in `data_folder`.

        `clock` gives Unix seconds.
        """
        self.finder = finder
        self.patience_s = patience_s
        self._config_folder = config_folder
        self._data_folder = data_folder
        self._clock = clock
        self._worker = Worker()
        self._resources = contextlib.ExitStack()
        self._interrupted = threading.Event()
        self._random = random.SystemRandom()
        self.changed = asyncio.Event()
        """Set when something came that was for us; whoever waits for it clears it."""

    async def __aenter__(self) -> Self:
        """Open everything; ClientError when a file cannot be used."""
        try:
            await self._worker.run(self._open)
        except BaseException:
            self._worker.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the call under way in the thread come to an end, and close."""
        self._interrupted.set()
        try:
            await self._worker.run(self._resources.close)
        finally:
            self._worker.close()

    def _open(self) -> None:
        identity = Identity.load(self._config_folder)
        if identity is None:
            identity = Identity.generate(secrets.token_bytes)
            identity.save(self._config_folder)
        self.identity = identity
        self.contacts = ContactBook(self._config_folder)
        database = self._resources.enter_context(Database(self._data_folder))
        self._outbox = Outbox(database, identity)
        self._inbox = Inbox(database, identity, lambda static: self.contacts.name_of(static) is not None)
        self._met = RelaysMet(self._data_folder)

    # -- messages out -----------------------------------------------------

    async def send_text(
        self, names: Sequence[str], text: str, *, lifetime_days: int = DEFAULT_LIFETIME_DAYS
    ) -> list[bytes]:
        """Queue a text for contacts and groups; return a message ID for each person. `deliver` takes it on."""
        return await self._queue(names, lambda: text_body(text), lifetime_days, None)

    async def send_file(
        self,
        names: Sequence[str],
        file: BinaryIO,
        name: str,
        *,
        lifetime_days: int = DEFAULT_LIFETIME_DAYS,
        on_piece: Callable[[int, int], None] | None = None,
    ) -> list[bytes]:
        """Queue an open file (a pipe too) under a name for contacts and groups, as `send_text` does.

        `on_piece(done, all)` is called from another thread as envelopes get ready.
        """

        def body() -> Body:
            seekable = file if file.seekable() else resources.enter_context(spool(file, self._data_folder))
            return file_body(seekable, name)

        with contextlib.ExitStack() as resources:
            return await self._queue(names, body, lifetime_days, on_piece)

    async def _queue(
        self,
        names: Sequence[str],
        make_body: Callable[[], Body],
        lifetime_days: int,
        on_piece: Callable[[int, int], None] | None,
    ) -> list[bytes]:
        cards = list(dict.fromkeys(contact.card for name in names for contact in self.contacts.resolve(name)))
        interrupted = threading.Event()

        def ready(done: int, everything: int) -> None:
            if interrupted.is_set() or self._interrupted.is_set():
                raise SendError("interrupted; nothing of it is sent")
            if on_piece is not None:
                on_piece(done, everything)

        def queue() -> list[bytes]:
            return self._outbox.queue_message(
                cards,
                make_body(),
                lifetime_days=lifetime_days,
                price=FIRST_PRICE,
                now_s=self._clock(),
                on_piece=ready,
            )

        work = asyncio.ensure_future(self._worker.run(queue))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The file is the caller's and may be closed once this returns.
            interrupted.set()
            await asyncio.wait({work})
            raise

    async def deliver(
        self, on_progress: Callable[[Delivering], None] | None = None
    ) -> list[tuple[RelayAddress, Delivered | ClientError]]:
        """Offer all that is pending to every relay, due receipts and purges too; return what became of it.

        A relay not met in the last week is offered everything that no receipt has come for, another one
        only what no relay has on disk. A connection that breaks is made again, for as long as there is
        progress now and then; what is left then stays pending. NoRelayError when there is no relay.
        """
        addresses = await self.finder.find()
        await self._worker.run(self._outbox.queue_due_receipts, price=FIRST_PRICE, now_s=self._clock())
        # Before any of them acknowledges, lest one relay's acknowledgement keep an envelope from another.
        plans = [(address, await self._worker.run(self._plan, address)) for address in addresses]
        results = await asyncio.gather(
            *(self._deliver_to(address, plan, on_progress) for address, plan in plans), return_exceptions=True
        )
        await self._worker.run(self._outbox.prune, self._clock())
        return _by_relay(addresses, results)

    def _plan(self, address: RelayAddress) -> list[Sequence[int]]:
        """Return what to offer in one session each: messages, and purges if there are any."""
        now_s = self._clock()
        given = self._met.has_been_given(address, now_s)
        at_most = Acknowledged.VOLATILE if given else Acknowledged.DURABLE
        messages = self._outbox.pending_ids(now_s, at_most=at_most, purges=False)
        purges = self._outbox.pending_ids(now_s, at_most=at_most, purges=True)
        return [part for part in (messages, purges) if part]

    async def _deliver_to(
        self,
        address: RelayAddress,
        plan: list[Sequence[int]],
        on_progress: Callable[[Delivering], None] | None,
    ) -> Delivered:
        began_s = self._clock()
        deliveries: list[Delivery] = []
        retry = _Retry(self.patience_s)

        def progressed() -> None:
            retry.progressed()
            if on_progress is not None:
                on_progress(
                    Delivering(
                        address=address,
                        acknowledged=sum(one.result.acknowledged for one in deliveries),
                        envelopes=sum(one.result.envelopes for one in deliveries),
                    )
                )

        deliveries += [
            Delivery(ids, self._outbox, self._worker, patience_s=self.patience_s, on_progress=progressed)
            for ids in plan
        ]
        for delivery in deliveries:
            while not delivery.is_done:
                try:
                    async with await Connection.open(address, secret=self.finder.secret) as connection:
                        retry.connected()
                        await delivery.run(connection)
                except RelayConnectionError as error:
                    await retry.wait_after(error)
        if plan:
            await self._worker.run(self._met.note_given, address, began_s)
        total = Delivered()
        for delivery in deliveries:
            total += delivery.result
        return total

    async def progress(self, message_id: bytes) -> Progress | None:
        """Return how far a message is, or None when it is not known (any more)."""
        return await self._worker.run(self._outbox.progress, message_id)

    async def log(self) -> list[tuple[Sent, Progress]]:
        """Return the messages sent from here that have not expired, the oldest first, and how far each is."""

        def read() -> list[tuple[Sent, Progress]]:
            known = [(sent, self._outbox.progress(sent.message_id)) for sent in self._outbox.log()]
            return [(sent, progress) for sent, progress in known if progress is not None]

        return await self._worker.run(read)

    async def purge(self, message_id: bytes) -> int:
        """Stop sending a message, and have relays remove it; return in how many envelopes.

        The purges go out with `deliver` or `follow`, ten minutes to an hour from now. SendError when the
        message is not known.
        """
        return await self._worker.run(self._outbox.purge, message_id, price=FIRST_PRICE, now_s=self._clock())

    # -- messages in ------------------------------------------------------

    async def collect(self) -> list[tuple[RelayAddress, Collected | ClientError]]:
        """Read from every relay what can be for us; return what came of it. NoRelayError when there is no relay."""
        addresses = await self.finder.find()
        results = await asyncio.gather(*(self._collect_from(address) for address in addresses), return_exceptions=True)
        await self._worker.run(self._inbox.prune, self._clock())
        return _by_relay(addresses, results)

    async def _collect_from(self, address: RelayAddress) -> Collected:
        began_s = self._clock()
        hours = await self._worker.run(self._met.hours_to_read, address, began_s)
        retry = _Retry(self.patience_s)
        collection = self._collection(retry.progressed)
        plan: _Plan | None = None
        while plan is None or plan.prefixes:
            try:
                async with await Connection.open(address, secret=self.finder.secret) as connection:
                    retry.connected()
                    if plan is None:
                        plan = self._reading_plan(connection)
                    # Whether there are more sessions to come, and which, the relay is not told.
                    await collection.run(connection, bits=plan.bits, prefix=plan.prefixes[-1], within_hours=hours)
                    plan.prefixes.pop()
            except RelayConnectionError as error:
                await retry.wait_after(error)
        if not collection.result.full:
            await self._worker.run(self._met.note_read, address, began_s)
        return collection.result

    def _collection(self, on_progress: Callable[[], None] = lambda: None) -> Collection:
        return Collection(
            self._inbox,
            self._worker,
            clock=self._clock,
            patience_s=self.patience_s,
            on_progress=on_progress,
            on_change=self.changed.set,
        )

    def _reading_plan(self, connection: Connection) -> "_Plan":
        bits = prefix_bits(connection.hello.stored_log2)
        buckets = buckets_to_read(self.identity.rendezvous, int(self._clock() // 3600))
        prefixes = prefixes_of(buckets, bits)
        today = prefixes[0]
        # In any fixed order, days could be told from sessions.
        self._random.shuffle(prefixes)
        return _Plan(bits=bits, today=today, prefixes=prefixes)

    async def messages(self) -> list[Message]:
        """Return the messages that are whole, verified and not taken yet."""
        return await self._worker.run(self._inbox.messages)

    async def partials(self) -> list[Partial]:
        """Return the messages of which pieces are missing."""
        return await self._worker.run(self._inbox.partials)

    def name_of(self, sender: bytes) -> str | None:
        """Return the user's own name for whoever sent a message, or None for strangers."""
        return self.contacts.name_of(sender)

    async def text(self, message: Message) -> str:
        """Return the text of a message as it was sent: show it by `relay.client.text.safe_text` only."""
        content = await self._worker.run(lambda: b"".join(self._inbox.content(message)))
        return content.decode(errors="replace")

    async def save(self, message: Message, folder: Path) -> Path:
        """Write a message's content into `folder` under its name or the next that is free; return where it is.

        On disk when this returns; ClientError when it cannot be written.
        """
        return await self._worker.run(lambda: save(self._inbox.content(message), folder, message.name or "text.txt"))

    async def take(self, message: Message) -> None:
        """Forget the content of a message that the user has by now."""
        await self._worker.run(self._inbox.take, message)

    # -- both, for as long as the program runs ----------------------------

    def clock_warning(self) -> str | None:
        """Return what is wrong with the clock, if that is certain."""
        released = dt.datetime.fromisoformat(relay.__released__).replace(tzinfo=dt.UTC)
        if self._clock() >= released.timestamp():
            return None
        return (
            "this device's clock is wrong: it is before this program was made. "
            "Set it, or relays refuse what you send and you look for messages of other days"
        )

    @property
    def now_s(self) -> float:
        """The client's time, in Unix seconds."""
        return self._clock()

    @property
    def worker(self) -> Worker:
        """Where everything runs that touches the database."""
        return self._worker
