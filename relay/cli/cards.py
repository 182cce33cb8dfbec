# SPDX-License-Identifier: GPL-2.0-or-later
"""Cards of people and of notice boards, as commands take and show them."""

# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import itertools
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.cli.terminal import standard_input

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

#: A URI broken into lines of a few characters has fewer.
_MAX_LINES: Final = 1024


def given_uri(words: Sequence[str]) -> str:
    """Return the URI of a command line, where the shell may have cut it, or of standard input for -."""
    return _read_uri() if list(words) == ["-"] else " ".join(words)


def _read_uri() -> str:
    """Read a URI that may be broken into lines, to the end or to an empty line after it."""
    stdin = standard_input()
    if stdin.isatty():
        print("Paste the URI; an empty line ends it.", file=sys.stderr)
    lines: list[str] = []
    for line in itertools.islice(stdin, _MAX_LINES):
        if lines and not line.strip():
            break
        lines += [line] if line.strip() else []
    return "".join(lines)


def chosen_name(given: str | None, suggested: str) -> tuple[str, bool]:
    """Return the name to keep a card under, and whether it is the card's own word; ContactError."""
    import unicodedata

    from relay.client.contacts import require_name
    from relay.client.errors import ContactError

    if given is not None:
        return given, False
    name = unicodedata.normalize("NFC", suggested)
    if not name:
        raise ContactError("the card suggests no name; give one with --name NAME")
    try:
        return require_name(name), True
    except ContactError as error:
        raise ContactError(f"{error}: the card's for itself is of no use; give one with --name NAME") from None


def add_svg(parser: ArgumentParser) -> None:
    """Add the option for a card to be printed."""
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also write the QR code to a new file, to be printed")


@contextmanager
def opened_svg(path: Path | None) -> Iterator[BinaryIO | None]:
    """Yield a new file, for its owner's eyes, or None without a path; ClientError before anything else is done.

    It is gone again when the block fails.
    """
    from relay.client.errors import ClientError

    if path is None:
        yield None
        return
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError:
        raise ClientError(f"{path} is there already; name a new file for the QR code") from None
    except OSError as error:
        raise ClientError(f"cannot write {path}: {error.strerror}; name another file for the QR code") from None
    try:
        with file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def show_card(uri: str, fingerprint: str, *, with_qr: bool, svg: BinaryIO | None = None) -> None:
    """Print a card as a URI, with what to compare by voice, and if wanted as a QR code, and to be printed."""
    if svg is not None:
        from relay.client.qr import svg_qr

        svg.write(svg_qr(uri))
    print(uri)
    print(f"Fingerprint: {fingerprint}")
    if with_qr:
        from relay.client.qr import terminal_qr

        print(terminal_qr(uri), end="")
