# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of the appliance: appliance, board, segment, portal, stick."""
# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from relay.appliance.plan import Facts

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse gives it no public name


def add_parsers(commands: Commands) -> None:
    """Add this module's commands."""
    appliance = commands.add_parser("appliance", help="set up a machine that is nothing but a relay")
    _add_board(commands)
    segment = commands.add_parser("segment", help="hand out addresses on a segment where nobody else does; as root")
    segment.add_argument("interface")
    segment.set_defaults(func=_segment)
    portal = commands.add_parser("portal", help="answer phones that look for the internet, on a socket of systemd's")
    portal.set_defaults(func=_portal)
    stick = commands.add_parser("stick", help="look after what is plugged into USB; as relay-stick.service does it")
    stick.add_argument("--socket", type=Path, metavar="PATH", help="control socket (default: the appliance's)")
    stick.set_defaults(func=_stick)
    slot = commands.add_parser("slot", help="see that the software that runs is well, and that there is another copy")
    slot.add_argument("--socket", type=Path, metavar="PATH", help="control socket (default: the appliance's)")
    slot.add_argument("--give", action="store_true", help="only read it, for other relays; as relay-give.service does")
    slot.set_defaults(func=_slot)
    update = commands.add_parser("update", help="hand newer software to this appliance, to be used from its next start")
    update.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the update (default: standard input)")
    update.add_argument("--older", action="store_true", help="take it also if it is older, or turned back before")
    update.add_argument(
        "--restart", action="store_true", help="start anew now with what was taken before; no file is read"
    )
    update.set_defaults(func=_update)
    _add_appliance(appliance.add_subparsers(metavar="COMMAND", required=True))


def _add_appliance(commands: Commands) -> None:
    apply = commands.add_parser("apply", help="write to /run what the relay.toml of the boot partition means; as root")
    source = apply.add_mutually_exclusive_group()
    source.add_argument(
        "--boot-device",
        type=Path,
        default=os.environ.get("RELAY_BOOT_DEVICE") or None,
        metavar="DEVICE",
        help="FAT file system with the relay.toml (default: that of the card)",
    )
    source.add_argument("--folder", type=Path, metavar="FOLDER", help="a folder with the relay.toml instead")
    apply.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="what `relay appliance data` left; if it left nothing, the store is kept in memory",
    )
    apply.add_argument("--root", type=Path, default=Path("/"), metavar="FOLDER", help="write below it (for a look)")
    apply.set_defaults(func=_apply)

    data = commands.add_parser("data", help="make, check or erase the partition for data, and mount it; as root")
    data.set_defaults(func=_data)

    unlock = commands.add_parser(
        "unlock",
        help='open what storage = "durable" keeps on the card, with its passphrase; the first time, choose one',
    )
    unlock.add_argument("--serve", action="store_true", help="answer an operator on standard input, a socket; as root")
    unlock.set_defaults(func=_unlock)

    finish = commands.add_parser(
        "finish-panic", help="go on with an erase that was interrupted, if there is one; as root"
    )
    finish.add_argument(
        "--boot-device", type=Path, metavar="DEVICE", help="drive MESH-RELAY (default: of the disk that the root is on)"
    )
    finish.set_defaults(func=_finish_panic)

    screen = commands.add_parser("screen", help="show the relay's status, anew each minute")
    screen.add_argument("--socket", type=Path, metavar="PATH", help="control socket (default: the appliance's)")
    screen.set_defaults(func=_screen)

    cards = commands.add_parser("cards", help="write the relay.toml of each card of a mesh, with one fresh secret")
    cards.add_argument("--count", type=int, required=True, metavar="N", help="how many relays there are to be")
    cards.add_argument("--country", required=True, metavar="XX", help="the two letters of the country they are in")
    cards.add_argument(
        "--access-point",
        metavar="NAME",
        help="a Wi-Fi for phones of that name, {n} in it the card's number, and a poster for each (SVG and PDF)",
    )
    cards.add_argument(
        "--hostname",
        default="",
        metavar="NAME",
        help="each relay's name on a cable, {n} in it the card's number: its page is at http://NAME.local:9470/",
    )
    cards.add_argument(
        "--password",
        action="store_true",
        help="with --access-point: draw a password, one for all posters",
    )
    cards.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder to write to")
    cards.set_defaults(func=_cards)

    shelf = commands.add_parser("shelf", help="list the files that are offered to participants, with their sums")
    shelf.add_argument("folder", type=Path, metavar="FOLDER", help="the folder with the files")
    shelf.add_argument("list", type=Path, metavar="LIST", help="the list to write")
    shelf.set_defaults(func=_shelf)

    papers = commands.add_parser("papers", help="write handbook and card in four languages, and a blank poster")
    papers.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to write to")
    papers.set_defaults(func=_papers)

    example = commands.add_parser("example", help="print the relay.toml that the card brings along")
    example.set_defaults(func=_example)


