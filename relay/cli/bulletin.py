# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay bulletin`: notice boards, not to be mistaken for the hardware of `relay board`."""

# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.cli import delivering
from relay.cli.cards import add_svg, chosen_name, given_uri, opened_svg, show_card
from relay.cli.own import open_client
from relay.cli.terminal import say

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction
    from typing import BinaryIO

    from relay.client.bulletin_book import BulletinBook
    from relay.client.client import Client
    from relay.client.posts import Post

_SAVED_BYTES: Final = 4 << 20
_SAVED_EVERY_S: Final = 3600.0
"""So much of one bulletin's files is saved unasked each hour: all that can hang there at once. Whoever may post could
else fill the disk of everybody who follows, by replacing a file again and again."""

_KEY_WARNING: Final = (
    "This is the posting key: whoever has it can post, and take down what others posted, for as long as anybody reads. "
    "Give it to nobody else (it is taken in with `relay bulletin follow -`); readers get `relay bulletin card NAME`."
)


def add_parsers(sub: _SubParsersAction[ArgumentParser]) -> None:
    """Add the commands; each sets `func`, which returns the exit status or raises ClientError."""
    bulletin = sub.add_parser("bulletin", help="notice boards: read by who has the card, posted to by who has the key")
    actions = bulletin.add_subparsers(required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make a notice board, and show the card for its readers")
    create.add_argument("name", metavar="NAME", help="its name for you, and the one that the card suggests")
    add_svg(create)
    create.set_defaults(func=_create)

    follow = actions.add_parser("follow", help="read a notice board from now on, by its card")
    follow.add_argument(
        "uri",
        metavar="URI",
        nargs="+",
        help="mesh-relay:bulletin/..., or - to read it from standard input (so that nobody else on this machine sees "
        "a posting key, mesh-relay:bulletin-key/..., with which you can post, too)",
    )
    follow.add_argument("--name", help="your name for it (default: the one that the card suggests, marked with ~)")
    follow.set_defaults(func=_follow)

    post = actions.add_parser("post", help="post a text, or a file of up to 16,000 bytes")
    post.add_argument("name", metavar="NAME", help="see: relay bulletin list")
    post.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help="the text, in quotes (after -- if it begins with a dash); - or none reads standard input",
    )
    post.add_argument("--file", metavar="PATH", help="a file instead of a text; - is standard input")
    post.add_argument(
        "--slot",
        default="",
        metavar="SLOT",
        help="where it hangs, in place of what is there, and at least as long (default: a new place)",
    )
    delivering.add_lifetime(post)
    delivering.add_relay(post)
    post.set_defaults(func=_post)

    withdraw = actions.add_parser("withdraw", help="take down what is in a slot")
    withdraw.add_argument("name", metavar="NAME")
    withdraw.add_argument("--slot", required=True, metavar="SLOT", help="which; see: relay bulletin show NAME")
    delivering.add_relay(withdraw)
    withdraw.set_defaults(func=_withdraw)

    show = actions.add_parser("show", help="show what hangs there by what `relay receive` has fetched")
    show.add_argument("name", metavar="NAME", nargs="?", help="(default: all)")
    show.add_argument("--dir", type=Path, metavar="FOLDER", help="also save the files there")
    show.set_defaults(func=_show)

    card = actions.add_parser("card", help="show the card, to give to readers")
    card.add_argument("name", metavar="NAME")
    card.add_argument("--posting-key", action="store_true", help="the posting key instead, to hand it over")
    add_svg(card)
    card.set_defaults(func=_card)

    listing = actions.add_parser("list", help="list the notice boards that you read")
    listing.set_defaults(func=_list)

    leave = actions.add_parser("leave", help="read a notice board no longer")
    leave.add_argument("name", metavar="NAME")
    leave.add_argument("--forget-posting-key", action="store_true", help="also if you can then never post there again")
    leave.set_defaults(func=_leave)


def _create(arguments: Namespace) -> int:
    with opened_svg(arguments.svg) as svg:
        return asyncio.run(_create_one(arguments.name, svg))


async def _create_one(name: str, svg: BinaryIO | None) -> int:
    async with open_client(()) as client:
        bulletin = (await client.create_bulletin(name)).bulletin
    show_card(bulletin.for_readers.to_uri(name), bulletin.fingerprint, with_qr=True, svg=svg)
    print("That is for the readers. The posting key stays here: back it up with `relay bulletin card --posting-key`.")
    return 0


def _follow(arguments: Namespace) -> int:
    return asyncio.run(_follow_one(arguments))


async def _follow_one(arguments: Namespace) -> int:
    from relay.client.bulletin import parse_bulletin_uri

    bulletin, suggested_name = parse_bulletin_uri(given_uri(arguments.uri))
    name, is_own_word = chosen_name(arguments.name, suggested_name)
    async with open_client(()) as client:
        known = await client.follow_bulletin(bulletin, name, is_own_word=is_own_word)
    may = "You read and can post to" if bulletin.seed is not None else "You read"
    say(f"{may} {known.name} from now on: `relay receive` fetches what hangs there.")
    print(f"Fingerprint: {bulletin.fingerprint}")
    return 0


def _post(arguments: Namespace) -> int:
    from relay.client.errors import SendError

    if arguments.file is not None and arguments.text is not None:
        raise SendError("give a text or --file, not both")
    if arguments.file is None:
        # Before the event loop, which would not let go of Ctrl-C.
        arguments.text = delivering.typed_text(arguments.text)
    with delivering.opened_file(arguments.file) as file:
        return asyncio.run(_post_and_report(arguments, file))


