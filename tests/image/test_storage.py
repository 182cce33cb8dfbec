# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on the card of a relay that somebody takes away, in each way to keep messages."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from relay.board.card import MARK
from tests.image.card import Card
from tests.image.lan import Lan
from tests.image.seizure import (
    ANSWER_S,
    Planted,
    connect,
    marks_in,
    memory_of,
    plant,
    storage_notices,
    those_in,
)
from tests.image.usb import ARGUMENTS, Device, Stick
from tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(1500)]

KEY = Path(__file__).with_name("inside") / "volume_key.py"
PASSPHRASE = "correct horse battery staple, and a lamp post"
#: Alone it takes twenty seconds, on a busy machine minutes.
START_S = 300
#: By which a LUKS volume is known: its first header, and its second.
LUKS = (b"LUKS\xba\xbe\0\2", b"SKUL\xba\xbe\0\2")
#: Nobody waits for more than that for the rest of a panic.
ERASED_S = 300
#: The first second counts, on a machine that has a processor for the guest.
KEY_GONE_S = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture
def lan():
    """Named before `boot` in a test: what is plugged in ends before it."""
    with Lan() as cable:
        yield cable


def hour():
    return int(time.time()) // 3600 + 48


def settings(card, text):
    card.write("MESH-RELAY", "relay.toml", text.encode())


def started(boot, card, lan, name, *, arguments=(), before=()):
    appliance = boot(card, name, network=lan.port(), arguments=arguments, before=before)
    # Not for all there is: of four starts each has its minute elsewhere.
    up = "systemctl is-active -q mesh-relay; systemctl is-active -q relay-board"
    wait_until(appliance.explain, lambda: appliance.run("sh", "-ec", up, check=False).code == 0, START_S, pause_s=1)
    return appliance


def volume_key(appliance):
    """Cipher and key of the partition's mapping, as the kernel has them."""
    shutil.copy(KEY, appliance.share)
    kind, cipher, key, *_ = appliance.sh("python3 /run/lab/share/volume_key.py mesh-relay-data").split()
    assert kind == "crypt"
    return cipher, bytes.fromhex(key)