def _add_board(commands: Commands) -> None:
    board = commands.add_parser("board", help="run the process for light, button and boot partition, or ask it")
    board.add_argument(
        "verb",
        nargs="?",
        choices=("status", "identify", "panic", "poweroff"),
        help="ask the running one; without it, run it (as root)",
    )
    board.add_argument("--sure", action="store_true", help="with panic: yes, erase this relay")
    board.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: as for `relay run`)")
    board.add_argument("--socket", type=Path, metavar="PATH", help="its socket (default: the appliance's)")
    board.add_argument(
        "--boot-device",
        type=Path,
        default=os.environ.get("RELAY_BOOT_DEVICE") or None,
        metavar="DEVICE",
        help="FAT file system for relay-status.txt (default: that of the card, if there is one)",
    )
    board.set_defaults(func=_board)


def _board(arguments: argparse.Namespace) -> int:
    from relay.appliance import constants

    socket = arguments.socket or constants.BOARD_SOCKET
    if arguments.verb:
        return _ask_board(arguments, socket)
    from relay.board import app
    from relay.board.machine import SETTINGS, STORES, Machine
    from relay.config.file import load_config

    device = arguments.boot_device or (constants.BOOT_DEVICE if constants.BOOT_DEVICE.exists() else None)
    settings = (SETTINGS, arguments.config) if arguments.config else (SETTINGS,)
    if (unfinished := Machine(boot_device=device, settings=settings)).is_unfinished():
        # Before the configuration is read; an appliance's start has seen to it earlier (finish-panic).
        print(f"an erase was interrupted; left: {', '.join(unfinished.erase()) or 'nothing'}", file=sys.stderr)
    config = load_config(arguments.config)
    stores = tuple(dict.fromkeys((*STORES, config.store.path)))
    return app.run(config, Machine(boot_device=device, stores=stores, settings=settings), socket)


def _ask_board(arguments: argparse.Namespace, socket: Path) -> int:
    from relay.board.board_client import ask
    from relay.board.verbs import Verb

    verb = Verb(arguments.verb)
    if verb is Verb.PANIC and not arguments.sure:
        print("This erases store, keys and relay.toml, and switches off. If you mean it: relay board panic --sure")
        return 1
    result = ask(socket, verb)
    if verb is Verb.STATUS:
        print(json.dumps(result, indent=2))
    return 0


def _finish_panic(arguments: argparse.Namespace) -> int:
    from relay.board import panic
    from relay.board.card import find_card

    card = find_card(arguments.boot_device)
    if card is None or not card.is_marked():
        return 0
    return 1 if panic.go_on(card) else 0


def _data(_: argparse.Namespace) -> int:
    from relay.appliance.data_state import DATA_STATE, write_state
    from relay.board.data import prepare

    # Should it end early, nothing is left of the start before.
    DATA_STATE.unlink(missing_ok=True)
    write_state(prepare(_facts()))
    return 0


def _unlock(arguments: argparse.Namespace) -> int:
    from relay.board import opening
    from relay.process.unlock_request import ask

    if arguments.serve:
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as told:
            # What the programs say that make and mend file systems is for the log, and no answer.
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            opening.answer(sys.stdin.buffer, told)
        return 0
    ask(_passphrase())
    print("It is open: the relay starts anew, with what is kept there.")
    return 0


def _passphrase() -> bytes:
    """What somebody types; the first time twice, as nobody can mend a slip."""
    from getpass import getpass

    from relay.appliance.data_state import Trouble, read_state
    from relay.config.passwords import why_no_passphrase
    from relay.process.unlock_request import OpeningError

    text = getpass("Passphrase: ")
    if read_state().trouble is Trouble.UNMADE:
        if why := why_no_passphrase(text):
            raise OpeningError(why)
        if getpass("Once more: ") != text:
            raise OpeningError("these were two; nothing was changed")
    return text.encode()


