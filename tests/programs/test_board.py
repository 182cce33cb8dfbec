# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay board` as a whole, with a /sys and a machine made of files."""

import asyncio
import html
import inspect
import socket
import stat
import threading
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from relay.appliance.apply import BootPartitionError
from relay.board import app
from relay.board.app import Board
from relay.board.board_client import BoardError, ask
from relay.board.verbs import Verb
from relay.config.board import BoardConfig
from relay.config.file import default_config
from relay.config.net import NetConfig, RadioConfig
from relay.control.notices import Notice, NoticeCode, encode_notices, read_notices
from relay.control.status import ComponentStatus
from relay.net import net_report
from relay.net.access_point import AccessPoint
from relay.net.bridge import Bridge
from relay.net.errors import ForeignStateError, UnsuitableError
from relay.net.machine import Machine as NetMachine
from relay.net.net_report import Reporting
from relay.net.radio import RadioTask
from relay.process.link_socket import decode_preamble
from relay.process.notify import Notifier
from relay.process.reports import Component, Idle, decode_report
from tests.programs.test_web import get
from tests.waiting import wait_until

HOST_KEY = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
#: Longer than any wait below on a busy machine.
PATIENCE_S = 20


class Machine:
    """Notes what is asked of it; ``broken``: its boot partition cannot be written."""

    def __init__(self, *, broken=False):
        self.broken = broken
        self.done = []
        self.texts = []
        self.resists = ()

    def host_key(self):
        return HOST_KEY

    def erase(self):
        self.done.append("erase")
        return self.resists

    def power_off(self, *, force=False):
        self.done.append("force off" if force else "off")

    def write_status(self, text):
        if self.broken:
            raise BootPartitionError("no")
        self.texts.append(text.decode("utf-8-sig"))
        return True


class Place:
    """Files and sockets of one board."""

    def __init__(self, folder, control):
        self.led = folder / "sys" / "class" / "leds" / "ACT"
        self.led.mkdir(parents=True)
        for name, text in (("max_brightness", "1"), ("brightness", "0"), ("trigger", "none [mmc0]")):
            (self.led / name).write_text(text)
        self.sys = folder / "sys"
        self.notices = folder / "notices" / "notices.json"
        self.notices.parent.mkdir()
        self.sticks = folder / "stick" / "notices.json"
        self.sticks.parent.mkdir()
        self.refused = folder / "refused"
        self.socket = folder / "board.sock"
        self.own_notices = folder / "notices.json"
        self.link = folder / "link.sock"
        config = default_config({"HOME": str(folder)})
        self.config = replace(
            config,
            control=replace(config.control, path=control),
            unix=replace(config.unix, path=self.link),
        )

    def lit(self):
        return (self.led / "brightness").read_text() == "1"

    def status(self):
        return ask(self.socket, Verb.STATUS)


@pytest.fixture
def place(tmp_path, control):
    return Place(tmp_path, control)


@pytest.fixture
def run(place):
    """Start the board, in a thread, and return how to tell it to end; it ends with the test at the latest."""
    ends = []

    def start(machine, board=BoardConfig(panic_button=False)):  # noqa: B008 - frozen
        started = threading.Event()
        loops = []

        async def serve():
            made = Board(
                config=replace(place.config, board=board),
                machine=machine,
                socket=place.socket,
                notices=place.notices,
                sticks=place.sticks,
                refused_adapter=place.refused,
                sys=place.sys,
            )
            task = asyncio.ensure_future(made.run(Notifier({})))

            def stop():
                made.stopped()
                task.cancel()

            loops.append((asyncio.get_running_loop(), stop))
            started.set()
            await asyncio.wait({task})

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        assert started.wait(PATIENCE_S)
        loop, stop = loops[0]
        ends.append((thread, loop, stop))
        until(place.socket.exists)
        return lambda: loop.call_soon_threadsafe(stop)

    yield start
    for thread, loop, stop in ends:
        with suppress(RuntimeError):  # ended by itself
            loop.call_soon_threadsafe(stop)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def until(true):
    return wait_until(inspect.getsource(true).strip(), true, PATIENCE_S)


def test_the_light_says_how_the_relay_is(place, run):
    run(Machine())
    until(lambda: place.status()["light"] == "clock")
    until(place.lit)
    until(lambda: not place.lit())
    assert (place.led / "trigger").read_text() == "none"
    assert stat.S_IMODE(place.socket.stat().st_mode) == 0o660


