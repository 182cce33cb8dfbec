# SPDX-License-Identifier: GPL-2.0-or-later
"""Two copies of the software on a card: the second one is made, whatever happens meanwhile, and starts."""

import base64
import json
import random
import shutil
import time
from dataclasses import replace

import pytest

from image import minisign
from image.layout import SECTOR_BYTES, layout
from image.slot import signed
from relay.board.manifest import PIECE_BYTES, REASONS, Head, Part
from relay.board.slots import TRIES, Record
from tests.image.appliance import FILLED_S
from tests.image.conftest import KEY
from tests.image.usb import ARGUMENTS, Device, Stick
from tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(2400)]

SEED = 15
#: Of an update, beyond what the image has: enough to be cut off in it.
ADDED_BYTES = 48 << 20


def explain(relay):
    return f"{relay.journal('relay-slot.service')}\n{relay.explain()}"


def root_of(relay):
    """Where the root is read from."""
    return relay.sh("cat /sys/block/dm-0/slaves/*/partition").strip()


def conditions(relay):
    return {one["name"]: one for one in json.loads(relay.run("relay", "status", "--json").stdout)["conditions"]}


def test_the_second_slot_is_filled_in_spite_of_pulled_plugs_and_starts_where_the_first_does_not(card, boot, measured):
    boot_a, root_a, head = card.content("A")
    assert card.record().left == (TRIES, 0)

    # The plug is pulled when a part of it is there.
    relay = boot(card, "first")
    start = layout()["ROOT_B"].start * SECTOR_BYTES

    def is_begun():
        with card.path.open("rb") as file:
            file.seek(start + (4 << 20))
            return any(file.read(1 << 20))

    wait_until(lambda: explain(relay), is_begun, FILLED_S, pause_s=0.05)
    relay.kill()
    assert card.record().tries("B") == 0
    assert card.start().slots == ("A",)

    # At the next start it goes on, and is whole; one more start leaves it alone.
    relay = boot(card, "second")
    relay.wait_slots()
    relay.sh("sync")
    assert card.record().left == (TRIES, TRIES)
    assert card.content("B", head) == (boot_a, root_a, head)
    assert "turned_back" not in conditions(relay)
    relay.kill()

    # The first one is damaged, and fails three times: the other one runs, and says so everywhere.
    card.flip("ROOT_A", 5000)
    fail(card, "A")
    relay = boot(card, "third")
    assert relay.slot == "B"
    relay.wait_slots()
    assert root_of(relay) == str(layout()["ROOT_B"].number)
    assert card.record().failed == head.manifest.name()
    wait_told(relay, True)
    assert conditions(relay)["turned_back"]["severity"] == "warning"
    metrics = relay.sh(
        "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:9470/metrics\").read().decode())'"
    )
    assert 'relay_condition{condition="turned_back",severity="warning"} 1.0' in metrics
    told = wait_until(
        lambda: explain(relay),
        lambda: (
            relay.run("relay", "board", "status").stdout.find("turned_back") >= 0
            and b"SOFTWARE: " in card.read("MESH-RELAY", "relay-status.txt")
        ),
        FILLED_S,
        pause_s=2,
    )
    assert told
    # What failed is written over with what works.
    assert card.record().left == (TRIES, TRIES)
    assert card.record().first == "B"
    assert card.content("A") == (boot_a, root_a, head)
    assert relay.failed_units() == []
    measured["rollback_ok"] = True


def test_three_plugs_pulled_early_turn_nothing_back_for_good(card, boot):
    relay = boot(card, "first")
    relay.wait_slots()
    relay.kill()
    fail(card, "A")
    relay = boot(card, "second")
    assert relay.slot == "B"
    relay.wait_slots()
    record = card.record()
    # All of it is still there, so it has one more trial.
    assert (record.first, record.trial, record.left) == ("A", "A", (TRIES, TRIES))
    wait_told(relay, True)
    relay.kill()
    relay = boot(card, "third")
    assert relay.slot == "A"
    relay.wait_slots()
    assert card.record().trial == card.record().failed == ""
    wait_told(relay, False)


def wait_told(relay, it_turned_back):
    """Until the relay says of itself that it turned back, or that it did not: it looks each half minute."""
    is_told = lambda: ("turned_back" in conditions(relay)) is it_turned_back  # noqa: E731
    wait_until(lambda: explain(relay), is_told, FILLED_S, pause_s=1)


def fail(card, slot):
    """Have a slot fail as often as it may: nothing of it comes up."""
    for _ in range(TRIES):
        assert card.start().slots == (slot,)


