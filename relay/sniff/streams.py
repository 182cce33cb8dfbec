# SPDX-License-Identifier: GPL-2.0-or-later
"""All streams that were seen, on whatever bearer: their records as events, and a summary of each."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.sniff import layers
from relay.sniff.counts import Counts, Passed
from relay.sniff.events import Bearer, Event, RecordSeen, StreamBroken, StreamClosed, StreamOpened
from relay.sniff.linkable import Field
from relay.sniff.records import Record, RecordReader, could_be

if TYPE_CHECKING:
    from relay.sniff.linkable import Linkage

#: Streams followed at once, about 2 kB each besides what waits for missing segments.
#: The one that was silent longest makes room.
MAX_STREAMS: Final = 1024
#: Streams whose summary is kept for the end, 1 kB each.
MAX_SUMMARIES: Final = 4096
#: Upper ends of the histogram of record lengths: control, one envelope of each class, more.
SIZE_STEPS: Final = (64, 400, 1_200, 4_400, 17_000, 65_535)


@dataclass(slots=True, kw_only=True)
class Flow:
    """One direction of a stream in figures."""

    bytes: int = 0
    records: int = 0
    by_size: list[int] = field(default_factory=lambda: [0] * len(SIZE_STEPS))
    #: Longest time without a byte.
    longest_silence_s: float = 0.0
    first_s: float | None = None
    last_s: float = 0.0

    def moved(self, count: int, time_s: float) -> None:
        """Count bytes."""
        if self.first_s is None:
            self.first_s = time_s
        else:
            self.longest_silence_s = max(self.longest_silence_s, time_s - self.last_s)
        self.last_s = time_s
        self.bytes += count

    def recorded(self, length_bytes: int) -> None:
        """Count a record."""
        self.records += 1
        self.by_size[next(index for index, step in enumerate(SIZE_STEPS) if length_bytes <= step)] += 1


@dataclass(slots=True, kw_only=True)
class Stream:
    """What is known of one stream; ``flows`` by "from the initiator"."""

    number: int
    bearer: Bearer
    initiator: str
    responder: str
    started_s: float
    reader: RecordReader = field(default_factory=RecordReader)
    flows: dict[bool, Flow] = field(default_factory=lambda: {True: Flow(), False: Flow()})
    repeated_bytes: int = 0
    lost_bytes: int = 0
    closed: str = ""
    is_told: bool = False
    is_broken_told: bool = False

    @property
    def is_session(self) -> bool:
        """Whether a handshake of ours was seen in it."""
        return any(flow.records for flow in self.flows.values())


class Streams:
    """Follows streams by number."""

    def __init__(self, counts: Counts, linkage: Linkage | None = None, needles: tuple[bytes, ...] = ()) -> None:
        """``needles``: to be looked for in handshakes, put together again."""
        self._counts = counts
        self._linkage = linkage
        self._needles = needles
        #: Handshake messages in which one of them stood in the clear.
        self.needles_seen = 0
        self._open: OrderedDict[int, Stream] = OrderedDict()
        self._done: list[Stream] = []
        self._last = 0
        #: Closed streams whose summary found no room.
        self.forgotten = 0

    def open(self, bearer: Bearer, initiator: str, responder: str, time_s: float) -> Stream:
        """Follow one more stream."""
        if len(self._open) >= MAX_STREAMS:
            self._counts.add(Passed.STREAMS_FULL)
            self._finish(next(iter(self._open.values())), "made room")
        self._last += 1
        stream = Stream(number=self._last, bearer=bearer, initiator=initiator, responder=responder, started_s=time_s)
        self._open[stream.number] = stream
        return stream

    def data(self, stream: Stream, data: bytes, *, from_initiator: bool, time_s: float) -> list[Event]:
        """Bytes of a direction, in order."""
        if stream.closed:
            return []
        self._open.move_to_end(stream.number)
        stream.flows[from_initiator].moved(len(data), time_s)
        return self._records(stream, stream.reader.feed(data, from_initiator=from_initiator), time_s)

    def gap(self, stream: Stream, count: int | None, *, from_initiator: bool, time_s: float) -> list[Event]:
        """Bytes of a direction that were not captured; None: nobody knows how many."""
        stream.lost_bytes += count or 0
        return self._records(stream, stream.reader.gap(count, from_initiator=from_initiator), time_s)

    def joined_midway(self, stream: Stream, time_s: float) -> list[Event]:
        """The capture began when the stream ran already."""
        stream.reader.failed = stream.reader.failed or "joined midway"
        return self._told(stream, time_s) + self._broken(stream, time_s)

    def close(self, stream: Stream, why: str, time_s: float) -> list[Event]:
        """The stream is over."""
        if stream.closed:
            return []
        self._finish(stream, why)
        return [StreamClosed(time_s=time_s, stream=stream.number, why=why)] if stream.is_told else []

    def summaries(self) -> list[Stream]:
        """All that are remembered, in order of their beginning."""
        return sorted([*self._done, *self._open.values()], key=lambda stream: stream.number)

    def _finish(self, stream: Stream, why: str) -> None:
        stream.closed = why
        del self._open[stream.number]
        if len(self._done) < MAX_SUMMARIES:
            self._done.append(stream)
        else:
            self.forgotten += 1

    @staticmethod
    def _told(stream: Stream, time_s: float) -> list[Event]:
        """Tell of a stream once it is known to concern us."""
        if stream.is_told:
            return []
        stream.is_told = True
        return [
            StreamOpened(
                time_s=time_s,
                stream=stream.number,
                bearer=stream.bearer,
                initiator=stream.initiator,
                responder=stream.responder,
            )
        ]

    @staticmethod
    def _broken(stream: Stream, time_s: float) -> list[Event]:
        if not stream.reader.failed or stream.is_broken_told or not stream.is_told:
            return []
        stream.is_broken_told = True
        return [StreamBroken(time_s=time_s, stream=stream.number, why=stream.reader.failed)]

    def _records(self, stream: Stream, records: list[Record], time_s: float) -> list[Event]:
        events = self._told(stream, time_s) if records else []
        events += [self._record(stream, record, time_s) for record in records]
        return events + self._broken(stream, time_s)

    def _record(self, stream: Stream, record: Record, time_s: float) -> RecordSeen:
        stream.flows[record.from_initiator].recorded(record.length_bytes)
        self.needles_seen += any(needle in record.kept for needle in self._needles)
        if self._linkage is not None and record.kept:
            self._observe(self._linkage, stream.number, record, time_s)
        pattern = stream.reader.pattern
        return RecordSeen(
            time_s=time_s,
            stream=stream.number,
            from_initiator=record.from_initiator,
            number=record.number,
            length_bytes=record.length_bytes,
            handshake=record.handshake,
            pattern="" if record.handshake != 1 or pattern is None else layers.PATTERNS[pattern],
            could_be="" if record.handshake else could_be(record.length_bytes),
        )

    @staticmethod
    def _observe(linkage: Linkage, number: int, record: Record, time_s: float) -> None:
        """Each field of a handshake, and the start of what follows it, has to be new in every session."""
        parts = {
            1: [(Field.EPHEMERAL_KEY, record.kept[2:34]), (Field.HANDSHAKE, record.kept[34:])],
            2: [(Field.EPHEMERAL_KEY, record.kept[:32]), (Field.HANDSHAKE, record.kept[32:80])],
            3: [(Field.HANDSHAKE, record.kept[:48])],
        }.get(record.handshake, [(Field.RECORD, record.kept)])
        who = f"session #{number}"
        linkage.own(who)
        for kind, value in parts:
            linkage.add(time_s, who, kind, value)
