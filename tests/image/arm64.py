# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.image.arm64 IMAGE SECOND TREE KEY`: boots the arm64 image in QEMU, and writes what it measured.

IMAGE as U-Boot starts it in QEMU's own machine, where all of it runs, from one slot of the card and from the other; and
as far as it gets in QEMU's Raspberry Pi 3. SECOND is the same image, built once more; KEY is what IMAGE was signed
with. An emulated start takes minutes, so this is no part of the tests that everybody runs; arm64.json beside this file
is what the last run gave, with the date and a hash of what the image is made from.
"""

import base64
import contextlib
import datetime as dt
import filecmp
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import replace
from pathlib import Path

from image import devicetree, minisign
from image.bundle import ABOUT, LOCK
from image.initrd import INIT, Initrd
from image.slot import signed
from relay.board.manifest import Head
from relay.board.slots import TRIES, updated
from tests.guest.uml import ROOT
from tests.image import boot_script
from tests.image.appliance import MEMORY_MIB
from tests.image.card import Card, tools_tree
from tests.image.test_boot import SERVICES

RESULT = Path(__file__).with_name("arm64.json")
#: Issue 4's, of the compressed image.
MAX_COMPRESSED_BYTES = 250_000_000
#: On a busy machine; alone it takes a fifth.
BOOT_TIMEOUT_S = 900.0
#: A size that QEMU accepts for a card, and larger than the image.
CARD_BYTES = 4 * 1024**3
#: What a relay says of itself that fell back.
TURNED_BACK = 'relay_condition{condition="turned_back",severity="warning"} 1.0'
#: By which a system on trial has less time: nobody here waits for a slow card.
SOON = (
    b"systemd.set_credential_binary=systemd.unit-dropin.relay-trial.timer:"
    + base64.b64encode(b"[Timer]\nOnBootSec=\nOnBootSec=120s\n")
    + b" "
)
#: Device trees that QEMU's Pi 3 is started with: it has what both boards have of the same.
BOARDS = ("bcm2837-rpi-3-b", "bcm2837-rpi-zero-2-w")
#: Of its Pi 4, which has neither that board's parts for screens nor their clocks (QEMU's docs/system/arm/raspi.rst):
#: without these words the kernel stops where it reaches for them. Its own line is heard from the start.
PI_4 = "bcm2711-rpi-4-b"
PI_4_WORDS = (
    b"initcall_blacklist=brcmstb_l2_driver_init,brcmstb_i2c_driver_init clk_ignore_unused "
    b"earlycon=uart8250,mmio32,0xfe215040 keep_bootcon "
)
#: What whoever wants U-Boot's prompt types: any key, Ctrl-C, and a command.
TYPED = b" \r\x03version\r"
#: What the drivers of image/driver.py are asked for by: the supply's voltage, and a Pi 5's serial line to Bluetooth.
MADE_HERE = ("platform:raspberrypi-hwmon", "of:N*T*Cbrcm,bcm7271-uart")
#: Of the radios on a Raspberry Pi's board, and of those that docs/appliance.md recommends.
FIRMWARE = (
    "brcm/brcmfmac43430-sdio.bin", "brcm/brcmfmac43455-sdio.bin", "brcm/BCM43430A1.hcd", "brcm/BCM4345C0.hcd",
    "brcm/brcmfmac43455-sdio.raspberrypi,5-model-b.txt",
    "mediatek/mt7610u.bin", "mt7662.bin", "mt7662_rom_patch.bin", "regulatory.db",
)  # fmt: skip


def inputs_hash():
    """Over every file that an image is made from, but for the Debian packages."""
    files = [path for folder in ("ansible", "image", "relay") for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [LOCK, *ABOUT]
    state = hashlib.sha256()
    for path in sorted(path for path in files if "__pycache__" not in path.parts):
        state.update(f"{path.relative_to(ROOT)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def program(tree, name, *arguments):
    """A command of the tree, which is not entered: it is found with its libraries, and all else stays in sight."""
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    path = ":".join(map(str, [libraries, *sorted(libraries.glob("*/"))]))
    return [tree / "lib64/ld-linux-x86-64.so.2", "--library-path", path, tree / "usr/bin" / name, *arguments]


class Emulator:
    """A machine that QEMU emulates, with what it says on its serial line; ``typed`` there again and again.

    It ends where it would start again, but for one that is to ``restart``.
    """

    def __init__(self, tree, folder, name, *arguments, typed=b"", restart=False):
        self._typed = typed
        arguments = arguments if restart else ("-no-reboot", *arguments)
        self._console = folder / f"{name}.txt"
        self._command = program(
            tree, "qemu-system-aarch64",
            "-L", tree / "usr/share/qemu", "-accel", "tcg,thread=multi", "-display", "none", *arguments,
        )  # fmt: skip

    def __enter__(self):
        self.started = time.monotonic()
        with self._console.open("wb") as console:
            self._qemu = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=console, stderr=subprocess.STDOUT
            )
        return self

    def __exit__(self, *_):
        self._qemu.kill()
        self._qemu.communicate()

    def said(self):
        return self._console.read_text(errors="replace")

    def wait_for(self, find, what):
        """Call ``find`` until it returns something true; return that, and the seconds since the start."""
        ended = False
        while time.monotonic() - self.started < BOOT_TIMEOUT_S and not ended:
            # What it said last counts, too.
            ended = self._qemu.poll() is not None
            found = find()
            if found:
                return found, round(time.monotonic() - self.started)
            with contextlib.suppress(BrokenPipeError):
                self._qemu.stdin.write(self._typed)
                self._qemu.stdin.flush()
            time.sleep(2)
        sys.exit(f"{self.said()[-6000:]}\nno sign of {what}; the console stands above")


def fetch(port, path):
    """A page, or nothing while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return ""


