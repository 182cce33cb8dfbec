# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of whoever runs a relay: run, check-config, status, report, clock, key, store."""
# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import json
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from relay.core.errors import RelayError

if TYPE_CHECKING:
    import argparse

    from relay.control.control_client import ControlClient

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse gives it no public name

_CLOCK_TRIES = 20
_CLOCK_PAUSE_S = 0.25
_WATCH_INTERVAL_S = 2.0


class UsageError(RelayError):
    """An argument that cannot be used; the message has the remedy."""


def add_parsers(commands: Commands) -> None:
    """Add this module's commands."""
    run = commands.add_parser("run", help="run a relay in the foreground")
    _add_config(run)
    run.set_defaults(func=_run)

    check = commands.add_parser("check-config", help="look a configuration over without starting anything")
    _add_config(check)
    check.add_argument("--example", action="store_true", help="print the commented example with every default")
    check.set_defaults(func=_check_config)

    status = commands.add_parser("status", help="show how the running relay is doing")
    _add_socket(status)
    status.add_argument("--json", action="store_true", help="print the status as JSON, one line each time")
    status.add_argument("--watch", action="store_true", help="show it anew every 2 seconds until interrupted")
    status.set_defaults(func=_status)

    report = commands.add_parser("report", help="write how the relay is to a file or stick: words, and metrics below")
    _add_socket(report)
    report.add_argument("file", metavar="FILE|-", help="a new file, a folder such as that of a stick, or - to print it")
    report.set_defaults(func=_report)

    clock = commands.add_parser("clock", help="tell the relay what time it is")
    clock_set = clock.add_subparsers(metavar="set", required=True).add_parser("set", help="set the relay's clock")
    _add_socket(clock_set)
    clock_set.add_argument(
        "time",
        help="`now` (this machine's clock), seconds since 1970 as @1700000000, or 2026-05-01T12:00Z",
    )
    clock_set.set_defaults(func=_clock_set)

    key = commands.add_parser("key", help="print the public key by which others can recognise this relay")
    _add_config(key)
    key.set_defaults(func=_key)

    store = commands.add_parser("store", help="look after a store").add_subparsers(metavar="COMMAND", required=True)
    store_check = store.add_parser("check", help="verify every envelope; changes nothing")
    store_check.add_argument("path", type=Path, nargs="?", help="the store (default: the configured one)")
    _add_config(store_check)
    store_check.set_defaults(func=_store_check)
    salvage = store.add_parser("salvage", help="write what is readable of a damaged store to a new one")
    salvage.add_argument("path", type=Path, help="the damaged store, which is only read")
    salvage.add_argument("new", type=Path, help="where to write the new store")
    salvage.set_defaults(func=_store_salvage)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration (default: ~/.config/mesh-relay/relay.toml, else /etc/mesh-relay/relay.toml, else none)",
    )


def _add_socket(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="control socket (default: the configured one, else the system's)"
    )


def _run(arguments: argparse.Namespace) -> int:
    from relay.config.file import load_config
    from relay.run import app

    return app.run(load_config(arguments.config))


def _check_config(arguments: argparse.Namespace) -> int:
    from relay.config import paths
    from relay.config.file import EXAMPLE, ConfigError, load_config
    from relay.config.regulatory import barred_channels, read_regulatory
    from relay.config.textfile import decode_text

    if arguments.example:
        print(EXAMPLE.read_text(encoding="utf-8"), end="")
        return 0
    path = arguments.config or paths.find_config(os.environ)
    config = load_config(path)
    if path and (barred := barred_channels(config, decode_text(path.read_bytes()))):
        raise ConfigError(path, barred)
    if read_regulatory() is None and config.net.country + config.appliance.country:
        print("channels: not checked, as this machine has no list of what countries allow (package wireless-regdb)")
    print(f"{path}: no problem found" if path else "no configuration: every setting has its default")
    return 0


def _connect(arguments: argparse.Namespace) -> ControlClient:
    from relay.config import paths
    from relay.config.file import default_config, load_config
    from relay.control.control_client import ControlClient, connect_to_first

    if arguments.socket:
        return ControlClient(arguments.socket)
    if arguments.config:
        return ControlClient(load_config(arguments.config).control.path)
    found = paths.find_config(os.environ)
    # The system's may hold a secret, and be root's alone.
    config = load_config(found) if found and os.access(found, os.R_OK) else default_config()
    # The relay of this user, else that of the system.
    return connect_to_first(list(dict.fromkeys([config.control.path, paths.SYSTEM_RUNTIME / paths.CONTROL_SOCKET])))


