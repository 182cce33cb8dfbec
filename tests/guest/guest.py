# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest: a Linux kernel of its own on the shared Debian, with the product at /src, that runs what tests ask for."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shlex
import shutil
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

from tests.guest.uml import ROOT, GuestError, Uml

#: A busy machine; alone it takes one to two seconds.
BOOT_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
#: What commands see. The sources are read-only, and compiling them takes longer than booting.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/src:/packages",
    "PYTHONPYCACHEPREFIX": "/bytecode",
    "PYTHONUNBUFFERED": "1",
}


class Process:
    """A command in a guest."""

    def __init__(self, guest, argv, changed):
        self._guest = guest
        self._changed = changed
        self.argv = argv
        self.pid = None
        #: Exit code, minus the signal that ended it; None while it runs.
        self.code = None
        self._pieces = []

    def _handle(self, event):
        self.pid = event.get("pid", self.pid)
        self.code = event.get("exit", self.code)
        self._pieces += [(name, base64.b64decode(event[name])) for name in ("out", "err") if name in event]

    @property
    def stdout(self):
        return self._text("out")

    @property
    def stderr(self):
        return self._text("err")

    @property
    def output(self):
        """Both, as they came."""
        return self._text("out", "err")

    def _text(self, *names):
        with self._changed:
            return b"".join(data for name, data in self._pieces if name in names).decode(errors="replace")

    def poll(self):
        """The exit code, or None while it runs."""
        with self._changed:
            self._guest.check()
            return self.code

    def wait(self, timeout_s=RUN_TIMEOUT_S):
        """Wait for its end; return the exit code."""
        self._guest.wait_for(lambda: self.code is not None, timeout_s, lambda: self.describe("still runs"))
        return self.code

    def wait_output(self, text, timeout_s=RUN_TIMEOUT_S):
        """Wait until it has printed ``text``."""
        self._guest.wait_for(
            lambda: text in self.output or self.code is not None,
            timeout_s,
            lambda: self.describe(f"did not say {text!r}"),
        )
        if text not in self.output:
            raise GuestError(self.describe(f"ended before it said {text!r}"))

    def signal(self, number):
        """Send a signal to it and its children."""
        self._guest.tell(signal=self._guest.number_of(self), number=number)

    def stop(self, timeout_s=STOP_TIMEOUT_S):
        """SIGTERM; return the exit code, or fail if it does not end in time."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self):
        """SIGKILL, and wait; nothing if it has ended."""
        if self.poll() is None:
            self.signal(signal.SIGKILL)
            self.wait()

    def describe(self, what):
        return f"{self._guest.name}: {shlex.join(self.argv)}: {what} (exit code {self.code})\n{self.output[-4000:]}"


class Guest:
    """One guest; a context manager.

    ``start`` does not wait, so that several boot at once; ``wait_ready`` does, and whatever runs a command.

    :param radios: serial lines for Bluetooth controllers; ``radio_lines[i]`` is the host's end of the guest's
        ``/dev/ttyS{1 + i}``, to be given to the air
    :param cpu: as of :class:`tests.guest.uml.Uml`; guests that work at the same time should have others
    """

    def __init__(self, parts, name, *, radios=0, memory_mib=192, cpu=None, arguments=()):
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="guest-"))
        self.share = self.folder / "share"
        self.share.mkdir()
        # Links, because a kernel's command line has no room for any path there may be.
        (self.folder / "src").symlink_to(ROOT)
        (self.folder / "packages").symlink_to(parts.packages)
        (self.folder / "bytecode").symlink_to(parts.bytecode)
        (self.folder / "root").symlink_to(parts.root)
        self._parts = parts
        self._arguments = arguments
        self._memory_mib = memory_mib
        self._cpu = os.getpid() if cpu is None else cpu
        self._uml = None
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._processes = {}
        self._ready = False
        self._line = None
        self._reader = None
        self.radio_lines = []
        self._radios = radios

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.close()

    # -- its life ---------------------------------------------------------

    def start(self):
        pairs = [socket.socketpair() for _ in range(1 + self._radios)]
        self._line, *self.radio_lines = (pair[0] for pair in pairs)
        self._uml = Uml(
            self._parts.kernel,
            self.folder,
            [
                "root=/dev/root", "rootfstype=hostfs", f"rootflags={self.folder}/root", "ro", "quiet",
                "init=/bin/sh", f"GUEST_NAME={self.name}", f"GUEST_FOLDER={self.folder}", *self._arguments, "--", "-c",
                f'"mount -t hostfs -o ro,hostfs={self.folder}/src none /src && exec sh /src/tests/guest/init"',
            ],
            memory_mib=self._memory_mib,
            lines=[pair[1] for pair in pairs],
            cpu=self._cpu,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(self._line.dup(),), name=f"guest {self.name}")
        self._reader.start()

    def wait_ready(self):
        self.wait_for(lambda: self._ready, BOOT_TIMEOUT_S, lambda: f"{self.name} did not boot")

    def close(self):
        """Power off, and remove all that it left on the host."""
        if self._uml is not None:
            if self._uml.poll() is None and self._ready:
                self.tell(quit=1)
                self._uml.wait(STOP_TIMEOUT_S)
            self.kill()
            for line in self.radio_lines:
                line.close()
        shutil.rmtree(self.folder)

    def kill(self):
        """The power fails."""
        self._uml.kill()
        # The reader stops at the end of its line.
        self._line.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._line.close()

    def console_text(self):
        return self._uml.console_text()

    # -- commands ---------------------------------------------------------

    def start_process(self, *argv, env=None, cwd="/root", netns=None):
        """Begin a command, and return at once; in the network namespace of that name, if given."""
        self.wait_ready()
        argv = [str(argument) for argument in argv]
        if netns is not None:
            argv = ["ip", "netns", "exec", netns, *argv]
        process, number = self._new_process(argv)
        self.tell(start=number, argv=argv, env=ENVIRONMENT | (env or {}), cwd=str(cwd))
        return process

    def _new_process(self, argv):
        process = Process(self, argv, self._changed)
        with self._changed:
            number = next(self._numbers)
            self._processes[number] = process
        return process, number

    def run(self, *argv, timeout_s=RUN_TIMEOUT_S, check=True, **options):
        """Run a command to its end; fail if it fails and ``check``; return the :class:`Process`."""
        process = self.start_process(*argv, **options)
        process.wait(timeout_s)
        if check and process.code:
            raise GuestError(process.describe("failed"))
        return process

    def ask(self, path, line, timeout_s=RUN_TIMEOUT_S):
        """Write a line to a Unix socket; return the line that is answered, None while nobody does."""
        self.wait_ready()
        process, number = self._new_process(["ask", path])
        self.tell(ask=number, path=str(path), line=line)
        return process.stdout if process.wait(timeout_s) == 0 else None

    def sh(self, script, **options):
        """Run a script of bash to its end, which fails at the first command that does; return what it printed."""
        return self.run("bash", "-euo", "pipefail", "-c", script, **options).output

    def python(self, *arguments, **options):
        """Begin the guest's Python, with the product and its packages on the path."""
        return self.start_process("python3", *arguments, **options)

    def write(self, path, data):
        """Write a file inside; ``data`` is bytes or text."""
        # A new name each time: the guest believes what it once read of a file that it shares with the host.
        staged = self.share / f"to-{next(self._numbers)}"
        staged.write_bytes(data.encode() if isinstance(data, str) else data)
        self.run("install", "-D", f"/host/{staged.name}", path)
        staged.unlink()

    def read(self, path):
        """The bytes of a file inside."""
        staged = self.share / f"from-{next(self._numbers)}"
        self.run("cp", path, f"/host/{staged.name}")
        data = staged.read_bytes()
        staged.unlink()
        return data

    # -- for Process ------------------------------------------------------

    def number_of(self, process):
        return next(number for number, known in self._processes.items() if known is process)

    def tell(self, **command):
        self._line.sendall(json.dumps(command).encode() + b"\n")

    def check(self):
        """Fail if the guest is not alive."""
        if self._uml is None or self._uml.poll() is not None:
            tail = self._uml.console_tail() if self._uml else "never started"
            raise GuestError(f"guest {self.name} is not running; its console:\n{tail}")

    def wait_for(self, condition, timeout_s, describe):
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                self.check()
                # Its death wakes nobody.
                self._changed.wait(min(0.5, max(0.0, deadline - time.monotonic())))
                if time.monotonic() >= deadline and not condition():
                    console = self._uml.console_tail()
                    raise GuestError(f"after {timeout_s:g} s {describe()}\nconsole:\n{console}")

    def _read(self, line):
        with line, line.makefile("rb") as lines:
            for text in lines:
                # The kernel and the terminal say things of their own before the agent is there.
                try:
                    event = json.loads(text)
                except ValueError:
                    continue
                with self._changed:
                    if "id" in event:
                        self._processes[event["id"]]._handle(event)
                    else:
                        self._ready = True
                    self._changed.notify_all()