def check(what, is_right):
    if not is_right:
        sys.exit(f"the arm64 image: {what}")


def start_card(image, path, tools):
    card = Card(image, path, tools=tools)
    os.truncate(path, CARD_BYTES)
    return card


class Virt(Emulator):
    """QEMU's own machine with ``card`` in it; looked at by its pages, and by an operator's login with ``key``."""

    def __init__(self, tree, folder, name, card, key, **options):
        self.http, self._ssh = free_port(), free_port()
        self._tree, self._key = tree, key
        forward = f"hostfwd=tcp:127.0.0.1:{self.http}-:9470,hostfwd=tcp:127.0.0.1:{self._ssh}-:22"
        super().__init__(
            tree, folder, name,
            "-M", "virt,gic-version=3", "-cpu", "cortex-a53", "-smp", "2", "-m", str(MEMORY_MIB),
            "-monitor", "none", "-serial", "stdio", "-bios", tree / "usr/lib/u-boot/qemu_arm64/u-boot.bin",
            "-drive", f"file={card.path},if=none,id=card,format=raw", "-device", "virtio-blk-pci,drive=card",
            "-netdev", f"user,id=cable,{forward}", "-device", "virtio-net-pci,netdev=cable,romfile=",
            "-device", "virtio-rng-pci", **options,
        )  # fmt: skip

    def sh(self, command, data=b""):
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"]
        options.append("ConnectTimeout=60")
        done = subprocess.run(
            program(self._tree, "ssh", "-F", "/dev/null", "-i", self._key, "-p", str(self._ssh),
                    *(part for option in options for part in ("-o", option)), "operator@127.0.0.1", command),
            input=data, stdout=subprocess.PIPE, timeout=BOOT_TIMEOUT_S, check=False,
        )  # fmt: skip
        return done.stdout.decode().strip()

    def metrics(self):
        return fetch(self.http, "/metrics")


