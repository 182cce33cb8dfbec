# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay send`, `relay receive`, `relay sent` and `relay purge`: messages, through relays."""

# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.cli.bulletin import NewPosts
from relay.cli.delivering import (
    KEPT,
    SHORT_ID,
    add_lifetime,
    add_relay,
    deliver,
    is_done,
    is_held,
    name_of_file,
    opened_file,
    report_relays,
    require_folder,
    state,
    typed_text,
    when,
    when_hour,
)
from relay.cli.own import open_client
from relay.cli.terminal import say
from relay.links.errors import ClientError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction
    from typing import BinaryIO

    from relay.cli.progress import ProgressBar
    from relay.client.client import Client, RelayOutcome
    from relay.client.contacts import GroupNews
    from relay.client.inbox import Message
    from relay.client.outbox import Progress, Sent

#: A receipt did not come in time: not an error, and for scripts to tell from one (2 is a wrong option).
EXIT_NOT_RECEIVED: Final = 3
#: Longer texts are saved as files: a terminal is no place to read them.
MAX_SHOWN_BYTES: Final = 65_536
#: How often to look for what another command has received, and while a visit lasts for what it has brought.
_LOOK_S: Final = 5.0
#: What comes together is shown together, the oldest first: relays give the newest first.
_SETTLE_S: Final = 0.5
#: After that, what could not be saved is tried again while following; a stick may have been emptied.
_SAVE_AGAIN_S: Final = 300.0


def add_parsers(sub: _SubParsersAction[ArgumentParser]) -> None:
    """Add the commands; each sets `func`, which returns the exit status or raises ClientError."""
    send = sub.add_parser("send", help="send a text or a file to a person or a group")
    send.add_argument("name", metavar="NAME", help="contact or group; see: relay contact list")
    send.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help="the text, in quotes (after -- if it begins with a dash); - or none reads standard input",
    )
    send.add_argument(
        "--file",
        metavar="PATH",
        help="a file instead of a text; - is standard input, such as a pipe. Up to 4 GiB, of which its name takes a "
        "little: of what is longer nothing is sent",
    )
    add_lifetime(send)
    send.add_argument(
        "--wait",
        action="store_true",
        help="wait for the receipt: minutes to an hour after the recipient received it, or at his next visit",
    )
    send.add_argument("--timeout", type=seconds, metavar="S", help=f"... so long; then exit with {EXIT_NOT_RECEIVED}")
    add_relay(send)
    send.set_defaults(func=_send)

    receive = sub.add_parser("receive", help="show and save what was sent to you")
    receive.add_argument("--follow", action="store_true", help="stay and show what comes, until Ctrl-C")
    receive.add_argument(
        "--dir", type=Path, default=Path(), metavar="FOLDER", help="where to save files (default: here)"
    )
    receive.add_argument(
        "--cid",
        action="append",
        default=[],
        metavar="CID",
        help="look for the envelope with this CID alone, not for all that may be for you: the relay then knows which "
        "one you are after",
    )
    receive.add_argument(
        "--receipts",
        choices=("later", "now"),
        default="later",
        help="when senders are told that it arrived: 10 minutes to an hour later, with the next command then "
        "(default), so that no relay sees whom it was for; or now. What came before keeps its time",
    )
    add_relay(receive)
    receive.set_defaults(func=_receive)

    sent = sub.add_parser("sent", help="list what you sent and how far it is")
    sent.set_defaults(func=_sent)

    purge = sub.add_parser("purge", help="have relays remove a message that you sent")
    purge.add_argument("message", metavar="MESSAGE", help="its ID or how it begins; see: relay sent")
    purge.set_defaults(func=_purge)


