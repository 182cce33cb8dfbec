# SPDX-License-Identifier: GPL-2.0-or-later
"""Attributes of one connection: which handle is what, who read or wrote it, the stream of a GATT slot, and bitchat.

Core Specification 3.F (ATT) and 3.G (GATT); docs/ble.md sections 3 and 5. Handles are
learnt from the discovery in the capture. Without one, RX and TX are recognised by the
OPEN frames that every stream begins with.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.bitchat.packet import ORIGIN_TTL
from relay.bitchat.service import CHARACTERISTIC_UUID
from relay.bluetooth import gatt
from relay.bluetooth.slot_frames import MAX_WINDOW, Kind
from relay.sniff.bitchat import announced, read_frame
from relay.sniff.events import Bearer, Event, GattSeen
from relay.sniff.layers import KINDS, RelayInfo, RelaySlotFrame, dissect
from relay.sniff.linkable import Field

if TYPE_CHECKING:
    from relay.sniff.linkable import Linkage
    from relay.sniff.streams import Stream, Streams

#: Handles whose UUID is remembered, of one side of a connection.
MAX_HANDLES: Final = 1024
_BASE_SUFFIX: Final = "-0000-1000-8000-00805f9b34fb"
_NAMES: Final = {
    gatt.INFO_UUID: "INFO",
    gatt.RELAY_INFO_UUID: "RELAY INFO",
    gatt.SLOT_UUID: "SLOT",
    gatt.RX_UUID: "RX",
    **{one: f"TX {slot}" for slot, one in enumerate(gatt.TX_UUIDS)},
    CHARACTERISTIC_UUID: "BITCHAT",
}
_INFOS: Final = frozenset({"INFO", "RELAY INFO"})
_CHARACTERISTIC: Final = b"\x03\x28"
_GAP_NAME: Final = "2a00"
#: What is the same for all with the same stack: which characteristics changed, supported
#: features, hash of the database, vendor and version (Assigned Numbers 3.8).
_OF_SOFTWARE: Final = frozenset({"2a05", "2b29", "2b2a", "2b3a", "2a50"})
#: The name of every relay (docs/ble.md section 2).
GAP_NAME: Final = b"relay"
#: What relays usually say: the first number that the kernel gives to a channel, or none.
_USUAL_PSMS: Final = frozenset({0, 0x80})
_USUAL_SLOTS: Final = frozenset({0, gatt.SLOTS})

_FIND_REQUEST, _FIND_RESPONSE = 0x04, 0x05
_BY_TYPE_REQUEST, _BY_TYPE_RESPONSE = 0x08, 0x09
_READ_REQUEST, _READ_RESPONSE = 0x0A, 0x0B
_WRITES: Final = {0x12: "write", 0x52: "write without response"}
_NOTIFICATIONS: Final = {0x1B: "notify", 0x1D: "indicate"}
_REQUESTS: Final = frozenset({0x02, 0x04, 0x06, 0x08, 0x0A, 0x0C, 0x0E, 0x10, 0x12, 0x16, 0x18, 0x20, 0x52, 0xD2})
_MODULUS: Final = 256


def is_from_client(data: bytes) -> bool | None:
    """Whether the GATT client of a side said this; None if that is not known."""
    if not data:
        return None
    return data[0] in _REQUESTS or data[0] == 0x1E


@dataclass(slots=True)
class _Side:
    """A GATT server: what its handles are, and what it was asked last."""

    handles: dict[int, str]
    asked: tuple[int, int, bytes] = (0, 0, b"")


@dataclass(slots=True)
class _Slot:
    """The stream of the slot of a connection, its OPEN's number, and the next sequence by "from the central"."""

    stream: Stream
    nonce: int
    expected: dict[bool, int]
    #: Handle of the TX on which the relay answered.
    tx: int | None = None


