# SPDX-License-Identifier: GPL-2.0-or-later
"""A card that is damaged, foreign, read-only, full, slow or gone, and a drive that is: the relay relays, and says so.

In guests that start in three seconds (tests/power/guests.py), on the image's kernel and file systems. Where the card
itself fails, the library does that (tests/power/card.c), as the guest's kernel would be told by a real one.
"""

import base64
import hashlib
import json
import random
import struct
import time

import pytest

from image.layout import SECTOR_BYTES, layout
from relay.board.card import DATA_PARTITION
from tests.fat32 import Fat32
from tests.guest.guest import RUN_TIMEOUT_S
from tests.image.lan import Lan
from tests.image.seizure import ANSWER_S, connect
from tests.image.test_storage import started
from tests.netns.rawclient import make_envelopes
from tests.power import cut
from tests.power.guests import DATABASE, ENVIRONMENT, Light
from tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

WRITES, READS = 1, 2
PLAIN = b'[appliance]\nstorage = "plain"\n'
KEPT = 300
MIB = 1 << 20
#: By which the relay looks at its card each five seconds, not each minute: nobody here waits for that.
LOOKS_OFTEN = (
    "systemd.set_credential_binary=systemd.unit-dropin.mesh-relay.service:"
    + base64.b64encode(b"[Service]\nWatchdogSec=15\n").decode()
)
#: Where FAT32 says, in its second entry, that it was not left in order; in whole sectors from its beginning.
_DIRTY_AT = 4


@pytest.fixture
def lan():
    """Named before what starts guests: what is plugged in ends before it."""
    with Lan() as cable:
        yield cable


class Faults:
    """What of the card fails from now on; as of card.c."""

    def __init__(self, path):
        self.path = path
        path.write_bytes(bytes(24))

    def set(self, what, *, start=0, size=0, delay_s=0.0):
        with self.path.open("r+b") as file:
            # At once for who has it mapped; what it is last.
            file.write(struct.pack("<IIQQ", what, int(delay_s * 1e6), start, start + size))


class Box:
    """A card, and the guests that are started from it."""

    def __init__(self, kernel, card, library, lan, folder):
        self.card = card
        self.faults = Faults(folder / "faults")
        self._kernel, self._library, self._lan = kernel, library, lan
        self._number = 0
        self.envelopes = make_envelopes(random.randrange(1 << 40), KEPT, 1024)

    def start(self):
        self._number += 1
        return Light(
            self._kernel, f"start-{self._number}", self.card, self._library, faults=self.faults.path,
            network=self._lan.port(),
        )  # fmt: skip

    def client(self, guest):
        return connect(guest, self._lan, pause_s=0.2)

    def fill(self):
        """A store with envelopes on the card."""
        self.card.write("MESH-RELAY", "relay.toml", PLAIN)
        with self.start() as guest:
            assert not trouble(guest)
            guest.relay()
            with self.client(guest) as client:
                client.put(self.envelopes)
                assert client.relay.durable
            guest.sh("sync")

    def region(self):
        """Where the partition for data lies, in bytes."""
        start, size = self.card.partition(DATA_PARTITION)
        return start * SECTOR_BYTES, size * SECTOR_BYTES


@pytest.fixture
def box(kernel, card, library, lan, tmp_path):
    return Box(kernel, card, library, lan, tmp_path)


def trouble(guest):
    return json.loads(guest.prepare())["trouble"]


def status(guest):
    """What it says of itself once it has come up."""

    def shown():
        found = json.loads(guest.run("relay", "status", "--json", env=ENVIRONMENT, timeout_s=ANSWER_S).stdout)
        return found if found["ready"] else None

    return wait_until(guest.explain, shown, ANSWER_S, pause_s=0.5)


def told(guest):
    """Conditions, which page, light and relay-status.txt show."""
    return {one["name"] for one in status(guest)["conditions"]}


def relays(box, guest, *, durable):
    """It takes messages and hands them out; return how many of the first ones."""
    fresh = make_envelopes(random.randrange(1 << 40), 20, 1024)
    with box.client(guest) as client:
        assert client.relay.durable == durable
        client.put(fresh)
        held = set(client.fetch_all(ANSWER_S))
    assert set(fresh) <= held
    return len(held & set(box.envelopes))


