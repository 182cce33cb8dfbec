# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of the mesh as an asyncio library: what `relay send` and `relay receive` do, for other programs.

    async with Client(config_folder, data_folder, RelayFinder([parse_address("relay.example")])) as client:
        await client.send_text(["Zoë", "choir"], "Tomorrow at nine")
        await client.deliver()
        await client.collect()
        for message in await client.messages():
            async with client.claim(message) as is_ours:
                if is_ours:
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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import relay
from relay.client.bluetooth import MissingPackageError
from relay.client.body import Body, file_body, most_file_bytes, spool, text_body
from relay.client.bulletin import Bulletin
from relay.client.bulletin_book import BulletinBook, KnownBulletin
from relay.client.card import Card
from relay.client.collection import Collected
from relay.client.contacts import Contact, ContactBook, GroupNews
from relay.client.courier import Courier, retry_delays
from relay.client.database import Database
from relay.client.delivery import Delivered
from relay.client.errors import ClientError, DatabaseError, PrivateFileError, SendError
from relay.client.finding import NoRelayError, RelayFinder
from relay.client.group import Group
from relay.client.identity import Identity
from relay.client.inbox import Inbox, Message, Partial
from relay.client.met import RelaysMet
from relay.client.outbox import Outbox, Progress, Sent
from relay.client.post import MAX_SLOT_AND_BODY_BYTES
from relay.client.posts import Post, PostStore
from relay.client.saving import save
from relay.client.seal import LIFETIMES_DAYS, PRICE_LADDER
from relay.client.worker import Worker
from relay.links.address import RelayAddress
from relay.links.client_session import RelayConnectionError
from relay.process.tasks import TaskGroup