class Attributes:
    """ATT of one connection. ``names``: the sides by "is the central"; it may learn of addresses later."""

    def __init__(self, names: dict[bool, str], streams: Streams, linkage: Linkage | None) -> None:
        self._names = names
        self._streams = streams
        self._linkage = linkage
        #: Servers by "is the central".
        self._sides = {True: _Side({}), False: _Side({})}
        self._slot: _Slot | None = None

    def feed(self, data: bytes, *, from_central: bool, time_s: float) -> list[Event]:
        """Take a packet of the attribute channel."""
        from_client = is_from_client(data)
        if from_client is None:
            return []
        server = from_central is not from_client
        side = self._sides[server]
        opcode, handle = data[0], int.from_bytes(data[1:3], "little")
        if opcode in (_FIND_REQUEST, _BY_TYPE_REQUEST, _READ_REQUEST):
            side.asked = (opcode, handle, data[5:7])
        elif opcode == _BY_TYPE_RESPONSE and side.asked[0] == _BY_TYPE_REQUEST:
            return self._by_type(side, data[1:], server=server, time_s=time_s)
        elif opcode == _FIND_RESPONSE:
            _learn_all(side, data[1:])
        elif opcode == _READ_RESPONSE and side.asked[0] == _READ_REQUEST:
            handle, side.asked = side.asked[1], (0, 0, b"")
            return self._value(side, "read", handle, data[1:], server=server, from_central=from_central, time_s=time_s)
        elif opcode in _WRITES or opcode in _NOTIFICATIONS:
            if len(data) < 3:
                return []
            how = _WRITES.get(opcode) or _NOTIFICATIONS[opcode]
            return self._value(side, how, handle, data[3:], server=server, from_central=from_central, time_s=time_s)
        return []

    def close(self, why: str, time_s: float) -> list[Event]:
        """The connection is over."""
        return self._streams.close(self._slot.stream, why, time_s) if self._slot is not None else []

    def _by_type(self, side: _Side, body: bytes, *, server: bool, time_s: float) -> list[Event]:
        """Characteristic declarations teach handles; values of a type asked for are values."""
        size = body[0] if body else 0
        if size < 3:
            return []
        events: list[Event] = []
        asked = side.asked[2]
        for start in range(1, len(body) - size + 1, size):
            entry = body[start : start + size]
            if asked == _CHARACTERISTIC and size in (7, 21):
                _learn(side, int.from_bytes(entry[3:5], "little"), entry[5:])
            elif asked != _CHARACTERISTIC:
                handle = int.from_bytes(entry[:2], "little")
                if len(asked) == 2:
                    _learn(side, handle, asked)
                events += self._value(
                    side, "read", handle, entry[2:], server=server, from_central=server, time_s=time_s
                )
        return events

    def _value(
        self, side: _Side, how: str, handle: int, value: bytes, *, server: bool, from_central: bool, time_s: float
    ) -> list[Event]:
        """``value`` of ``handle`` went over the air."""
        what = side.handles.get(handle, "")
        if not what and not server:
            what = self._by_shape(side, handle, value, from_central=from_central)
        name = _NAMES.get(what)
        if name != "BITCHAT":
            self._observe(what, name, value, time_s, who=self._names[from_central])
        if name is None:
            return []
        detail = ""
        events: list[Event] = []
        if name == "BITCHAT":
            detail = self._bitchat(value, time_s, who=self._names[from_central])
        elif name in _INFOS:
            detail = _info_words(value)
        elif name == "SLOT":
            detail = f"slot {value[0]}" if value and value[0] != gatt.NO_SLOT else "none is free"
        else:
            detail, events = self._frame(handle, value, is_tx=name != "RX", from_central=from_central, time_s=time_s)
        seen = GattSeen(
            time_s=time_s,
            central=self._names[True],
            peripheral=self._names[False],
            operation=how,
            characteristic=name,
            length_bytes=len(value),
            detail=detail,
        )
        return [seen, *events]

    def _bitchat(self, value: bytes, time_s: float, *, who: str) -> str:
        """A packet of bitchat in words. Phones join their addresses by it themselves; a relay must not."""
        words, packet = read_frame(value)
        announce = announced(packet) if packet is not None else None
        if packet is None or announce is None or self._linkage is None:
            return words
        # With a lower TTL it is another's, whom a phone passes on.
        if announce.is_relay and packet.ttl == ORIGIN_TTL:
            self._linkage.own(who)
            for own in (packet.sender, announce.noise_key, announce.signing_key):
                self._linkage.add(time_s, who, Field.BITCHAT, own)
        return words

    @staticmethod
    def _by_shape(side: _Side, handle: int, value: bytes, *, from_central: bool) -> str:
        """RX and TX by their OPEN: `02 nonce nonce-or-0 01 window`."""
        if len(value) != 5 or value[0] != Kind.OPEN or value[3] != gatt.VERSION or not 1 <= value[4] <= MAX_WINDOW:
            return ""
        what = gatt.RX_UUID if from_central else gatt.TX_UUIDS[0]
        _learn(side, handle, uuid.UUID(what).bytes[::-1])
        return what

    def _frame(
        self, handle: int, value: bytes, *, is_tx: bool, from_central: bool, time_s: float
    ) -> tuple[str, list[Event]]:
        """A frame of a slot: what it says, and what it does to the stream."""
        frame = dissect(RelaySlotFrame, value) if len(value) >= 3 else None
        if frame is None or frame.kind not in KINDS:
            return "no frame", []
        words = f"{KINDS[frame.kind]} {frame.sequence} acknowledges {frame.acknowledged}, {len(frame.data)} bytes"
        if frame.kind == Kind.OPEN:
            return words, self._opened(handle, frame.sequence, frame.acknowledged, is_tx=is_tx, time_s=time_s)
        slot = self._slot
        # Notifications of somebody else's slot go to whoever subscribed to it.
        if slot is None or (is_tx and handle != slot.tx):
            return words, []
        if frame.kind == Kind.CLOSE:
            # One of another number is about a stream before this one.
            is_meant = frame.sequence == slot.nonce
            return words, self._streams.close(slot.stream, "closed", time_s) if is_meant else []
        events: list[Event] = []
        other = not from_central
        if 0 < (frame.acknowledged - slot.expected[other]) % _MODULUS <= MAX_WINDOW:
            # The receiver has what the capture has not.
            slot.expected[other] = frame.acknowledged
            events += self._streams.gap(slot.stream, None, from_initiator=other, time_s=time_s)
        if frame.kind == Kind.DATA:
            if frame.sequence == slot.expected[from_central]:
                slot.expected[from_central] = (frame.sequence + 1) % _MODULUS
                events += self._streams.data(slot.stream, frame.data, from_initiator=from_central, time_s=time_s)
            else:
                slot.stream.repeated_bytes += len(frame.data)
        return words, events

    def _opened(self, handle: int, sequence: int, acknowledged: int, *, is_tx: bool, time_s: float) -> list[Event]:
        slot = self._slot
        if is_tx:
            if slot is not None and slot.tx is None and acknowledged == slot.nonce:
                slot.tx = handle
            return []
        if slot is not None and slot.nonce == sequence and not slot.stream.closed:
            return []  # once more: the answer was slow
        events = self._streams.close(slot.stream, "opened anew", time_s) if slot is not None else []
        stream = self._streams.open(Bearer.SLOT, self._names[True], self._names[False], time_s)
        self._slot = _Slot(stream, sequence, {True: 0, False: 0})
        return events

    def _observe(self, what: str, name: str | None, value: bytes, time_s: float, *, who: str) -> None:
        if self._linkage is None:
            return
        if name is not None:
            # Who uses our characteristics is one of us; so is whom he is connected to.
            for one in self._names.values():
                self._linkage.own(one)
            is_common = (name != "SLOT" and name not in _INFOS) or (name in _INFOS and _is_usual(value))
        else:
            is_common = what == _GAP_NAME and value == GAP_NAME
        if not is_common:
            kind = Field.NAME if what == _GAP_NAME else Field.GATT
            self._linkage.add(time_s, who, kind, value, of_software=what in _OF_SOFTWARE)


