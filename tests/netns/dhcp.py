# SPDX-License-Identifier: GPL-2.0-or-later
"""DHCP clients of any address (RFC 2131), many on one cable; written from the RFC, not from the code under test."""

from __future__ import annotations

import select
import socket
import struct
import time
from dataclasses import dataclass, field

_IPV4 = 0x0800
_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
_ASK_AGAIN_S = 1.0
#: Where a question comes from that is asked for want of an address.
NOBODY = ".".join("0000")


@dataclass
class Lease:
    """What a client was given."""

    address: str
    options: dict[int, bytes] = field(repr=False)

    @property
    def seconds(self):
        return int.from_bytes(self.options[51], "big")

    @property
    def router(self):
        return socket.inet_ntoa(self.options[3])

    @property
    def mask(self):
        return socket.inet_ntoa(self.options[1])


def numbered(number):
    """A hardware address of its own for each number: locally administered, of one machine."""
    return b"\x02\x00" + number.to_bytes(4, "big")


class Clients:
    """Everybody on ``interface`` of a box of the lab. Use as a context manager."""

    def __init__(self, box, interface="eth0"):
        self._socket = box.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((interface, _IPV4))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, kind, client, *, frame=b"", options=b"", source=NOBODY, to="255.255.255.255", length=6):
        """Send a question of ``client`` in a frame from ``frame``, its own unless another one is given."""
        named = client.ljust(16, b"\0")
        message = struct.pack(
            "!BBBB4sHH4s4s4s4s16s64x128x4s", 1, 1, length, 0, client[2:6], 0, 0x8000,
            socket.inet_aton(source), bytes(4), bytes(4), bytes(4), named, _COOKIE,
        )  # fmt: skip
        message += bytes((53, 1, kind)) + options + b"\x37\x03\x01\x03\x33\xff"
        datagram = struct.pack("!HHHH", 68, 67, 8 + len(message), 0) + message
        header = struct.pack(
            "!BBHHHBBH4s4s",
            0x45,
            0,
            20 + len(datagram),
            0,
            0,
            64,
            17,
            0,
            socket.inet_aton(source),
            socket.inet_aton(to),
        )
        total = sum(struct.unpack("!10H", header))
        total = (total >> 16) + (total & 0xFFFF)
        header = header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
        self._socket.send(b"\xff" * 6 + (frame or client) + struct.pack("!H", _IPV4) + header + datagram)

    def ask(self, clients, timeout_s, *, frame=b"", again=True):
        """Have all of them ask for an address; return who got which within that time."""
        waiting = dict.fromkeys(clients)
        leases = {}
        deadline, ask_s = time.monotonic() + timeout_s, 0.0
        while waiting and (now := time.monotonic()) < deadline:
            if now >= ask_s:
                ask_s = now + _ASK_AGAIN_S if again else deadline
                for client in list(waiting):
                    self.send(_DISCOVER, client, frame=frame)
                    # As much as a cable's queue and the server's socket hold.
                    self._read(waiting, leases, frame)
            select.select([self._socket], [], [], 0.1)
            self._read(waiting, leases, frame)
        return leases

    def _read(self, waiting, leases, frame):
        while select.select([self._socket], [], [], 0)[0]:
            answer = self._socket.recv(2048)[14:]
            message = answer[28:]
            if answer[9:10] != b"\x11" or answer[22:24] != b"\0\x44" or message[236:240] != _COOKIE:
                continue
            client, options = message[28:34], _options(message[240:])
            if client not in waiting:
                continue
            if options.get(53) == bytes((_OFFER,)):
                wanted = b"\x32\x04" + message[16:20] + b"\x36\x04" + options[54]
                self.send(_REQUEST, client, frame=frame, options=wanted)
            elif options.get(53) == bytes((_ACK,)):
                leases[client] = Lease(socket.inet_ntoa(message[16:20]), options)
                del waiting[client]

    def renew(self, client, lease, server, *, frame=b""):
        """Ask to keep an address, from it, as a phone does after half of its time; do not wait for the answer."""
        self.send(_REQUEST, client, frame=frame, source=lease.address, to=server)


def _options(data):
    found, at = {}, 0
    while at < len(data) and data[at] != 255:
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return found