PATIENCE_S: Final = 60.0
"""How long a relay may owe an answer, and how long a broken connection is tried again without any progress."""
DEFAULT_LIFETIME_DAYS: Final = LIFETIMES_DAYS[-1]
FIRST_PRICE: Final = PRICE_LADDER[0]
"""Paid until a relay asks for more."""
DELIVER_EVERY_S: Final = 240.0
"""Receipts and purges that are due, what another command queued, and what a relay refused for the time being; give or
take a half, so that nobody is known by the rhythm."""
VISIT_EVERY_S: Final = 60.0
"""How often a follower listens on Bluetooth whether there is something new, give or take a quarter."""
MAX_USELESS: Final = 3
"""Relays that are found and bring nothing, before the visit ends; each may take minutes."""
POLL_S: Final = 1.0
"""Another command of the same user may be the one that takes a receipt in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOutcome:
    """What came of one relay: what was `delivered` or `collected`, or the `error` that ended it."""

    address: RelayAddress
    delivered: Delivered | None = None
    collected: Collected | None = None
    error: ClientError | None = None


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
        receipts_at_once: bool = False,
    ) -> None:
        """Use the identity in `config_folder` (made now if there is none) and the messages in `data_folder`.

        `clock` gives Unix seconds. `receipts_at_once`: who watches a relay may see whom a message was for.
        """
        self.finder = finder
        self.patience_s = patience_s
        self._config_folder = config_folder
        self._data_folder = data_folder
        self._clock = clock
        self._receipts_at_once = receipts_at_once
        self._draw = random.SystemRandom()
        self._worker = Worker()
        self._resources = contextlib.ExitStack()
        self._closing = threading.Event()
        self._delivering = asyncio.Lock()
        self._outgoing = asyncio.Event()
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

    async def __aexit__(self, *_: object) -> None:
        """Let the call under way in the thread come to an end, and close."""
        self._closing.set()
        try:
            await self.finder.close()
            await self._worker.run(self._resources.close)
        finally:
            self._worker.close()

    def _open(self) -> None:
        identity = Identity.load(self._config_folder)
        if identity is None:
            identity, _ = Identity.generate(secrets.token_bytes).save_first(self._config_folder)
        self.identity = identity
        self.contacts = ContactBook(self._config_folder)
        self.bulletins = BulletinBook(self._config_folder)
        database = self._resources.enter_context(Database(self._data_folder))
        self._outbox = Outbox(database, identity)
        self._inbox = Inbox(database, identity, lambda static: self.contacts.name_of(static) is not None)
        self._posts = PostStore(database, self.bulletins, self._outbox)
        self._met = RelaysMet(self._data_folder)
        self._courier = Courier(
            identity=identity,
            outbox=self._outbox,
            inbox=self._inbox,
            posts=self._posts,
            met=self._met,
            worker=self._worker,
            finder=self.finder,
            clock=self._clock,
            patience_s=self.patience_s,
            on_change=self._on_change,
        )

    def _on_change(self) -> None:
        self.changed.set()
        if self._receipts_at_once:
            self._outgoing.set()

    # -- messages out -----------------------------------------------------

    async def send_text(
        self, names: Sequence[str], text: str, *, lifetime_days: int = DEFAULT_LIFETIME_DAYS
    ) -> dict[str, bytes]:
        """Queue a text for contacts and groups; return the message ID by name of the contact.

        `deliver` or `follow` takes it to the relays. ContactError, SendError.
        """
        return await self._queue(names, lambda group: text_body(text, group), lifetime_days, None)

    async def send_file(
        self,
        names: Sequence[str],
        file: BinaryIO,
        name: str,
        *,
        lifetime_days: int = DEFAULT_LIFETIME_DAYS,
        on_piece: Callable[[int, int], None] | None = None,
    ) -> dict[str, bytes]:
        """Queue an open file (a pipe too) under a name for contacts and groups, as `send_text` does.

        `on_piece(done, all)` is called from another thread as envelopes get ready.
        """
        spooled: list[BinaryIO] = [file] if file.seekable() else []

        def body(group: Group | None) -> Body:
            if not spooled:
                most_bytes = most_file_bytes(name, group)
                spooled.append(resources.enter_context(spool(file, self._data_folder, most_bytes)))
            return file_body(spooled[0], name, group)

        with contextlib.ExitStack() as resources:
            return await self._queue(names, body, lifetime_days, on_piece)

    async def _queue(
        self,
        names: Sequence[str],
        make_body: Callable[[Group | None], Body],
        lifetime_days: int,
        on_piece: Callable[[int, int], None] | None,
    ) -> dict[str, bytes]:
        own = Card.of(self.identity)
        groups = [group for name in names if (group := self.contacts.group(name)) is not None]
        targets = [(group.to_send(own), self.contacts.resolve(group.name)) for group in groups]
        people = [self.contacts.get(name) for name in names if self.contacts.group(name) is None]
        return await self._queue_to(
            [(None, people), *targets] if people else targets, make_body, lifetime_days, on_piece
        )

    async def _queue_to(
        self,
        targets: Sequence[tuple[Group | None, Sequence[Contact]]],
        make_body: Callable[[Group | None], Body],
        lifetime_days: int,
        on_piece: Callable[[int, int], None] | None,
    ) -> dict[str, bytes]:
        interrupted = threading.Event()

        def ready(done: int, everything: int) -> None:
            if interrupted.is_set() or self._closing.is_set():
                raise SendError("interrupted; nothing of it is sent")
            if on_piece is not None:
                on_piece(done, everything)

        def queue() -> dict[str, bytes]:
            ids: dict[str, bytes] = {}
            for group, contacts in targets:
                cards = {contact.card: contact.name for contact in contacts}
                queued = self._outbox.queue_message(
                    list(cards),
                    make_body(group),
                    lifetime_days=lifetime_days,
                    price=FIRST_PRICE,
                    now_s=self._clock(),
                    on_piece=ready,
                )
                for name, message_id in zip(cards.values(), queued, strict=True):
                    # Somebody may be written to alone and in a group.
                    ids[f"{name} in {group.name}" if group and name in ids else name] = message_id
            return ids

        work = asyncio.ensure_future(self._worker.run(queue))
        try:
            ids = await asyncio.shield(work)
        except asyncio.CancelledError:
            # The file is the caller's and may be closed once this returns.
            interrupted.set()
            await asyncio.wait({work})
            raise
        self._outgoing.set()
        return ids

    async def leave_group(self, name: str, text: str) -> dict[str, bytes]:
        """Leave a group and queue `text`, by which its members learn that; return the message ID by name of each.

        ContactError, SendError.
        """
        group = await self._worker.run(self.contacts.leave, name)
        own = Card.of(self.identity)
        others = [
            Contact(name=self.contacts.shown_name(card.static), card=card)
            for card in group.others
            if card.static != own.static
        ]
        told = group.to_send(own, is_left=True)
        if not others:
            return {}
        return await self._queue_to([(told, others)], lambda told: text_body(text, told), DEFAULT_LIFETIME_DAYS, None)

    async def learn_group(self, message: Message) -> GroupNews | None:
        """Take in what a message says of the group that it was sent to; None when it was to none."""
        if message.group is None:
            return None
        own = self.identity.static.public
        return await self._worker.run(self.contacts.learn_group, message.group, message.sender, own)

    async def deliver(
        self, on_progress: Callable[[RelayAddress, Delivered], None] | None = None, *, again: bool = True
    ) -> list[RelayOutcome]:
        """Offer all that is pending to every relay, due receipts and purges too; return what became of it.

        Each kind goes in a session of its own. With `again` also what relays have acknowledged hours ago and no
        receipt has come for; not on a visit that reads, since the same bytes show who came before. A connection
        that breaks is made again, for as long as there is progress now and then; what is left then stays
        pending. The list is empty when nothing was pending. NoRelayError when there is no relay.
        """
        async with self._delivering:
            now_s = self._clock()
            await self._worker.run(
                self._outbox.queue_due_receipts, price=FIRST_PRICE, now_s=now_s, at_once=self._receipts_at_once
            )
            await self._worker.run(self._outbox.prune, now_s)
            if not await self._worker.run(self._outbox.errands, now_s, again=again):
                return []
            addresses = await self.finder.find()
            # Before any of them acknowledges, lest what one relay has be kept from another.
            errands = [await self._worker.run(self._courier.errands, address, again=again) for address in addresses]

            async def deliver_to(index: int) -> RelayOutcome:
                address = addresses[index]

                def progressed(result: Delivered) -> None:
                    if on_progress is not None:
                        on_progress(address, result)

                delivered = await self._courier.deliver(address, errands[index], progressed)
                return RelayOutcome(address=address, delivered=delivered)

            return await _each(addresses, deliver_to)

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

    async def collect(
        self, on_outcome: Callable[[RelayOutcome], None] = lambda _: None, *, identities: Sequence[bytes] = ()
    ) -> list[RelayOutcome]:
        """Read from every relay what can be for us; return what came of it. NoRelayError when there is no relay.

        With `identities` of envelopes these alone, by which a relay knows which ones this reader is after.
        `on_outcome` hears of each relay as soon as it is done. When a relay that was found, and not named, turns out
        to be of no use, the next one is asked.
        """
        outcomes: list[RelayOutcome] = []
        for _ in range(MAX_USELESS + 1):
            try:
                addresses = await self.finder.find()
            except NoRelayError:
                if not outcomes:
                    raise
                break
            outcomes += await self._collect_from(addresses, on_outcome, identities)
            if self.finder.named or outcomes[-1].error is None:
                break
            self.finder.avoid(outcomes[-1].address)
        await self._worker.run(self._prune)
        return outcomes

    async def _collect_from(
        self,
        addresses: Sequence[RelayAddress],
        on_outcome: Callable[[RelayOutcome], None],
        identities: Sequence[bytes],
    ) -> list[RelayOutcome]:
        async def collect_from(index: int) -> RelayOutcome:
            address = addresses[index]
            if identities:
                collected = await self._courier.fetch(address, identities)
            else:
                collected = await self._courier.collect(address)
            outcome = RelayOutcome(address=address, collected=collected)
            on_outcome(outcome)
            return outcome

        return await _each(addresses, collect_from)

    async def messages(self) -> list[Message]:
        """Return the messages that are whole, verified and not taken yet, the oldest first."""
        return await self._worker.run(self._inbox.messages)

    @contextlib.asynccontextmanager
    async def claim(self, message: Message) -> AsyncIterator[bool]:
        """Have a message to oneself while the block reads and takes it; False when another command does, or did."""
        claiming = asyncio.ensure_future(self._worker.run(self._inbox.claim, message))
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await asyncio.wait({claiming})
            if (claimed := claiming.result()) is not None:
                self._inbox.release(claimed)
            raise
        try:
            yield claimed is not None
        finally:
            if claimed is not None:
                self._inbox.release(claimed)

    async def partials(self) -> list[Partial]:
        """Return the messages of which pieces are missing."""
        return await self._worker.run(self._inbox.partials)

    def name_of(self, sender: bytes) -> str | None:
        """Return the user's own name for whoever sent a message, or None for strangers."""
        return self.contacts.name_of(sender)

    async def save_post(self, post: Post, folder: Path) -> Path:
        """Write the file or text of a post into `folder` as `save` does a message."""
        return await self._worker.run(save, [post.content], folder, post.name or "text.txt")

    async def text(self, message: Message) -> str:
        """Return the text of a message as it was sent: show it by `relay.client.text.rows` only. TakenError."""
        content = await self._worker.run(lambda: b"".join(self._inbox.content(message)))
        return content.decode(errors="replace")

    async def save(self, message: Message, folder: Path) -> Path:
        """Write a message's content into `folder` under its name or the next that is free; return where it is.

        On disk and verified when this returns; ClientError when it cannot be written, TakenError.
        """
        return await self._worker.run(lambda: save(self._inbox.content(message), folder, message.name or "text.txt"))

    async def take(self, message: Message) -> None:
        """Forget the content of a message that the user has by now."""
        await self._worker.run(self._inbox.take, message)

    # -- notice boards ----------------------------------------------------

    async def create_bulletin(self, name: str) -> KnownBulletin:
        """Make a notice board that you post to; its card for readers is `.bulletin.for_readers.to_uri(name)`.

        BulletinError, ContactError.
        """
        known, _ = await self._worker.run(self.bulletins.add, Bulletin.generate(secrets.token_bytes), name)
        return known

    async def follow_bulletin(self, bulletin: Bulletin, name: str, *, is_own_word: bool = False) -> KnownBulletin:
        """Read a notice board from now on, and post to it if its posting key is there. BulletinError, ContactError.

        What hangs there comes with the next `collect`. `is_own_word`: the name is the one that its card suggests.
        """

        def forget() -> None:
            self._posts.forget_seen()
            self._met.forget()

        def follow() -> KnownBulletin:
            # Before: who is killed in the middle finds it in the book, and is told that it is read already.
            if self.bulletins.name_of(bulletin.public) is None:
                forget()
            known, is_new = self.bulletins.add(bulletin, name, is_own_word=is_own_word)
            if is_new:
                # After: else a command that reads meanwhile may take for somebody else's what hangs there.
                forget()
            return known

        return await self._worker.run(follow)

    async def leave_bulletin(self, name: str, *, with_posting_key: bool = False) -> KnownBulletin:
        """Read a notice board no longer. BulletinError, also where its posting key would be lost, unless so meant."""

        def leave() -> KnownBulletin:
            known = self.bulletins.leave(name, with_posting_key=with_posting_key)
            self._posts.prune(self._clock())
            return known

        return await self._worker.run(leave)

    async def post_text(
        self, name: str, text: str, slot: str = "", *, lifetime_days: int = DEFAULT_LIFETIME_DAYS
    ) -> tuple[str, bytes]:
        """Queue a post on a notice board, in place of what is in its slot ('' draws a free one); return slot and ID.

        `deliver` or `follow` takes it to the relays. It does not expire before what it replaces. BulletinError.
        """
        bulletin = self.bulletins.get(name).bulletin
        return await self._post(self._posts.post_text, bulletin, text, slot, lifetime_days=lifetime_days)

    async def post_file(
        self, name: str, file: BinaryIO, file_name: str, slot: str = "", *, lifetime_days: int = DEFAULT_LIFETIME_DAYS
    ) -> tuple[str, bytes]:
        """Queue an open file of some 16,000 bytes at most as `post_text` does a text. BulletinError."""
        bulletin = self.bulletins.get(name).bulletin

        def post(**options: Any) -> tuple[str, bytes]:
            content = file.read(MAX_SLOT_AND_BODY_BYTES + 1)
            return self._posts.post_file(bulletin, content, file_name, slot, **options)

        return await self._post(post, lifetime_days=lifetime_days)

    async def withdraw(self, name: str, slot: str) -> tuple[str, bytes]:
        """Queue that nothing is in a slot of a notice board any more; return slot and ID. BulletinError."""
        return await self._post(self._posts.withdraw, self.bulletins.get(name).bulletin, slot)

    async def _post(self, post: Callable[..., tuple[str, bytes]], *what: Any, **options: Any) -> tuple[str, bytes]:
        posted = await self._worker.run(post, *what, price=FIRST_PRICE, now_s=self._clock(), **options)
        self._outgoing.set()
        return posted

    async def posts(self, name: str) -> list[Post]:
        """Return what hangs on a notice board by what was collected, the oldest first. BulletinError."""
        return await self._worker.run(self._posts.posts, self.bulletins.get(name).bulletin, self._clock())

    async def new_posts(self) -> list[Post]:
        """Return what came on all notice boards and was not marked as shown, the oldest first."""
        return await self._worker.run(self._posts.unshown, self._clock())

    async def mark_shown(self, post: Post, *, is_shown: bool = True) -> bool:
        """Note that the user sees a new post, or could not; False when another command did, or it was replaced."""
        return await self._worker.run(self._posts.mark_shown, post, is_shown=is_shown)

    # -- both, for as long as the program runs ----------------------------

    async def follow(self, on_trouble: Callable[[ClientError], None] = lambda _: None) -> None:
        """Receive, deliver, and send receipts and purges when they are due, until cancelled.

        `changed` is set when something came that was for us. Relays that are gone are tried again and
        again; `on_trouble` hears of each failure.
        """
        try:
            async with TaskGroup() as tasks:
                tasks.create_task(self._keep_delivering(on_trouble))
                for address in self.finder.named or (None,):
                    tasks.create_task(self._keep_following(address, on_trouble))
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _keep_following(self, named: RelayAddress | None, on_trouble: Callable[[ClientError], None]) -> None:
        draw = random.SystemRandom()
        backoff = retry_delays(draw)
        while True:
            address = named
            try:
                address = named or (await self.finder.find())[0]
                if not address.is_bluetooth:
                    await self._courier.follow(address, backoff.reset, on_trouble)
                    continue
                # A connection that stays would take one of the relay's few places, and power.
                radio = self.finder.bluetooth(address)
                if await radio.is_visit_due():
                    collected = await self._courier.collect(address)
                    if not collected.full:
                        radio.was_read()
                backoff.reset()
                await asyncio.sleep(VISIT_EVERY_S * draw.uniform(0.75, 1.25))
            except _LASTING_ERRORS:
                raise
            except ClientError as error:
                if named is None and address is not None:
                    self.finder.avoid(address)
                on_trouble(error)
                await asyncio.sleep(backoff.next())

    async def _keep_delivering(self, on_trouble: Callable[[ClientError], None]) -> None:
        while True:
            self._outgoing.clear()
            with contextlib.suppress(NoRelayError):  # which _keep_following tells
                for outcome in await self.deliver():
                    if outcome.error is not None:
                        on_trouble(outcome.error)
            await self._worker.run(self._keep_house)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DELIVER_EVERY_S * self._draw.uniform(0.5, 1.5)):
                    await self._outgoing.wait()

    def _prune(self) -> None:
        self._inbox.prune(self._clock())
        self._posts.prune(self._clock())

    def _keep_house(self) -> None:
        self._prune()
        # Contacts that another command added meanwhile.
        self.contacts = ContactBook(self._config_folder)

    async def wait_received(
        self,
        message_ids: Sequence[bytes],
        timeout_s: float | None = None,
        on_trouble: Callable[[ClientError], None] = lambda _: None,
    ) -> bool:
        """Follow until a receipt has come for each of these messages; False when the time is over first.

        Also False when one of them expires or is purged meanwhile. What else comes is received as usual.
        """
        try:
            async with asyncio.timeout(timeout_s), TaskGroup() as tasks:
                following = tasks.create_task(self.follow(on_trouble))
                all_received = await self._watch(message_ids)
                following.cancel()
            return all_received
        except TimeoutError:
            return False
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _watch(self, message_ids: Sequence[bytes]) -> bool:
        waiting = list(message_ids)
        while waiting:
            self.changed.clear()
            found = {message_id: await self.progress(message_id) for message_id in waiting}
            if any(one is None or one.is_expired or one.is_purged for one in found.values()):
                return False
            waiting = [message_id for message_id, one in found.items() if one and not one.is_received]
            if waiting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self.changed.wait()
        return True

    def clock_warning(self) -> str | None:
        """Return what is wrong with the clock, if that is certain."""
        released = dt.datetime.fromisoformat(relay.__released__).replace(tzinfo=dt.UTC)
        if self._clock() >= released.timestamp():
            return None
        return (
            "this device's clock is wrong: it shows a time before this program was made. Set it; "
            "until then relays refuse what you send, and you look for messages of other days"
        )


#: What no further try, no other relay and no waiting mends.
_LASTING_ERRORS: Final = (DatabaseError, PrivateFileError, MissingPackageError)


async def _each(
    addresses: Sequence[RelayAddress], work: Callable[[int], Awaitable[RelayOutcome]]
) -> list[RelayOutcome]:
    """Work with all relays at once; what fails with one does not stop the others."""

    async def one(index: int) -> RelayOutcome:
        try:
            return await work(index)
        except RelayConnectionError as error:
            return RelayOutcome(address=addresses[index], error=error)

    try:
        async with TaskGroup() as tasks:
            running = [tasks.create_task(one(index)) for index in range(len(addresses))]
    except BaseExceptionGroup as group:
        raise _first(group) from None
    return [task.result() for task in running]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error of a group: the others followed from it or say the same."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