def panic(appliance, folder):
    """Have it erase itself; return after how many seconds it had the key no more, and the key.

    By its own word, and by its memory. Nobody has read the key in there before: that would leave it there.
    """
    memory = memory_of(appliance)
    copied = folder / "memory"
    subprocess.run(["cp", "--sparse=always", memory, copied], check=True)
    _, key = volume_key(appliance)
    # XTS has two.
    halves = [key[: len(key) // 2], key[len(key) // 2 :]]
    assert {*halves} == those_in(copied, halves), "the control: the kernel has it, and it is found there"
    assert not those_in(copied, [key.hex().encode()]), "what was written to tell the kernel is not"
    copied.unlink()
    appliance.start_process("relay", "board", "panic", "--sure")

    def said():
        return re.search(r"the key is gone after ([0-9.]+) s", appliance.journal("relay-board.service"))

    after_s = float(wait_until(appliance.explain, said, START_S, pause_s=0.2)[1])
    assert not those_in(memory, halves), "it is in memory still"
    return after_s, key


def test_who_takes_an_amnesic_relay_finds_nothing_of_it(lan, card, boot, tmp_path, measured):
    # The control: what is kept in the clear is found, all of it.
    settings(card, '[appliance]\nstorage = "plain"\n')
    relay = started(boot, card, lan, "plain")
    kept = Planted(1, hour())
    assert len(kept) == 200
    assert plant(relay, lan, kept) is True
    relay.kill()
    measured["control_markers_found"] = kept.found(card.path)
    assert kept.found(card.path) == 200

    # A mistake keeps messages in memory, and erases nothing.
    settings(card, '[appliance]\nstorage = "amnesic"\ncountry = "Germany"\n')
    relay = started(boot, card, lan, "mistake")
    assert "neither used nor erased" in " ".join(storage_notices(relay))
    with connect(relay, lan) as client:
        assert client.relay.durable is False
    relay.kill()
    assert kept.found(card.path) == 200

    settings(card, '[appliance]\nstorage = "amnesic"\n')
    relay = started(boot, card, lan, "amnesic")
    assert kept.found(card.path) == 0, "what was kept before is erased where somebody says that nothing is"
    planted = Planted(2, hour())
    assert plant(relay, lan, planted) is False
    seen = relay.sh("echo 3 >/proc/sys/vm/drop_caches; grep -a -c 'ana 192.0.2.7 key' /data/mesh-relay/notes")
    assert int(seen) == 20, "it is on the card, for who has the key"
    cipher, key = volume_key(relay)
    has_aes = "aes" in relay.sh("cat /proc/cpuinfo").split()
    assert cipher == ("aes-xts-plain64" if has_aes else "xchacha12,aes-adiantum-plain64")
    # Neither swap nor files of memory; this kernel knows neither core files nor kexec, so what it would be told.
    assert relay.sh("tail -n +2 /proc/swaps") == ""
    told = relay.sh("/usr/lib/systemd/systemd-sysctl --cat-config").splitlines()
    assert {"kernel.core_pattern = |/bin/false", "-kernel.kexec_load_disabled = 1"} <= {*told}
    relay.kill()
    measured["markers_found"] = planted.found(card.path)
    assert planted.found(card.path) == 0
    assert marks_in(card.path) == set()
    assert those_in(card.path, [key, key[:32], key.hex().encode()]) == set()

    # Neither can the box itself.
    relay = started(boot, card, lan, "again")
    with connect(relay, lan) as client:
        assert client.fetch_all() == []
    assert "mesh-relay" in relay.sh("ls /data").split()
    measured["panic_key_gone_s"], another = panic(relay, tmp_path)
    assert another != key
    assert measured["panic_key_gone_s"] < KEY_GONE_S


def unlock(relay, passphrase, times=1):
    """An operator logs in and types it."""
    typed = (passphrase + "\n") * times
    command = (
        f"printf %s '{typed}' | setpriv --reuid=operator --regid=relay-operator --init-groups relay appliance unlock"
    )
    return relay.run("sh", "-c", command, check=False, timeout_s=ANSWER_S)


def wait_open(relay):
    """Wait until the relay, which starts anew for it, keeps what it acknowledges."""

    def keeps():
        shown = relay.run("relay", "status", "--json", check=False)
        return shown.code == 0 and json.loads(shown.stdout)["store"]["durable"]

    wait_until(relay.explain, keeps, START_S, pause_s=1)
    assert storage_notices(relay) == []


def board_says(relay):
    shown = json.loads(relay.run("relay", "board", "status").stdout)["notices"]
    return " ".join(notice["text"] for notice in shown)


def test_a_durable_relay_is_opened_by_passphrase_or_stick_and_works_from_memory_until_then(
    lan, card, boot, tools, tmp_path, measured
):
    settings(card, '[appliance]\nstorage = "durable"\n')
    relay = started(boot, card, lan, "first")
    assert "no passphrase" in " ".join(storage_notices(relay))
    with connect(relay, lan) as client:
        assert client.relay.durable is False
    assert "among the first" in unlock(relay, "passwordpassword").output
    done = unlock(relay, PASSPHRASE, times=2)
    assert done.code == 0, done.output
    wait_open(relay)
    planted = Planted(3, hour())
    assert plant(relay, lan, planted) is True
    _, key = volume_key(relay)
    relay.kill()
    assert planted.found(card.path) == 0
    assert those_in(card.path, [key, PASSPHRASE.encode()]) == set()
    assert those_in(card.path, LUKS) == {*LUKS}
    kept = Card(card.path, tmp_path / "kept.img", tools=tools)

    settings(card, '[appliance]\nstorage = "durable"\nsticks = ["key"]\n')
    relay = started(boot, card, lan, "second", arguments=ARGUMENTS)
    assert "not open yet" in " ".join(storage_notices(relay))
    with connect(relay, lan) as client:
        client.put(list(Planted(4, hour()).envelopes))
    wrong = unlock(relay, PASSPHRASE[:-1])
    assert "not its passphrase" in wrong.output
    assert "not open yet" in " ".join(storage_notices(relay))
    # As an editor on Windows saves it.
    written = Stick(tmp_path / "key", {"mesh-relay/key.txt": b"\xef\xbb\xbf" + PASSPHRASE.encode() + b"\r\n"})
    stick = Device(relay, "key", disks=[written.path])
    wait_open(relay)
    wait_until(relay.explain, lambda: "pull the stick out" in board_says(relay), START_S, pause_s=0.5)
    stick.unplug()
    with connect(relay, lan) as client:
        assert client.relay.durable is True, relay.explain()
        held = client.fetch_all()
    assert {*planted.envelopes} <= {*held}
    measured["panic_key_gone_durable_s"], _ = panic(relay, tmp_path)
    assert relay.wait_dead(ERASED_S), relay.console_text()
    assert those_in(card.path, [*LUKS, MARK]) == set()
    assert measured["panic_key_gone_durable_s"] < KEY_GONE_S

    # Who says that nothing is kept has what was kept erased, at that start.
    settings(kept, '[appliance]\nstorage = "amnesic"\n')
    relay = started(boot, kept, lan, "forgets")
    assert "was erased at this start" in board_says(relay)
    assert those_in(kept.path, LUKS) == set()
    assert volume_key(relay)[1] != key
