# SPDX-License-Identifier: GPL-2.0-or-later
"""wpa_supplicant is gone when we are, also one that does not listen."""

import asyncio
import contextlib
import os
import sys

import pytest

from relay.net import supplicant
from relay.net.supplicant import Supplicant

DEAF = f"""#!{sys.executable}
import signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
control.bind(sys.argv[6] + "/" + sys.argv[2])
while True:
    data, sender = control.recvfrom(4096)
    control.sendto(b"0\\n" if data.startswith(b"ADD_NETWORK") else b"OK\\n", sender)
"""


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_one_that_does_not_end_is_killed_also_by_who_is_ended_himself(is_cancelled, tmp_path, monkeypatch):
    program = tmp_path / "deaf"
    program.write_text(DEAF)
    program.chmod(0o700)
    monkeypatch.setattr(supplicant, "_STOP_S", 0.2)
    started = asyncio.Queue()

    async def serve():
        running = Supplicant(str(program), "wlan0", tmp_path)
        try:
            await running.start("mesh", "secret of the mesh", 2412, forwarding=True)
            started.put_nowait(running._process.pid)
            await asyncio.sleep(100 if is_cancelled else 0)
        finally:
            await running.stop()

    async def main():
        task = asyncio.ensure_future(serve())
        pid = await started.get()
        if is_cancelled:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return pid

    pid = asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
