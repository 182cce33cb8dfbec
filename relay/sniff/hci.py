# SPDX-License-Identifier: GPL-2.0-or-later
"""Bluetooth as one host's controller tells it (Core Specification 4.E): others' advertisements only as reports."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from scapy.layers.bluetooth import (
    HCI_ACL_Hdr,
    HCI_Cmd_LE_Set_Advertise_Enable,
    HCI_Cmd_LE_Set_Advertising_Data,
    HCI_Cmd_LE_Set_Advertising_Parameters,
    HCI_Cmd_LE_Set_Advertising_Set_Random_Address,
    HCI_Cmd_LE_Set_Extended_Advertise_Enable,
    HCI_Cmd_LE_Set_Extended_Advertising_Data,
    HCI_Cmd_LE_Set_Random_Address,
    HCI_Event_Disconnection_Complete,
    HCI_Hdr,
    HCI_LE_Meta_Advertising_Reports,
    HCI_LE_Meta_Connection_Complete,
    HCI_LE_Meta_Enhanced_Connection_Complete,
    HCI_LE_Meta_Extended_Advertising_Reports,
)

from relay.sniff.advertising import PUBLIC, RANDOM, Advertisements, address_bytes, shown, structures_of
from relay.sniff.att import is_from_client
from relay.sniff.connections import UNKNOWN
from relay.sniff.counts import Counts, Passed
from relay.sniff.l2cap import ATT_CID
from relay.sniff.layers import dissect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay.sniff.capture import Frame
    from relay.sniff.connections import Connections
    from relay.sniff.events import Event

#: Advertising sets remembered; BlueZ has 5 at most on an adapter.
MAX_SETS: Final = 64
#: Advertising without a set of its own (legacy commands).
_LEGACY: Final = -1
#: Packet boundary flags of ACL (4.E.5.4.2): first of a packet from the host, continuation.
_FIRST_OF_HOST, _CONTINUATION = 0b00, 0b01
_REPORTS: Final[tuple[type[Any], ...]] = (HCI_LE_Meta_Advertising_Reports, HCI_LE_Meta_Extended_Advertising_Reports)
_CONNECTED: Final[tuple[type[Any], ...]] = (HCI_LE_Meta_Connection_Complete, HCI_LE_Meta_Enhanced_Connection_Complete)
_OF_LEGACY: Final[tuple[type[Any], ...]] = (
    HCI_Cmd_LE_Set_Random_Address,
    HCI_Cmd_LE_Set_Advertising_Parameters,
    HCI_Cmd_LE_Set_Advertising_Data,
    HCI_Cmd_LE_Set_Advertise_Enable,
)
_OF_SET: Final[tuple[type[Any], ...]] = (
    HCI_Cmd_LE_Set_Advertising_Set_Random_Address,
    HCI_Cmd_LE_Set_Extended_Advertising_Data,
)
_COMMANDS: Final[tuple[type[Any], ...]] = (*_OF_LEGACY, *_OF_SET, HCI_Cmd_LE_Set_Extended_Advertise_Enable)


@dataclass(slots=True)
class _Advertising:
    """What an adapter would advertise, from the commands of its host."""

    address: bytes = b""
    own_type: int = RANDOM
    structures: list[tuple[int, bytes]] = field(default_factory=list)
    is_on: bool = False


class Hci:
    """Frames in, events out."""

    def __init__(self, *, connections: Connections, advertisements: Advertisements, counts: Counts) -> None:
        self._connections = connections
        self._advertisements = advertisements
        self._counts = counts
        #: By (adapter, advertising set).
        self._own: OrderedDict[tuple[int, int], _Advertising] = OrderedDict()

    def feed(self, frame: Frame) -> list[Event]:
        """Take one frame; AttributeError and the like where scapy left a field unset."""
        packet: Any = dissect(HCI_Hdr, frame.data)
        if packet is None:
            self._counts.add(Passed.UNDISSECTED)
            return []
        if HCI_ACL_Hdr in packet:
            return self._acl(frame, packet[HCI_ACL_Hdr])
        for layer in _REPORTS:
            if layer in packet:
                return self._reports(frame.time_s, packet[layer].reports or ())
        for layer in _CONNECTED:
            if layer in packet:
                return self._connected(frame, packet[layer])
        if HCI_Event_Disconnection_Complete in packet:
            message = packet[HCI_Event_Disconnection_Complete]
            key = (frame.adapter, int(message.connection_handle))
            return [] if message.status else self._connections.end(key, frame.time_s)
        for layer in _COMMANDS:
            if layer in packet:
                return self._command(frame, packet[layer])
        self._counts.add(Passed.OTHER)
        return []

    def _reports(self, time_s: float, reports: Iterable[Any]) -> list[Event]:
        events: list[Event] = []
        for report in reports:
            # Types 2 and 3 are identity addresses that the controller resolved for its host.
            kind = RANDOM if report.addr_type & 1 else PUBLIC
            address = bytes([kind]) + address_bytes(report.addr)
            events += self._advertisements.heard(time_s, address, structures_of(report.data))
        return events

    def _connected(self, frame: Frame, message: Any) -> list[Event]:
        if message.status:
            return []
        peer, is_random = str(message.peer_addr), bool(message.peer_addr_type & 1)
        mine = self._own.get((frame.adapter, _LEGACY))
        own = shown(mine.address) if mine is not None and mine.address else UNKNOWN
        if isinstance(message, HCI_LE_Meta_Enhanced_Connection_Complete):
            # On the air were the private ones, if there are any.
            if any(address_bytes(message.peer_rpa)):
                peer, is_random = str(message.peer_rpa), True
            if any(address_bytes(message.local_rpa)):
                own = str(message.local_rpa)
        address = bytes([RANDOM if is_random else PUBLIC]) + address_bytes(peer)
        self._advertisements.address_seen(frame.time_s, address)
        is_central = message.role == 0
        return self._connections.begin(
            (frame.adapter, int(message.connection_handle)),
            {is_central: own, not is_central: peer},
            frame.time_s,
            sent_by_central=is_central,
        )

    def _acl(self, frame: Frame, header: Any) -> list[Event]:
        connection = self._connections.get((frame.adapter, int(header.connection_handle)), frame.time_s)
        data = bytes(header.original)[4 : 4 + (header.len or 0)]
        boundary = int(header.PB)
        sent = frame.sent
        if sent is None and boundary != _CONTINUATION:
            sent = boundary == _FIRST_OF_HOST
        if connection.sent_by_central is None and sent is not None:
            connection.sent_by_central = _guess_role(data, sent=sent)
        from_central: bool | None = None
        if sent is not None and connection.sent_by_central is not None:
            from_central = sent == connection.sent_by_central
        return self._connections.fragment(
            connection, data, frame.time_s, is_start=boundary != _CONTINUATION, from_central=from_central
        )

    def _command(self, frame: Frame, message: Any) -> list[Event]:
        """What the host tells its controller to advertise."""
        if isinstance(message, _OF_LEGACY):
            handles = [_LEGACY]
        elif isinstance(message, _OF_SET):
            handles = [int(message.handle)]
        else:
            # Without a list it is about all.
            handles = [int(one.handle) for one in message.sets or ()][:MAX_SETS]
            handles = handles or [handle for adapter, handle in self._own if adapter == frame.adapter]
        events: list[Event] = []
        for handle in handles:
            one = self._own.setdefault((frame.adapter, handle), _Advertising())
            if len(self._own) > MAX_SETS:
                self._own.popitem(last=False)
            match message:
                case HCI_Cmd_LE_Set_Random_Address() | HCI_Cmd_LE_Set_Advertising_Set_Random_Address():
                    one.address = bytes([RANDOM]) + address_bytes(message.addr)
                case HCI_Cmd_LE_Set_Advertising_Parameters():
                    one.own_type = int(message.own_addr_type)
                case HCI_Cmd_LE_Set_Advertising_Data() | HCI_Cmd_LE_Set_Extended_Advertising_Data():
                    one.structures = structures_of(message.data)
                case _:
                    one.is_on = bool(message.enable)
            # With a public address (own_type 0) the commands do not say which.
            if one.is_on and one.address and one.own_type & 1:
                events += self._advertisements.heard(frame.time_s, one.address, one.structures)
        return events


def _guess_role(data: bytes, *, sent: bool) -> bool | None:
    """Whether this host is the central of a connection that began before the capture: who asks the other is."""
    if int.from_bytes(data[2:4], "little") != ATT_CID:
        return None
    from_client = is_from_client(data[4:])
    return None if from_client is None else from_client == sent
