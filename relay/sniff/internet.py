# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP streams and DNS-SD announcements, on whatever carries IP: Ethernet, 802.11, batman-adv."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scapy.layers.dns import DNS
from scapy.layers.dot11 import Dot11, Dot11QoS, RadioTap
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Ether

from relay.links.address import SERVICE_TYPE
from relay.process.ports import MDNS_PORT
from relay.sniff.capture import Frame, Link
from relay.sniff.counts import Counts, Passed
from relay.sniff.events import Announced, Bearer, Event, escaped
from relay.sniff.layers import dissect, rest
from relay.sniff.linkable import Field, Linkage
from relay.sniff.records import looks_like_start
from relay.sniff.segments import Assembly, Room

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay.sniff.streams import Stream, Streams

_SERVICE: Final = SERVICE_TYPE.encode()
_SRV: Final = 33
#: Ports learnt from announcements, beyond those named; an announcement can say any.
MAX_PORTS: Final = 256
#: Connections with one of our ports of which no byte came yet, or none of ours: half a kB each.
MAX_CONNECTIONS: Final = 2048
#: Records of one announcement looked at.
MAX_ANSWERS: Final = 64
#: Headers within headers (VLAN in VLAN, batman-adv in batman-adv).
MAX_NESTING: Final = 4

_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_VLANS: Final = frozenset({0x8100, 0x88A8})
_BATMAN: Final = 0x4305
#: batman-adv: unicast packets and how long their header is (packet.h, version 15).
_BATMAN_UNICAST: Final = {0x40: 10, 0x42: 18}
_LLC_SNAP: Final = b"\xaa\xaa\x03\x00\x00\x00"
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10

_End = tuple[str, int]


class _PassedError(Exception):
    """Nothing more is to be done with this frame."""

    def __init__(self, reason: Passed) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Connection:
    """A TCP connection; ``initiator`` is the end that dialled."""

    initiator: _End
    responder: _End
    #: By "from the initiator".
    halves: dict[bool, Assembly]
    stream: Stream | None = None
    #: Whether no SYN was seen.
    is_midway: bool = True
    ended: int = 0


