# SPDX-License-Identifier: GPL-2.0-or-later
"""``leash.py CONSOLE CPUS PROGRAM...``: runs a program that must not outlive whoever started it.

It ends, with all its process group, when standard input does: the other end of that pipe is in the test process, and
closes however that ends. What it prints goes to the file CONSOLE, through a pipe, since User-Mode Linux seeks in files.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
#: A guest that panics in a loop must not fill the disk.
CONSOLE_BYTES = 4_000_000


def main(console, cpus, *argv):
    libc = ctypes.CDLL(None)
    os.sched_setaffinity(0, map(int, cpus.split(",")))
    inherited = [int(path.name) for path in Path("/proc/self/fd").iterdir() if int(path.name) > 2]
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[fd for fd in inherited if _is_socket(fd)],
        # Should this process be killed.
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - there are no threads
    )  # fmt: skip
    for fd in inherited:
        if _is_socket(fd):
            os.close(fd)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(child.stdout, selectors.EVENT_READ)
    left = CONSOLE_BYTES
    with Path(console).open("ab", buffering=0) as log:
        while True:
            for key, _ in selector.select():
                data = os.read(key.fd, 65536)
                if key.fd == 0 and not data:
                    # It holds the locks on its disks until it is really gone, on a busy machine a moment later;
                    # then its children, and this process.
                    child.kill()
                    child.wait()
                    os.killpg(0, signal.SIGKILL)
                if key.fd != 0:
                    if not data:
                        return child.wait()
                    log.write(data[:left])
                    left -= len(data[:left])


def _is_socket(fd):
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("socket:")
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(abs(main(*sys.argv[1:])))
