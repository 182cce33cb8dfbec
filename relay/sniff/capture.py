# SPDX-License-Identifier: GPL-2.0-or-later
"""Captured frames from a file: pcap, pcapng and btsnoop.

Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng, and RFC 1761 as BlueZ and
Android use it for Bluetooth. What wraps a Bluetooth packet (a direction word, the
monitor's header) is taken off here, so that the rest knows one kind only.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Longest frame kept; 802.3 and L2CAP over ACL stay far below. A file can name 4 GiB.
MAX_FRAME_BYTES: Final = 262_144
#: Longest block of a pcapng file, which may hold what is not a packet; it is read in one piece.
MAX_BLOCK_BYTES: Final = 1 << 20
#: Interfaces that one pcapng file may describe, 100 B each.
MAX_INTERFACES: Final = 1024

_PCAP: Final = {
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
}
_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_BTSNOOP: Final = b"btsnoop\x00"
#: Microseconds from the year 0, where btsnoop begins, to 1970.
_BTSNOOP_EPOCH_US: Final = 0x00DC_DDB3_0F2F_8000
_BTSNOOP_HCI: Final = 1001
_BTSNOOP_H4: Final = 1002
_BTSNOOP_MONITOR: Final = 2001
#: Packet types of H4.
COMMAND: Final = 1
ACL: Final = 2
EVENT: Final = 4
#: Opcode of the Linux monitor -> packet type and whether this host sent it (hci_mon.h).
_MONITOR: Final = {2: (COMMAND, True), 3: (EVENT, False), 4: (ACL, True), 5: (ACL, False)}


class CaptureError(RelayError):
    """A capture that cannot be read or made; the message has the remedy."""


class DamagedCaptureError(CaptureError):
    """A capture that ends or breaks in the middle; what came before it was good."""


class Link(enum.Enum):
    """What a frame begins with."""

    ETHERNET = "Ethernet"
    LINUX_COOKED = "Linux cooked"
    LINUX_COOKED_2 = "Linux cooked 2"
    IP = "IP"
    WIFI = "802.11"
    RADIOTAP = "802.11 with radiotap"
    HCI = "Bluetooth HCI"
    LE = "Bluetooth LE"
    LE_PHDR = "Bluetooth LE with radio header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One captured frame.

    ``time_s`` is since 1970. ``sent``: by the host that captured, None where nobody
    says. ``adapter`` tells apart the adapters, interfaces or files of one capture.
    """

    time_s: float
    link: Link
    data: bytes
    wire_bytes: int
    sent: bool | None = None
    adapter: int = 0


#: Link types of https://www.tcpdump.org/linktypes.html.
_LINKS: Final = {
    1: Link.ETHERNET,
    12: Link.IP,
    14: Link.IP,
    101: Link.IP,
    105: Link.WIFI,
    113: Link.LINUX_COOKED,
    127: Link.RADIOTAP,
    187: Link.HCI,
    201: Link.HCI,
    228: Link.IP,
    229: Link.IP,
    251: Link.LE,
    254: Link.HCI,
    256: Link.LE_PHDR,
    276: Link.LINUX_COOKED_2,
}
_HCI_WITH_DIRECTION: Final = 201
_HCI_MONITOR: Final = 254


def read_capture(path: Path) -> Iterator[Frame]:
    """Yield the frames of a file; raise CaptureError, and DamagedCaptureError once the good ones are through."""
    try:
        with path.open("rb") as file:
            yield from read_frames(file, str(path))
    except OSError as error:
        raise CaptureError(f"{path}: cannot be read: {error.strerror}") from error


def read_frames(file: BinaryIO, name: str) -> Iterator[Frame]:
    """Yield the frames of an open file, called ``name`` in errors."""
    magic = file.read(4)
    if magic in _PCAP:
        return _pcap(file, name, *_PCAP[magic])
    if magic == _PCAPNG:
        return _PcapNg(file, name).frames()
    if magic == _BTSNOOP[:4] and file.read(4) == _BTSNOOP[4:]:
        return _btsnoop(file, name)
    raise CaptureError(f"{name}: no capture that is known here; pcap, pcapng and btsnoop are (tcpdump -w, btmon -w)")


