# SPDX-License-Identifier: GPL-2.0-or-later
"""A `relay run` process of a box, watched as an operator watches it: by its control socket."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from relay.control.control_client import ControlClient, ControlError
from tests.waiting import wait_until

PORT = 4270
#: Start-up imports zeroconf and aiohttp, on a machine that may be busy with other tests.
START_TIMEOUT_S = 30.0
#: What SIGTERM promises.
STOP_TIMEOUT_S = 5.0


class RelayFailedError(AssertionError):
    """The relay died, or did not do in time what was waited for."""


class Relay:
    """One relay; its store and configuration outlive its process."""

    def __init__(self, box, name, sections):
        self.box = box
        self.folder = box.folder / name
        self.folder.mkdir()
        self._control = self.folder / "control.sock"
        self._log = self.folder / "output.txt"
        self._config = self.folder / "relay.toml"
        self.process = None
        #: Of its next process, beside what every one has.
        self.environ = {}
        self._last_status = {}
        own = {
            "store": {"path": str(self.folder / "store")},
            "unix": {"path": str(self.folder / "link.sock")},
            "control": {"path": str(self._control)},
            "log": {"level": "info"},
        }
        self._sections = {name: own.get(name, {}) | sections.get(name, {}) for name in own | sections}
        self.configure(self._sections)

    def configure_again(self, **sections):
        """Change these settings; takes effect at the next start."""
        for name, settings in sections.items():
            self._sections[name] = self._sections.get(name, {}) | settings
        self.configure(self._sections)

    def configure(self, sections):
        """Write relay.toml; takes effect at the next start."""
        text = [
            f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in settings.items())
            for name, settings in sections.items()
        ]
        self._config.write_text("\n".join(text))

    # -- the process ------------------------------------------------------

    def spawn(self):
        """Start without waiting."""
        with self._log.open("ab") as log:
            self.process = self.box.python(
                "-m", "relay", "run", "--config", str(self._config), environ=self.environ, stdout=log, stderr=log
            )  # fmt: skip

    def start(self):
        """Start, and wait until it serves."""
        self.spawn()
        self.wait_ready()

    def wait_ready(self, timeout_s=START_TIMEOUT_S):
        """Wait until it serves."""
        self.wait("it is ready", lambda status: status["ready"], timeout_s)

    def kill(self):
        """End as by `kill -9`: what a power cut leaves of a process."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        """SIGTERM; return how long it took. Fails unless it exits 0 within its 5 s."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise RelayFailedError(self._describe(f"ran on {STOP_TIMEOUT_S} s after SIGTERM")) from None
        if code:
            raise RelayFailedError(self._describe(f"exited {code} after SIGTERM"))
        return time.monotonic() - began

    def remove(self):
        """Kill it if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def cli(self, *arguments):
        """Run one of the operator's commands for this relay."""
        return self.box.cli(*arguments, "--config", str(self._config))

    # -- what it says -----------------------------------------------------

    def output(self):
        """All that it printed and logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def status(self):
        """The status as `relay status --json` prints it."""
        with ControlClient(self._control) as client:
            self._last_status = client.status()
        return self._last_status

    def wait(self, what, condition, timeout_s):
        """Return the first status for which ``condition`` holds; fail with ``what`` after ``timeout_s``."""

        def look():
            if self.process.poll() is not None:
                raise RelayFailedError(self._describe(f"died ({self.process.returncode}) before {what}"))
            try:
                status = self.status()
            except ControlError:
                return None
            return status if condition(status) else None

        return wait_until(lambda: self._describe(what), look, timeout_s)

    def wait_linked(self, relays=1, timeout_s=25.0):
        """Wait until so many relays are linked, one on several interfaces for each; return how long it took."""
        began = time.monotonic()
        self.wait(f"{relays} relays are linked", lambda status: linked(status) >= relays, timeout_s)
        return time.monotonic() - began

    def wait_held(self, count, timeout_s=60.0):
        """Wait until exactly so many envelopes are held."""
        self.wait(f"{count} envelopes are held", lambda status: status["store"]["envelopes"] == count, timeout_s)

    def memory_mib(self):
        """Resident memory: now, and at its highest."""
        fields = dict(line.split(":") for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))

    def _describe(self, what):
        status = json.dumps({key: self._last_status.get(key) for key in ("store", "links", "totals", "queues")})
        return f"relay of {self.box.name} {what}\nlast status: {status}\noutput: {self.output()[-3000:]}"


def linked(status, interface=None):
    """Relays that are connected on one interface, or on all: one that is on several counts for each."""
    return sum(link["relays"] for link in status["links"] if interface in (None, link["interface"]))


def link_bytes(status):
    """Bytes of the sessions, both ways, of all links."""
    return sum(link["bytes_in"] + link["bytes_out"] for link in status["links"])


def link_errors(status, reason):
    """How often sessions ended or failed by ``reason``."""
    return sum((link["ended"] | link["errors"]).get(reason, 0) for link in status["links"])


def _toml(value):
    # JSON strings, numbers, booleans and lists of them are TOML.
    return json.dumps(value)
