# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys of the kernel's input devices (linux/input.h), as far as a button needs them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT: Final = Path("/dev/input")
#: struct input_event: two longs of time, type, code, value.
_EVENT: Final = struct.Struct("@llHHi")
_EV_KEY: Final = 1
_KEY_MAX: Final = 0x2FF
_KEY_BITS_BYTES: Final = _KEY_MAX // 8 + 1
#: EVIOCGBIT(EV_KEY, bytes): _IOC(_IOC_READ, 'E', 0x20 + EV_KEY, bytes).
_GET_KEYS: Final = 2 << 30 | _KEY_BITS_BYTES << 16 | ord("E") << 8 | 0x20 + _EV_KEY
#: EVIOCGID: _IOR('E', 0x02, struct input_id), which begins with the bus.
_ID: Final = struct.Struct("@HHHH")
_GET_ID: Final = 2 << 30 | _ID.size << 16 | ord("E") << 8 | 0x02
#: BUS_USB and BUS_BLUETOOTH: what somebody plugs in has any keys that he likes, and must not be a button.
_PLUGGED: Final = frozenset({3, 5})
#: EVIOCGRAB: _IOW('E', 0x90, int).
_GRAB: Final = 1 << 30 | 4 << 16 | ord("E") << 8 | 0x90
#: KEY_POWER, as the Raspberry Pi 5 has it on its board, and KEY_PROG1, for a button on pins: relay-button on the
#: image, gpio-key with keycode=148 on Raspberry Pi OS.
BUTTON_KEYS: Final = frozenset({116, 148})
#: A keyboard has 100 keys; so many events lie in the kernel's buffer for one device.
_READ_EVENTS: Final = 64


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """A key went down or up; repeats are left out."""

    code: int
    down: bool


def open_button(path: Path) -> int | None:
    """Open a device that has one of BUTTON_KEYS, for us alone and not blocking; None for all others. Raise OSError.

    None, too, for what is on USB: a stick that is a keyboard as well would erase the relay.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        bits = fcntl.ioctl(descriptor, _GET_KEYS, bytes(_KEY_BITS_BYTES))
        (bus, *_) = _ID.unpack(fcntl.ioctl(descriptor, _GET_ID, bytes(_ID.size)))
    except OSError:
        bits, bus = b"", 0
    if bus in _PLUGGED:
        bits = b""
    # logind would switch the machine off at the first touch, with everything still on the card.
    if any(code // 8 < len(bits) and bits[code // 8] >> code % 8 & 1 for code in BUTTON_KEYS):
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _GRAB, 1)
        return descriptor
    os.close(descriptor)
    return None


def read_keys(descriptor: int) -> list[KeyEvent]:
    """What happened to BUTTON_KEYS; raise OSError once the device is gone."""
    try:
        data = os.read(descriptor, _READ_EVENTS * _EVENT.size)
    except BlockingIOError:
        return []
    return list(decode_keys(data))


def decode_keys(data: bytes) -> Iterator[KeyEvent]:
    """The presses and releases of BUTTON_KEYS among the events; a cut-off last one is left out."""
    for at in range(0, len(data) - _EVENT.size + 1, _EVENT.size):
        _, _, kind, code, value = _EVENT.unpack_from(data, at)
        if kind == _EV_KEY and code in BUTTON_KEYS and value in {0, 1}:
            yield KeyEvent(code, value == 1)