def _exactly(file: BinaryIO, count: int, name: str) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise DamagedCaptureError(f"{name}: cut off in the middle; what stands before it was read")
    return data


def _start(file: BinaryIO, count: int, name: str) -> bytes:
    """Return the header of a record; empty at the end of the file."""
    first = file.read(1)
    return first + _exactly(file, count - 1, name) if first else b""


def _body(file: BinaryIO, length: int, name: str) -> bytes:
    if length > MAX_FRAME_BYTES:
        raise DamagedCaptureError(
            f"{name}: names a frame of {length} bytes, longer than any; what stands before it was read"
        )
    return _exactly(file, length, name)


def _pcap(file: BinaryIO, name: str, endian: str, unit_s: float) -> Iterator[Frame]:
    header = _exactly(file, 20, name)
    # The upper half holds the length of a checksum that we do not need.
    linktype = struct.unpack_from(f"{endian}I", header, 16)[0] & 0xFFFF
    _require_known(linktype, name)
    record = struct.Struct(f"{endian}IIII")
    while start := _start(file, record.size, name):
        seconds, parts, length, wire_bytes = record.unpack(start)
        frame = _frame(seconds + parts * unit_s, linktype, _body(file, length, name), wire_bytes, 0)
        if frame is not None:
            yield frame


def _require_known(linktype: int, name: str) -> None:
    if linktype not in _LINKS:
        raise CaptureError(
            f"{name}: holds frames of link type {linktype}, which is not known here; Ethernet, IP, Linux cooked, "
            "802.11, Bluetooth HCI and LE are"
        )


def _frame(time_s: float, linktype: int, data: bytes, wire_bytes: int, adapter: int) -> Frame | None:
    """Return the frame without what wraps Bluetooth packets; None for a monitor's message that is no packet."""
    sent: bool | None = None
    if linktype == _HCI_WITH_DIRECTION:
        if len(data) < 4:
            return None
        sent, data, wire_bytes = not data[3] & 1, data[4:], wire_bytes - 4
    elif linktype == _HCI_MONITOR:
        if len(data) < 4:
            return None
        index, opcode = struct.unpack_from(">HH", data)
        return monitor_frame(time_s, opcode, adapter << 16 | index, data[4:], wire_bytes - 4)
    return Frame(
        time_s=time_s,
        link=_LINKS[linktype],
        data=data,
        wire_bytes=max(wire_bytes, len(data)),
        sent=sent,
        adapter=adapter,
    )


def monitor_frame(time_s: float, opcode: int, adapter: int, data: bytes, wire_bytes: int) -> Frame | None:
    """Return a message of the Linux Bluetooth monitor as HCI packet; None if it is none."""
    if opcode not in _MONITOR:
        return None
    kind, sent = _MONITOR[opcode]
    data = bytes([kind]) + data
    return Frame(
        time_s=time_s, link=Link.HCI, data=data, wire_bytes=max(wire_bytes + 1, len(data)), sent=sent, adapter=adapter
    )


def _btsnoop(file: BinaryIO, name: str) -> Iterator[Frame]:
    version, datalink = struct.unpack(">II", _exactly(file, 8, name))
    if version != 1 or datalink not in (_BTSNOOP_HCI, _BTSNOOP_H4, _BTSNOOP_MONITOR):
        raise CaptureError(f"{name}: btsnoop version {version} of kind {datalink}; only 1001, 1002 and 2001 are known")
    record = struct.Struct(">IIIIq")
    while start := _start(file, record.size, name):
        wire_bytes, length, flags, _, stamp_us = record.unpack(start)
        data = _body(file, length, name)
        time_s = (stamp_us - _BTSNOOP_EPOCH_US) / 1e6
        if datalink == _BTSNOOP_MONITOR:
            frame = monitor_frame(time_s, flags & 0xFFFF, flags >> 16, data, wire_bytes)
            if frame is not None:
                yield frame
            continue
        sent = not flags & 1
        if datalink == _BTSNOOP_HCI:
            kind = (COMMAND if sent else EVENT) if flags & 2 else ACL
            data, wire_bytes = bytes([kind]) + data, wire_bytes + 1
        yield Frame(time_s=time_s, link=Link.HCI, data=data, wire_bytes=max(wire_bytes, len(data)), sent=sent)


