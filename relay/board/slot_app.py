# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay slot`: says that the slot that runs is well, sees to it that there is another one, and writes updates there.

A process for each start, which ends when there is nothing more to do, and for each update that is handed in
(relay-slot.socket, and relay-spread.socket of `relay run`, for what neighbours have). What it decides by is in
relay/board/slots.py and manifest.py; it never restarts the machine, which relay-trial.timer does where this process has
not said in time that all is well, so that an update in which not even this program starts turns back as well, and
relay-restart.path where newer software waits for that. Blocking, and in no hurry: messages go first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.appliance.constants import RELEASE, UPDATE_KEYS
from relay.board import slots
from relay.board.card import find_card
from relay.board.card_slots import CardSlots, NoSlotsError
from relay.board.manifest import HEAD_BYTES, Own, RefusedError, accept
from relay.control.control_client import ControlClient, ControlError
from relay.control.notices import NOTICES, Notice, NoticeCode, encode_notices
from relay.control.status import LinkState
from relay.core.errors import DecodeError
from relay.process import logs
from relay.process.update_request import Incoming, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from relay.board.manifest import Manifest
    from relay.control.status import Status

logger = logging.getLogger(__name__)

#: There once this start is known to be well (relay-trial.service).
SETTLED: Final = NOTICES[3].with_name("settled")
#: Made where somebody may have the machine start anew (relay-restart.path), as newer software waits for that.
RESTART: Final = SETTLED.with_name("restart")
#: How long all has to be well without a break before it is believed, of a slot on trial.
WELL_S: Final = 60.0
TICK_S: Final = 5.0
#: The processes of the relay; who does nothing here is inactive, and that is well.
UNITS: Final = (
    "mesh-relay.service",
    "relay-bitchat.service",
    "relay-ble.service",
    "relay-board.service",
    "relay-libp2p.service",
    "relay-net.service",
    "relay-portal.socket",
    "relay-stick.path",
)
_WATCHDOG: Final = Path("/sys/class/watchdog/watchdog0/state")
_SYSTEMCTL_TIMEOUT_S: Final = 30.0
#: For a piece of a MiB, of a slow stick that others read as well.
READ_TIMEOUT_S: Final = 60.0
#: ... and of neighbours, over a mesh that is busy; `relay run` gives up before.
SPREAD_TIMEOUT_S: Final = 2400.0
#: Where a stick was in the box at its start, an update on it comes before the copying that it would undo.
STICK_S: Final = 60.0
#: An update that was cut off is waited for so long before the copying that would undo what there is of it.
RESUME_S: Final = 600.0
_STICKS: Final = Path("/dev/relay/stick")
#: The first that systemd hands over (sd_listen_fds(3)), and the name of that of `relay run`.
_LISTEN_FD: Final = 3
_SPREAD: Final = "spread"

TURNED_BACK: Final = Notice(
    code=NoticeCode.SLOT,
    text="This relay's newer software did not come up well, and the one before it runs again. "
    "Messages are relayed as before. Tell whoever gave you the update.",
)
WAITS: Final = Notice(
    code=NoticeCode.HINT,
    text="Newer software is on the card, and is used from the next start.",
)
NO_OTHER: Final = Notice(
    code=NoticeCode.STORAGE,
    text="The card does not take a second copy of this relay's software, to fall back to when it wears out: "
    "use another card soon.",
)


def unit_faults(shown: str, restarts: dict[str, str]) -> set[str]:
    """Which units do not work, by what `systemctl show` said of them; ``restarts``: how often each was, kept up.

    One that ends and is started again, and again, is up whenever one looks.
    """
    found = set()
    for block in shown.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        unit, count = values.get("Id", ""), values.get("NRestarts", "0")
        if values.get("ActiveState") not in {"active", "inactive"} or restarts.get(unit, count) != count:
            found.add(unit)
        restarts[unit] = count
    return found


