# SPDX-License-Identifier: GPL-2.0-or-later
"""LE credit-based channels of L2CAP on Linux (docs/ble.md section 4).

Python before 3.14 cannot say whether a Bluetooth address is public or random, so
the calls that take an address go to the C library. The structure is
``sockaddr_l2`` of <bluetooth/l2cap.h>.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import re
import socket
import struct
import termios
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Numbers of <bluetooth/bluetooth.h>, which the socket module does not have on every Python.
AF_BLUETOOTH: Final = 31
BTPROTO_L2CAP: Final = 0
SOL_BLUETOOTH: Final = 274
BT_SNDMTU: Final = 12
BT_RCVMTU: Final = 13

#: Largest piece of a stream that we take at once. What a channel holds for us is at
#: most a few of them; measured, more brings no speed.
RECEIVE_MTU_BYTES: Final = 4096
#: Bytes that wait in the kernel for the air are bytes that nothing more urgent can
#: overtake. (The kernel doubles this for its own overhead.)
SEND_BUFFER_BYTES: Final = 4096
#: Channels that wait to be accepted; the loop accepts at once.
BACKLOG: Final = 8

_SOCKADDR: Final = struct.Struct("<HH6sHBx")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


class AddressType(IntEnum):
    """The kernel's types of LE addresses; not those of HCI, which count from 0."""

    PUBLIC = 1
    RANDOM = 2


@dataclass(frozen=True, slots=True)
class BluetoothAddress:
    """An address such as ``00:11:22:AA:BB:CC`` (upper case) and its type."""

    text: str
    type: AddressType = AddressType.PUBLIC


#: Whichever adapter.
ANY: Final = BluetoothAddress("00:00:00:00:00:00")


def parse_address(text: str, kind: str) -> BluetoothAddress:
    """Make an address of BlueZ's properties Address and AddressType; raise DecodeError."""
    if not _ADDRESS.fullmatch(text) or kind not in {"public", "random"}:
        raise DecodeError("no Bluetooth address")
    return BluetoothAddress(text.upper(), AddressType.RANDOM if kind == "random" else AddressType.PUBLIC)


def listen(own: BluetoothAddress = ANY, psm: int = 0) -> socket.socket:
    """Return a non-blocking listening socket; ``psm`` 0 lets the kernel choose. Raise OSError."""
    sock = _socket()
    try:
        _call("bind", sock, _pack(own, psm))
        # An accepted socket has what its listener had.
        _set_buffers(sock)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


async def connect(own: BluetoothAddress, peer: BluetoothAddress, psm: int) -> socket.socket:
    """Open a channel from the adapter with the identity address ``own``; raise OSError.

    Without a connection to ``peer`` the kernel makes one. No timeout of its own:
    cancelling closes the socket.
    """
    loop = asyncio.get_running_loop()
    sock = _socket()
    try:
        _call("bind", sock, _pack(own, 0))
        _set_buffers(sock)
        try:
            _call("connect", sock, _pack(peer, psm))
        except BlockingIOError:
            await _writable(loop, sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def local_psm(sock: socket.socket) -> int:
    """Return the PSM on which ``sock`` listens."""
    return _name("getsockname", sock)[1]


def own_address(sock: socket.socket) -> BluetoothAddress:
    """Return the identity address of the adapter that a connected ``sock`` uses."""
    return _name("getsockname", sock)[0]


def peer_address(sock: socket.socket) -> BluetoothAddress:
    """Return the address at the other end; raise OSError when it has gone already."""
    return _name("getpeername", sock)[0]


def send_mtu_bytes(sock: socket.socket) -> int:
    """Return the largest piece that the other side takes at once."""
    return _unsigned(sock, BT_SNDMTU)


def unsent_bytes(sock: socket.socket) -> int:
    """Return roughly how much the kernel holds that is not on the air yet."""
    free = bytearray(4)
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, free)
    (free_bytes,) = struct.unpack("i", free)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - int(free_bytes)


def _socket() -> socket.socket:
    sock = socket.socket(AF_BLUETOOTH, socket.SOCK_SEQPACKET, BTPROTO_L2CAP)
    sock.setblocking(False)
    return sock


def _set_buffers(sock: socket.socket) -> None:
    sock.setsockopt(SOL_BLUETOOTH, BT_RCVMTU, struct.pack("H", RECEIVE_MTU_BYTES))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _unsigned(sock: socket.socket, option: int) -> int:
    (value,) = struct.unpack("H", sock.getsockopt(SOL_BLUETOOTH, option, 2))
    return int(value)


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def on_writable() -> None:
        loop.remove_writer(sock)
        ready.set_result(None)

    loop.add_writer(sock, on_writable)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def _pack(address: BluetoothAddress, psm: int) -> bytes:
    octets = bytes.fromhex(address.text.replace(":", ""))[::-1]
    return _SOCKADDR.pack(AF_BLUETOOTH, psm, octets, 0, address.type)


def _function(name: str) -> Callable[..., int]:
    # Looked up at each call, of which there are few, rather than at import.
    function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    return function


def _call(name: str, sock: socket.socket, address: bytes) -> None:
    if _function(name)(sock.fileno(), address, len(address)) != 0:
        code = ctypes.get_errno()
        if code == errno.EINPROGRESS:
            raise BlockingIOError(code, os.strerror(code))
        raise OSError(code, os.strerror(code))


def _name(name: str, sock: socket.socket) -> tuple[BluetoothAddress, int]:
    buffer = ctypes.create_string_buffer(_SOCKADDR.size)
    length = ctypes.c_uint32(_SOCKADDR.size)
    if _function(name)(sock.fileno(), buffer, ctypes.byref(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    _, psm, octets, _, kind = _SOCKADDR.unpack(buffer.raw)
    text = ":".join(f"{octet:02X}" for octet in reversed(octets))
    return BluetoothAddress(text, AddressType(kind or AddressType.PUBLIC)), psm
