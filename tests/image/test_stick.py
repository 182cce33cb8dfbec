# SPDX-License-Identifier: GPL-2.0-or-later
"""What somebody can do with a booted image who reaches its USB, its keyboard and its serial line."""

import hashlib
import json
import random
import time

import pytest

from tests.exfat import make_exfat
from tests.fat32 import Fat32
from tests.image.appliance import Appliance
from tests.image.card import Card
from tests.image.usb import ARGUMENTS, KEY_POWER, Device, Stick
from tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(400), pytest.mark.xdist_group("stick")]

SEED = 15
#: Settling, starting Python, and finding it; on a busy machine.
PATIENCE_S = 60
APP = random.Random(SEED).randbytes(3_000_000)
MARK = "mesh-relay/write.txt"
RELAY_TOML = b'[appliance]\nsticks = ["report", "shelf"]\n\n[board]\npanic_hold_s = 3\n'
#: One at a time, to the end or until there is no more; prints how much there was, and its sum.
DOWNLOAD = """
import hashlib, urllib.request
sum, size = hashlib.sha256(), 0
with urllib.request.urlopen("http://127.0.0.1:9470/shelf/app.apk", timeout=60) as answer:
    print("begun", flush=True)
    try:
        while block := answer.read1(65536):
            sum.update(block)
            size += len(block)
    except Exception as error:
        print(type(error).__name__)
print(size, sum.hexdigest())
"""


@pytest.fixture(scope="module")
def relay(image, kernel, tools, tmp_path_factory):
    """One for all of them: it uses sticks for all there is, and has a second serial line, which is a console."""
    card = Card(image, tmp_path_factory.mktemp("stick") / "card.img", tools=tools)
    card.write("MESH-RELAY", "relay.toml", RELAY_TOML)
    with Appliance(kernel, "stick", card, radios=1, arguments=(*ARGUMENTS, "console=ttyS1")) as appliance:
        assert appliance.wait_booted() == "running", appliance.explain()
        yield appliance


def notices(relay):
    shown = json.loads(relay.run("relay", "board", "status").stdout)["notices"]
    return " ".join(notice["text"] for notice in shown)


def listed(relay):
    """Names on the stick's list, once all sums are known; none where there is no stick."""
    raw = relay.run("cat", "/run/mesh-relay-stick/list.json", check=False).stdout
    rows = json.loads(raw) if raw.startswith("[") else []
    return [row["name"] for row in rows] if all(row["sha256"] for row in rows) else []


def wait(relay, true):
    explain = (
        "journalctl --no-pager -o cat -u relay-stick -n 30; ls -lR /dev/relay; journalctl -k -o cat -n 30 --no-pager"
    )
    return wait_until(lambda: relay.sh(explain), true, PATIENCE_S, pause_s=0.5)


def process(relay):
    return relay.show("relay-stick.service", "MainPID")["MainPID"]


def test_a_stick_s_files_are_offered_while_it_is_there_and_nothing_else_of_it_matters(relay, tmp_path):
    own = relay.show("mesh-relay.service", "MainPID")["MainPID"]

    # A stick with something for us, beside one that pretends to be the card.
    good = Stick(tmp_path / "good", {"mesh-relay/shelf/app.apk": APP, MARK: b"", "private.txt": b"mine"})
    false = Stick(tmp_path / "false", {"relay.toml": b"[mesh]\nsecret = 1\n"}, label=b"MESH-RELAY")
    pretender = Device(relay, "false", socket=1, disks=[false.path])
    stick = Device(relay, "good", disks=[good.path])
    wait(relay, lambda: listed(relay) == ["app.apk"])
    assert "app.apk" in relay.sh("python3 -c 'import urllib.request as u; print(u.urlopen("
                                 '"http://127.0.0.1:9470/shelf/").read().decode())\'')  # fmt: skip
    # Nobody takes it for the card, nor believes a name that it gives itself.
    assert relay.sh("readlink -f /dev/relay/card /dev/disk/by-label/MESH-RELAY").split() == ["/dev/ubda1"] * 2
    assert relay.sh("findmnt -n -o SOURCE /run/relaycard/fs").strip() in {"/dev/ubda1", "/dev/relay/card"}
    assert "ID_FS_" not in relay.sh("for node in /dev/sd*; do udevadm info $node; done")

    # Its mount is read-only and its own; what it could do before, it cannot do any more.
    pid = process(relay)
    (line,) = (row for row in relay.sh(f"cat /proc/{pid}/mountinfo").splitlines() if "/mesh-relay-stick/mnt" in row)
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
    assert " - vfat /dev/sd" in line
    assert "/dev/sd" not in relay.sh("cat /proc/1/mountinfo")
    status = relay.sh(f"cat /proc/{pid}/status")
    assert [row.split()[1] for row in status.splitlines() if row.startswith(("CapEff", "CapPrm"))] == ["0" * 16] * 2
    assert "Uid:\t0" not in status
    assert next(row for row in status.splitlines() if row.startswith("Groups:")).split()[1:] == []

    # The report is on it, and the light and the page say so.
    assert "may be pulled out" in notices(relay)
    size, sum_ = relay.run("python3", "-c", DOWNLOAD, timeout_s=120).stdout.split()[-2:]
    assert (int(size), sum_) == (len(APP), hashlib.sha256(APP).hexdigest())

    # Pulled out in the middle of a download.
    downloading = relay.start_process("python3", "-c", DOWNLOAD)
    downloading.wait_output("begun")
    stick.unplug()
    downloading.wait(PATIENCE_S)
    assert 0 <= int(downloading.stdout.split()[-2]) < len(APP)
    wait(relay, lambda: listed(relay) == [] and process(relay) != pid)
    found = Fat32(stick.disk(), 8000, offset=2048 * 512, opened=True).files()
    assert found["mesh-relay/relay-report.prom"].startswith(b"# | Report of a mesh relay")
    assert found["private.txt"] == b"mine"
    assert found["mesh-relay/shelf/app.apk"] == APP
    assert relay.show("mesh-relay.service", "MainPID")["MainPID"] == own
    assert relay.sh("findmnt -n -o SOURCE /run/relaycard/fs").strip()
    pretender.unplug()