def own_faults(status: Status) -> set[str]:
    """Which conditions of a relay are its own doing."""
    found = {one.name for one in status.conditions} & slots.OWN_FAULTS
    if all(link.state != LinkState.DOWN for link in status.links):
        # Nothing but a cable that somebody took out.
        found.discard("link_down")
    return found


class Slots:
    """The work of one start. ``control``: the relay's socket; ``tick_s`` and ``well_s``: shorter in tests.

    ``listener``: where updates are handed in; ``spread``: where `relay run` does, with those of neighbours;
    ``own``: what may be among them, None: nothing.
    """

    def __init__(
        self,
        card: CardSlots,
        control: Path,
        *,
        notices: Path = NOTICES[3],
        settled: Path = SETTLED,
        listener: socket.socket | None = None,
        spread: socket.socket | None = None,
        own: Own | None = None,
        tick_s: float = TICK_S,
        well_s: float = WELL_S,
    ) -> None:
        self._card = card
        self._listener = listener
        self._spread = spread
        self._own = own
        self._control = control
        self._notices = notices
        self._settled = settled
        self._tick_s = tick_s
        self._well_s = well_s
        self._restarts: dict[str, str] = {}
        #: Whether the last update that was handed in ended before it was whole.
        self._is_cut_off = False

    def run(self) -> None:
        """Do all there is; raise OSError if the card cannot be read or written."""
        running = self._card.running
        record = self._card.record()
        began = self._settled.with_name("began")
        # Once a start: an update that was written since is to be first, and has not failed for that.
        if not began.exists():
            record = slots.came_up(record, running, self._card[slots.other(running)].name())
            self._card.remember(record)
            began.touch()
        self._say(record)
        self._wait_until_well(record)
        self._card.remember(slots.proved(self._card.record(), running))
        self._settled.touch()
        self._say(self._card.record())
        if any(_STICKS.glob("*")):
            self._serve(STICK_S)
        while True:
            if not self._is_cut_off or not self._is_asked(RESUME_S):
                self._is_cut_off = False
                self.fill(lambda: not self._is_asked(0))
            if not self._serve(0):
                return

    def _wait_until_well(self, record: slots.Record) -> None:
        """Return when the slot is well; on trial, when it was for as long as is asked."""
        needed_s = self._well_s if record.trial == self._card.running else 0.0
        since: float | None = None
        while True:
            now = time.monotonic()
            faults = self.faults()
            if not slots.is_well(record, self._card.running, faults):
                if since is not None or not int(now) % 60:
                    logger.info("not well yet: %s", "not ready" if faults is None else ", ".join(sorted(faults)))
                since = None
            elif since is None:
                since = now
            if since is not None and now - since >= needed_s:
                return
            if record.trial == self._card.running:
                time.sleep(self._tick_s)
            else:
                # What does not get ready may be what an update mends.
                self._serve(self._tick_s)

    def faults(self) -> set[str] | None:
        """What of the relay's own does not work; None: it is not ready."""
        try:
            with ControlClient(self._control) as client:
                status = client.read_status()
        except ControlError:
            return None
        if not status.ready:
            return None
        found = own_faults(status) | unit_faults(_show(), self._restarts)
        if _read(_WATCHDOG) == "inactive":
            found.add("watchdog")
        return found

    def _known(self) -> Collection[str]:
        """What is not held against the slot that starts next."""
        faults = self.faults()
        return slots.OWN_FAULTS if faults is None else faults

    def fill(self, go_on: Callable[[], bool]) -> None:
        """Have in the other slot what runs here, unless it holds something that starts, or may start once more."""
        running, target = self._card.running, slots.other(self._card.running)
        record = self._card.record()
        if record.tries(target):
            return
        try:
            if slots.is_to_be_tried_again(record, target):
                is_whole = self._card[target].is_whole(go_on)
                if is_whole is None:
                    return
                if is_whole:
                    self._card.remember(slots.updated(record, target, self._known()))
                    logger.info("slot %s is whole: at the next start it is tried once more", target)
                    return
            head = self._card[running].head()
            self._card.remember(slots.emptied(record, target))
            began = time.monotonic()
            with self._card[running].reading(head.manifest) as source:
                wrote = self._card[target].write(head, source, go_on)
            if wrote is None:
                return
            self._card.remember(slots.filled(self._card.record(), target))
        except (OSError, DecodeError, RefusedError) as error:
            # At the next start again; until then there is one slot, as before.
            logger.warning("the other slot cannot be filled (%s)", error)
            self._say(record, NO_OTHER)
            return
        logger.info("slot %s is filled: %d bytes in %.0f s", target, wrote, time.monotonic() - began)

    def _is_asked(self, within_s: float) -> bool:
        """Whether somebody wants to hand something in."""
        return self._next_listener(within_s) is not None

    def _next_listener(self, within_s: float) -> socket.socket | None:
        """Where somebody wants to hand something in; a person before a neighbour."""
        listeners = [one for one in (self._listener, self._spread) if one is not None]
        if not listeners:
            time.sleep(within_s)
            return None
        ready = select.select(listeners, [], [], within_s)[0]
        return next((one for one in listeners if one in ready), None)

    def _serve(self, within_s: float) -> bool:
        """Take one update, if somebody comes within that time; return whether somebody did."""
        listener = self._next_listener(within_s)
        if listener is None:
            return False
        by_person = listener is self._listener
        connection, _ = listener.accept()
        self._is_cut_off = False
        with connection, suppress(OSError, DecodeError):
            incoming = Incoming(
                connection,
                READ_TIMEOUT_S if by_person else SPREAD_TIMEOUT_S,
                gives_way=None if by_person else self._listener,
            )

            def expect(described: Manifest) -> None:
                incoming.hashes = hashes_by_offset(described)

            try:
                if incoming.restart:
                    text = self.restart()
                else:
                    # Of what is older than this, a person decides.
                    text = self.take(incoming.read, older=incoming.older and by_person, expect=expect)
                said = Said(text=text, reason="")
            except RefusedError as error:
                logger.warning("an update was refused: %s", error.reason)
                self._is_cut_off = error.reason == "read"
                said = Said(text=str(error), reason=error.reason)
            incoming.say(said)
        return True

    def restart(self) -> str:
        """Have the machine start anew with what is newer; return what to tell, or raise RefusedError."""
        target = slots.other(self._card.running)
        try:
            record = self._card.record()
            if record.trial != target or not record.tries(target):
                raise RefusedError("nothing")
            self._settled.with_name(RESTART.name).touch()
        except OSError as error:
            raise RefusedError("write") from error
        return "This relay starts anew, with the newer software."

    def take(
        self,
        read: Callable[[int, int], bytes],
        *,
        older: bool,
        expect: Callable[[Manifest], None] = lambda _: None,
    ) -> str:
        """Write an update into the other slot, to start from next; return what to tell, or raise RefusedError.

        What runs, and all that is kept, is not touched. Cut off anywhere, it goes on where it was.

        :param read: returns so many bytes from an offset of the update; raises OSError
        :param expect: hears what they have to be, once that is known
        """
        running, target = self._card.running, slots.other(self._card.running)
        try:
            record = self._card.record()
            raw = _read_piece(read, 0, HEAD_BYTES)
            if self._own is None:
                raise RefusedError("wrong_key")
            head = accept(
                raw, self._own, sizes=self._card[target].sizes, held=self._card[running].name(), failed=record.failed,
                older=older,
            )  # fmt: skip
            described = head.manifest
            expect(described)
            if record.trial == running:
                raise RefusedError("on_trial")
            is_there = record.trial == target and record.tries(target)
            if not is_there or self._card[target].name() != described.name():
                self._card.remember(slots.emptied(record, target))
                with self._known_pieces(described) as known:

                    def source(offset: int, length: int) -> bytes:
                        return known(offset, length) or _read_piece(read, HEAD_BYTES + offset, length)

                    self._card[target].write(head, source, lambda: True)
                self._card.remember(slots.updated(self._card.record(), target, self._known()))
        except DecodeError as error:
            raise RefusedError("damaged") from error
        except OSError as error:
            raise RefusedError("write") from error
        self._say(self._card.record())
        logger.info("version %s is in slot %s", described.version, target)
        return (
            f"Version {described.version} is on the card, and is used from the next start. "
            "Let people fetch their messages, then switch off and on."
        )

    @contextmanager
    def _known_pieces(self, described: Manifest) -> Iterator[Callable[[int, int], bytes]]:
        """A source of what of an update is in the slot that runs, by its hash; b"" for what is not.

        Over a radio a piece takes eight seconds, from the card one of them.
        """
        running = self._card[self._card.running]
        try:
            own = running.head().manifest
        except (OSError, DecodeError):
            yield lambda _offset, _length: b""
            return
        wanted = hashes_by_offset(described)
        places = {digest: offset for offset, digest in hashes_by_offset(own).items()}
        with running.reading(own) as local:

            def known(offset: int, length: int) -> bytes:
                digest = wanted[HEAD_BYTES + offset]
                if digest not in places:
                    return b""
                with suppress(OSError):
                    piece = local(places[digest] - HEAD_BYTES, length)
                    if hashlib.sha256(piece).hexdigest() == digest:
                        return piece
                return b""

            yield known

    def _say(self, record: slots.Record, *more: Notice) -> None:
        told = ([TURNED_BACK] if record.failed else []) + list(more)
        target = slots.other(self._card.running)
        if record.trial == target and record.tries(target):
            told.append(WAITS)
        fresh = self._notices.with_suffix(".new")
        fresh.write_bytes(encode_notices(told))
        fresh.chmod(0o644)
        fresh.replace(self._notices)