def boot_all(image, folder, tools, tree):
    """Through U-Boot to the relay, in QEMU's own machine, until its second slot is filled; return card and key, too."""
    card = start_card(image, folder / "virt.img", tools)
    key = folder / "key"
    subprocess.run(program(tree, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key), check=True)
    public = key.with_suffix(".pub").read_text().strip()
    card.write("MESH-RELAY", "relay.toml", f'[appliance]\nssh_keys = ["{public}"]\n'.encode())
    with Virt(tree, folder, "virt", card, key) as machine:
        sh = machine.sh
        metrics, boot_s = machine.wait_for(machine.metrics, "the relay's metrics")
        check("the metrics are not the relay's", re.search(r"^relay_build_info\{.*\} 1\.0$", metrics, re.MULTILINE))
        check("no status page", "<html" in fetch(machine.http, "/"))
        state, up_s = machine.wait_for(lambda: sh("systemctl is-system-running --wait"), "a login")
        failed = sh("systemctl list-units --failed --plain --no-legend | cut -d' ' -f1").split()
        check(f"{state}, failed: {failed}", state == "running" and not failed)
        for unit in SERVICES:
            found = sh(f"systemctl show -p ActiveState,Result,NRestarts {unit}").split()
            wanted = {"ActiveState=active", "Result=success", "NRestarts=0"}
            check(f"{unit}: {found}", set(found) == wanted)
        status = json.loads(sh("relay status --json"))
        check("the store is not volatile", not status["store"]["durable"] and status["store"]["writable"])
        # dm-crypt, and the cipher, as modules: the amd64 image runs on a kernel that has all built in.
        kept = sh("findmnt -n -o FSTYPE /data; cat /sys/dev/block/$(findmnt -rn -o MAJ:MIN /data)/dm/name").split()
        check(f"what is kept is not encrypted: {kept}", kept == ["ext4", "mesh-relay-data"])
        dumps = sh("cat /proc/sys/kernel/core_pattern /proc/sys/kernel/kexec_load_disabled; tail -n +2 /proc/swaps")
        check(f"memory may be written down: {dumps}", dumps.split() == ["|/bin/false", "1"])
        check("the root is not the squashfs", sh("findmnt -n -o FSTYPE,SOURCE /").split() == ["squashfs", "/dev/dm-0"])
        check("it is not arm64", sh("uname -m") == "aarch64")
        check("something was killed for want of memory", sh("grep '^oom_kill ' /proc/vmstat") == "oom_kill 0")
        for name in FIRMWARE:
            check(f"no firmware {name}", sh(f"test -s /usr/lib/firmware/{name} && echo there") == "there")
        # By their aliases, as udev asks for them; made for another kernel, they would not be loaded.
        drivers = [sh(f"/usr/sbin/modprobe --resolve-alias '{alias}'") for alias in MADE_HERE]
        versions = sh(f"/usr/sbin/modinfo -F vermagic {' '.join(drivers)} dm_verity").splitlines()
        check(f"our drivers: {drivers}, {versions}", len(versions) == 3 and len(set(versions)) == 1)
        is_filled = "systemctl show -p ActiveState,Result relay-slot.service"
        wanted = ["ActiveState=inactive", "Result=success"]
        machine.wait_for(lambda: sorted(sh(is_filled).split()) == wanted, "the second slot")
        check("the second slot is not the first", card.content("B") == card.content("A"))
        check(f"it would not start: {card.record()}", card.record().left == (TRIES, TRIES))
        available = int(sh("awk '/MemAvailable/ {print $2}' /proc/meminfo")) // 1024
    return card, key, {"boot_s": boot_s, "up_s": up_s, "failed_units": 0, "memory_available_mib": available}


