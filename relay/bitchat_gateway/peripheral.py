# SPDX-License-Identifier: GPL-2.0-or-later
"""Phones that dial us: bitchat's GATT service, their places, and what is sent to each.

A phone is notified through a socket of its own, which BlueZ asks for when it subscribes. BlueZ closes, each time that
a phone goes which was not the first of them, that of another one too (its issue 1452). That phone is connected all
the same and notices nothing, so what is for it is told to all who subscribed; the others know it already, or drop it.
It is sent in frames that fit all of them, as BlueZ cuts off what does not fit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from relay.bluetooth.gatt import frame_bytes
from relay.bluetooth.local import RefusedError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from relay.bitchat_gateway.gateway import Gateway
    from relay.process.reports import Reporter


#: Phones announce themselves every 15 to 38 s: one that says nothing for so long is none, and is hung up on.
SILENT_S: Final = 120.0
#: Where all places are taken, whoever has had his for so long gives it to who comes: both apps dial again.
LONG_S: Final = 300.0


def _ignore(_: object) -> None:
    """There is no adapter yet."""


class _Dialler:
    """A phone that dialled us."""

    def __init__(self, device: str, peripheral: Peripheral, limit_bytes: int) -> None:
        self.device = device
        self.limit_bytes = limit_bytes
        self.number = 0
        self._peripheral = peripheral
        self._loop = asyncio.get_running_loop()
        self.came_s = self.heard_s = self._loop.time()
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque()

    @property
    def is_orphan(self) -> bool:
        """Whether it has no socket of its own."""
        return self._socket is None

    @property
    def can_take(self) -> bool:
        return not self._waiting

    def attach(self, sock: socket.socket) -> None:
        """Notify it through this socket from now on."""
        self.detach()
        self._socket = sock
        self._loop.add_reader(sock, self._ended)

    def detach(self) -> None:
        """Close its socket."""
        sock, self._socket = self._socket, None
        if sock is not None:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            sock.close()
        self._waiting.clear()

    def send(self, frames: list[bytes]) -> None:
        for frame in frames:
            # An iPhone takes a packet of several notifications; for all others each frame is one.
            self._waiting.extend(frame[at : at + self.limit_bytes] for at in range(0, len(frame), self.limit_bytes))
        self._flush()

    def hang_up(self) -> None:
        self._peripheral.forget(self.device)
        self._peripheral.turn_away(self.device)

    def _flush(self) -> None:
        sock = self._socket
        if sock is None:
            while self._waiting:
                self._peripheral.notify_all(self._waiting.popleft())
            return
        try:
            while self._waiting:
                sock.send(self._waiting[0])
                self._waiting.popleft()
        except BlockingIOError:
            self._loop.add_writer(sock, self._flush)
            return
        except OSError:
            self._ended()
            return
        self._loop.remove_writer(sock)
        self._peripheral.can_take()

    def _ended(self) -> None:
        """BlueZ closed the socket: the phone is gone, of which we hear, or another one is."""
        self.detach()
        self._peripheral.orphaned(self)


class Peripheral:
    """The places of phones that dial us; a :class:`relay.bluetooth.local.Owner`."""

    def __init__(self, gateway: Gateway, *, max_phones: int, reporter: Reporter) -> None:
        self._gateway = gateway
        self._max_phones = max_phones
        self._reporter = reporter
        #: Tells a value to all who subscribed.
        self.notify_all: Callable[[bytes], None] = _ignore
        #: Ends a device's connection.
        self.hang_up: Callable[[str], None] = _ignore
        #: The number of a device that we dialled.
        self.number_dialled: Callable[[str], int | None] = _ignore
        self.can_take = gateway.wake
        self._diallers: dict[str, _Dialler] = {}
        #: Hung up on, and still connected: by one connection nobody gets to know two of our identities.
        self._leaving: set[str] = set()

    def uses(self, device: str) -> bool:
        """Whether a device has a place, and says anything."""
        dialler = self._diallers.get(device)
        return dialler is not None and asyncio.get_running_loop().time() - dialler.heard_s < SILENT_S

    def __len__(self) -> int:
        """How many phones there are."""
        return len(self._diallers)

    # -- what BlueZ says ----------------------------------------------------------------

    def on_write(self, device: str, value: bytes, mtu_bytes: int) -> None:
        """Take in what a device wrote."""
        if (number := self.number_dialled(device)) is not None:
            # One whom we dialled: it has one link with us, not two.
            self._gateway.received(number, value)
            return
        dialler = self._diallers.get(device) or self._enter(device, mtu_bytes, None)
        dialler.heard_s = asyncio.get_running_loop().time()
        self._gateway.received(dialler.number, value)

    def on_subscribed(self, device: str, ours: socket.socket, mtu_bytes: int) -> None:
        """Notify a device through a socket."""
        if self.number_dialled(device) is not None:
            raise RefusedError
        dialler = self._diallers.get(device)
        if dialler is None:
            self._enter(device, mtu_bytes, ours)
        else:
            dialler.attach(ours)
            self._gateway.wake()

    def gone(self, device: str) -> None:
        """A device's connection ended."""
        self._leaving.discard(device)
        self.forget(device)

    def forget(self, device: str) -> None:
        """Give its place to others."""
        dialler = self._diallers.pop(device, None)
        if dialler is not None:
            dialler.detach()
            self._gateway.closed(dialler.number)

    def forget_all(self) -> None:
        """Bluetoothd is gone: nobody is known by name any more."""
        for device in list(self._diallers):
            self.forget(device)
        self._leaving.clear()

    def turn_away(self, device: str) -> None:
        """End a device's connection, and take nothing of it until it has ended."""
        self._leaving.add(device)
        self.hang_up(device)

    def orphaned(self, dialler: _Dialler) -> None:
        """A phone has no socket of its own any more."""
        if self._diallers.get(dialler.device) is dialler:
            self._reporter.count("clients_orphaned")
            self._fit()

    def _enter(self, device: str, mtu_bytes: int, sock: socket.socket | None) -> _Dialler:
        if device in self._leaving:
            raise RefusedError
        if len(self._diallers) >= self._max_phones and not self._make_room():
            self._reporter.count("refused_busy")
            self.turn_away(device)
            raise RefusedError
        dialler = _Dialler(device, self, frame_bytes(mtu_bytes))
        self._diallers[device] = dialler
        if sock is not None:
            dialler.attach(sock)
        can_stream = sock is not None
        dialler.number = self._gateway.opened(dialler, frame_bytes=dialler.limit_bytes, can_stream=can_stream)
        self._fit()
        return dialler

    def _make_room(self) -> bool:
        """Have whoever was there for longest give way, if that is long enough."""
        longest = min(self._diallers.values(), key=lambda dialler: dialler.came_s)
        if asyncio.get_running_loop().time() - longest.came_s < LONG_S:
            return False
        self._reporter.count("gave_way")
        longest.hang_up()
        return True

    def _fit(self) -> None:
        """What is told to all has to fit each."""
        orphans = [dialler for dialler in self._diallers.values() if dialler.is_orphan]
        if orphans:
            least = min(dialler.limit_bytes for dialler in self._diallers.values())
            for dialler in orphans:
                dialler.limit_bytes = least
                self._gateway.narrowed(dialler.number, least)
