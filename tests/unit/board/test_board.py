# SPDX-License-Identifier: GPL-2.0-or-later
import json
import os
import struct
import subprocess
from dataclasses import replace

import pytest

from relay.appliance.addresses import own_addresses
from relay.board.button import Button, Press
from relay.board.erase import erase_files, erase_folders, erase_secrets
from relay.board.evdev import KeyEvent, decode_keys
from relay.board.light import PATTERNS, Code, codes_of, foremost
from relay.board.machine import Machine
from relay.board.status_file import LEAST_INTERVAL_S, MAX_FACT_WRITES, MAX_WRITES, Writing, facts, status_text
from relay.board.sysfs import Led, find_led, is_undervoltage, read_sensors
from relay.board.verbs import Request, Verb, decode_request, encode_request
from relay.control.conditions import with_conditions
from relay.control.notices import Notice, NoticeCode
from relay.control.status import ClockStatus, ComponentStatus, LinkStatus, Status, StoreStatus
from relay.core.errors import DecodeError

POWER = 116


# Light


def test_the_most_important_thing_is_shown():
    assert foremost({Code.WORKING, Code.CLOCK, Code.CONFIG}) is Code.CONFIG
    assert foremost(set(Code)) is Code.PANIC
    assert foremost(set()) is None


def test_a_dark_relay_answers_only_to_a_finger_on_its_button():
    assert foremost({Code.WORKING, Code.CONFIG, Code.IDENTIFY}, dark=True) is None
    assert foremost({Code.WORKING, Code.HELD}, dark=True) is Code.HELD
    assert foremost({Code.STARTING, Code.PANIC}, dark=True) is Code.PANIC


def test_every_code_can_be_told_from_every_other():
    waiting = {code: pattern for code, pattern in PATTERNS.items() if code not in {Code.ERASED, Code.HELD}}
    assert PATTERNS.keys() == set(Code)
    assert len(set(waiting.values())) == len(waiting)
    # No flash shorter than an eye takes in, no turn longer than a look at the box.
    assert all(part >= 0.05 for pattern in PATTERNS.values() for part in pattern)
    assert all(sum(pattern) < 6 for pattern in PATTERNS.values())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (None, Code.STARTING),
        (Status(version="1"), Code.STARTING),
        (Status(version="1", ready=True), Code.CLOCK),
        (Status(version="1", ready=True, clock=ClockStatus(trusted=True)), Code.WORKING),
        (Status(version="1", ready=True, store=StoreStatus(writable=False)), Code.CARD),
        (Status(version="1", ready=True, store=StoreStatus(unreadable_bodies=1)), Code.CARD),
        (Status(version="1", ready=True, store=StoreStatus(writable=False, bytes=9, max_bytes=9)), Code.CARD),
        (Status(version="1", ready=True, store=StoreStatus(bytes=999, max_bytes=1000)), Code.FULL),
        (Status(version="1", ready=True, store=StoreStatus(envelopes=5, max_envelopes=5)), Code.FULL),
        (Status(version="1", ready=True, store=StoreStatus(bytes=500, max_bytes=1000)), Code.CLOCK),
        (Status(version="1", ready=True, components=[ComponentStatus(name="net", troubles=["x"])]), Code.NETWORK),
        (Status(version="1", ready=True, components=[ComponentStatus(name="net")]), Code.WIFI),
        (Status(version="1", ready=True, components=[ComponentStatus(name="ble", connected=True)]), Code.BLUETOOTH),
        (Status(version="1", ready=True, components=[ComponentStatus(name="ble", idle="no_adapter")]), Code.CLOCK),
        (
            Status(version="1", ready=True, components=[ComponentStatus(name="ble", connected=True, up=True)]),
            Code.CLOCK,
        ),
        (Status(version="1", ready=True, components=[ComponentStatus(name="net", idle="stopped")]), Code.CLOCK),
    ],
)
def test_the_relays_status_is_on_the_light(status, code):
    assert foremost(codes_of(status and with_conditions(status))) is code


# Button


def test_a_short_press_does_nothing():
    button = Button(5)
    assert button.key("a", POWER, down=True, now=100) is Press.DOWN
    assert button.deadline_s == 105
    assert button.expire(104.9) is None
    assert button.key("a", POWER, down=False, now=104.9) is Press.LET_GO
    assert button.deadline_s is None
    assert button.expire(1000) is None