def turn_back(card, key, folder, tree):
    """A to B after A fails three times, by U-Boot's own count; return the seconds until B tells so in its metrics."""
    # Its root is not what BOOT_A says it is.
    card.flip("ROOT_A", 5000)
    with Virt(tree, folder, "turn-back", card, key, restart=True) as machine:
        _, seconds = machine.wait_for(lambda: TURNED_BACK in machine.metrics(), "slot B")
        said = [line for line in machine.said().splitlines() if line.startswith("Slot ")]
        check(f"not A three times and then B: {said}", [line[:7] for line in said] == ["Slot A:"] * 3 + ["Slot B:"])
        machine.wait_for(lambda: card.record().tries("A"), "slot A, filled from B")
        check("slot A is not slot B", card.content("A") == card.content("B"))
    return seconds


def try_what_never_gets_ready(card, key, folder, tree):
    """Slot A once more, on trial, with a system in which not one program of the relay's is; back to B by itself.

    It has one try left, which is what the three of :func:`turn_back` cost in time. Returns the seconds.
    """
    name = card.content("A")[2].manifest.name()
    initrd = card.read("BOOT_A", "initrd")
    # Each archive begins at a multiple of four (Documentation/driver-api/early-userspace/buffer-format.rst).
    card.write("BOOT_A", "initrd", initrd + bytes(-len(initrd) % 4) + without_relay())
    script = card.read("MESH-RELAY", "boot.scr")
    card.write("MESH-RELAY", "boot.scr", with_words(script, SOON))
    card.remember(updated(card.record(), "A", ()).with_tries("A", 1))
    with Virt(tree, folder, "trial", card, key, restart=True) as machine:
        _, seconds = machine.wait_for(lambda: TURNED_BACK in machine.metrics(), "slot B again")
        said = [line for line in machine.said().splitlines() if line.startswith("Slot ")]
        check(f"not A and then B: {said}", [line[:7] for line in said] == ["Slot A:", "Slot B:"])
        check(f"it is not remembered: {card.record()}", card.record().failed == name)
        machine.wait_for(lambda: card.record().tries("A"), "slot A, filled from B once more")
    card.write("MESH-RELAY", "boot.scr", script)
    return seconds


def update(card, key, folder, tree, signing):
    """From B to A by an update that an operator hands in, and that proves itself; return the seconds that it takes."""
    boot, root, head = card.content("B")
    found = head.manifest
    # The same software with another name: all pieces are there already, and none is asked for.
    newer = signed(Head(manifest=replace(found, version="99.0", built=found.built + 1)), signing)
    with Virt(tree, folder, "before", card, key) as machine:
        machine.wait_for(machine.metrics, "slot B")
        said, _ = machine.wait_for(lambda: machine.sh("relay update", newer.encode() + boot + root), "a login")
        check(f"it is not taken: {said}", "Version 99.0 is on the card" in said)
    check(f"it is not to be tried: {card.record()}", card.record().trial == "A")
    with Virt(tree, folder, "update", card, key, restart=True) as machine:
        _, seconds = machine.wait_for(lambda: not card.record().trial, "slot A, proved")
        record = card.record()
        check(f"A did not stay: {record}", (record.first, record.failed, record.left) == ("A", "", (TRIES, TRIES)))
        # It looks each half minute.
        machine.wait_for(lambda: TURNED_BACK not in (machine.metrics() or TURNED_BACK), "an end of what turned back")
        said = [line for line in machine.said().splitlines() if line.startswith("Slot ")]
        check(f"not A alone, on trial: {said}", len(said) == 1 and said[0].startswith("Slot A:") and "trial" in said[0])
    return seconds


def check_script(image, folder, tools, tree):
    """U-Boot's script against its model; return how many starts that took."""
    card = start_card(image, folder / "script.img", tools)
    # Nothing of it starts.
    card.remove("BOOT_A", "root.env")
    starts = []

    def start(*, writable):
        starts.append(writable)
        with Emulator(
            tree, folder, f"script{len(starts)}", "-M", "virt,gic-version=3", "-cpu", "cortex-a53", "-nic", "none",
            "-monitor", "none", "-serial", "stdio", "-bios", tree / "usr/lib/u-boot/qemu_arm64/u-boot.bin",
            "-drive", f"file={card.path},if=none,id=card,format=raw,readonly={'off' if writable else 'on'}",
            "-device", "virtio-blk-pci,drive=card",
        ) as machine:  # fmt: skip
            machine.wait_for(lambda: "resetting ..." in machine.said(), "the end of U-Boot's script")
            return machine.said()

    found = list(boot_script.differences(card, start))
    check(f"U-Boot does otherwise than relay/board/slots.py says: {found}", not found)
    return len(starts)


