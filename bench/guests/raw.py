# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay's side of what its streams are measured against: bare LE channels and bare windowed GATT.

Prints the PSM of its channel, then serves until killed. A phone says what it wants in the first frame: ``U`` or
``D``, and how many frames. On GATT a frame is a number and a filling, acknowledged by number every few frames;
nothing is sent again, so a lost frame shows as a run that does not end.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading

import dbus
from bluezero import adapter, peripheral
from gi.repository import GLib

from relay.bluetooth import l2cap

SERVICE = "ab07ff01-cc92-439d-ad42-3677ca4805bf"
SLOT = "ab07ff02-cc92-439d-ad42-3677ca4805bf"
RX = "ab07ff03-cc92-439d-ad42-3677ca4805bf"
TX = [f"ab07ff1{index}-cc92-439d-ad42-3677ca4805bf" for index in range(4)]
#: What the relay's records and slot frames are.
CHANNEL_FRAME = 996
GATT_FRAME = 509
WINDOW = 24
ACK_EVERY = 6
REQUEST = struct.Struct("<cI")
NUMBER = struct.Struct("<I")


def serve_channel(sock: socket.socket) -> None:
    sock.setblocking(True)
    kind, count = REQUEST.unpack(sock.recv(4096))
    frame = bytes(CHANNEL_FRAME)
    if kind == b"U":
        for _ in range(count):
            sock.recv(4096)
        sock.send(b"done")
    else:
        for _ in range(count):
            sock.send(frame)
    sock.recv(4096)  # until the phone has all of it and closes


def accept(listener: socket.socket) -> None:
    listener.setblocking(True)
    while True:
        fd, _ = listener._accept()  # noqa: SLF001 - accept() of Python before 3.14 fails on LE addresses
        threading.Thread(target=serve_channel, args=(socket.socket(fileno=fd),), daemon=True).start()


class Phone:
    """One phone on GATT."""

    def __init__(self, tx: peripheral.localGATT.Characteristic) -> None:
        self._tx = tx
        self._received = self._expected = self._sent = self._acknowledged = self._total = 0

    def frame(self, value: bytes) -> None:
        if value[:1] in {b"U", b"D"}:
            kind, count = REQUEST.unpack(value)
            self._received = self._sent = self._acknowledged = 0
            self._expected, self._total = (count, 0) if kind == b"U" else (0, count)
            self._send()
        elif value[:1] == b"A":
            (self._acknowledged,) = NUMBER.unpack(value[1:])
            self._send()
        else:
            self._received += 1
            if self._received % ACK_EVERY == 0 or self._received == self._expected:
                self._tx.set_value(list(b"A" + NUMBER.pack(self._received)))

    def _send(self) -> None:
        while self._sent < self._total and self._sent - self._acknowledged < WINDOW:
            self._sent += 1
            self._tx.set_value(list(b"F" + bytes(GATT_FRAME - 1)))


def main() -> None:
    listener = l2cap.listen()
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    dongle = next(iter(adapter.Adapter.available()))
    app = peripheral.Peripheral(dongle.address)
    app.add_service(1, SERVICE, True)
    phones: dict[str, Phone] = {}
    outlets: list[peripheral.localGATT.Characteristic] = []

    def slot(options: dict[str, object]) -> list[int]:
        device = str(options["device"])
        if device not in phones:
            phones[device] = Phone(outlets[len(phones)])
        return [list(phones).index(device)]

    def write(value: list[int], options: dict[str, object]) -> None:
        phones[str(options["device"])].frame(bytes(value))

    app.add_characteristic(1, 1, SLOT, [], False, ["read"], read_callback=slot)
    app.add_characteristic(1, 2, RX, [], False, ["write", "write-without-response"], write_callback=write)
    for index, uuid in enumerate(TX):
        app.add_characteristic(1, 3 + index, uuid, [], False, ["notify"])
        outlets.append(app.characteristics[-1])

    # Advertising stops at each connection; registered anew, it goes on.
    def again(_: object) -> None:
        def register() -> bool:
            app.ad_manager.unregister_advertisement(app.advert)
            app.ad_manager.register_advertisement(app.advert, {})
            return False

        GLib.timeout_add(200, register)

    app.on_connect = again
    print(f"psm {l2cap.local_psm(listener)}", flush=True)
    app.publish()


if __name__ == "__main__":
    dbus.mainloop.glib.threads_init()
    sys.exit(main())