def test_a_relay_that_does_not_answer_is_starting(place, run):
    place.config = replace(place.config, control=replace(place.config.control, path=Path("/nowhere")))
    machine = Machine()
    run(machine)
    time.sleep(1)
    assert place.status()["light"] == "starting"
    assert machine.texts == []


def test_what_is_wrong_with_the_file_is_on_light_and_card_once(place, run):
    place.notices.write_bytes(encode_notices([Notice(code=NoticeCode.CONFIG, text="line 3: no")]))
    machine = Machine()
    run(machine)
    until(lambda: place.status()["light"] == "config")
    until(lambda: machine.texts)
    assert HOST_KEY in machine.texts[0]
    assert place.socket.with_name("host-key").read_text().strip() == HOST_KEY
    assert "MISTAKE: line 3: no" in machine.texts[0]
    assert "started and works" in machine.texts[0]


def told_of(complain):
    """What an operator hears once `relay net` has complained so for a while: its own report, as it is sent."""

    async def work():
        told = Reporting(ports=2)
        radio = RadioConfig(interface="wlan0")
        config = NetConfig(bridge=("eth0", "eth1"), radios={"air": radio}, access_point="wlan1")
        machine = NetMachine(config, links=None, radios=None, record=None, runtime=Path(), reporting=told)
        complain(machine)
        await asyncio.sleep(0.05)
        told.reporter.connected()
        return decode_report(Component.NET, told.reporter.line(0.0)[:-1])

    report = asyncio.run(work())
    return ComponentStatus(name="net", connected=True, up=report.up, troubles=list(report.troubles))


_BARRED = UnsuitableError("wlan0: channel 13 is not allowed here: choose one of 1-11")


@pytest.mark.parametrize(
    ("complain", "said"),
    [
        (lambda machine: AccessPoint(machine)._complain(_BARRED), f"The access point for phones is off: {_BARRED}."),
        (
            lambda machine: RadioTask("air", machine.config.radios["air"], machine)._complain(_BARRED),
            f"Wi-Fi between relays is off: {_BARRED}.",
        ),
        (
            lambda machine: Bridge(machine)._tell({"eth0"}),
            "The LAN bridge lacks a port: there is no eth1: plug it in, or name another.",
        ),
        (
            lambda machine: Bridge(machine)._failed(ForeignStateError("another program has made an interface br-mesh")),
            "The LAN bridge does not work: another program has made an interface br-mesh.",
        ),
    ],
    ids=["access point", "mesh", "port of the bridge", "bridge"],
)
def test_what_of_the_network_does_not_come_up_is_on_light_card_and_page(
    place, run, engine, monkeypatch, complain, said
):
    monkeypatch.setattr(net_report, "GRACE_S", 0.0)
    engine.changes = {"components": [told_of(complain)]}
    machine = Machine()
    run(machine)
    until(lambda: place.status()["light"] == "network")
    until(lambda: machine.texts)
    on_card = " ".join(machine.texts[0].split())
    assert "NETWORK: " in on_card
    assert said in on_card
    assert said in html.unescape(get(engine, "/")[2])


def alarm(place, number):
    """What the kernel says of the supply."""
    file = place.sys / "class" / "hwmon" / "hwmon0" / "in0_lcrit_alarm"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_name("name").write_text("rpi_volt\n")
    file.write_text(f"{number}\n")


def test_a_weak_supply_is_told_everywhere(place, run):
    alarm(place, 1)
    machine = Machine()
    run(machine)
    until(lambda: place.status()["light"] == "voltage")
    assert place.status()["undervoltage"] is True
    until(lambda: machine.texts)
    assert "POWER: " in machine.texts[0]
    assert [notice.code for notice in read_notices([place.own_notices])] == [NoticeCode.UNDERVOLTAGE]


def test_one_short_dip_of_the_supply_is_noticed_and_remembered(place, run):
    alarm(place, 0)
    run(Machine())
    until(lambda: place.status()["light"] == "clock")
    # The kernel's driver forgets it after two seconds.
    alarm(place, 1)
    time.sleep(2)
    alarm(place, 0)
    assert place.status()["light"] == "voltage"


def test_a_card_that_cannot_be_written_is_no_end(place, run, monkeypatch):
    monkeypatch.setattr(app, "TICK_S", 0.2)
    run(Machine(broken=True))
    until(lambda: any("MESH-RELAY" in notice["text"] for notice in place.status()["notices"]))
    until(lambda: place.status()["light"] == "card")