def without_relay():
    """An archive behind an initrd's, with a first program that hides all of the relay's."""
    script = INIT.read_text().replace("exec switch_root", "mount -t tmpfs none /sysroot/opt\nexec switch_root")
    packed = Initrd(ROOT, None)
    packed.add("init", 0o100755, script.encode())
    return packed.pack()


def telling(script, words=b""):
    """boot.scr that has the kernel and systemd tell what they do; ``words``: as of :func:`with_words`."""
    # QEMU's Pi takes the watchdog's being set for a reset (hw/misc/bcm2835_powermgt.c there).
    told = b"systemd.show_status=true systemd.watchdog_sec=0 initcall_debug ignore_loglevel "
    return with_words(script, told + words)


def with_words(script, words):
    """boot.scr (an image for U-Boot, include/image.h there) with other words for the kernel than that it be quiet.

    Each has a space behind it.
    """
    text = script[72:].replace(b" quiet ", b" " + words)
    body = struct.pack(">II", len(text), 0) + text
    head = bytearray(script[:64])
    struct.pack_into(">I", head, 12, len(body))
    struct.pack_into(">I", head, 24, zlib.crc32(body))
    struct.pack_into(">I", head, 4, 0)
    struct.pack_into(">I", head, 4, zlib.crc32(head))
    return bytes(head) + body


def pi(image, folder, tools, tree, machine, board, words=b""):
    """An emulated Pi with a card of its own, which the Pi's U-Boot starts with a board's device tree."""
    card = start_card(image, folder / f"{board}.img", tools)
    card.write("MESH-RELAY", "boot.scr", telling(card.read("MESH-RELAY", "boot.scr"), words))
    for name in ("u-boot.bin", f"{board}.dtb"):
        (folder / name).write_bytes(card.read("MESH-RELAY", name))
    return Emulator(
        tree, folder, board, "-M", machine, "-monitor", "none", "-serial", "null", "-serial", "stdio",
        "-kernel", folder / "u-boot.bin", "-dtb", folder / f"{board}.dtb",
        "-drive", f"file={card.path},if=sd,format=raw",
    )  # fmt: skip


def boot_pi(image, folder, tools, tree, board):
    """The Pi's U-Boot, Debian's kernel and device tree, from an emulated Pi 3's card until udev has loaded drivers.

    Not further: nobody can log in there, as QEMU's Pi has no network. Returns the seconds until the root's systemd
    runs, and those until the driver of the supply's voltage has found the firmware's answer.
    """
    with pi(image, folder, tools, tree, "raspi3b", board) as machine:
        _, switch_root_s = machine.wait_for(lambda: "Welcome to " in machine.said(), f"systemd on {board}")
        found = "probe of raspberrypi-hwmon with driver raspberrypi-hwmon returned 0 "
        _, supply_s = machine.wait_for(lambda: found in machine.said(), f"the supply's driver on {board}")
        said = machine.said()
    check("U-Boot did not run the script", "bootdev.part_1' with script" in said)
    check("the root was not checked", re.search(r"initcall dm_verity_init.* returned 0 ", said))
    return switch_root_s, supply_s