def updates(card, head):
    """Of the image's own software, as if newer: what is refused by reason, one too small to start, a whole one."""
    key = minisign.load(KEY)
    boot, root, _ = card.content("A")
    small = describe(b"boot" * 1024, b"root" * 2048, head)
    # Behind the root is what nobody reads, and no slot has yet.
    whole = describe(boot, root + random.Random(SEED).randbytes(ADDED_BYTES), head)
    stranger = minisign.SecretKey(number=b"stranger", seed=bytes(32))
    return {
        "unsigned": small,
        "wrong_key": signed(small, stranger),
        "older": signed(replace(small, manifest=replace(small.manifest, built=1)), key),
        "": signed(small, key),
        "whole": signed(whole, key),
    }


def plug(relay, stick, name, wanted):
    """Plug a stick in until the relay says what is wanted; then pull it out."""
    device = Device(relay, name, disks=[stick.path])
    wait_until(lambda: explain(relay), lambda: wanted in relay.sh("relay board status"), FILLED_S, pause_s=1)
    device.unplug()
    is_over = ("test", "!", "-e", "/run/mesh-relay-stick")
    wait_until(lambda: explain(relay), lambda: relay.run(*is_over, check=False).code == 0, FILLED_S, pause_s=1)


def describe(boot, root, head):
    def part(data):
        return Part.of(data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))

    found = head.manifest
    return Head(manifest=replace(found, version="99.0", built=found.built + 1, boot=part(boot), root=part(root)))


def test_an_update_is_taken_if_it_is_signed_and_goes_on_where_it_was_cut_off(card, boot, tmp_path):
    boot_a, root_a, head = card.content("A")
    made = updates(card, head)
    relay = boot(card, "before", arguments=ARGUMENTS)
    relay.wait_slots()

    # From sticks, one after the other: three are refused before anything is written, and a small one is taken.
    for reason, one in made.items():
        if reason == "whole":
            continue
        before = card.record()
        content = one.encode() + (b"boot" * 1024 + b"root" * 2048)
        wanted = REASONS[reason] if reason else "is used from the next start"
        plug(relay, Stick(tmp_path / "stick", {"mesh-relay/update.relay": content}), reason or "good", wanted)
        assert (card.record() == before) == bool(reason)
    assert card.record().trial == "B"

    # A whole one, handed in by an operator; the plug is pulled when a part of it is there.
    file = tmp_path / "whole"
    added = random.Random(SEED).randbytes(ADDED_BYTES)
    file.write_bytes(made["whole"].encode() + boot_a + root_a + added)
    shutil.copy(file, relay.share)
    relay.start_process("relay", "update", "/run/lab/share/whole")
    at = layout()["ROOT_B"].start * SECTOR_BYTES + len(root_a)

    def is_begun():
        with card.path.open("rb") as opened:
            opened.seek(at + (4 << 20))
            return opened.read(4096) == added[4 << 20 :][:4096]

    wait_until(lambda: explain(relay), is_begun, FILLED_S, pause_s=0.02)
    relay.kill()
    assert card.record().tries("B") == 0
    assert card.content("A") == (boot_a, root_a, head)
    relay = boot(card, "after")
    assert relay.slot == "A"
    relay.wait_booted()
    shutil.copy(file, relay.share)
    said = relay.run("relay", "update", "/run/lab/share/whole", timeout_s=FILLED_S).stdout
    assert "Version 99.0 is on the card" in said
    relay.sh("sync")
    assert card.content("B") == (boot_a, root_a + added, made["whole"])
    relay.kill()

    # At the next start it proves itself, and stays.
    relay = boot(card, "next")
    assert relay.slot == "B"
    assert "relay.trial=1" in relay.sh("cat /proc/cmdline")
    relay.wait_slots()
    assert root_of(relay) == str(layout()["ROOT_B"].number)
    record = card.record()
    assert (record.first, record.trial, record.left, record.failed) == ("B", "", (TRIES, TRIES), "")
    wait_told(relay, False)
    assert relay.failed_units() == []
    assert card.content("A") == (boot_a, root_a, head)


def test_software_on_trial_that_is_not_well_in_time_starts_the_machine_again(card, boot):
    """Nothing of the relay's has to run for that. There is no U-Boot here: the same slot starts again and again."""
    card.remember(Record(left=(TRIES, TRIES), good="B", trial="A"))
    unit = "[Timer]\nOnBootSec=\nOnBootSec=20s\n"
    dropin = base64.b64encode(unit.encode()).decode()
    masked = [f"systemd.mask={name}.service" for name in ("mesh-relay", "relay-slot", "relay-board")]
    arguments = (f"systemd.set_credential_binary=systemd.unit-dropin.relay-trial.timer:{dropin}", *masked)
    began = time.monotonic()
    relay = boot(card, "trial", arguments=arguments)
    wait_until(relay.console_text, lambda: "Restarting system" in relay.console_text(), FILLED_S, pause_s=1)
    assert time.monotonic() - began > 20
    assert card.record().tries("A") == TRIES - 1
    assert card.record().trial == "A"
