# SPDX-License-Identifier: GPL-2.0-or-later
"""Real relay processes and bare client sessions for the benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.control.control_client import ControlClient
from relay.core import session as s
from relay.core.messages import Ack, Hello, Role
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_S = 180.0
#: Between two tries of whoever waits for a relay to listen: little beside what a slow board takes to start.
KNOCK_S = 0.01
_HTTP = """
[http]
enabled = {http}
listen = "127.0.0.1:{http_port}"
"""


class RelayProcess:
    """One `relay run` with a store of its own in ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        peers: tuple[int, ...] = (),
        discovery: bool = False,
        http: bool = False,
        limits: str = "max_bytes = 8_000_000_000\nmax_envelopes = 1_000_000",
        command: Callable[..., list[str]] = lambda *command: list(command),
        first_put: bytes = b"",
    ) -> None:
        """``command`` makes of the program with its arguments what is run in its place.

        ``first_put``: an envelope to put as soon as anybody listens, which is before the relay says that it is ready.
        """
        self.folder = folder
        self.port = free_port()
        self.http_port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "relay.toml"
        self.config.write_text(
            f"""
[store]
path = "{folder}/store"
{limits}
[tcp]
port = {self.port}
interfaces = ["lo"]
discovery = {str(discovery).lower()}
peers = {json.dumps([f"127.0.0.1:{port}" for port in peers])}
[limits]
handshake_timeout_s = 120
[unix]
path = "{folder}/link.sock"
[control]
path = "{folder}/control.sock"
"""
            + _HTTP.format(http=str(http).lower(), http_port=self.http_port)
        )
        self.process = subprocess.Popen(
            command(sys.executable, "-m", "relay", "run", "--config", str(self.config)),
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        #: Seconds until the first envelope was acknowledged, 0 if there was none; until the relay said it was ready.
        self.first_put_s = self.start_s = 0.0
        try:
            self._wait_for_start(first_put)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _wait_for_start(self, first_put: bytes) -> None:
        started = time.perf_counter()
        if first_put:
            self._put_first(first_put, started + START_S)
            self.first_put_s = time.perf_counter() - started
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        assert ready, "relay did not start"
        os.read(self.process.stdout.fileno(), 1 << 16)
        self.start_s = time.perf_counter() - started

    def _put_first(self, envelope: bytes, until: float) -> None:
        while True:
            try:
                client = BareClient(self.port)
            except ConnectionRefusedError:
                assert time.perf_counter() < until, "relay did not start"
                time.sleep(KNOCK_S)
            else:
                break
        client.session.put(envelope)
        client.flush()
        while not any(isinstance(event, Ack) for event in client.read()):
            pass
        client.close()

    def status(self) -> dict[str, Any]:
        """Return `relay status`."""
        with ControlClient(self.folder / "control.sock") as control:
            return control.status()

    def wait(self, condition: Callable[[dict[str, Any]], bool], timeout_s: float = 120.0) -> float:
        """Wait until ``condition(status)`` holds; return the seconds it took."""
        started = time.perf_counter()
        wait_until(lambda: str(self.status()), lambda: condition(self.status()), timeout_s)
        return time.perf_counter() - started

    def proc(self, name: str) -> str:
        """Return a file of /proc/PID."""
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    def rss_mib(self) -> float:
        """Return the resident memory in MiB."""
        return self._memory_mib("VmRSS")

    def peak_mib(self) -> float:
        """Return the resident memory at its largest, in MiB."""
        return self._memory_mib("VmHWM")

    def _memory_mib(self, name: str) -> float:
        [line] = [line for line in self.proc("status").splitlines() if line.startswith(name)]
        return int(line.split()[1]) / 1024

    def cpu_s(self) -> float:
        """Return the processor time of all threads that there are, in seconds (proc_pid_schedstat(5))."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


@contextlib.contextmanager
def relay(folder: Path, **options: Any) -> Iterator[RelayProcess]:
    """Run a relay for the length of a block."""
    process = RelayProcess(folder, **options)
    try:
        yield process
    finally:
        process.stop()


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class BareClient:
    """One client session on a blocking socket."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(60)
        self.session = s.Session(
            initiator=True, hello=Hello(role=Role.CLIENT), random_bytes=secrets.token_bytes, now=time.monotonic()
        )
        self.flush()
        while self.session.state is not s.State.OPEN:
            self.read()
            self.flush()

    def flush(self) -> None:
        """Send all there is."""
        while data := self.session.data_to_send():
            self.sock.sendall(data)

    def read(self) -> list[s.Event]:
        """Return what the next bytes mean."""
        data = self.sock.recv(1 << 18)
        assert data, "the relay closed the connection"
        return self.session.receive_data(data, time.monotonic())

    def close(self) -> None:
        """End the connection."""
        self.sock.close()
