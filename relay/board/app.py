# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay board`: puts light, button, socket and boot partition together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from relay.appliance.addresses import own_addresses
from relay.appliance.apply import BootPartitionError
from relay.appliance.constants import HOST_KEY, REFUSED_ADAPTER, WORKS
from relay.board.board_server import board_server
from relay.board.button import Button, Press
from relay.board.inputs import Inputs
from relay.board.light import PATTERNS, Code, codes_of, foremost
from relay.board.status_file import Writing, facts, status_text
from relay.board.sysfs import SYS, Led, find_led, is_undervoltage, read_sensors
from relay.board.verbs import Request, Verb
from relay.control.control_client import ask_status, give_clock
from relay.control.notices import NOTICES, Notice, NoticeCode, encode_notices, read_notices
from relay.core.secret import SECRET_DIGITS
from relay.pages.participant import Works
from relay.process import logs
from relay.process.notify import Notifier
from relay.process.report_connection import report_forever
from relay.process.reports import Component, Reporter
from relay.process.stopping import stop_signals, until_stopped
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from pathlib import Path

    from relay.board.evdev import KeyEvent
    from relay.board.machine import Machine
    from relay.config.file import Config
    from relay.control.status import Status

logger = logging.getLogger(__name__)

#: Soon enough for somebody who looks at the light; four small questions a minute.
TICK_S: Final = 15.0
#: While the relay is not up yet somebody does look.
STARTING_TICK_S: Final = 2.0
#: The kernel forgets a dip after two seconds (relay/board/sysfs.py).
VOLTAGE_TICK_S: Final = 1.0
#: A large store takes minutes to be read on a slow card.
PATIENCE_S: Final = 300.0
IDENTIFY_S: Final = 10.0
#: Time to see that it is done.
ERASED_S: Final = 3.0

_REFUSED_ADAPTER = Notice(
    code=NoticeCode.HINT,
    text="A network adapter was plugged into USB after the start, and is not used: anybody could do that. "
    "If it is yours, switch the relay off and on with the adapter in it.",
)
_UNDERVOLTAGE = Notice(
    code=NoticeCode.UNDERVOLTAGE,
    text="The voltage was too low since the start: use another power supply or a shorter, thicker cable. "
    "A weak supply damages cards.",
)


#: Under which heading of relay-status.txt a condition stands.
_NOTICE_OF: Final = {"net_down": NoticeCode.NETWORK, "ble_down": NoticeCode.NETWORK, "card_worn": NoticeCode.STORAGE}
#: What the board says by notices of its own, and what is over before somebody reads the file.
_OTHERWISE_SAID: Final = frozenset(
    {
        "starting",
        "undervoltage",
        "config_mistake",
        "secret_mistake",
        "card_trouble",
        "turned_back",
        "board_trouble",
        "network_trouble",
        "board_down",
        "alone",
        "store_evicting",
        "store_refusing",
    }
)


