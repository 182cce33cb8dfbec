# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab's own kernel must stand (Linux 6.12 did not)."""

import pytest

from tests.guest.guest import Guest

pytestmark = pytest.mark.timeout(90)

#: Processes that do nothing but fork, a long copy each time, and are killed over it.
_KILLED_FORKS = """
import mmap, os, random, signal, sys, time
held = []
for _ in range(3000):
    held.append(mmap.mmap(-1, 4096, prot=mmap.PROT_READ | (mmap.PROT_WRITE if len(held) % 2 else 0)))
for _ in range(int(sys.argv[1])):
    if not (child := os.fork()):
        while True:
            if not (grandchild := os.fork()):
                os._exit(0)
            os.waitpid(grandchild, 0)
    time.sleep(0.02 + random.random() / 50)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_process_may_be_killed_while_it_forks(parts):
    with Guest(parts, "fork") as guest:
        guest.write("/root/forks.py", _KILLED_FORKS)
        guest.run("python3", "/root/forks.py", "100", timeout_s=60)