def _facts() -> Facts:
    """What is drawn for this start."""
    from relay.appliance.network import draw_segment
    from relay.appliance.plan import Facts
    from relay.core.secret import SECRET_DIGITS

    return Facts(segment=draw_segment(secrets.token_bytes), stand_in=secrets.token_hex(SECRET_DIGITS // 2))


def _apply(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from relay.appliance import apply, constants
    from relay.appliance.data_state import read_state

    if arguments.folder and not arguments.folder.is_dir():
        raise apply.BootPartitionError(f"{arguments.folder} is no folder; name the one in which relay.toml lies")
    data = read_state(arguments.data) if arguments.data else None
    facts = replace(_facts(), data=data, erasure=apply.read_erasure(arguments.root))
    if facts.erasure:
        # Of what should be gone nothing is used.
        plan = apply.empty_plan(facts)
    elif arguments.folder:
        plan = apply.read_plan(arguments.folder, facts)
    else:
        device = arguments.boot_device or constants.BOOT_DEVICE
        try:
            apply.wait_for(device)
            with apply.mounted(device) as folder:
                plan = apply.read_plan(folder, facts)
        except apply.BootPartitionError as error:
            plan = apply.unreadable_plan(error, facts)
    apply.write_plan(plan, arguments.root)
    if arguments.root == Path("/"):
        apply.set_hostname(plan.hostname)
    # A bad file is no failure: the relay has to run with what is safe.
    for notice in plan.notices:
        print(f"{notice.code}: {notice.text}", file=sys.stderr)
    return 0


def _cards(arguments: argparse.Namespace) -> int:
    from relay.appliance import cards
    from relay.config.countries import country
    from relay.config.settings import BadValueError
    from relay.core.secret import SECRET_DIGITS
    from relay.papers.poster import poster_files

    try:
        code = country(arguments.country)
    except BadValueError as error:
        raise cards.CardsError(f"--country {arguments.country}: {error}") from None
    if not code or not 1 <= arguments.count <= cards.MAX_CARDS:
        raise cards.CardsError(f"name a country, and a --count from 1 to {cards.MAX_CARDS}")
    secret = secrets.token_hex(SECRET_DIGITS // 2)
    point = None
    if arguments.access_point is not None:
        drawn = (secrets.choice(cards.PASSWORD_LETTERS) for _ in range(cards.PASSWORD_LENGTH))
        point = cards.AccessPoint(name=arguments.access_point, password="".join(drawn) if arguments.password else "")
    elif arguments.password:
        raise cards.CardsError("--password is that of a Wi-Fi: name one with --access-point NAME")
    left = cards.write_cards(
        arguments.folder,
        count=arguments.count,
        country=code,
        secret=secret,
        access_point=point,
        hostname=arguments.hostname,
        draw=poster_files,
    )
    print(
        f"{arguments.folder}: {arguments.count} times relay.toml, all with one secret. "
        f"{cards.README} there says what to do with them, and how to keep the secret."
    )
    for problem in left:
        print(f"To be changed in each, line {problem.line}: {problem.message}", file=sys.stderr)
    return 0


def _shelf(arguments: argparse.Namespace) -> int:
    from relay.process.shelf import make_list

    make_list(arguments.folder, arguments.list, lambda text: print(text, file=sys.stderr))
    return 0


def _papers(arguments: argparse.Namespace) -> int:
    from relay.papers.writing import write_papers

    write_papers(arguments.folder)
    return 0


def _example(_: argparse.Namespace) -> int:
    from relay.config.appliance import EXAMPLE

    print(EXAMPLE.read_text(encoding="utf-8"), end="")
    return 0


def _segment(arguments: argparse.Namespace) -> int:
    from ipaddress import IPv4Address

    from relay.appliance import constants, segment
    from relay.config import paths

    folder = paths.runtime_directory(os.environ)
    if (constants.OUTPUT / f"access-point-{arguments.interface}").exists():
        phones = segment.Files(folder, "phones")
        return segment.run(arguments.interface, constants.ACCESS_POINT_ADDRESS.ip, None, phones)
    path = next((path for path in constants.SEGMENT_SETTINGS if path.exists()), None)
    if path is None:
        print(
            'This relay hands out no addresses: relay.toml has ethernet = "client", or this is no appliance.',
            file=sys.stderr,
        )
        return 1
    settings = json.loads(path.read_text())
    return segment.run(
        arguments.interface,
        IPv4Address(settings["address"]),
        bytes.fromhex(settings["election"]),
        segment.Files(folder, "dhcp"),
    )


def _portal(_: argparse.Namespace) -> int:
    from relay.appliance import portal_server

    return portal_server.run(os.environ)


def _stick(arguments: argparse.Namespace) -> int:
    from relay.appliance import constants, effective
    from relay.config.sticks import StickUse
    from relay.stick import app

    try:
        words = constants.STICKS.read_text(encoding="utf-8").split()
    except OSError:
        print("Sticks are not used: relay.toml has sticks = [], or this is no appliance.", file=sys.stderr)
        return 1
    uses = {use for use in StickUse if use in words}
    return app.run(uses, arguments.socket or Path(effective.CONTROL_SOCKET))


def _slot(arguments: argparse.Namespace) -> int:
    from relay.appliance import effective
    from relay.board import giving, slot_app

    if arguments.give:
        return giving.run()
    return slot_app.run(arguments.socket or Path(effective.CONTROL_SOCKET))


def _update(arguments: argparse.Namespace) -> int:
    from relay.process import update_request

    if arguments.restart:
        with update_request.connect() as taker:
            said = update_request.ask_for_restart(taker, update_request.RESTART_TIMEOUT_S)
        if said.reason:
            raise update_request.UpdateError(f"it does not start anew: {said.text}")
        print(said.text)
        return 0
    with arguments.file.open("rb") if arguments.file else sys.stdin.buffer as file, update_request.connect() as taker:
        at = 0

        def read(offset: int, length: int) -> bytes:
            nonlocal at
            # Standard input cannot go to a place; what is there already is read past.
            while at < offset:
                at += len(file.read(min(offset - at, update_request.MAX_READ_BYTES))) or offset - at
            found = file.read(length)
            at += len(found)
            return found

        said = update_request.hand_in(taker, read, older=arguments.older, is_there=lambda: True)
    if said.reason:
        raise update_request.UpdateError(f"it is not used: {said.text}")
    print(said.text)
    return 0


def _screen(arguments: argparse.Namespace) -> int:
    from relay.appliance import effective, screen

    return screen.run(arguments.socket or Path(effective.CONTROL_SOCKET))