class Internet:
    """Frames in, events out."""

    def __init__(self, *, ports: Iterable[int], streams: Streams, counts: Counts, linkage: Linkage | None) -> None:
        self._ports = set(ports)
        self._max_ports = len(self._ports) + MAX_PORTS
        self._streams = streams
        self._counts = counts
        self._linkage = linkage
        self._room = Room()
        self._connections: OrderedDict[frozenset[_End], _Connection] = OrderedDict()
        self._announced: OrderedDict[tuple[str, str, int, str], None] = OrderedDict()

    def feed(self, frame: Frame) -> list[Event]:
        """Take one frame."""
        try:
            return self._network(frame, *self._unwrap(frame))
        except _PassedError as passed:
            self._counts.add(passed.reason)
        except (AttributeError, TypeError, ValueError, IndexError):
            # A field that scapy left unset or filled with another type, in a packet that is none.
            self._counts.add(Passed.UNDISSECTED)
        return []

    def finish(self, time_s: float) -> list[Event]:
        """Give what still waits, without what is missing."""
        events: list[Event] = []
        for connection in self._connections.values():
            for from_initiator, half in connection.halves.items():
                events += self._pieces(connection, half.flush(), time_s, from_initiator=from_initiator)
        return events

    def _unwrap(self, frame: Frame) -> tuple[int, bytes, str]:
        """Return (EtherType, what follows it, the sender's address of this link)."""
        match frame.link:
            case Link.ETHERNET:
                return self._typed(dissect(Ether, frame.data), "src")
            case Link.LINUX_COOKED:
                return self._typed(dissect(CookedLinux, frame.data), "src", "proto")
            case Link.LINUX_COOKED_2:
                return self._typed(dissect(CookedLinuxV2, frame.data), "src", "proto")
            case Link.IP:
                version = frame.data[0] >> 4 if frame.data else 0
                return (_IPV6 if version == 6 else _IPV4), frame.data, ""
            case Link.RADIOTAP:
                radio = dissect(RadioTap, frame.data)
                if radio is not None and "badFCS" in str(getattr(radio, "Flags", "")):
                    raise _PassedError(Passed.BAD_CHECKSUM)
                return self._wifi(radio)
            case Link.WIFI:
                return self._wifi(dissect(Dot11, frame.data))
        raise _PassedError(Passed.OTHER)

    @staticmethod
    def _typed(header: Any, source: str, kind: str = "type") -> tuple[int, bytes, str]:
        ether_type = getattr(header, kind, None)
        if not isinstance(ether_type, int):
            # scapy's Dot3 where the field is a length: spanning tree and the like.
            raise _PassedError(Passed.UNDISSECTED if header is None else Passed.OTHER)
        sender = getattr(header, source, "")
        return ether_type, rest(header), sender if isinstance(sender, str) else bytes(sender)[:6].hex(":")

    @staticmethod
    def _wifi(packet: Any) -> tuple[int, bytes, str]:
        """Return what a data frame of an ad-hoc or mesh network carries (802.11-2020, 9.3.2.1 and 9.2.4.7.3)."""
        header = packet.getlayer(Dot11) if packet is not None else None
        if header is None:
            raise _PassedError(Passed.UNDISSECTED)
        if header.type != 2 or header.subtype & 4:
            raise _PassedError(Passed.WIFI_MANAGEMENT)
        if int(header.FCfield) & 0x40:
            raise _PassedError(Passed.ENCRYPTED_WIFI)
        body = rest(header)
        if header.subtype & 8:
            quality = dissect(Dot11QoS, body)
            if quality is None or len(body) < 2 or quality.A_MSDU_Present:
                raise _PassedError(Passed.OTHER)
            body = body[2:]
            # Bit 8 of QoS control: a mesh header of 6, 12 or 18 bytes comes first.
            if quality.TXOP & 1 and len(body) > 6 and not body.startswith(_LLC_SNAP):
                body = body[6 + 6 * (body[0] & 3) :]
        if not body.startswith(_LLC_SNAP) or len(body) < 8:
            raise _PassedError(Passed.OTHER)
        return int.from_bytes(body[6:8], "big"), body[8:], str(header.addr2)

    def _network(self, frame: Frame, ether_type: int, data: bytes, sender: str) -> list[Event]:
        for _ in range(MAX_NESTING):
            if ether_type in _VLANS and len(data) >= 4:
                ether_type, data = int.from_bytes(data[2:4], "big"), data[4:]
            elif ether_type == _BATMAN:
                skip = _BATMAN_UNICAST.get(data[0]) if data else None
                if skip is None or len(data) < skip + 14:
                    raise _PassedError(Passed.BATMAN)
                inner = data[skip:]
                ether_type, data, sender = int.from_bytes(inner[12:14], "big"), inner[14:], inner[6:12].hex(":")
            else:
                break
        if ether_type == _IPV4:
            return self._ip(frame, dissect(IP, data), sender)
        if ether_type == _IPV6:
            return self._ip(frame, dissect(IPv6, data), sender)
        raise _PassedError(Passed.OTHER)

    def _ip(self, frame: Frame, packet: Any, sender: str) -> list[Event]:
        if packet is None:
            raise _PassedError(Passed.UNDISSECTED)
        if TCP in packet:
            return self._tcp(frame, packet, packet[TCP])
        if UDP in packet and packet[UDP].sport == MDNS_PORT and DNS in packet:
            return self._dns(frame, packet[DNS], sender or str(packet.src))
        fragmented = isinstance(packet, IP) and (packet.frag or int(packet.flags) & 1)
        raise _PassedError(Passed.FRAGMENT if fragmented else Passed.OTHER)

    # TCP

    def _tcp(self, frame: Frame, packet: Any, segment: Any) -> list[Event]:
        source, target = (str(packet.src), int(segment.sport)), (str(packet.dst), int(segment.dport))
        data, length = _payload(packet, segment)
        flags = int(segment.flags)
        key = frozenset((source, target))
        connection = self._connections.get(key)
        if not {source[1], target[1]} & self._ports and connection is None and not looks_like_start(data):
            raise _PassedError(Passed.OTHER)
        events: list[Event] = []
        if connection is None or (flags & _SYN and not flags & _ACK and self._is_anew(connection, source, segment.seq)):
            if connection is not None:
                events += self._end(key, connection, "dialled anew", frame.time_s)
            connection = self._begin(key, source, target, data, flags, frame.time_s)
        self._connections.move_to_end(key)
        from_initiator = source == connection.initiator
        half = connection.halves[from_initiator]
        if flags & _SYN:
            connection.is_midway = False
            half.start(int(segment.seq) + 1)
            return events
        if length:
            pieces = half.feed(int(segment.seq), data, length, frame.time_s)
            if pieces is None:
                self._counts.add(Passed.OUT_OF_WINDOW)
                return events
            if len(data) < length:
                self._counts.add(Passed.CUT)
            events += self._pieces(connection, pieces, frame.time_s, from_initiator=from_initiator)
        if flags & _RST:
            events += self._end(key, connection, "reset", frame.time_s)
        elif flags & _FIN:
            connection.ended |= 1 << from_initiator
            if connection.ended == 0b11:
                events += self._end(key, connection, "end of stream", frame.time_s)
        return events

    @staticmethod
    def _is_anew(connection: _Connection, source: _End, number: int) -> bool:
        """Whether a SYN is no retransmission: its number lies away from what was heard."""
        half = connection.halves[source == connection.initiator]
        return source != connection.initiator or not half.is_at(number + 1)

    def _begin(
        self, key: frozenset[_End], source: _End, target: _End, data: bytes, flags: int, time_s: float
    ) -> _Connection:
        if len(self._connections) >= MAX_CONNECTIONS:
            old_key, old = next(iter(self._connections.items()))
            self._counts.add(Passed.STREAMS_FULL)
            self._end(old_key, old, "made room", time_s)
        # Who dialled: who says SYN, or speaks first; else who uses a port that is not ours.
        is_answer = flags & (_SYN | _ACK) == _SYN | _ACK
        starts = looks_like_start(data)
        is_dialler = not is_answer and (bool(flags & _SYN) or starts or target[1] in self._ports)
        connection = _Connection(
            initiator=source if is_dialler else target,
            responder=target if is_dialler else source,
            halves={True: Assembly(self._room), False: Assembly(self._room)},
        )
        self._connections[key] = connection
        return connection

    def _end(self, key: frozenset[_End], connection: _Connection, why: str, time_s: float) -> list[Event]:
        events: list[Event] = []
        for from_initiator, half in connection.halves.items():
            events += self._pieces(connection, half.flush(), time_s, from_initiator=from_initiator)
        del self._connections[key]
        if connection.stream is not None:
            connection.stream.repeated_bytes = sum(half.repeated_bytes for half in connection.halves.values())
            events += self._streams.close(connection.stream, why, time_s)
        return events

    def _pieces(
        self, connection: _Connection, pieces: list[bytes | int], time_s: float, *, from_initiator: bool
    ) -> list[Event]:
        if not pieces:
            return []
        events: list[Event] = []
        if connection.stream is None:
            connection.stream = self._streams.open(
                Bearer.TCP, _shown(connection.initiator), _shown(connection.responder), time_s
            )
            starts = from_initiator and isinstance(pieces[0], bytes) and looks_like_start(pieces[0])
            if connection.is_midway and not starts:
                events += self._streams.joined_midway(connection.stream, time_s)
        stream = connection.stream
        for piece in pieces:
            if isinstance(piece, int):
                events += self._streams.gap(stream, piece, from_initiator=from_initiator, time_s=time_s)
            else:
                events += self._streams.data(stream, piece, from_initiator=from_initiator, time_s=time_s)
        return events

    # DNS-SD

    def _dns(self, frame: Frame, message: Any, sender: str) -> list[Event]:
        """Announcements of ours; what a query says it knows already is others' words."""
        if not message.qr:
            raise _PassedError(Passed.OTHER)
        events: list[Event] = []
        for section in (message.an, message.ar):
            for record in list(section or ())[:MAX_ANSWERS]:
                name = bytes(getattr(record, "rrname", b"") or b"")
                if getattr(record, "type", 0) == _SRV and name.lower().endswith(b"." + _SERVICE):
                    instance, host = name[: -len(_SERVICE) - 1], bytes(record.target)
                    events += self._announced_once(frame.time_s, instance, host, int(record.port), sender)
        if not events:
            self._counts.add(Passed.OTHER)
        return events

    def _announced_once(self, time_s: float, instance: bytes, host: bytes, port: int, sender: str) -> list[Event]:
        if len(self._ports) < self._max_ports:
            self._ports.add(port)
        if self._linkage is not None:
            self._linkage.own(sender)
            self._linkage.add(time_s, sender, Field.INSTANCE, instance)
            self._linkage.add(time_s, sender, Field.HOST, host)
        event = Announced(time_s=time_s, instance=escaped(instance), host=escaped(host), port=port, by=escaped(sender))
        key = (event.instance, event.host, port, sender)
        is_new = key not in self._announced
        self._announced[key] = None
        self._announced.move_to_end(key)
        if len(self._announced) > MAX_CONNECTIONS:
            self._announced.popitem(last=False)
        return [event] if is_new else []


def _payload(packet: Any, segment: Any) -> tuple[bytes, int]:
    """Return what was captured of a segment's data, and how long it was: padding and checksums may follow."""
    captured = rest(segment)
    header_bytes = 4 * int(segment.dataofs or 5)
    if isinstance(packet, IPv6):
        before, header = 0, packet.payload
        while header is not segment:
            before += len(header.original) - len(header.payload.original)
            header = header.payload
        length = int(packet.plen) - before - header_bytes if packet.plen else len(captured)
    else:
        length = int(packet.len) - 4 * int(packet.ihl) - header_bytes if packet.len else len(captured)
    length = max(length, 0)
    return captured[:length], length


def _shown(end: _End) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