def test_what_became_of_a_stick_is_told_and_the_light_says_once_that_it_has_its_report(place, run, monkeypatch):
    monkeypatch.setattr(app, "TICK_S", 0.1)
    monkeypatch.setattr(app, "IDENTIFY_S", 0.5)
    run(Machine())
    until(lambda: place.status()["light"] == "clock")
    place.sticks.write_bytes(encode_notices([Notice(code=NoticeCode.HINT, text="The stick has the report.")]))
    place.sticks.with_name("reported").touch()
    until(lambda: place.status()["light"] == "identify")
    assert "The stick has the report." in [notice["text"] for notice in place.status()["notices"]]
    until(lambda: place.status()["light"] == "clock")
    # Pulled out, and another one plugged in.
    place.sticks.unlink()
    place.sticks.with_name("reported").unlink()
    until(lambda: not place.status()["notices"])
    time.sleep(0.3)
    place.sticks.with_name("reported").touch()
    until(lambda: place.status()["light"] == "identify")


def test_a_network_adapter_that_is_not_used_is_told_with_the_remedy(place, run, monkeypatch):
    monkeypatch.setattr(app, "TICK_S", 0.1)
    run(Machine())
    assert place.status()["notices"] == []
    place.refused.touch()
    until(lambda: "switch the relay off and on" in str(place.status()["notices"]))
    until(lambda: "network adapter" in str(read_notices([place.own_notices])))


def test_panic_erases_shows_it_and_switches_off(place, run, monkeypatch):
    monkeypatch.setattr(app, "ERASED_S", 0.3)
    machine = Machine()
    run(machine)
    ask(place.socket, Verb.PANIC)
    until(lambda: machine.done == ["erase", "force off"])
    assert place.status()["light"] == "erased"
    assert place.lit()


@pytest.mark.parametrize("resists", [("the drive MESH-RELAY",), None], ids=["it resists", "a mistake of ours"])
def test_a_panic_that_could_not_erase_all_does_not_say_that_it_did(place, run, monkeypatch, resists):
    monkeypatch.setattr(app, "ERASED_S", 0.3)
    machine = Machine()
    machine.resists = resists
    if resists is None:

        def fail():
            machine.done.append("erase")
            raise AttributeError

        machine.erase = fail
    run(machine)
    ask(place.socket, Verb.PANIC)
    until(lambda: machine.done == ["erase", "force off"])
    assert place.status()["light"] == "panic"


def test_a_dark_relay_is_found_by_nobody(place, run):
    run(Machine(), BoardConfig(led=False, panic_button=False))
    until(lambda: place.status()["light"] == "dark")
    ask(place.socket, Verb.IDENTIFY)
    assert place.status()["light"] == "dark"
    for _ in range(20):
        assert not place.lit()
        time.sleep(0.02)


def test_among_many_it_can_be_found(place, run):
    run(Machine())
    ask(place.socket, Verb.IDENTIFY)
    assert place.status()["light"] == "identify"


def test_power_off_waits_for_services(place, run):
    machine = Machine()
    run(machine)
    ask(place.socket, Verb.POWEROFF)
    until(lambda: machine.done == ["off"])


def test_a_board_that_does_not_run_is_told_with_a_remedy(tmp_path):
    with pytest.raises(BoardError, match=r"relay-board\.service"):
        ask(tmp_path / "none.sock", Verb.STATUS)


@asynccontextmanager
async def relay_run(path):
    """What `relay run` hears of components: the reports of each connection."""
    heard = asyncio.Queue()
    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        assert decode_preamble((await reader.readline()).rstrip()) is Component.BOARD
        while line := await reader.readline():
            heard.put_nowait(decode_report(Component.BOARD, line.rstrip(b"\n")))

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield heard
    finally:
        server.close()
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def hear(path, event):
    async with relay_run(path) as heard, asyncio.timeout(PATIENCE_S):
        while (report := await heard.get()).counters[event] == 0:
            pass
        return report


def test_a_board_that_is_told_to_end_is_no_fault(place, run):
    stop = run(Machine())

    async def look():
        async with relay_run(place.link) as heard, asyncio.timeout(PATIENCE_S):
            assert (await heard.get()).up
            stop()
            while (report := await heard.get()).up:
                pass
            return report

    assert asyncio.run(look()).idle is Idle.STOPPED


def test_what_nobody_may_ask_for_is_refused_and_counted(place, run):
    run(Machine())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(place.socket))
        sock.settimeout(PATIENCE_S)
        sock.sendall(b'{"v": 1, "op": "reboot"}\n' + b"x" * 300)
        with sock.makefile("rb") as file:
            assert b"unknown operation" in file.readline()
            assert file.readline() == b""
    report = asyncio.run(hear(place.link, "verbs_refused"))
    assert report.up
    assert report.counters["verbs_refused"] == 2