def _read_piece(read: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    try:
        return read(offset, length)
    except OSError as error:
        raise RefusedError("read") from error


def read_own(release: Path = RELEASE, keys: Path = UPDATE_KEYS) -> Own | None:
    """What this relay is and whom it trusts; None where nothing says so."""
    try:
        own = Own.decode(release.read_text())
    except (OSError, DecodeError):
        return None
    with suppress(OSError):
        own = replace(own, keys=(*own.keys, *keys.read_text().split()))
    return own


def hashes_by_offset(described: Manifest) -> dict[int, str]:
    """SHA-256 of each piece, by its offset in the update."""
    found: dict[int, str] = {}
    offset = HEAD_BYTES
    for wanted in (described.boot, described.root):
        found |= {offset + at: digest for at, _, digest in wanted.pieces()}
        offset += wanted.size
    return found


def handed_over() -> dict[str, socket.socket]:
    """The sockets that systemd listens at for us, by their names (FileDescriptorName=)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return {name: socket.socket(fileno=_LISTEN_FD + at) for at, name in enumerate(names) if name}


def _show() -> str:
    command = ("systemctl", "show", "--property=Id,ActiveState,NRestarts", *UNITS)
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SYSTEMCTL_TIMEOUT_S)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("systemctl failed (%s)", getattr(error, "stderr", "") or error)
        return "Id=systemd\nActiveState=failed\n"
    return done.stdout


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def run(control: Path) -> int:
    """Do what there is to do at this start; return the exit status."""
    logs.setup("info")
    card = find_card()
    if card is None:
        raise NoSlotsError("this machine did not start from a relay's card")
    handed = handed_over()
    spread = handed.pop(_SPREAD, None)
    listener = next(iter(handed.values()), None)
    Slots(CardSlots(card), control, listener=listener, spread=spread, own=read_own()).run()
    return 0
