# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames as they pass: from a network interface, or from the kernel's Bluetooth monitor."""

from __future__ import annotations

import contextlib
import errno
import re
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final

from scapy.arch.linux import L2ListenSocket
from scapy.layers.bluetooth import BluetoothMonitorSocket, BluetoothSocketError
from scapy.layers.dot11 import Dot11, RadioTap
from scapy.layers.l2 import Ether

from relay.sniff.capture import CaptureError, Frame, Link, monitor_frame
from relay.sniff.counts import Counts, Passed

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Longest frame that is taken; segmentation offload makes them longer than the MTU.
_MAX_BYTES: Final = 262_144
_LINKS: Final[dict[Any, Link]] = {Ether: Link.ETHERNET, Dot11: Link.WIFI, RadioTap: Link.RADIOTAP}
#: One of the parts of scapy that has no types.
_MONITOR: Final[Any] = BluetoothMonitorSocket
_ADAPTER: Final = re.compile(r"hci(\d{1,4})")
_MONITOR_HEADER: Final = struct.Struct("<HHH")
#: linux/if_packet.h
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
#: What the kernel may keep for us: bursts come faster than they are dissected.
_BUFFER_BYTES: Final = 8 << 20
#: asm-generic/socket.h: beyond the limit for others, with CAP_NET_ADMIN.
_SO_RCVBUFFORCE: Final = 33
#: How long to wait before looking at the time again.
_TURN_S: Final = 0.5
_REMEDY: Final = "listening takes CAP_NET_RAW: run it as root (sudo), or capture elsewhere and use --read"


def listen(name: str, counts: Counts, *, seconds: float | None = None) -> Iterator[Frame]:
    """Yield what passes the interface ``name`` (or the adapter hci0, hci1 ...) for ``seconds``; CaptureError."""
    known = {interface for _, interface in socket.if_nameindex()}
    if name in known:
        return _interface(name, counts, seconds)
    if adapter := _ADAPTER.fullmatch(name):
        return _adapter(int(adapter[1]), seconds)
    raise CaptureError(f"{name}: no such interface; there are {', '.join(sorted(known))}, and hci0 for Bluetooth")


def _turns(listening: socket.socket, seconds: float | None) -> Iterator[bool]:
    """Yield whether there is something to receive, until the time is over."""
    end_s = None if seconds is None else time.monotonic() + seconds
    while end_s is None or time.monotonic() < end_s:
        yield bool(select.select([listening], [], [], _TURN_S)[0])


def _interface(name: str, counts: Counts, seconds: float | None) -> Iterator[Frame]:
    try:
        listening = L2ListenSocket(iface=name)
    except PermissionError as error:
        raise CaptureError(f"{name}: {_REMEDY}") from error
    except OSError as error:
        raise CaptureError(f"{name}: cannot be listened to: {error.strerror or error}") from error
    link = _LINKS.get(listening.LL)
    with contextlib.suppress(PermissionError):
        listening.ins.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    try:
        if link is None:
            raise CaptureError(f"{name}: interfaces of this kind are not known here; Ethernet and 802.11 are")
        for is_ready in _turns(listening.ins, seconds):
            if not is_ready:
                continue
            _, data, time_s = listening.recv_raw(_MAX_BYTES)
            if data:
                now_s = time.time() if time_s is None else float(time_s)
                yield Frame(time_s=now_s, link=link, data=data, wire_bytes=len(data))
    except OSError as error:
        gone = error.errno in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO)
        raise CaptureError(f"{name}: {'went down' if gone else error.strerror}; start again once it is up") from error
    finally:
        statistics = listening.ins.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        if dropped := struct.unpack("II", statistics)[1]:
            counts.add(Passed.KERNEL, dropped)
        listening.close()


def _adapter(index: int, seconds: float | None) -> Iterator[Frame]:
    try:
        socket.socket(socket.AF_BLUETOOTH, socket.SOCK_RAW, socket.BTPROTO_HCI).close()
        monitor: Any = _MONITOR()
    except (BluetoothSocketError, PermissionError) as error:  # scapy's own does not say why
        raise CaptureError(f"hci{index}: the kernel's Bluetooth monitor cannot be opened; {_REMEDY}") from error
    except (OSError, AttributeError) as error:
        raise CaptureError(
            f"hci{index}: this kernel, or this Python, has no Bluetooth; capture elsewhere and use --read"
        ) from error
    try:
        for is_ready in _turns(monitor.ins, seconds):
            if not is_ready:
                continue
            data = monitor.ins.recv(_MAX_BYTES)
            if len(data) < _MONITOR_HEADER.size:
                continue
            opcode, adapter, length = _MONITOR_HEADER.unpack_from(data)
            if adapter != index:
                continue
            frame = monitor_frame(time.time(), opcode, adapter, data[_MONITOR_HEADER.size :], length)
            if frame is not None:
                yield frame
    finally:
        monitor.close()
