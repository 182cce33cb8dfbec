# SPDX-License-Identifier: GPL-2.0-or-later
"""L2CAP over LE: fragments to packets, LE credit-based channels to streams (Core Specification 3.A)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from scapy.layers.bluetooth import (
    L2CAP_CmdHdr,
    L2CAP_DisconnReq,
    L2CAP_LE_Credit_Based_Connection_Request,
    L2CAP_LE_Credit_Based_Connection_Response,
)

from relay.sniff.counts import Counts, Passed
from relay.sniff.events import Bearer, Event
from relay.sniff.layers import dissect

if TYPE_CHECKING:
    from relay.sniff.streams import Stream, Streams

ATT_CID: Final = 4
SIGNALLING_CID: Final = 5
#: Channels of one connection, and requests without an answer yet; a stack gives far fewer.
MAX_CHANNELS: Final = 16
_HEADER_BYTES: Final = 4


class Fragments:
    """One direction of a connection: what the controller cut, put together. At most one packet of 64 KiB waits."""

    __slots__ = ("_data", "_need")

    def __init__(self) -> None:
        self._data = b""
        self._need = 0

    @property
    def is_waiting(self) -> bool:
        """Whether a packet was begun."""
        return bool(self._data)

    def feed(self, data: bytes, *, is_start: bool) -> tuple[tuple[int, bytes] | None, bool]:
        """Return (channel, payload) of a packet that is complete, and whether a fragment is missing."""
        is_lost = is_start == self.is_waiting
        if not is_start and not self.is_waiting:
            return None, is_lost
        self._data = data if is_start else self._data + data
        if len(self._data) < _HEADER_BYTES:
            return None, is_lost
        need = _HEADER_BYTES + int.from_bytes(self._data[:2], "little")
        if len(self._data) < need:
            return None, is_lost
        packet, self._data = self._data[:need], b""
        return (int.from_bytes(packet[2:4], "little"), packet[_HEADER_BYTES:]), is_lost


@dataclass(slots=True)
class _Channel:
    """``cids``: what each end is called by the other, by "is the central's". ``left``: of an SDU, by direction."""

    stream: Stream
    central_asked: bool
    cids: dict[bool, int]
    left: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})


class Channels:
    """The LE credit-based channels of one connection."""

    def __init__(self, streams: Streams, counts: Counts) -> None:
        self._streams = streams
        self._counts = counts
        #: (PSM, the asking side's channel) by (the central asked, identifier).
        self._asked: dict[tuple[bool, int], tuple[int, int]] = {}
        self._open: list[_Channel] = []

    def signal(self, data: bytes, names: dict[bool, str], *, from_central: bool, time_s: float) -> list[Event]:
        """A packet of the signalling channel; ``names`` of the sides by "is the central"."""
        command: Any = dissect(L2CAP_CmdHdr, data)
        if command is None:
            self._counts.add(Passed.UNDISSECTED)
            return []
        message = command.payload
        if isinstance(message, L2CAP_LE_Credit_Based_Connection_Request):
            if len(self._asked) >= MAX_CHANNELS:
                del self._asked[next(iter(self._asked))]
            self._asked[from_central, command.id] = (message.spsm, message.scid)
        elif isinstance(message, L2CAP_LE_Credit_Based_Connection_Response):
            return self._answered(command.id, message, names, central_asked=not from_central, time_s=time_s)
        elif isinstance(message, L2CAP_DisconnReq):
            for channel in list(self._open):
                if channel.cids[from_central] == message.scid and channel.cids[not from_central] == message.dcid:
                    self._open.remove(channel)
                    return self._streams.close(channel.stream, "channel closed", time_s)
        return []

    def data(self, cid: int, data: bytes, *, from_central: bool, time_s: float) -> list[Event]:
        """A K-frame: a channel is called by its receiver's number."""
        channel = next((one for one in self._open if one.cids[not from_central] == cid), None)
        if channel is None:
            self._counts.add(Passed.OTHER)
            return []
        if not channel.left[from_central]:
            channel.left[from_central] = int.from_bytes(data[:2], "little")
            data = data[2:]
        from_initiator = from_central == channel.central_asked
        if len(data) > channel.left[from_central]:
            return self._streams.gap(channel.stream, None, from_initiator=from_initiator, time_s=time_s)
        channel.left[from_central] -= len(data)
        return self._streams.data(channel.stream, data, from_initiator=from_initiator, time_s=time_s)

    def sender(self, cid: int) -> bool | None:
        """Whether the central sends on this channel number; None where both sides do, or nobody."""
        senders = {not owner for one in self._open for owner, number in one.cids.items() if number == cid}
        return senders.pop() if len(senders) == 1 else None

    def lost(self, *, from_central: bool, time_s: float) -> list[Event]:
        """A packet of this direction was not captured whole: any channel's."""
        events: list[Event] = []
        for channel in self._open:
            from_initiator = from_central == channel.central_asked
            events += self._streams.gap(channel.stream, None, from_initiator=from_initiator, time_s=time_s)
        return events

    def close(self, why: str, time_s: float) -> list[Event]:
        """The connection is over."""
        events: list[Event] = []
        for channel in self._open:
            events += self._streams.close(channel.stream, why, time_s)
        self._open.clear()
        return events

    def _answered(
        self, identifier: int, answer: Any, names: dict[bool, str], *, central_asked: bool, time_s: float
    ) -> list[Event]:
        psm, asker_cid = self._asked.pop((central_asked, identifier), (0, 0))
        if not asker_cid or answer.result:
            return []
        events: list[Event] = []
        cids = {central_asked: asker_cid, not central_asked: answer.dcid}
        for channel in list(self._open):
            if channel.cids == cids or len(self._open) >= MAX_CHANNELS:
                self._open.remove(channel)
                events += self._streams.close(channel.stream, "made room", time_s)
        stream = self._streams.open(
            Bearer.CHANNEL, names[central_asked], f"{names[not central_asked]} PSM {psm:#x}", time_s
        )
        self._open.append(_Channel(stream=stream, central_asked=central_asked, cids=cids))
        return events
