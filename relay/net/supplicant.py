# SPDX-License-Identifier: GPL-2.0-or-later
"""wpa_supplicant, for SAE alone: started without a configuration and told everything by its control socket.

So the secret is in no file, on no command line and, since its output goes nowhere,
in no log; nor are the addresses of neighbours, which it likes to print.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from typing import TYPE_CHECKING, Final

from relay.net.errors import LostError, UnsuitableError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

PROGRAM: Final = "wpa_supplicant"
#: Where Debian has it; a service's PATH may be without sbin.
_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
#: Folder of control sockets, one per interface, within the runtime folder.
FOLDER: Final = "wpa"
#: sun_path less the name of an interface.
_MAX_FOLDER_BYTES: Final = 88
_START_S: Final = 5.0
_ANSWER_S: Final = 5.0
_STOP_S: Final = 3.0
_POLL_S: Final = 0.05
_MAX_ANSWER_BYTES: Final = 4096
#: MODE_MESH of wpa_supplicant's configuration.
_MESH_MODE: Final = 5


def find_program() -> str | None:
    """Where wpa_supplicant is, or None."""
    return shutil.which(PROGRAM, path=_PATH)


class Supplicant:
    """A wpa_supplicant of our own for one interface."""

    def __init__(self, program: str, interface: str, runtime: Path) -> None:
        self._program = program
        self._interface = interface
        self._folder = runtime / FOLDER
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, mesh_id: str, secret: str, mhz: int, *, forwarding: bool) -> None:
        """Start it and have it join; raise LostError when it does not do as told."""
        if len(bytes(self._folder)) > _MAX_FOLDER_BYTES:
            raise UnsuitableError("the path of the runtime folder is too long for sockets; choose a shorter one")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        control = self._folder / self._interface
        control.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *("-i", self._interface, "-D", "nl80211", "-C", str(self._folder)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
        )
        try:
            async with asyncio.timeout(_START_S):
                while not control.is_socket():
                    await asyncio.sleep(_POLL_S)
                    self.check()
        except TimeoutError:
            raise LostError(f"{PROGRAM} did not start in {_START_S:g} s") from None
        with _Control(control) as talk:
            await talk.command("ADD_NETWORK", expect=None)
            # Strings in hexadecimal need no quoting. Protected management frames are part of SAE.
            settings = {
                "mode": _MESH_MODE,
                "ssid": mesh_id.encode().hex(),
                "frequency": mhz,
                "key_mgmt": "SAE",
                "sae_password": f'"{secret}"',
                "ieee80211w": 2,
                "mesh_fwding": int(forwarding),
            }
            for name, value in settings.items():
                await talk.command(f"SET_NETWORK 0 {name} {value}", what=name)
            await talk.command("SELECT_NETWORK 0")

    def check(self) -> None:
        """Raise LostError when it has ended."""
        if self._process is not None and self._process.returncode is not None:
            status = self._process.returncode
            if status < 0:
                # Forged frames can make it crash (tests/radio/test_wifi_hostile.py); nobody has to do anything.
                raise LostError(f"{PROGRAM} was ended by signal {-status}; it is started again")
            raise LostError(
                f"{PROGRAM} ended with status {status}; it needs CAP_NET_RAW, "
                "and the radio for itself: let NetworkManager and other programs leave it alone"
            )

    async def stop(self) -> None:
        """End it, and wait until it has."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        # Not asyncio.timeout: who is being cancelled gets no TimeoutError from it with Debian 12's Python.
        ending = asyncio.ensure_future(process.wait())
        if (await asyncio.wait({ending}, timeout=_STOP_S))[1]:
            process.kill()
        await ending


async def end_left_over(runtime: Path) -> None:
    """End those that a relay net before this one left running, if any."""
    folder = runtime / FOLDER
    if not folder.is_dir():
        return
    for control in sorted(folder.iterdir()):
        with contextlib.suppress(OSError, LostError):
            if control.is_socket():
                with _Control(control) as talk:
                    await talk.command("TERMINATE")
                # It removes its socket when it has put the interface back.
                async with asyncio.timeout(_STOP_S):
                    while control.exists():  # noqa: ASYNC110 - the file system tells nobody
                        await asyncio.sleep(_POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


class _Control:
    """Its control socket (wpa_ctrl.c): a datagram is a command, the next one back the answer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = path.with_name(f".{path.name}.{os.getpid()}")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def __enter__(self) -> Self:
        self._own.unlink(missing_ok=True)
        self._socket.bind(str(self._own))
        try:
            self._socket.connect(str(self._path))
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._own.unlink(missing_ok=True)

    async def command(self, line: str, *, what: str = "", expect: str | None = "OK") -> str:
        """Send a command; raise LostError (which names ``what``, never the line) unless it answers as expected."""
        loop = asyncio.get_running_loop()
        told = f"{PROGRAM} refused {what or line}"
        try:
            async with asyncio.timeout(_ANSWER_S):
                await loop.sock_sendall(self._socket, line.encode())
                answer = (await loop.sock_recv(self._socket, _MAX_ANSWER_BYTES)).decode(errors="replace").strip()
        except (OSError, TimeoutError) as error:
            raise LostError(f"{told} ({type(error).__name__})") from None
        if expect is not None and answer != expect:
            raise LostError(told)
        return answer