def _status(arguments: argparse.Namespace) -> int:
    from relay.control.text import status_text

    with _connect(arguments) as client:
        if arguments.watch and not arguments.json and sys.stdout.isatty():
            from relay.cli.watching import watch

            watch(client.read_status, _WATCH_INTERVAL_S)
        while True:
            text = json.dumps(client.status()) if arguments.json else status_text(client.read_status())
            print(text, flush=True)
            if not arguments.watch:
                return 0
            time.sleep(_WATCH_INTERVAL_S)


def _report(arguments: argparse.Namespace) -> int:
    from relay.appliance.addresses import own_addresses
    from relay.control.relay_report import REPORT, report_text, write_report

    with _connect(arguments) as client:
        text = report_text(client.read_status(), client.metrics(), own_addresses())
    if arguments.file == "-":
        print(text, end="")
        return 0
    path = Path(arguments.file)
    path = path / REPORT if path.is_dir() else path
    # What is no file is not replaced either, as a device would be by who is root.
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise UsageError(f"{path}: that is a link, a device or a pipe; name another file, or - to print it")
    try:
        write_report(path, text.encode())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name another file, or - to print it") from error
    print(f"{path}: how the relay is, in words; below them its metrics (`promtool check metrics <{path}`)")
    return 0


def _clock_set(arguments: argparse.Namespace) -> int:
    from relay.appliance import constants
    from relay.board import board_client
    from relay.board.verbs import Verb
    from relay.control.control_client import ControlError

    unix_s = parse_time(arguments.time)
    with _connect(arguments) as client:
        try:
            client.set_clock(unix_s)
        except ControlError:
            if os.geteuid() == 0 or not os.access(constants.BOARD_SOCKET, os.W_OK):
                raise
            # An appliance's operator is not root; the board asks for him.
            board_client.ask(constants.BOARD_SOCKET, Verb.CLOCK, unix_s=unix_s)
            _wait_for_clock(client)
    print(f"the relay goes by {datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC")
    return 0


def _wait_for_clock(client: ControlClient) -> None:
    """Return once the relay goes by an operator's word; raise UsageError if it does not, for a while."""
    for _ in range(_CLOCK_TRIES):
        if client.read_status().clock.source == "operator":
            return
        time.sleep(_CLOCK_PAUSE_S)
    raise UsageError("the relay did not take that time; check the year, and that a number is in seconds")


def parse_time(text: str) -> int:
    """Seconds since 1970 from `now`, `@seconds` or an ISO 8601 time with its zone; raise UsageError."""
    if text == "now":
        return int(time.time())
    if match := re.fullmatch(r"@(\d{1,12})", text):
        return int(match[1])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f'"{text}" is no time; write now, @1700000000 or 2026-05-01T12:00Z') from error
    if moment.tzinfo is None:
        raise UsageError(f'"{text}" has no zone; write {text}Z for UTC, or its offset such as {text}+02:00')
    return int(moment.timestamp())


def _key(arguments: argparse.Namespace) -> int:
    from relay.config import paths
    from relay.config.file import load_config
    from relay.control.text import key_text
    from relay.run.keyfile import load_key

    config = load_config(arguments.config)
    key = load_key(config.store.key_file)
    if key is None and arguments.config is None:
        # The relay of the system, unless this user runs one.
        key = load_key(paths.SYSTEM_STATE / config.store.key_file.name)
    if key is None:
        raise UsageError(
            f"{config.store.key_file}: no key there; set static_key = true in the section [mesh] of relay.toml "
            "and start the relay, which makes one. Without it each session has a fresh key, and there is none to note"
        )
    if not config.mesh.static_key:
        print("This key is not in use: static_key is false in the section [mesh] of relay.toml.", file=sys.stderr)
    print(key_text(key.public, config.tcp.port))
    return 0


def _store_check(arguments: argparse.Namespace) -> int:
    from relay.config.file import load_config
    from relay.store.check import check

    path = arguments.path or load_config(arguments.config).store.database
    report = check(path)
    print(f"{path}: {report.admitted} admitted, {report.bodies} held")
    if report.ok:
        print("no fault found")
        return 0
    if report.refused:
        print(report.refused)
    for line in report.structure:
        print(f"structure: {line}")
    faults = ("malformed", "altered", "header_differs", "orphans", "contradictory", "missing", "stray")
    for name in faults:
        if count := getattr(report, name):
            print(f"{name.replace('_', ' ')}: {count}")
    print(f"`relay store salvage {path} NEW` rescues what is readable")
    return 1


def _store_salvage(arguments: argparse.Namespace) -> int:
    from relay.store.salvage import salvage

    report = salvage(arguments.path, arguments.new)
    print(f"{arguments.new}: {report.bodies} envelopes rescued, {report.admitted} IDs remembered")
    print(
        f"lost: {report.lost}, altered: {report.altered}, "
        f"without their row: {report.without_row}, unreadable pages: {report.unreadable_pages}"
    )
    print(f"To use it, move it to where the store was; keep {arguments.path} until the relay runs.")
    return 0
