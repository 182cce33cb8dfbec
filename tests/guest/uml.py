# SPDX-License-Identifier: GPL-2.0-or-later
"""A User-Mode Linux process: its start, its end, its console. What runs inside is up to whoever starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEASH = Path(__file__).with_name("leash.py")
#: What a failing test shows of the console.
CONSOLE_TAIL_BYTES = 4000


class GuestError(AssertionError):
    """A guest died, or did not do in time what was waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What guests are made of, as .ci/guest prints it."""

    kernel: Path
    root: Path
    packages: Path
    bytecode: Path
    air_python: Path

    @classmethod
    def find(cls) -> Parts:
        """Have .ci/guest make what is missing (minutes, if nothing is in the cache)."""
        shown = subprocess.run([ROOT / ".ci" / "guest"], check=True, stdout=subprocess.PIPE, text=True).stdout
        found = dict(line.split("=", 1) for line in shown.splitlines())
        return cls(
            kernel=Path(found["GUEST_KERNEL"]),
            root=Path(found["GUEST_ROOT"]),
            packages=Path(found["GUEST_PACKAGES"]),
            bytecode=Path(found["GUEST_BYTECODE"]),
            air_python=Path(found["AIR_PYTHON"]),
        )


class Uml:
    """One process; starts at once, and ends with this one at the latest.

    :param folder: for its own files and the console's text; absolute, and short: Unix sockets lie in it
    :param arguments: of the kernel: root, init, disks. The first console goes to ``folder/console.txt``
    :param cpu: of the host, counted round and round, from another one in each of pytest's workers; not if these are
        more than there are CPUs, then any
    :param lines: sockets that become the serial lines ttyS0, ttyS1, ... inside; closed here
    :param before: words before the kernel's; in them {0} is the number of the first line's descriptor, and so on
    """

    def __init__(self, kernel, folder, arguments, *, memory_mib, lines=(), cpu=0, before=()):
        self.console = folder / "console.txt"
        before = [word.format(*(line.fileno() for line in lines)) for word in before]
        serial = [f"ssl{number}=fd:{line.fileno()}" for number, line in enumerate(lines)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", LEASH, self.console, ",".join(map(str, _cpus(cpu))), *before, kernel,
             f"mem={memory_mib}M", "seccomp=auto", f"uml_dir={folder}", "umid=uml", "con=null", "con0=null,fd:1",
             *serial, *arguments],
            stdin=subprocess.PIPE,
            pass_fds=[line.fileno() for line in lines],
            start_new_session=True,
        )  # fmt: skip
        for line in lines:
            line.close()

    def poll(self):
        """The exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s):
        """Whether it ended in time, by itself."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self):
        """End it as a power cut does."""
        self._process.stdin.close()
        self._process.wait()

    def console_text(self):
        """All that it printed."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def console_tail(self):
        return self.console_text()[-CONSOLE_TAIL_BYTES:]


def _cpus(cpu):
    """Return the host's CPUs for a guest."""
    cpus = sorted(os.sched_getaffinity(0))
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > len(cpus):
        # Else one CPU has more to do than the other: of three busy guests on two, each on its own, the last ends a
        # quarter later.
        return cpus
    # Its kernel and its processes take turns: a guest alone that may change between two CPUs takes half as long again.
    cpu += int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return [cpus[cpu % len(cpus)]]