def test_held_long_enough_it_is_panic_once():
    button = Button(5)
    button.key("a", POWER, down=True, now=100)
    assert button.expire(105) is Press.PANIC
    assert button.expire(111) is None
    assert button.key("a", POWER, down=False, now=112) is None
    assert button.key("a", POWER, down=True, now=120) is Press.DOWN


def test_a_key_that_bounces_begins_anew():
    button = Button(5)
    for now in (100, 101, 102):
        button.key("a", POWER, down=True, now=now)
        button.key("a", POWER, down=False, now=now + 0.01)
    button.key("a", POWER, down=True, now=103)
    assert button.expire(107.9) is None
    assert button.expire(108) is Press.PANIC


def test_a_keyboard_pulled_out_is_not_held():
    button = Button(5)
    button.key("a", POWER, down=True, now=100)
    assert button.gone("b") is None
    assert button.gone("a") is Press.LET_GO
    assert button.expire(200) is None


def test_two_buttons_are_one():
    button = Button(5)
    button.key("a", POWER, down=True, now=100)
    assert button.key("b", POWER, down=True, now=102) is None
    assert button.key("a", POWER, down=False, now=103) is None
    assert button.expire(105) is Press.PANIC


def test_only_presses_and_releases_of_buttons_are_heard():
    def event(kind, code, value):
        return struct.pack("@llHHi", 1, 2, kind, code, value)

    data = (
        event(1, POWER, 1)
        + event(0, 0, 0)
        + event(1, 30, 1)
        + event(1, POWER, 2)
        + event(2, POWER, 1)
        + event(1, POWER, 0)
        + event(1, 148, 1)
        + b"cut off"
    )
    assert list(decode_keys(data)) == [KeyEvent(POWER, True), KeyEvent(POWER, False), KeyEvent(148, True)]


# Verbs


@pytest.mark.parametrize("verb", Verb)
def test_each_verb_is_understood(verb):
    request = Request(verb, 1_700_000_000 if verb is Verb.CLOCK else 0)
    assert decode_request(encode_request(request).rstrip(b"\n")) == request


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "JSON"),
        (b"[" * 250, "JSON"),
        (b"[]", "version"),
        (b'{"v": 2, "op": "status"}', "version"),
        (b'{"v": true, "op": "status"}', "version"),
        (b'{"v": 1, "op": "reboot"}', "status, clock, identify, panic, poweroff"),
        (b'{"v": 1, "op": ["status"]}', "unknown"),
        (b'{"v": 1}', "unknown"),
        (b'{"v": 1, "op": "status", "x": 1}', "no more"),
        (b'{"v": 1, "op": "panic"}', "sure"),
        (b'{"v": 1, "op": "panic", "sure": 1}', "sure"),
        (b'{"v": 1, "op": "panic", "sure": false}', "sure"),
        (b'{"v": 1, "op": "poweroff", "path": "/etc/shadow"}', "no more"),
        (b'{"v": 1, "op": "clock"}', "unix_s"),
        (b'{"v": 1, "op": "clock", "unix_s": "now"}', "unix_s"),
        (b'{"v": 1, "op": "clock", "unix_s": true}', "unix_s"),
        (b'{"v": 1, "op": "clock", "unix_s": -1}', "unix_s"),
        (b'{"v": 1, "op": "clock", "unix_s": 1, "sure": true}', "no more"),
        (b" " * 257, "more than 256"),
    ],
)
def test_everything_else_is_refused(line, said):
    with pytest.raises(DecodeError, match=said):
        decode_request(line)


# relay-status.txt


def test_the_status_file_reads_well_in_notepad():
    notice = Notice(code=NoticeCode.CONFIG, text="line 3: “DE” " + "word " * 40)
    raw = status_text([notice], works=True, drawn_secret="")
    assert raw.startswith(b"\xef\xbb\xbf")
    assert raw.count(b"\n") == raw.count(b"\r\n")
    text = raw.decode("utf-8-sig")
    assert "MISTAKE: line 3: “DE”" in text
    assert max(map(len, text.splitlines())) <= 76
    assert "has no mistake" not in text
    assert "no mistake" in status_text([], works=True, drawn_secret="").decode()
    assert "did not come up" in status_text([], works=False, drawn_secret="").decode()