def seconds(text: str) -> float:
    """Read a duration; ValueError when it is none."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


# -- send -----------------------------------------------------------------


def _send(arguments: Namespace) -> int:
    from relay.client.errors import SendError

    if arguments.file is not None and arguments.text is not None:
        raise SendError("give a text or --file, not both")
    if arguments.timeout is not None and not arguments.wait:
        raise SendError("--timeout says how long to --wait; give both")
    if arguments.file is None:
        # Before the event loop, which would not let go of Ctrl-C.
        arguments.text = typed_text(arguments.text)
    with opened_file(arguments.file) as file:
        return asyncio.run(_send_and_report(arguments, file))


async def _send_and_report(arguments: Namespace, file: BinaryIO | None) -> int:
    from relay.cli.progress import ProgressBar

    async with open_client(arguments.relay or ()) as client:
        with ProgressBar(sys.stderr) as bar:
            ids = await _queue(client, arguments, file, bar)
            outcomes = await deliver(client, bar)
        report_relays(outcomes)
        are_held = True
        for name, message_id in ids.items():
            progress = await client.progress(message_id)
            are_held &= progress is not None and is_held(progress)
            say(f"{name}: {state(progress)}. ID {message_id.hex()[:SHORT_ID]}")
        if not are_held:
            print(KEPT, file=sys.stderr)
        if not arguments.wait:
            return 0 if are_held else 1
        return await _wait(client, ids, arguments.timeout)


async def _queue(client: Client, arguments: Namespace, file: BinaryIO | None, bar: ProgressBar) -> dict[str, bytes]:
    if file is None:
        return await client.send_text([arguments.name], arguments.text, lifetime_days=arguments.lifetime)
    return await client.send_file(
        [arguments.name],
        file,
        name_of_file(arguments.file),
        lifetime_days=arguments.lifetime,
        on_piece=lambda done, everything: bar.show("Sealing", done, everything),
    )


async def _wait(client: Client, ids: dict[str, bytes], timeout_s: float | None) -> int:
    print(
        "Waiting for the receipt, which comes minutes to an hour after the message was received, or at the recipient's "
        "next visit;\nCtrl-C stops the waiting, not the message.",
        file=sys.stderr,
    )
    received = await client.wait_received(list(ids.values()), timeout_s, _Troubles())
    for name, message_id in ids.items():
        progress = await client.progress(message_id)
        say(f"{name}: {state(progress)}")
    return 0 if received else EXIT_NOT_RECEIVED


# -- receive --------------------------------------------------------------


def _receive(arguments: Namespace) -> int:
    require_folder(arguments.dir)
    if arguments.cid and arguments.follow:
        raise ClientError("give --cid or --follow, not both")
    arguments.cid = [_identity(text) for text in arguments.cid]
    work = _follow if arguments.follow else _receive_once
    return asyncio.run(work(arguments))


def _identity(text: str) -> bytes:
    from relay.core.errors import DecodeError
    from relay.libp2p.cid import RAW, parse_cid

    try:
        cid = parse_cid(text.strip())
    except DecodeError as error:
        raise ClientError(f"{text} is no CID of an envelope ({error}): give one as IPFS prints it") from error
    if cid.inline or cid.codec != RAW:
        raise ClientError(f"{text} is the CID of something else: envelopes are raw blocks, by SHA2-256")
    return cid.digest


async def _receive_once(arguments: Namespace) -> int:
    async with open_client(arguments.relay or (), receipts_at_once=arguments.receipts == "now") as client:
        display = _Display(client, arguments.dir)
        # What is here already is shown even when no relay is.
        await display.show()
        outcomes = await _collect(client, display, arguments.cid)
        report_relays(outcomes)
        # Of several relays one is enough.
        absent = min((each.collected.missing for each in outcomes if each.collected is not None), default=0)
        if absent:
            print(f"{absent} of {len(arguments.cid)} are on no relay in reach.", file=sys.stderr)
        # Receipts of earlier visits, and what found no relay before; not what would show who came before.
        report_relays(await client.deliver(again=False))
        if not display.shown and not display.kept:
            print("No new messages.", file=sys.stderr)
        for partial in await client.partials():
            have = partial.pieces - partial.missing
            say(f"{client.contacts.shown_name(partial.sender)}: {have} of {partial.pieces} pieces are here", sys.stderr)
        is_sent = await _report_unsent(client)
        is_well = is_sent and not display.kept and not absent and any(outcome.error is None for outcome in outcomes)
        return 0 if is_well else 1


async def _collect(client: Client, display: _Display, identities: list[bytes]) -> list[RelayOutcome]:
    """Visit the relays, and show what each has brought when it is done, or meanwhile when that takes long."""
    done = asyncio.Event()
    collecting = asyncio.ensure_future(client.collect(lambda _: done.set(), identities=identities))
    try:
        while not collecting.done():
            waiting = asyncio.ensure_future(done.wait())
            await asyncio.wait({collecting, waiting}, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            done.clear()
            await display.show()
        return collecting.result()
    finally:
        collecting.cancel()
        await asyncio.wait({collecting})


async def _report_unsent(client: Client) -> bool:
    """Tell what of earlier messages is not on a relay yet, or never was; whether nothing has to be put on one."""
    log = await client.log()
    unsent = [one for one in log if not is_done(one[1])]
    never = [one for one in log if one[1].is_never_sent]
    for sent, progress in never + unsent:
        name, how_far = _told_of(client, sent, progress)
        say(f"To {name}: {how_far}. ID {sent.message_id.hex()[:SHORT_ID]}", sys.stderr)
    if never:
        print("`relay purge ID` ends the reminder.", file=sys.stderr)
    if unsent:
        print(KEPT, file=sys.stderr)
    return not unsent


async def _follow(arguments: Namespace) -> int:
    async with open_client(arguments.relay or (), receipts_at_once=arguments.receipts == "now") as client:
        display = _Display(client, arguments.dir)
        following = asyncio.ensure_future(client.follow(_Troubles()))
        try:
            print("Waiting for messages; Ctrl-C ends this.", file=sys.stderr)
            while not following.done():
                client.changed.clear()
                await display.show()
                changed = asyncio.ensure_future(client.changed.wait())
                await asyncio.wait({changed, following}, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if changed.done():
                    await _settle(client)
                changed.cancel()
            # It ends by an error only.
            following.result()
        finally:
            following.cancel()
            await asyncio.wait({following})
    return 0


async def _settle(client: Client) -> None:
    """Wait until nothing more comes for a moment."""
    until_s = time.monotonic() + _LOOK_S
    while client.changed.is_set() and time.monotonic() < until_s:
        client.changed.clear()
        await asyncio.sleep(_SETTLE_S)


class _Troubles:
    """Tells of each trouble once, however often it comes again."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, error: ClientError) -> None:
        if str(error) != self._last:
            self._last = str(error)
            print(f"{error}\nTrying again, and again.", file=sys.stderr)


