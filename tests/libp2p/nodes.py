# SPDX-License-Identifier: GPL-2.0-or-later
"""kubo, and `relay libp2p`, on machines of the lab."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.netns.relays import Relay
from tests.waiting import wait_until


def in_files(folder, markers):
    """Which of these bytes are in files below a folder, or in what these are called: pairs of marker and path."""
    found = set()
    for path in folder.rglob("*"):
        held = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
        found |= {(marker, str(path.relative_to(folder))) for marker in markers if marker in held}
    return found


def in_memory(pid, markers):
    """Which of these bytes are in what a process can write and read."""
    found = set()
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            place, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            memory.seek(start)
            with suppress(OSError):
                held = memory.read(end - start)
                found |= {marker for marker in markers if marker in held}
    return found


class Libp2p:
    """A `relay libp2p` beside a relay; its process can be killed and started again."""

    def __init__(self, relay: Relay):
        self.relay = relay
        self.log = relay.folder / "libp2p.txt"
        self.process = None

    def spawn(self):
        """Start without waiting."""
        with self.log.open("ab") as log:
            self.process = self.relay.box.python(
                "-m", "relay", "libp2p", "--config", str(self.relay.folder / "relay.toml"), stdout=log, stderr=log
            )
        return self

    def start(self):
        """Start, and wait until it works."""
        return self.spawn().wait_up()

    def wait_up(self):
        self.relay.wait("relay libp2p works", lambda status: self._part(status).get("state") == "up", 60)
        return self

    @staticmethod
    def _part(status):
        return next((row for row in status["components"] if row["name"] == "libp2p"), {})

    def part(self):
        """What the relay's status says of it."""
        return self._part(self.relay.status())

    def pss_mib(self):
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


class Kubo:
    """A stock kubo, as `ipfs init` and `ipfs daemon` make it."""

    def __init__(self, box, folder, *, config=()):
        self.box = box
        self._ipfs = str(folder / "ipfs")
        self._environ = {
            **os.environ,
            "IPFS_PATH": str(box.folder / "ipfs"),
            "HOME": str(box.folder),
            "IPFS_TELEMETRY": "off",
        }
        self._run("init")
        for name, value in config:
            self._run("config", "--json", name, value)
        with (box.folder / "kubo.txt").open("ab") as log:
            self.process = box.start(self._ipfs, "daemon", env=self._environ, stdout=log, stderr=log)
        wait_until(
            lambda: f"kubo is ready: {(box.folder / 'kubo.txt').read_text()[-2000:]}",
            lambda: "Daemon is ready" in (box.folder / "kubo.txt").read_text(),
            90,
        )

    def _run(self, *arguments, timeout_s=60):
        return subprocess.run(
            ["ip", "netns", "exec", self.box.namespace, self._ipfs, *arguments],
            env=self._environ,
            capture_output=True,
            timeout=timeout_s,
            check=True,
        ).stdout

    def peers(self):
        return self._run("swarm", "peers").decode().split()

    def peer(self):
        return self._run("id", "-f", "<id>").decode().strip()

    def get(self, cid, *, timeout_s=30):
        """Get a block; None where nobody has it within that time."""
        try:
            return self._run("block", "get", "--timeout", f"{timeout_s}s", cid, timeout_s=timeout_s + 30)
        except subprocess.CalledProcessError:
            return None

    def put(self, data):
        path = self.box.folder / "block"
        path.write_bytes(data)
        return self._run("block", "put", "--cid-codec", "raw", str(path)).decode().strip()