async def _post_and_report(arguments: Namespace, file: BinaryIO | None) -> int:
    async with open_client(arguments.relay or ()) as client:
        if file is None:
            posted = await client.post_text(
                arguments.name, arguments.text, arguments.slot, lifetime_days=arguments.lifetime
            )
        else:
            file_name = delivering.name_of_file(arguments.file)
            posted = await client.post_file(
                arguments.name, file, file_name, arguments.slot, lifetime_days=arguments.lifetime
            )
        return await _deliver_and_report(client, *posted)


def _withdraw(arguments: Namespace) -> int:
    return asyncio.run(_withdraw_one(arguments))


async def _withdraw_one(arguments: Namespace) -> int:
    async with open_client(arguments.relay or ()) as client:
        return await _deliver_and_report(client, *await client.withdraw(arguments.name, arguments.slot))


async def _deliver_and_report(client: Client, slot: str, post_id: bytes) -> int:
    from relay.cli.progress import ProgressBar

    with ProgressBar(sys.stderr) as bar:
        outcomes = await delivering.deliver(client, bar)
    delivering.report_relays(outcomes)
    progress = await client.progress(post_id)
    say(f"[{slot}]: {delivering.state(progress, is_post=True)}. ID {post_id.hex()[: delivering.SHORT_ID]}")
    if progress is not None and delivering.is_held(progress):
        return 0
    print(delivering.KEPT, file=sys.stderr)
    return 1


def _show(arguments: Namespace) -> int:
    if arguments.dir is not None:
        delivering.require_folder(arguments.dir)
    return asyncio.run(_show_all(arguments.name, arguments.dir))


async def _show_all(name: str | None, folder: Path | None) -> int:
    async with open_client(()) as client:
        names = [known.name for known in client.bulletins] if name is None else [name]
        shown = 0
        for one in names:
            for post in await client.posts(one):
                content = await _content(client, post, folder)
                say(f"{_head(client, post)}: {content}\n(until {delivering.when_hour(post.expiry_hour)})")
                await client.mark_shown(post)
                shown += 1
    if not shown:
        print("Nothing hangs there; `relay receive` fetches what is new.", file=sys.stderr)
    return 0


def _card(arguments: Namespace) -> int:
    known = _book().get(arguments.name)
    bulletin = known.bulletin
    if not arguments.posting_key:
        with opened_svg(arguments.svg) as svg:
            show_card(bulletin.for_readers.to_uri(known.plain_name), bulletin.fingerprint, with_qr=True, svg=svg)
        return 0
    if bulletin.seed is None:
        from relay.client.errors import BulletinError

        raise BulletinError(f"you can only read {known.name!r}: ask who posts there for its posting key")
    print(_KEY_WARNING, file=sys.stderr)
    with opened_svg(arguments.svg) as svg:
        show_card(bulletin.to_uri(known.plain_name), bulletin.fingerprint, with_qr=True, svg=svg)
    return 0


def _list(_: Namespace) -> int:
    for known in _book():
        may = "read and post" if known.bulletin.seed is not None else "read"
        say(f"{known.name}\t{may}\t{known.bulletin.fingerprint}")
    return 0


def _leave(arguments: Namespace) -> int:
    return asyncio.run(_leave_one(arguments))


async def _leave_one(arguments: Namespace) -> int:
    async with open_client(()) as client:
        known = await client.leave_bulletin(arguments.name, with_posting_key=arguments.forget_posting_key)
    say(f"You read {known.name} no longer.")
    return 0


def _book() -> BulletinBook:
    import os

    from relay.client.bulletin_book import BulletinBook
    from relay.client.files import config_folder

    return BulletinBook(config_folder(os.environ))


class NewPosts:
    """Prints and saves what is new on notice boards; what cannot be is told of once, and stays for another time."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._failed: set[int] = set()
        self._saved_bytes: dict[bytes, int] = {}
        self._saved_since_s = time.monotonic()

    @property
    def kept(self) -> int:
        """How many could not be shown."""
        return len(self._failed)

    async def show(self) -> int:
        """Show what is new, and return how many that were."""
        shown = 0
        for post in await self._client.new_posts():
            # First: another command may be at it. It goes on hanging there in any case.
            if post.id in self._failed or not await self._client.mark_shown(post):
                continue
            head = _head(self._client, post)
            try:
                say(f"{head}: {await _content(self._client, post, self._folder if self._may_save(post) else None)}")
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one must not keep back the others
                self._failed.add(post.id)
                await self._client.mark_shown(post, is_shown=False)
                say(f"{head}: {str(error) or repr(error)}. See it with: relay bulletin show", sys.stderr)
                continue
            shown += 1
        return shown

    def _may_save(self, post: Post) -> bool:
        if (now_s := time.monotonic()) >= self._saved_since_s + _SAVED_EVERY_S:
            self._saved_bytes, self._saved_since_s = {}, now_s
        saved_bytes = self._saved_bytes.get(post.bulletin, 0) + len(post.content)
        if saved_bytes > _SAVED_BYTES:
            return False
        if post.name:
            self._saved_bytes[post.bulletin] = saved_bytes
        return True


def _head(client: Client, post: Post) -> str:
    # It may have been left in this moment.
    name = client.bulletins.name_of(post.bulletin) or "?"
    return f"bulletin {name} [{post.shown_slot}] ({delivering.when(post.posted_minute)})"


async def _content(client: Client, post: Post, folder: Path | None) -> str:
    """Return the text, or where the file was saved, if it was to be."""
    from relay.client.post import PostKind
    from relay.control.text import human_bytes

    if post.kind is PostKind.WITHDRAWN:
        return "(taken down)"
    if post.kind is PostKind.TEXT:
        return post.text
    what = f"{post.name}, {human_bytes(len(post.content))}"
    if folder is None:
        return f"{what}; save it with: relay bulletin show --dir FOLDER"
    return f"{what}, saved as {await client.save_post(post, folder)}"