class _PcapNg:
    """Sections, interfaces and packets of a pcapng file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """``file`` stands behind the first four bytes."""
        self._file = file
        self._name = name
        self._endian = "<"
        #: (link type, seconds of a tick) of this section.
        self._interfaces: list[tuple[int, float]] = []
        #: Interfaces of the sections before it: their numbers begin anew in each.
        self._earlier = 0

    def frames(self) -> Iterator[Frame]:
        self._section()
        while start := _start(self._file, 4, self._name):
            if start == _PCAPNG:
                self._section()
                continue
            kind, length = self._unpack("I", start)[0], self._unpack("I", _exactly(self._file, 4, self._name))[0]
            body = self._block(length, 12)
            if kind == 1:
                self._interface(body)
            elif kind in (3, 6):
                frame = self._enhanced(body) if kind == 6 else self._simple(body)
                if frame is not None:
                    yield frame

    def _unpack(self, layout: str, data: bytes) -> tuple[int, ...]:
        return struct.unpack_from(self._endian + layout, data)

    def _damaged(self) -> DamagedCaptureError:
        return DamagedCaptureError(f"{self._name}: a block makes no sense; what stands before it was read")

    def _block(self, length: int, used: int) -> bytes:
        """Return what is left of a block of ``length`` bytes, with ``used`` for its head and the length at its end."""
        if not used <= length <= MAX_BLOCK_BYTES or length % 4:
            raise self._damaged()
        body = _exactly(self._file, length - used, self._name)
        if self._unpack("I", _exactly(self._file, 4, self._name))[0] != length:
            raise self._damaged()
        return body

    def _section(self) -> None:
        head = _exactly(self._file, 8, self._name)
        self._endian = ">" if head[4:] == b"\x1a\x2b\x3c\x4d" else "<"
        self._block(self._unpack("I", head)[0], 16)
        self._earlier += len(self._interfaces)
        self._interfaces.clear()

    def _interface(self, body: bytes) -> None:
        if len(body) < 8 or self._earlier + len(self._interfaces) >= MAX_INTERFACES:
            raise self._damaged()
        linktype = self._unpack("H", body)[0]
        _require_known(linktype, self._name)
        self._interfaces.append((linktype, self._tick_s(body[8:])))

    def _tick_s(self, options: bytes) -> float:
        """Seconds of one tick: option if_tsresol (9), else a microsecond."""
        while len(options) >= 4:
            code, length = self._unpack("HH", options)
            if code == 9 and length == 1 and len(options) > 4:
                power = options[4] & 0x7F
                return float(2.0**-power if options[4] & 0x80 else 10.0**-power)
            options = options[4 + length + -length % 4 :]
        return 1e-6

    def _enhanced(self, body: bytes) -> Frame | None:
        if len(body) < 20:
            raise self._damaged()
        index, high, low, length, wire_bytes = self._unpack("5I", body)
        if index >= len(self._interfaces) or length > len(body) - 20:
            raise self._damaged()
        linktype, tick_s = self._interfaces[index]
        time_s = (high << 32 | low) * tick_s
        return _frame(time_s, linktype, body[20 : 20 + length], wire_bytes, self._earlier + index)

    def _simple(self, body: bytes) -> Frame | None:
        if len(body) < 4 or not self._interfaces:
            raise self._damaged()
        wire_bytes = self._unpack("I", body)[0]
        return _frame(0.0, self._interfaces[0][0], body[4 : 4 + wire_bytes], wire_bytes, self._earlier)