class Board:
    """State of the board.

    ``notices``: the file with what was found at the start, ``sticks`` that of `relay stick`, ``slots`` of `relay slot`;
    ``refused_adapter``: there if a network adapter was; ``sys``: where /sys is.
    """

    def __init__(
        self,
        *,
        config: Config,
        machine: Machine,
        socket: Path,
        notices: Path = NOTICES[0],
        sticks: Path = NOTICES[2],
        slots: Path = NOTICES[3],
        refused_adapter: Path = REFUSED_ADAPTER,
        sys: Path = SYS,
    ) -> None:
        self._config = config
        self._board = config.board
        self._machine = machine
        self._socket = socket
        self._sys = sys
        self._own_notices_file = socket.with_name(NOTICES[1].name)
        self._start_notices = notices
        self._sticks = sticks
        self._slots = slots
        self._refused_adapter = refused_adapter
        self._reporter = Reporter(Component.BOARD)
        self._button = Button(self._board.panic_hold_s)
        self._timer: asyncio.TimerHandle | None = None
        self._relay_codes = {Code.STARTING}
        self._own_codes: set[Code] = set()
        self._changed = asyncio.Event()
        self._panic = asyncio.Event()
        self._power_off = asyncio.Event()
        self._clock_given = asyncio.Event()
        self._given_s = 0
        self._undervoltage = False
        self._boot_error = ""
        self._writing = Writing()
        #: When the stick that is plugged in got its report; 0: it has none.
        self._reported_ns = 0
        self._drawn_secret = secrets.token_hex(SECRET_DIGITS // 2)

    async def run(self, notifier: Notifier) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        inputs = Inputs(loop, self._on_key, self._on_gone)
        try:
            async with board_server(self._socket, self._perform, self._on_refused), TaskGroup() as tasks:
                self._reporter.up = True
                tasks.create_task(self._shine())
                # First: what was wrong from the start is written to the card at once.
                tasks.create_task(self._watch_voltage())
                tasks.create_task(self._tick(inputs if self._board.panic_button else None, notifier))
                tasks.create_task(self._give_clock())
                tasks.create_task(self._die())
                tasks.create_task(report_forever(self._config.unix.path, self._reporter, random=random.random))
                notifier.ready("watching")
        finally:
            inputs.close()

    def stopped(self) -> None:
        """Note that the process was told to end."""
        self._reporter.stopped()

    # Light

    def _code(self) -> Code | None:
        return foremost(self._relay_codes | self._own_codes, dark=not self._board.led)

    def _say(self, code: Code, *, on: bool) -> None:
        before = self._code()
        (self._own_codes.add if on else self._own_codes.discard)(code)
        if self._code() is not before:
            self._changed.set()

    async def _shine(self) -> None:
        """Play the pattern of the foremost code; a light that is not there is looked for again."""
        while True:
            folder = find_led(self._sys)
            with contextlib.suppress(OSError):
                if folder is not None:
                    await self._play(Led(folder))
            await asyncio.sleep(TICK_S)

    async def _play(self, led: Led) -> None:
        step = 0
        while True:
            code = self._code()
            pattern = PATTERNS[code] if code else ()
            on = bool(pattern) and step % 2 == 0
            led.switch(on=on)
            # A steady light, and none, wait for a change only.
            wait_s = pattern[step % len(pattern)] if len(pattern) > 1 else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
                self._changed.clear()
                step = 0
            except TimeoutError:
                step = (step + 1) % len(pattern)

    # Button

    def _on_key(self, device: str, event: KeyEvent) -> None:
        now = asyncio.get_running_loop().time()
        self._pressed(self._button.key(device, event.code, down=event.down, now=now))

    def _on_gone(self, device: str) -> None:
        self._pressed(self._button.gone(device))

    def _on_deadline(self) -> None:
        self._pressed(self._button.expire(asyncio.get_running_loop().time()))

    def _pressed(self, press: Press | None) -> None:
        if press is Press.DOWN:
            self._reporter.count("button_pressed")
            self._say(Code.HELD, on=True)
        elif press is Press.LET_GO:
            self._say(Code.HELD, on=False)
        elif press is Press.PANIC:
            self._panic.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._button.deadline_s is not None:
            self._timer = asyncio.get_running_loop().call_at(self._button.deadline_s, self._on_deadline)

    # Verbs

    def _perform(self, request: Request) -> object:
        verb = request.verb
        if verb is Verb.CLOCK:
            self._given_s = request.unix_s
            self._clock_given.set()
        elif verb is Verb.PANIC:
            self._panic.set()
        elif verb is Verb.POWEROFF:
            self._power_off.set()
        elif verb is Verb.IDENTIFY:
            self._say(Code.IDENTIFY, on=True)
            asyncio.get_running_loop().call_later(IDENTIFY_S, lambda: self._say(Code.IDENTIFY, on=False))
        code = self._code()
        return {
            "light": code.value if code else "dark",
            "undervoltage": self._undervoltage,
            "notices": [{"code": str(notice.code), "text": notice.text} for notice in self._notices()],
        }

    def _on_refused(self) -> None:
        self._reporter.count("verbs_refused")

    async def _give_clock(self) -> None:
        """Pass the time that an operator gave on to the relay, which takes it from root; he looks at its status."""
        while True:
            await self._clock_given.wait()
            self._clock_given.clear()
            if not await give_clock(self._config.control.path, self._given_s):
                logger.warning("the relay did not take the time that an operator gave")

    async def _die(self) -> None:
        """Wait for the end that somebody asks for."""
        panic = asyncio.ensure_future(self._panic.wait())
        power_off = asyncio.ensure_future(self._power_off.wait())
        try:
            await asyncio.wait({panic, power_off}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            panic.cancel()
            power_off.cancel()
        if self._panic.is_set():
            self._reporter.count("panics")
            logger.warning("panic: erasing")
            self._say(Code.PANIC, on=True)
            try:
                left = await asyncio.to_thread(self._machine.erase)
            except Exception as error:  # noqa: BLE001 - a mistake of ours: the next start finds the mark, and goes on
                left = (f"what comes after {type(error).__name__}",)
            if left:
                # It flickers to the end.
                logger.error("could not be erased: %s", ", ".join(left))
            else:
                self._say(Code.PANIC, on=False)
                self._say(Code.ERASED, on=True)
            await asyncio.sleep(ERASED_S)
        await asyncio.to_thread(self._machine.power_off, force=self._panic.is_set())

    # What there is to say

    def _notices(self) -> list[Notice]:
        """What was found at the start, of a stick and of the software, and what the board found since."""
        return read_notices([self._start_notices, self._sticks, self._slots]) + self._own_notices()

    def _own_notices(self) -> list[Notice]:
        own = [_UNDERVOLTAGE] if self._undervoltage else []
        if self._refused_adapter.exists():
            own.append(_REFUSED_ADAPTER)
        if self._boot_error:
            own.append(Notice(code=NoticeCode.BOARD, text=self._boot_error))
        return own

    async def _tick(self, inputs: Inputs | None, notifier: Notifier) -> None:
        told: list[Notice] | None = None
        started_s = asyncio.get_running_loop().time()
        while True:
            notifier.watchdog()
            if inputs is not None:
                inputs.scan()
            for name, value in read_sensors(self._sys).items():
                self._reporter.measured(name, value)
            notices = self._notices()
            codes = {notice.code for notice in notices}
            if told is None and NoticeCode.CONFIG in codes:
                self._reporter.count("config_refused")
            if told != (told := self._own_notices()):
                self._tell(told)
            self._say(Code.CONFIG, on=NoticeCode.CONFIG in codes)
            self._say(Code.CARD, on=bool(self._boot_error) or NoticeCode.STORAGE in codes)
            self._say(Code.NO_COUNTRY, on=NoticeCode.NO_COUNTRY in codes)
            before = self._code()
            status = await ask_status(self._config.control.path)
            self._relay_codes = codes_of(status)
            works_now = Works.of(
                ready=status is not None and status.ready, well=status is None or not status.problems()
            )
            _leave(self._socket.with_name(WORKS.name), f"{works_now}\n".encode())
            if host_key := self._machine.host_key():
                _leave(self._socket.with_name(HOST_KEY.name), f"{host_key}\n".encode())
            if status is not None:
                notices += _told(status)
            if self._code() is not before:
                self._changed.set()
            works = Code.STARTING not in self._relay_codes
            # Written once a start, not first that it does not work yet and then that it does.
            if works or asyncio.get_running_loop().time() - started_s >= PATIENCE_S:
                text_of = partial(status_text, notices, works=works, drawn_secret=self._drawn_secret, host_key=host_key)
                urgent = text_of()
                said = {notice.text for notice in notices if notice.code.serious}
                now_told = facts(status, own_addresses(self._start_notices.parent), said)
                text = text_of(told=now_told)
                await self._write(text, urgent)
            self._look_at_stick()
            await asyncio.sleep(TICK_S if works else STARTING_TICK_S)

    async def _watch_voltage(self) -> None:
        """Tell how the supply is, and count its dips; that there was one is said until the next start."""
        was_low = False
        while True:
            is_low = is_undervoltage(self._sys)
            if is_low is not None:
                self._reporter.gauge("undervoltage", int(is_low))
                self._reporter.gauge("undervoltage_seen", int(is_low or self._undervoltage))
            if is_low and not was_low:
                self._reporter.count("undervoltage")
            if is_low and not self._undervoltage:
                self._undervoltage = True
                logger.warning("the supply voltage was too low")
                self._say(Code.VOLTAGE, on=True)
            was_low = bool(is_low)
            await asyncio.sleep(TICK_S if is_low is None else VOLTAGE_TICK_S)

    def _tell(self, own: list[Notice]) -> None:
        """Leave the board's own notices for the status page."""
        _leave(self._own_notices_file, encode_notices(own))

    def _look_at_stick(self) -> None:
        """Let the light say that `relay stick` has left a report: whoever plugged the stick in waits for that."""
        try:
            reported_ns = self._sticks.with_name("reported").stat().st_mtime_ns
        except OSError:
            reported_ns = 0
        if reported_ns > self._reported_ns:
            self._perform(Request(Verb.IDENTIFY))
        self._reported_ns = reported_ns

    async def _write(self, text: bytes, urgent: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if not self._writing.due(text, now, urgent=urgent) or self._panic.is_set():
            return
        try:
            wrote = await asyncio.to_thread(self._machine.write_status, text)
        except (BootPartitionError, OSError) as error:
            # Tried again with the next change; the card may be worn out.
            self._boot_error = "The drive MESH-RELAY cannot be written: write the card anew, or use another."
            logger.warning("the boot partition cannot be written (%s)", type(error).__name__)
            wrote = False
        self._writing.done(text, now, urgent=urgent, wrote=wrote)


def _leave(file: Path, content: bytes) -> None:
    """Put ``content`` where every process of the appliance may read it."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.chmod(0o644)
    fresh.replace(file)


def _told(status: Status) -> list[Notice]:
    """What the relay itself says for relay-status.txt: what of its conditions is no notice already."""
    return [
        Notice(code=_NOTICE_OF.get(one.name, NoticeCode.HEALTH), text=text)
        for one in status.conditions
        if one.is_problem and one.name not in _OTHERWISE_SAID
        # Of radios the details are whole sentences.
        for text in (one.details if one.name in {"net_down", "ble_down"} else [one.text])
    ]


async def serve(board: Board) -> None:
    """Run until SIGTERM or SIGINT."""
    notifier = Notifier(os.environ)
    await until_stopped(stop_signals(), [board.run(notifier)], notifier, board.stopped)


def run(config: Config, machine: Machine, socket: Path) -> int:
    """Run until told to end; return the exit status."""
    logs.setup(config.log.level)
    asyncio.run(_run(config, machine, socket))
    return 0


async def _run(config: Config, machine: Machine, socket: Path) -> None:
    await serve(Board(config=config, machine=machine, socket=socket))
