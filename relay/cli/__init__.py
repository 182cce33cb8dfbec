# SPDX-License-Identifier: GPL-2.0-or-later
"""The `relay` command.

Each command imports what it needs when it runs: on a Raspberry Pi the difference
between `relay --version` and `relay run` is seconds.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from relay import __version__
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Callable, Iterator

    Commands: TypeAlias = _SubParsersAction[argparse.ArgumentParser]

#: What the shell and systemd take for "bad usage or configuration": not worth a restart (the unit says so).
EXIT_CONFIG = 78
EXIT_FAILURE = 1
#: 128 + SIGINT, as shells have it.
EXIT_INTERRUPTED = 130
#: `relay sent > file` on a disk that takes no more.
#: No option is that: those of one dash have one letter.
_DASHED_PIECE = re.compile(r"-[A-Za-z0-9_][A-Za-z0-9_-]+>?")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def _with_whole_cards(argv: list[str]) -> Iterator[str]:
    """The same words, but that a part of a card (`mesh-relay:...` in base64url) is never taken for an option.

    A mail or a terminal breaks a card anywhere; every 64th piece begins with a dash.
    """
    last: str | None = None
    is_in_card = False
    for word in argv:
        if last is not None and is_in_card and _DASHED_PIECE.fullmatch(word):
            last += word
            continue
        if last is not None:
            yield last
        is_in_card = word.lstrip("<").startswith("mesh-relay:") or (is_in_card and not word.startswith("-"))
        last = word
    if last is not None:
        yield last


def main(argv: list[str] | None = None) -> int:
    """Run one command; ``argv`` without the program's name. Return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        print(f"relay {__version__}")
        return 0
    arguments = build_parser(argv[0] if argv else "").parse_args(list(_with_whole_cards(argv)))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal does not have must not end a command.
        sys.stdout.reconfigure(errors="replace")
    try:
        status: int = arguments.func(arguments)
    except RelayError as error:
        print(error, file=sys.stderr)
        # Imported here, since a command that does not read the configuration needs none of it.
        from relay.config.file import ConfigError  # noqa: PLC0415

        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILURE
    except BrokenPipeError:
        # `relay status | head`: the reader has enough. Python would complain again at exit.
        sys.stderr.close()
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"cannot write: {error.strerror}; free some space, or have the output go elsewhere", file=sys.stderr)
        # Python would try once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILURE
    return status


class _Parser(argparse.ArgumentParser):
    """Takes options anywhere: by default `send NAME --wait TEXT` has a TEXT that nobody expects."""

    _is_intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as `parse_known_intermixed_args` does, which calls this in turn."""
        if self._is_intermixed or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._is_intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_intermixed = False


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """All commands and their options; for one of a relay's processes only those that are declared beside it."""
    parser = argparse.ArgumentParser(prog="relay", description="Stores and forwards encrypted messages.")
    parser.add_argument("--version", action="version", version=f"relay {__version__}")
    parser_class: type[argparse.ArgumentParser] = _Parser
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=parser_class)
    _PROCESSES.get(command, _add_all)(commands)
    return parser


def _add_all(commands: Commands) -> None:
    # Only arguments; their work is imported later still.
    from relay.cli import appliance, bulletin, contact, messages, operator, radios, scan, sniff, targets  # noqa: PLC0415

    operator.add_parsers(commands)
    contact.add_parsers(commands)
    messages.add_parsers(commands)
    bulletin.add_parsers(commands)
    scan.add_parser(commands)
    targets.add_parser(commands)
    appliance.add_parsers(commands)
    sniff.add_parsers(commands)
    radios.add_parsers(commands)


def _add_operator(commands: Commands) -> None:
    from relay.cli import operator  # noqa: PLC0415 - see the top

    operator.add_parsers(commands)


def _add_radios(commands: Commands) -> None:
    from relay.cli import radios  # noqa: PLC0415 - see the top

    radios.add_parsers(commands)


def _add_appliance(commands: Commands) -> None:
    from relay.cli import appliance  # noqa: PLC0415 - see the top

    appliance.add_parsers(commands)


#: Those that start with a relay, on a slow board all at once: the other commands' arguments would be a tenth of that.
_PROCESSES: Final[dict[str, Callable[[Commands], None]]] = {
    "run": _add_operator,
    "ble": _add_radios,
    "bitchat": _add_radios,
    "net": _add_radios,
    "board": _add_appliance,
    "segment": _add_appliance,
    "portal": _add_appliance,
    "stick": _add_appliance,
    "appliance": _add_appliance,
}