class _Display:
    """Prints and saves what has come, each message once; one that cannot be is told of and stays, for another time."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.shown = 0
        self._client = client
        self._folder = folder
        self._failures: dict[int, tuple[str, float]] = {}
        self._posts = NewPosts(client, folder)

    @property
    def kept(self) -> int:
        """How many messages and posts could not be shown."""
        return len(self._failures) + self._posts.kept

    async def show(self) -> None:
        """Show what is new."""
        self.shown += await self._posts.show()
        for message in await self._client.messages():
            _, retry_at = self._failures.get(message.id, ("", 0.0))
            if time.monotonic() < retry_at:
                continue
            async with self._client.claim(message) as is_ours:
                # Otherwise another command shows it.
                if is_ours:
                    await self._show(message)

    async def _show(self, message: Message) -> None:
        sender, at = self._client.contacts.shown_name(message.sender), when(message.sent_minute)
        head = f"{sender} ({at})"
        try:
            news = await self._client.learn_group(message)
            if news is not None:
                head = f"{sender} to {news.name} ({at})"
            content = await self._content(message)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one message must not keep back the others
            problem = str(error) or repr(error)
            if self._failures.get(message.id, ("", 0.0))[0] != problem:
                say(f"{head}: {problem}. The message is kept.", sys.stderr)
            self._failures[message.id] = (problem, time.monotonic() + _SAVE_AGAIN_S)
            return
        self._failures.pop(message.id, None)
        say(f"{head}: {content}")
        if news is not None and (news.changed or news.group is None):
            say(_about(self._client, news))
        self.shown += 1
        # Only now: whoever interrupts before sees it again.
        await self._client.take(message)

    async def _content(self, message: Message) -> str:
        from relay.client.pieces import Kind
        from relay.control.text import human_bytes

        if message.kind is Kind.TEXT and message.size <= MAX_SHOWN_BYTES:
            return await self._client.text(message)
        path = await self._client.save(message, self._folder)
        return f"{message.name or 'a long text'}, {human_bytes(message.size)}, saved as {path}"


def _about(client: Client, news: GroupNews) -> str:
    """Who is in a group now, or why it is not kept."""
    if news.group is None:
        return f"You are not in the group {news.name}, or who wrote is no contact of yours: answers do not go to it."
    names = ", ".join(client.contacts.shown_name(card.static) for card in news.group.others)
    return f"In the group {news.name} are you and {names}."


# -- sent and purge -------------------------------------------------------


def _sent(_: Namespace) -> int:
    return asyncio.run(_list_sent())


def _told_of(client: Client, sent: Sent, progress: Progress) -> tuple[str, str]:
    """Return whom or what something was sent to, and how far it is."""
    bulletin = client.bulletins.name_of(sent.recipient)
    if bulletin is not None:
        return f"bulletin {bulletin}", state(progress, is_post=True)
    return client.contacts.shown_name(sent.recipient), state(progress)


async def _list_sent() -> int:
    from relay.client.pieces import Kind
    from relay.control.text import human_bytes

    async with open_client(()) as client:
        for sent, progress in await client.log():
            kind = "file" if sent.kind == Kind.FILE else "text"
            name, how_far = _told_of(client, sent, progress)
            # Of a bulletin nothing else is as short.
            what = f"{kind}, {human_bytes(sent.size)}" if sent.size or sent.kind == Kind.FILE else "taken down"
            say(
                f"{sent.message_id.hex()[:SHORT_ID]}  {when_hour(sent.sent_hour)}  {name}: "
                f"{what}; {how_far}; "
                f"expires {when_hour(sent.expiry_hour)}"
            )
    return 0


def _purge(arguments: Namespace) -> int:
    return asyncio.run(_purge_one(arguments.message.lower()))


async def _purge_one(start: str) -> int:
    from relay.client.errors import SendError

    async with open_client(()) as client:
        known = {sent.message_id: progress for sent, progress in await client.log()}
        found = [message_id for message_id in known if start and message_id.hex().startswith(start)]
        if len(found) != 1:
            problem = f"{len(found)} messages have an ID that begins so" if found else "no message has that ID"
            raise SendError(f"{problem}; see: relay sent")
        count = await client.purge(found[0])
    if not count:
        is_forgotten = known[found[0]].is_never_sent
        print("It was never sent, and is forgotten now." if is_forgotten else "It was purged before; see: relay sent")
        return 0
    ready, go = ("purge is", "It goes") if count == 1 else ("purges are", "They go")
    print(
        f"{count} {ready} ready, and nothing more of the message is sent. {go} out 10 minutes to an hour from now, so "
        "that\nnobody sees what belongs together: `relay receive --follow` does it, or any later `relay send` or "
        "`relay receive`."
    )
    print("Whoever has received the message keeps it.")
    return 0