@pytest.mark.tools
def test_who_logs_in_has_the_key_to_compare_with_as_his_computer_shows_it(tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    machine = Machine(boot_device=None, host_key_file=tmp_path / "key.pub")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key"], check=True, capture_output=True, text=True)
    assert machine.host_key() == shown.stdout.split()[1]
    text = status_text([], works=True, drawn_secret="", host_key=machine.host_key()).decode("utf-8-sig")
    assert f"\r\n  {machine.host_key()}\r\n" in text
    assert Machine(boot_device=None, host_key_file=tmp_path / "none").host_key() == ""


def test_what_goes_up_and_down_by_itself_is_written_by_the_hour_and_leaves_room_for_what_is_urgent():
    writing = Writing()
    written = []
    for minute in range(24 * 60):
        text = b"neighbours %d" % minute
        if writing.due(text, minute * 60.0, urgent=b""):
            writing.done(text, minute * 60.0, urgent=b"", wrote=True)
            written.append(minute)
    # The first is what is there at all.
    assert written == [60 * hour for hour in range(MAX_FACT_WRITES + 1)]
    assert writing.due(b"a mistake", 24 * 3600.0 + 60, urgent=b"a mistake")


def test_it_says_address_store_neighbours_clock_and_alerts_in_steps():
    status = Status(
        version="1",
        ready=True,
        relays=5,
        store=StoreStatus(bytes=95, max_bytes=100, unreadable_bodies=2),
        clock=ClockStatus(trusted=True, source="operator"),
    )
    status = with_conditions(status)
    told = facts(status, ["http://10.42.70.1/ (its access point)"])
    assert told[:5] == [
        "Page: http://10.42.70.1/ (its access point)",
        "Store: nearly full",
        "Without power: what is not delivered yet is kept",
        "Relays near: 4 to 15",
        "Clock: operator",
    ]
    assert [line for line in told[5:] if "damaged" in line]
    assert all(line.startswith("Alert: ") for line in told[5:])
    lost = replace(status, store=replace(status.store, durable=False))
    assert "Without power: what is not delivered yet is DELETED" in facts(lost, [])
    # What moves within a step changes nothing on the card.
    moved = replace(status, relays=9, store=replace(status.store, bytes=96), uptime_s=99.0)
    assert facts(moved, ["http://10.42.70.1/ (its access point)"]) == told
    well = Status(
        version="1", ready=True, clock=ClockStatus(trusted=True), links=[LinkStatus(kind="tcp", interface="eth0")]
    )
    assert facts(with_conditions(well), [])[-1] == "Alert: none"
    # What stands there as a notice is not said twice.
    assert facts(status, [], status.problems())[-1] == "Alert: what is said above"
    assert "does not answer" in facts(None, [])[-1]
    raw = status_text([], works=True, drawn_secret="", told=told).decode("utf-8-sig")
    assert max(map(len, raw.splitlines())) <= 76


def test_the_addresses_are_those_by_which_it_can_be_reached(tmp_path):
    output, leases = tmp_path / "output", tmp_path / "leases"
    assert own_addresses(output, leases) == []
    output.mkdir()
    leases.mkdir()
    (output / "access-point-wifi0").touch()
    (output / "segment-cable").write_text('{"address": "10.57.16.1", "election": "00"}')
    (leases / "2").write_text("# This is private data.\nADDRESS=192.0.2.7\nNETMASK=255.255.255.0\n")
    (leases / "3").write_bytes(b"ADDRESS=\xff\nADDRESS=x\n")
    assert own_addresses(output, leases) == [
        "http://10.42.70.1/ (its access point)",
        "http://192.0.2.7:9470/ (cable)",
        "http://10.57.16.1:9470/ (cable)",
    ]
    (output / "segment-cable").write_text("{")
    assert len(own_addresses(output, leases)) == 2


def test_it_is_written_on_change_only_and_seldom():
    writing = Writing()
    assert writing.due(b"a", 0, urgent=b"a")
    writing.done(b"a", 0, urgent=b"a", wrote=False)
    assert not writing.due(b"a", 1000, urgent=b"a")
    assert not writing.due(b"b", LEAST_INTERVAL_S - 1, urgent=b"b")
    written = 0
    for minute in range(1, 1000):
        text = b"%d" % minute
        if writing.due(text, minute * 60.0, urgent=text):
            writing.done(text, minute * 60.0, urgent=text, wrote=True)
            written += 1
    assert written == MAX_WRITES


# Erasing


def test_nothing_is_left_of_a_store(tmp_path):
    store = tmp_path / "store"
    (store / "deep").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_bytes(b"not ours")
    secret = os.urandom(10_000_000)
    (store / "store.sqlite").write_bytes(secret)
    (store / "deep" / "relay.key").write_bytes(b"key" * 20)
    (store / "link").symlink_to(outside)
    os.link(store / "store.sqlite", tmp_path / "other-name")
    os.mkfifo(store / "pipe")
    assert erase_folders([store, tmp_path / "not there"]) == 0
    assert [path for path in store.rglob("*") if not path.is_dir()] == []
    assert outside.read_bytes() == b"not ours"
    # What lay under the name was written over, not only removed.
    left = (tmp_path / "other-name").read_bytes()
    assert len(left) == len(secret)
    assert all(left[at : at + 16] != secret[at : at + 16] for at in range(0, len(secret), 4096))


def test_keys_go_first(tmp_path):
    names = ("ssh_host_ed25519_key", "mesh-secret", "relay.key", "relay.toml", "store.sqlite", "store.sqlite-wal")
    copies = []
    for name in names:
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / name).write_bytes(b"secret")
        copies.append(tmp_path / name)
        os.link(tmp_path / "store" / name, copies[-1])
    assert erase_secrets([tmp_path / "store"]) == 0
    assert [copy.name for copy in copies if copy.read_bytes() == b"secret"] == ["store.sqlite"]
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["store.sqlite"]