def test_a_damaged_store_is_mended_at_the_start_and_what_can_be_read_is_there(box):
    box.fill()
    with box.start() as guest:
        assert not trouble(guest)
        merge = f"import sqlite3; sqlite3.connect('{DATABASE}').execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()"
        guest.run("python3", "-c", merge)
        # Whole blocks of it, the root of a table among them.
        guest.sh(
            f"for at in 1 2 40 41 42; do dd if=/dev/urandom of={DATABASE} bs=4096 seek=$at count=1 conv=notrunc; done"
        )
        guest.relay()
        found = relays(box, guest, durable=True)
        print(found, "of", KEPT)
        assert found > 0.8 * KEPT
        assert "store_mended" in told(guest)
    # Once.
    with box.start() as guest:
        assert not trouble(guest)
        guest.relay()
        assert relays(box, guest, durable=True) == found
        assert "store_mended" not in told(guest)


def test_what_is_no_store_is_left_alone_and_messages_are_in_memory(box):
    box.fill()
    with box.start() as guest:
        assert not trouble(guest)
        guest.sh(f"rm {DATABASE}*; head -c 100000 /dev/urandom >{DATABASE}; sha256sum {DATABASE} >/tmp/before")
        guest.relay()
        assert relays(box, guest, durable=False) == 0
        assert "card_trouble" in told(guest)
        guest.sh("sha256sum -c /tmp/before")


@pytest.mark.parametrize("what", ["ext4", "foreign", "noise"])
def test_a_partition_that_is_damaged_is_mended_and_one_that_is_another_s_is_left(box, what):
    box.fill()
    start, size = box.region()
    with box.card.path.open("r+b") as file:
        if what == "ext4":
            # Its first blocks, as of a computer that put a boot sector there.
            file.seek(start)
            file.write(bytes(8192))
        elif what == "foreign":
            file.seek(start)
            file.write(bytes(MIB))
            Fat32(box.card.path, 4000, offset=start, label=b"PHOTOS")
        else:
            for at in range(0, size, 8 * MIB):
                file.seek(start + at)
                file.write(random.randbytes(MIB))
    before = hashlib.sha256(_first(box)).digest()
    with box.start() as guest:
        found = trouble(guest)
        guest.relay()
        if what == "foreign":
            assert found
            assert relays(box, guest, durable=False) == 0
            assert "card_trouble" in told(guest)
            assert hashlib.sha256(_first(box)).digest() == before
        else:
            assert not found
            kept = relays(box, guest, durable=True)
            assert kept == (KEPT if what == "ext4" else 0)


def _first(box):
    with box.card.path.open("rb") as file:
        file.seek(box.region()[0])
        return file.read(MIB)


def test_a_card_that_takes_no_writes_is_read_and_new_messages_are_in_memory(box):
    box.fill()
    start, size = box.region()
    box.faults.set(WRITES, start=start, size=size)
    with box.start() as guest:
        trouble(guest)
        guest.relay()
        assert relays(box, guest, durable=False) == KEPT
        assert "card_trouble" in told(guest)
    # And once it does again, all that it had is there.
    box.faults.set(0)
    with box.start() as guest:
        assert not trouble(guest)
        guest.relay()
        assert relays(box, guest, durable=True) == KEPT
        assert "card_trouble" not in told(guest)


def test_a_full_card_serves_what_it_has_and_goes_on_when_there_is_room(box):
    box.fill()
    with box.start() as guest:
        assert not trouble(guest)
        guest.sh(
            "dd if=/dev/zero of=/data/ballast bs=1M 2>/dev/null || true; dd if=/dev/zero of=/data/more bs=4k || true"
        )
        guest.relay()
        with box.client(guest) as client:
            assert {*box.envelopes} <= {*client.fetch_all(ANSWER_S)}
        assert "disk_full" in told(guest)
        guest.sh("rm /data/ballast /data/more")
        wait_until(lambda: str(told(guest)), lambda: status(guest)["store"]["writable"], ANSWER_S, pause_s=1)