def _learn(side: _Side, handle: int, kind: bytes) -> None:
    """``kind``: a UUID of 2 or 16 bytes, little-endian."""
    if len(side.handles) >= MAX_HANDLES and handle not in side.handles:
        return
    if len(kind) == 2:
        side.handles[handle] = kind[::-1].hex()
    elif len(kind) == 16:
        text = str(uuid.UUID(bytes=kind[::-1]))
        side.handles[handle] = text[4:8] if text.startswith("0000") and text.endswith(_BASE_SUFFIX) else text


def _learn_all(side: _Side, body: bytes) -> None:
    """Take handles and types of a Find Information response; a declaration knows better what is a value."""
    size = {1: 4, 2: 18}.get(body[0] if body else 0)
    if size is None:
        return
    for start in range(1, len(body) - size + 1, size):
        handle = int.from_bytes(body[start : start + 2], "little")
        if handle not in side.handles:
            _learn(side, handle, body[start + 2 : start + size])


def _info_words(value: bytes) -> str:
    info = dissect(RelayInfo, value) if len(value) >= 5 else None
    if info is None:
        return "no INFO"
    state = "busy" if info.state else "room"
    return f"version {info.version}, {state}, PSM {info.psm:#x}, {info.slots} slots"


def _is_usual(value: bytes) -> bool:
    """Whether an INFO says what that of any relay may say."""
    info = dissect(RelayInfo, value) if len(value) >= 5 else None
    if info is None or info.more:
        return False
    return bool(
        info.version == gatt.VERSION and info.state in (0, 1) and info.psm in _USUAL_PSMS and info.slots in _USUAL_SLOTS
    )