def test_what_cannot_be_written_over_is_counted(tmp_path, monkeypatch):
    file = tmp_path / "store.sqlite"
    file.write_bytes(b"x" * 100)

    def full(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "fdatasync", full)
    assert erase_files([file]) == 1
    assert not file.exists()


# /sys


def test_the_boards_light_is_found_and_taken_over(tmp_path):
    assert find_led(tmp_path) is None
    folder = tmp_path / "class" / "leds" / "ACT"
    folder.mkdir(parents=True)
    for name, text in (("max_brightness", "255\n"), ("brightness", "1\n"), ("trigger", "none [mmc0]\n")):
        (folder / name).write_text(text)
    assert find_led(tmp_path) == folder
    led = Led(folder)
    assert (folder / "trigger").read_text() == "none"
    led.switch(on=True)
    assert (folder / "brightness").read_text() == "255"


def test_sensors_that_are_not_there_say_nothing_and_the_others_what_they_read(tmp_path):
    assert set(read_sensors(tmp_path).values()) == {None}
    assert is_undervoltage(tmp_path) is None
    files = {
        "class/thermal/thermal_zone0/temp": "47800\n",
        "class/thermal/thermal_zone1/temp": "61000\n",
        "class/thermal/thermal_zone2/temp": "who knows",
        "class/power_supply/keyboard/type": "Battery",
        "class/power_supply/keyboard/scope": "Device",
        "class/power_supply/keyboard/capacity": "3",
        "class/power_supply/bank/type": "Battery",
        "class/power_supply/bank/capacity": "72",
        "class/power_supply/usb/type": "USB",
        "class/power_supply/usb/online": "0",
        "block/mmcblk0/device/life_time": "0x03 0x0b\n",
        "block/mmcblk0/device/pre_eol_info": "0x02\n",
        # An SD card beside it, which tells nothing, and one that says that it does not know.
        "block/mmcblk1/device/type": "SD",
        "block/mmcblk2/device/life_time": "0x00 0x00",
        "block/mmcblk2/device/pre_eol_info": "0x00",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert read_sensors(tmp_path) == {
        "temperature_celsius": 61,
        "card_life_used_percent": 110,
        "card_worn": 1,
        "power_percent": 72,
        "power_external": 0,
    }


def test_undervoltage_is_what_the_firmware_says(tmp_path):
    assert not is_undervoltage(tmp_path)
    for number, (name, alarm) in enumerate([("cpu_thermal", "1"), ("rpi_volt", "0")]):
        folder = tmp_path / "class" / "hwmon" / f"hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "in0_lcrit_alarm").write_text(f"{alarm}\n")
    assert not is_undervoltage(tmp_path)
    (tmp_path / "class/hwmon/hwmon1/in0_lcrit_alarm").write_text("1\n")
    assert is_undervoltage(tmp_path)


def test_requests_are_json_that_other_programs_can_write():
    assert json.loads(encode_request(Request(Verb.PANIC))) == {"v": 1, "op": "panic", "sure": True}