def test_whoever_plugs_in_what_is_broken_or_more_than_a_stick_gets_nothing(relay, tmp_path):
    own = relay.show("mesh-relay.service", "MainPID")["MainPID"]
    chance = random.Random(SEED)
    print(f"seed {SEED}")

    # Five whose tables and folders are noise in part, one with ext4, which no stick of ours has; and a keyboard.
    disks = []
    for number in range(5):
        disk = Stick(tmp_path / f"noise{number}", {"mesh-relay/shelf/app.apk": APP[:100_000], MARK: b""}, clusters=3000)
        with disk.path.open("r+b") as file:
            for _ in range(40 * (number + 1)):
                file.seek(2048 * 512 + (chance.randrange(512) if number % 2 else chance.randrange(120_000)))
                file.write(chance.randbytes(1))
        disks.append(disk.path)
    relay.sh("truncate -s 4M /run/lab/linux && mke2fs -q -F -t ext4 /run/lab/linux && sync")
    hostile = Device(relay, "hostile", disks=[*disks, relay.folder / "linux"], keyboard=True)
    wait(relay, lambda: relay.run("test", "-e", "/dev/relay/stick/sdf", check=False).code == 0)
    # Whoever holds the power key of what he plugged in does not hold the button.
    hostile.press(KEY_POWER, down=True)
    wait(relay, lambda: process(relay) != "0")
    time.sleep(4)
    hostile.press(KEY_POWER, down=False)
    assert "sd" not in relay.sh("cat /proc/1/mountinfo | grep -o ' - ext4 /dev/sd' || true")
    hostile.unplug()

    # It is over with that one: another is used, here one of more than 32 GB's kind.
    large = tmp_path / "large"
    large.write_bytes(make_exfat({"mesh-relay/shelf/Über.apk": b"x", "mesh-relay/shelf/map 1.pdf": APP[:50_000]}))
    plugged = Device(relay, "large", socket=1, disks=[large])
    wait(relay, lambda: listed(relay) == ["map 1.pdf"])
    plugged.unplug()

    # A network adapter is no cable; one that was there from the start would have been, and is when it is back.
    adapter = Device(relay, "adapter", socket=2, network=True)
    wait(relay, lambda: "is not used" in notices(relay))
    assert "eth0" not in relay.sh("ls /sys/class/net")
    adapter.unplug()
    relay.sh("rm /run/mesh-relay-usb/closed")
    for closed in (False, True):
        adapter.plug()
        wait(relay, lambda: "eth0" in relay.sh("ls /sys/class/net"))
        adapter.unplug()
        wait(relay, lambda: "eth0" not in relay.sh("ls /sys/class/net"))
        if not closed:
            relay.sh("touch /run/mesh-relay-usb/closed")
    assert relay.show("mesh-relay.service", "MainPID", "NRestarts") == {"MainPID": own, "NRestarts": "0"}
    assert relay.failed_units() == []
    kernel = relay.sh("journalctl --no-pager -k -o cat")
    assert not any(word in kernel for word in ("BUG:", "Oops", "Out of memory"))


def test_nobody_gets_a_prompt_or_a_restart_from_a_console(relay):
    # What the kernel does for Ctrl-Alt-Del, more often than systemd is patient with.
    up = relay.sh("cat /proc/sys/kernel/random/boot_id")
    relay.sh("for _ in 1 2 3 4 5 6 7 8 9 10; do kill -INT 1; done")
    # On each console that there is, the second serial line among them, which the kernel was told is one.
    assert "ttyS1" in relay.sh("cat /sys/class/tty/console/active")
    line = relay.radio_lines[0]
    line.settimeout(1)
    said = b""
    for _ in range(5):
        line.sendall(b"\r\nroot\r\n\x03\x04")
        try:
            said += line.recv(65536)
        except TimeoutError:
            continue
    assert b"login" not in said.lower()
    assert b"assword" not in said
    assert b"#" not in said
    running = relay.sh("systemctl list-units --plain --no-legend --all '*getty*.service' | grep -w running || true")
    assert running == ""
    for unit in ("serial-getty@ttyS1", "getty@tty2", "autovt@tty3", "container-getty@1", "rescue", "emergency"):
        assert relay.run("systemctl", "start", f"{unit}.service", check=False).code != 0, unit
    assert "ctrl-alt-del" not in relay.sh(
        "systemctl list-jobs; systemctl list-units --plain --no-legend --state=active"
    )
    assert relay.sh("systemctl is-system-running").strip() == "running"
    assert relay.sh("cat /proc/sys/kernel/random/boot_id") == up
