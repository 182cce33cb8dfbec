# SPDX-License-Identifier: GPL-2.0-or-later
"""Bluetooth LE as an antenna hears it (Core Specification 6.B.2): everybody, mostly without saying who sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scapy.layers.bluetooth4LE import BTLE, BTLE_ADV, BTLE_CONNECT_REQ, BTLE_CTRL, BTLE_DATA, BTLE_RF

from relay.sniff.advertising import Advertisements, address_bytes, structures_of
from relay.sniff.att import is_from_client
from relay.sniff.capture import Frame, Link
from relay.sniff.counts import Counts, Passed
from relay.sniff.l2cap import ATT_CID, SIGNALLING_CID
from relay.sniff.layers import dissect

if TYPE_CHECKING:
    from relay.sniff.connections import Connection, Connections
    from relay.sniff.events import Event

#: LLID of data PDUs (6.B.2.4), and the control PDU that ends a connection.
_CONTINUATION, _START = 1, 2
_TERMINATE = 0x02
#: Directions of link type 256.
_SENT_BY_CENTRAL = {2: True, 3: False}
#: Codes of LE credit-based connection request and response (3.A.4.22).
_CHANNEL_REQUEST, _CHANNEL_RESPONSE = 0x14, 0x15


class Air:
    """Frames in, events out."""

    def __init__(self, *, connections: Connections, advertisements: Advertisements, counts: Counts) -> None:
        self._connections = connections
        self._advertisements = advertisements
        self._counts = counts

    def feed(self, frame: Frame) -> list[Event]:
        """Take one frame; AttributeError and the like where scapy left a field unset."""
        packet: Any
        from_central: bool | None = None
        if frame.link is Link.LE_PHDR:
            packet = dissect(BTLE_RF, frame.data)
            if packet is not None:
                if packet.crc_checked and not packet.crc_valid:
                    self._counts.add(Passed.BAD_CHECKSUM)
                    return []
                from_central = _SENT_BY_CENTRAL.get(packet.type)
        else:
            packet = dissect(BTLE, frame.data)
        if packet is None or BTLE not in packet:
            self._counts.add(Passed.UNDISSECTED)
            return []
        if BTLE_ADV in packet:
            return self._advertising(frame, packet[BTLE_ADV])
        if BTLE_DATA in packet:
            return self._data(frame, packet, from_central=from_central)
        self._counts.add(Passed.OTHER)
        return []

    def _advertising(self, frame: Frame, header: Any) -> list[Event]:
        body = header.payload
        if isinstance(body, BTLE_CONNECT_REQ):
            self._advertisements.address_seen(frame.time_s, bytes([int(header.TxAdd)]) + address_bytes(body.InitA))
            names = {True: str(body.InitA), False: str(body.AdvA)}
            return self._connections.begin((frame.adapter, int(body.AA)), names, frame.time_s)
        if not hasattr(body, "AdvA") or not hasattr(body, "data"):
            self._counts.add(Passed.OTHER)
            return []
        address = bytes([int(header.TxAdd)]) + address_bytes(body.AdvA)
        return self._advertisements.heard(frame.time_s, address, structures_of(body.data))

    def _data(self, frame: Frame, packet: Any, *, from_central: bool | None) -> list[Event]:
        key = (frame.adapter, int(packet[BTLE].access_addr))
        header = packet[BTLE_DATA]
        if BTLE_CTRL in packet:
            if packet[BTLE_CTRL].opcode == _TERMINATE:
                return self._connections.end(key, frame.time_s)
            self._counts.add(Passed.OTHER)
            return []
        data = bytes(header.original)[2 : 2 + (header.len or 0)]
        if not data or header.LLID not in (_CONTINUATION, _START):
            return []
        connection = self._connections.get(key, frame.time_s)
        is_start = header.LLID == _START
        if from_central is None and is_start:
            from_central = _guess_sender(connection, int.from_bytes(data[2:4], "little"), data[4:])
        return self._connections.fragment(connection, data, frame.time_s, is_start=is_start, from_central=from_central)


def _guess_sender(connection: Connection, cid: int, body: bytes) -> bool | None:
    """Whether the central sent a packet of which nobody says it: with relays it is the central that asks and dials."""
    if cid == ATT_CID:
        return is_from_client(body)
    if cid == SIGNALLING_CID:
        return {_CHANNEL_REQUEST: True, _CHANNEL_RESPONSE: False}.get(body[0] if body else 0)
    return connection.channels.sender(cid)