def boot_pi4(image, folder, tools, tree):
    """An emulated Pi 4, as far as it goes: its device tree, by the Pi's own U-Boot, until the kernel has no more to do.

    QEMU's Pi 4 then stands still at the first program. Returns the seconds until there.
    """
    with pi(image, folder, tools, tree, "raspi4b", PI_4, PI_4_WORDS) as machine:
        _, kernel_s = machine.wait_for(lambda: "Freeing unused kernel memory" in machine.said(), "a Pi 4's kernel")
        check("it took another tree", "Machine model: Raspberry Pi 4 Model B" in machine.said())
    return kernel_s


def check_no_prompt(card, folder, tree):
    """The Pi's U-Boot in a Pi 3 without a card, while somebody types: it starts again, and nothing else."""
    board = BOARDS[0]
    for name in ("u-boot.bin", f"{board}.dtb"):
        (folder / name).write_bytes(card.read("MESH-RELAY", name))
    with Emulator(
        tree, folder, "typing", "-M", "raspi3b", "-monitor", "none", "-serial", "null", "-serial", "stdio",
        "-kernel", folder / "u-boot.bin", "-dtb", folder / f"{board}.dtb", "-device", "usb-kbd", typed=TYPED,
    ) as machine:  # fmt: skip
        machine.wait_for(lambda: "resetting ..." in machine.said(), "a restart")
        check("U-Boot has a prompt", "U-Boot>" not in machine.said())


def check_pi5(card, folder, tree):
    """No emulator has a Pi 5. What lies on the card for it is held against what it is to become."""
    check("no overlay for its light", b"dtoverlay=relay-light" in card.read("MESH-RELAY", "config.txt"))
    for name in ("bcm2712-rpi-5-b.dtb", "bcm2712-d-rpi-5-b.dtb", "bcm2712d0.dtbo"):
        (folder / name).write_bytes(card.read("MESH-RELAY", f"{'overlays/' * name.endswith('.dtbo')}{name}"))
    changed = folder / "changed.dtb"
    command = program(
        tree, "fdtoverlay", "-i", folder / "bcm2712-rpi-5-b.dtb", "-o", changed, folder / "bcm2712d0.dtbo"
    )
    subprocess.run(command, check=True)
    # The names of lines are for people.
    made, wanted = (
        {node.path: node.properties | {"gpio-line-names": b""} for node in devicetree.read(path.read_bytes()).walk()}
        for path in (changed, folder / "bcm2712-d-rpi-5-b.dtb")
    )
    check("bcm2712d0.dtbo does not make the tree of the D step", made == wanted)


def main(image, second, tree, signing):
    result = {"date": dt.datetime.now(dt.UTC).date().isoformat(), "inputs_sha256": inputs_hash()}
    packed = image.with_name(f"{image.name}.xz").stat().st_size
    check(f"{packed} bytes compressed", packed <= MAX_COMPRESSED_BYTES)
    check("built again from the same packages, it is another", filecmp.cmp(image, second, shallow=False))
    result |= {"compressed_bytes": packed, "reproducible": True, "both_builds_from": "one base of Debian packages"}
    tools = tools_tree()
    with tempfile.TemporaryDirectory() as name:
        result["script_starts"] = check_script(image, Path(name), tools, tree)
        card, key, found = boot_all(image, Path(name), tools, tree)
        result |= found
        result["turn_back_s"] = turn_back(card, key, Path(name), tree)
        result["never_ready_s"] = try_what_never_gets_ready(card, key, Path(name), tree)
        result["update_s"] = update(card, key, Path(name), tree, minisign.load(signing))
        check_pi5(Card(image, Path(name) / "pi5.img", tools=tools), Path(name), tools)
        boots = {board: boot_pi(image, Path(name), tools, tree, board) for board in BOARDS}
        result["raspi4b_kernel_s"] = boot_pi4(image, Path(name), tools, tree)
        check_no_prompt(Card(image, Path(name) / "typing.img", tools=tools), Path(name), tree)
        result["raspi3b_switch_root_s"] = {board: switch_root_s for board, (switch_root_s, _) in boots.items()}
        result["raspi3b_supply_s"] = {board: supply_s for board, (_, supply_s) in boots.items()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
