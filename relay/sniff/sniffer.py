# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of any kind in, events out; and what is told at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.config.settings import DEFAULT_PORT
from relay.control.text import human_bytes, plural
from relay.sniff.advertising import Advertisements
from relay.sniff.air import Air
from relay.sniff.capture import Frame, Link
from relay.sniff.connections import Connections
from relay.sniff.counts import Counts, Passed
from relay.sniff.hci import Hci
from relay.sniff.internet import Internet
from relay.sniff.linkable import MAX_ADDRESS_S, Linkage, Report
from relay.sniff.streams import SIZE_STEPS, Stream, Streams

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay.core.noise import KeyPair
    from relay.sniff.events import Event

_AIR: Final = frozenset({Link.LE, Link.LE_PHDR})


class Sniffer:
    """One listener: feed it frames in the order of their capture."""

    def __init__(self, *, ports: Iterable[int], linkage: Linkage | None = None, key: KeyPair | None = None) -> None:
        """``ports``: TCP ports of relays; those in announcements are learnt. ``key``: to be looked for."""
        self.counts = Counts()
        self.frames = 0
        self._key_frames = 0
        self._needles = (key.public, key.private) if key is not None else ()
        self._last_s = 0.0
        self.streams = Streams(self.counts, linkage, self._needles)
        self._internet = Internet(ports=ports, streams=self.streams, counts=self.counts, linkage=linkage)
        connections = Connections(streams=self.streams, counts=self.counts, linkage=linkage)
        advertisements = Advertisements(counts=self.counts, linkage=linkage)
        self._hci = Hci(connections=connections, advertisements=advertisements, counts=self.counts)
        self._air = Air(connections=connections, advertisements=advertisements, counts=self.counts)

    @property
    def has_key(self) -> bool:
        """Whether there is a key to look for."""
        return bool(self._needles)

    @property
    def key_seen(self) -> int:
        """How often the key stood in the clear: its public half or, worse, its private one."""
        return max(self._key_frames, self.streams.needles_seen)

    def feed(self, frame: Frame) -> list[Event]:
        """Take one frame; never raises, whatever it is."""
        self.frames += 1
        self._last_s = frame.time_s
        if any(needle in frame.data for needle in self._needles):
            self._key_frames += 1
        if frame.link is not Link.HCI and frame.link not in _AIR:
            return self._internet.feed(frame)
        if len(frame.data) < frame.wire_bytes:
            self.counts.add(Passed.CUT)
        try:
            return self._air.feed(frame) if frame.link in _AIR else self._hci.feed(frame)
        except (AttributeError, TypeError, ValueError, IndexError):
            # A field that scapy left unset or filled with another type, in a packet that is none.
            self.counts.add(Passed.UNDISSECTED)
            return []

    def finish(self) -> list[Event]:
        """The capture is over."""
        return self._internet.finish(self._last_s)


def examine(
    frames: Iterable[Frame], *, ports: Iterable[int] = (DEFAULT_PORT,), max_address_s: float = MAX_ADDRESS_S
) -> Report:
    """Tell whether anything in a capture joins what should be apart; what ``read_capture`` raises."""
    linkage = Linkage(max_address_s=max_address_s)
    sniffer = Sniffer(ports=ports, linkage=linkage)
    for frame in frames:
        sniffer.feed(frame)
    sniffer.finish()
    return linkage.report()


def stream_lines(stream: Stream) -> list[str]:
    """One stream in figures, for `--stats`."""
    lines = [
        f"#{stream.number} {stream.bearer} {stream.initiator} > {stream.responder}: "
        + (stream.closed or "open")
        + (f", {stream.reader.failed}" if stream.reader.failed else "")
    ]
    for from_initiator, flow in stream.flows.items():
        if flow.first_s is None:
            continue
        sizes = ", ".join(
            f"{count} up to {step}" for step, count in zip(SIZE_STEPS, flow.by_size, strict=True) if count
        )
        lines.append(
            f"   {'>' if from_initiator else '<'} {human_bytes(flow.bytes)} in {plural(flow.records, 'record')}"
            + (f" ({sizes})" if sizes else "")
            + f", {flow.last_s - flow.first_s:.3f} s, longest silence {flow.longest_silence_s:.3f} s"
        )
    if stream.repeated_bytes or stream.lost_bytes:
        lines.append(f"   sent again: {stream.repeated_bytes} bytes, not captured: {stream.lost_bytes} bytes")
    return lines


def stream_json(stream: Stream) -> dict[str, object]:
    """The same as JSON values."""
    return {
        "event": "stream",
        "stream": stream.number,
        "bearer": stream.bearer,
        "initiator": stream.initiator,
        "responder": stream.responder,
        "state": stream.closed or "open",
        "broken": stream.reader.failed,
        "repeated_bytes": stream.repeated_bytes,
        "lost_bytes": stream.lost_bytes,
        "flows": [
            {
                "from_initiator": from_initiator,
                "bytes": flow.bytes,
                "records": flow.records,
                "records_up_to_bytes": dict(zip(map(str, SIZE_STEPS), flow.by_size, strict=True)),
                "first_s": flow.first_s,
                "last_s": flow.last_s,
                "longest_silence_s": flow.longest_silence_s,
            }
            for from_initiator, flow in stream.flows.items()
            if flow.first_s is not None
        ],
    }
