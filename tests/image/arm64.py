# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.image.arm64 IMAGE TREE`: boots the arm64 image through U-Boot in QEMU, and writes what it measured.

An emulated start takes minutes, so this is no part of the tests that everybody runs; arm64.json beside this file is
what the last run gave, with the date and a hash of what the image is made from.
"""

import datetime as dt
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.guest.uml import ROOT

RESULT = Path(__file__).with_name("arm64.json")
BOOT_TIMEOUT_S = 1800.0
#: As much as a Raspberry Pi Zero 2 W leaves when the firmware has its share.
MEMORY_MIB = 448


def inputs_hash():
    """Over every file that an image is made from, but for the Debian packages."""
    files = [path for folder in ("ansible", "image", "relay") for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [ROOT / ".ci" / "requirements-guest.txt", ROOT / "pyproject.toml"]
    state = hashlib.sha256()
    for path in sorted(path for path in files if "__pycache__" not in path.parts):
        state.update(f"{path.relative_to(ROOT)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(port):
    """The metrics, or nothing while the relay is not there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return ""


def main(image, tree):
    with tempfile.TemporaryDirectory() as folder:
        card = Path(folder, "card.img")
        subprocess.run(["cp", "--sparse=always", image, card], check=True)
        # A card of a size that QEMU accepts, and larger than the image.
        os.truncate(card, 2 * 1024**3)
        port = free_port()
        # The tree is not entered: the emulator is found with its libraries, and everything else stays in sight.
        loader = tree / "lib64/ld-linux-x86-64.so.2"
        libraries = [tree / "usr/lib/x86_64-linux-gnu", *sorted((tree / "usr/lib/x86_64-linux-gnu").glob("*/"))]
        started = time.monotonic()
        with Path(folder, "console.txt").open("wb") as console:
            qemu = subprocess.Popen(
                [loader, "--library-path", ":".join(map(str, libraries)), tree / "usr/bin/qemu-system-aarch64",
                 "-M", "virt,gic-version=3", "-cpu", "cortex-a53", "-accel", "tcg,thread=multi", "-smp", "2",
                 "-m", str(MEMORY_MIB), "-nographic", "-no-reboot", "-L", tree / "usr/share/qemu",
                 "-bios", tree / "usr/lib/u-boot/qemu_arm64/u-boot.bin",
                 "-drive", f"file={card},if=none,id=card,format=raw", "-device", "virtio-blk-pci,drive=card",
                 "-nic", f"user,model=virtio-net-pci,romfile=,hostfwd=tcp:127.0.0.1:{port}-:9470",
                 "-device", "virtio-rng-pci"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                metrics = ""
                while not metrics and qemu.poll() is None and time.monotonic() - started < BOOT_TIMEOUT_S:
                    time.sleep(2)
                    metrics = fetch(port)
                boot_s = time.monotonic() - started
            finally:
                qemu.kill()
                qemu.wait()
        said = Path(folder, "console.txt").read_text(errors="replace")
    if not re.search(r"^relay_build_info\{.*\} 1\.0$", metrics, re.MULTILINE):
        print(said[-6000:])
        sys.exit("the relay in the arm64 image does not answer; its console stands above")
    packed = image.with_name(f"{image.name}.xz")
    result = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "inputs_sha256": inputs_hash(),
        "compressed_bytes": packed.stat().st_size if packed.exists() else None,
        "boot_s": round(boot_s),
        "booted_through": "U-Boot, qemu-system-aarch64 -M virt, emulated",
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
