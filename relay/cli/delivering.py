# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay send`, `receive` and `bulletin` have in common: relays, how far something is, texts, times."""

# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import errno
import shlex
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.cli.terminal import standard_input

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from relay.cli.progress import ProgressBar
    from relay.client.client import Client, RelayOutcome
    from relay.client.outbox import Progress

SHORT_ID: Final = 8
STDIN: Final = "-"
#: Texts are held in memory, files are not; a text of that length is a book.
MAX_TYPED_BYTES: Final = 1 << 20


def add_relay(parser: ArgumentParser) -> None:
    """Add the option that names relays."""
    parser.add_argument(
        "--relay",
        action="append",
        metavar="HOST[:PORT]",
        help="relay to use, or ble for whichever Bluetooth reaches; may be repeated to use several (default: the "
        "variable MESH_RELAY, else client.toml in the configuration folder, else this machine's, else one found on "
        "this network, else ble)",
    )


def add_lifetime(parser: ArgumentParser) -> None:
    """Add the option for how long relays keep it."""
    parser.add_argument(
        "--lifetime", type=int, choices=(1, 3, 7), default=7, metavar="DAYS", help="1, 3 or 7 (default)"
    )


@contextmanager
def opened_file(path: str | None) -> Iterator[BinaryIO | None]:
    """Yield the file to send, or standard input for -, or None without a path; SendError when it cannot be read."""
    from relay.client.errors import SendError

    if path is None:
        yield None
    elif path == STDIN:
        yield standard_input().buffer
    else:
        with ExitStack() as resources:
            try:
                file = resources.enter_context(Path(path).open("rb"))
            except (OSError, ValueError) as error:
                raise SendError(_unreadable(path, error)) from None
            yield file


def _unreadable(path: str, error: OSError | ValueError) -> str:
    """Why a file cannot be sent, and what to do."""
    if not path:
        return "--file names no file; write its path after it"
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder; pack it, and send that: tar -czf FILE.tar.gz {shlex.quote(path)}"
    if isinstance(error, ValueError):
        return f"{path!r} is no path of a file"
    remedy = {
        errno.ENOENT: "see what is there: ls -a",
        errno.ENOTDIR: "see what is there: ls -a",
        errno.EACCES: "this user may not read it",
        errno.ENAMETOOLONG: "is that the text? It stands without --file",
    }.get(error.errno or 0, "copy it to this disk first")
    return f"cannot read {path}: {error.strerror}; {remedy}"


def require_folder(folder: Path) -> None:
    """Raise ClientError unless files can be saved in it, as far as can be seen."""
    from relay.client.errors import ClientError

    if folder.is_dir():
        return
    if folder.exists():
        raise ClientError(f"{folder} is no folder; name one with --dir")
    raise ClientError(f"there is no folder {folder}; make it with: mkdir -p {shlex.quote(str(folder))}")


def name_of_file(path: str) -> str:
    """Return the name that a file is sent under."""
    return "stdin" if path == STDIN else Path(path).name


def typed_text(text: str | None) -> str:
    """Return the text of the command line, or what standard input has, without its last line end, for - or none.

    SendError when that has more than is a text.
    """
    if text is not None and text != STDIN:
        return text
    stdin = standard_input()
    if stdin.isatty():
        print("Write your text; end it with Ctrl-D on a line of its own.", file=sys.stderr)
    typed = stdin.buffer.read(MAX_TYPED_BYTES + 1)
    if len(typed) > MAX_TYPED_BYTES:
        from relay.client.errors import SendError

        raise SendError(f"a text has at most {MAX_TYPED_BYTES} bytes; send what is longer with --file -")
    return typed.decode(errors="replace").removesuffix("\n")


async def deliver(client: Client, bar: ProgressBar) -> list[RelayOutcome]:
    """Take to the relays what is queued, and show how far that is; errors are told, as nothing is lost by them."""
    from relay.client.errors import ClientError
    from relay.control.text import human_bytes

    try:
        return await client.deliver(
            lambda _, result: bar.show(
                "Sending",
                result.acknowledged,
                result.envelopes,
                f"{human_bytes(result.acknowledged_bytes)} acknowledged",
            )
        )
    except ClientError as error:
        print(error, file=sys.stderr)
        return []


KEPT: Final = "It is kept, and offered again with the next `relay send` or `relay receive`, until it expires."


def is_held(progress: Progress) -> bool:
    """Whether a relay has every piece, or the recipient the whole."""
    return progress.is_received or progress.durable + progress.volatile == progress.pieces


def is_done(progress: Progress) -> bool:
    """Whether nothing has to be put on a relay (any more)."""
    return is_held(progress) or progress.is_expired or progress.is_purged or progress.is_replaced


def state(progress: Progress | None, *, is_post: bool = False) -> str:
    """How far a message is, or a post, for which there are no receipts, in words."""
    waiting = "" if is_post else "; not received yet"
    if progress is not None and progress.is_never_sent:
        part = progress.durable + progress.volatile
        some = f"; {part} of {progress.pieces} pieces were" if part else ""
        return f"never sent: it expired before it was on a relay{some}. Send it again"
    if progress is None or progress.is_expired:
        return "expired"
    if progress.is_purged and progress.purges_left:
        which = "its purge is" if progress.pieces == 1 else f"{progress.purges_left} of {progress.pieces} purges are"
        return f"to be purged: {which} not on a relay yet"
    if progress.is_purged:
        return "purged"
    if progress.is_replaced:
        return "replaced by a later post"
    if progress.is_received:
        return "received"
    if progress.durable == progress.pieces:
        return f"a relay has it on disk (durable){waiting}"
    if is_held(progress):
        return f"a relay has it in memory (volatile: lost if it restarts, so it is offered again){waiting}"
    part = progress.durable + progress.volatile
    return f"not on a relay yet ({part} of {progress.pieces} pieces are)" if part else "not on a relay yet"


def report_relays(outcomes: Iterable[RelayOutcome]) -> None:
    """Print on standard error what failed at each relay, and what it refused, with the remedy."""
    for outcome in outcomes:
        if outcome.error is not None:
            print(outcome.error, file=sys.stderr)
        if outcome.delivered is not None:
            for reason, count in outcome.delivered.refused.items():
                remedy = _REMEDIES.get(reason.name, "")
                name = reason.name.lower().replace("_", " ")
                print(f"The relay at {outcome.address} refused {count} ({name}){remedy}.", file=sys.stderr)


_REMEDIES: Final = {
    "EXPIRED": ": its clock or yours is ahead",
    "FAR_FUTURE": ": its clock is behind or yours is ahead",
    "BELOW_FLOOR": ": its clock is ahead or yours is behind",
    "UNDERPAID": ": it asks for more work than is done here",
    "FULL": ": its store is full; try another relay",
    "CLASS": ": it does not take messages of that size",
    "PURGED": ": they were purged before",
    "GONE": ": it had them and let them go",
    "STORAGE": ": it cannot write to its disk; tell its operator",
}


def when(minute: int) -> str:
    """Local date and time of a Unix minute."""
    return f"{datetime.fromtimestamp(60 * minute, UTC).astimezone():%Y-%m-%d %H:%M}"


def when_hour(hour: int) -> str:
    """Local date and hour of a Unix hour: what was sent is not kept more exactly."""
    begin = datetime.fromtimestamp(3600 * hour, UTC).astimezone()
    # Where the zone is off by half an hour, an hour lies in two.
    return f"{begin:%Y-%m-%d %H:%M} to {begin + timedelta(hours=1):%H:%M}" if begin.minute else f"{begin:%Y-%m-%d %H}h"