def test_a_slow_card_makes_nobody_wait_for_ever_and_is_told(box):
    box.fill()
    start, size = box.region()
    box.faults.set(0, start=start, size=size, delay_s=0.15)
    with box.start() as guest:
        assert not trouble(guest)
        guest.relay()
        began = time.monotonic()
        assert relays(box, guest, durable=True) == KEPT
        for _ in range(3):
            relays(box, guest, durable=True)
        print(time.monotonic() - began, "s")
        assert "card_slow" in told(guest)


def test_a_card_that_vanishes_while_the_relay_runs_costs_what_is_on_it_and_nothing_else(box, lan, boot, library):
    """On the whole image: systemd starts the relay again, whose folder is on what vanished."""
    box.fill()
    start, size = box.region()
    before = cut.preloaded(library, box.card.path, faults=box.faults.path)
    relay = started(boot, box.card, lan, "vanishes", before=before, arguments=(LOOKS_OFTEN,))
    assert relays(box, relay, durable=True) == KEPT
    box.faults.set(WRITES | READS, start=start, size=size)
    relay.sh("echo 3 >/proc/sys/vm/drop_caches")
    with box.client(relay) as client:
        client.session.put(make_envelopes(7, 1)[0])
        client.pump("it is refused", lambda: client.refused, ANSWER_S)

    def is_in_memory():
        shown = relay.run("relay", "status", "--json", check=False)
        return shown.code == 0 and not json.loads(shown.stdout)["store"]["durable"]

    wait_until(lambda: relay.journal("mesh-relay") + relay.explain(), is_in_memory, ANSWER_S, pause_s=1)
    relays(box, relay, durable=False)
    assert "card_trouble" in told(relay)
    relay.kill()
    box.faults.set(0)
    with box.start() as guest:
        assert not trouble(guest)
        guest.relay()
        assert relays(box, guest, durable=True) == KEPT
        assert "card_trouble" not in told(guest)


@pytest.mark.parametrize("how", ["dirty", "full", "folder"])
def test_a_drive_in_any_state_gives_the_settings_that_can_be_read_and_a_relay(box, how):
    write = (
        "import re, sys; sys.path.insert(0, re.search(\"insert.0, '([^']+)'\", open('/usr/bin/relay').read())[1]);"
        "from relay.board.machine import Machine; from pathlib import Path;"
        "print(Machine(boot_device=Path('/dev/relay/card')).write_status(b'x' * 30000))"
    )
    box.card.write("MESH-RELAY", "relay.toml", b'[appliance]\nhostname = "north"\nstorage = "volatile"\n')
    if how == "folder":
        box.card.remove("MESH-RELAY", "relay.toml")
        box.card.make_folder("MESH-RELAY", "relay.toml")
    if how == "dirty":
        _make_dirty(box.card)
    with box.start() as guest:
        if how == "full":
            guest.sh("mkdir /tmp/drive && mount /dev/relay/card /tmp/drive && cat /dev/zero >/tmp/drive/all || true")
            guest.sh("umount /tmp/drive")
        trouble(guest)
        guest.relay()
        relays(box, guest, durable=False)
        named = "north.local" in guest.sh("cat /run/mesh-relay-config/relay.toml")
        assert named == (how != "folder")
        assert ("config_mistake" in told(guest)) == (how == "folder")
        done = guest.run("python3", "-I", "-c", write, check=False, timeout_s=RUN_TIMEOUT_S)
        if how == "full":
            assert done.code
            assert "No space left" in done.output
        else:
            assert done.stdout == "True\n", done.output
    if how == "full":
        assert b"north" in box.card.read("MESH-RELAY", "relay.toml")
    else:
        assert box.card.read("MESH-RELAY", "relay-status.txt") == b"x" * 30000


def _make_dirty(card):
    """As a computer leaves it that lost its power while the drive was in it."""
    start = layout()["MESH-RELAY"].start * SECTOR_BYTES
    with card.path.open("r+b") as file:
        file.seek(start)
        first = file.read(SECTOR_BYTES)
        reserved = struct.unpack_from("<H", first, 14)[0]
        file.seek(start + 65)
        file.write(bytes([first[65] | 1]))
        at = start + reserved * SECTOR_BYTES + _DIRTY_AT
        file.seek(at)
        entry = struct.unpack("<I", file.read(4))[0]
        file.seek(at)
        file.write(struct.pack("<I", entry & ~(1 << 27)))
