# SPDX-License-Identifier: GPL-2.0-or-later
"""Bluetooth LE connections, from whichever capture: their fragments go to GATT and to the channels."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.sniff.att import Attributes
from relay.sniff.counts import Counts, Passed
from relay.sniff.events import Connected, Event
from relay.sniff.l2cap import ATT_CID, SIGNALLING_CID, Channels, Fragments

if TYPE_CHECKING:
    from relay.sniff.linkable import Linkage
    from relay.sniff.streams import Streams

#: Connections followed at once, each with at most 128 KiB of fragments; a controller has some ten.
MAX_CONNECTIONS: Final = 64
#: Instead of an address that was not captured.
UNKNOWN: Final = "unknown"

#: (adapter, connection handle or access address)
Key = tuple[int, int]


@dataclass(slots=True)
class Connection:
    """``names`` of the sides by "is the central"; ``sent_by_central``: whether the capturing host is it."""

    names: dict[bool, str]
    attributes: Attributes
    channels: Channels
    sent_by_central: bool | None = None
    fragments: dict[bool, Fragments] = field(default_factory=lambda: {True: Fragments(), False: Fragments()})


class Connections:
    """All connections of a capture."""

    def __init__(self, *, streams: Streams, counts: Counts, linkage: Linkage | None) -> None:
        self._streams = streams
        self._counts = counts
        self._linkage = linkage
        self._open: OrderedDict[Key, Connection] = OrderedDict()

    def get(self, key: Key, time_s: float) -> Connection:
        """Return the connection; one that began before the capture is made now."""
        connection = self._open.get(key)
        if connection is None:
            return self._make(key, {}, time_s)
        self._open.move_to_end(key)
        return connection

    def begin(
        self, key: Key, names: dict[bool, str], time_s: float, *, sent_by_central: bool | None = None
    ) -> list[Event]:
        """Two have connected."""
        events = self.end(key, time_s)
        connection = self._make(key, names, time_s)
        connection.sent_by_central = sent_by_central
        return [*events, _told(connection, time_s, is_open=True)]

    def end(self, key: Key, time_s: float) -> list[Event]:
        """They have parted."""
        connection = self._open.pop(key, None)
        if connection is None:
            return []
        return [*_close(connection, time_s), _told(connection, time_s, is_open=False)]

    def fragment(
        self, connection: Connection, data: bytes, time_s: float, *, is_start: bool, from_central: bool | None
    ) -> list[Event]:
        """Take a fragment of an L2CAP packet; ``from_central`` None: nobody says who sent it."""
        if from_central is None and not is_start:
            waiting = [side for side, fragments in connection.fragments.items() if fragments.is_waiting]
            from_central = waiting[0] if len(waiting) == 1 else None
        if from_central is None:
            self._counts.add(Passed.NO_DIRECTION)
            return []
        packet, is_lost = connection.fragments[from_central].feed(data, is_start=is_start)
        events: list[Event] = []
        if is_lost:
            self._counts.add(Passed.FRAGMENT)
            events += connection.channels.lost(from_central=from_central, time_s=time_s)
        if packet is None:
            return events
        cid, body = packet
        if cid == ATT_CID:
            return events + connection.attributes.feed(body, from_central=from_central, time_s=time_s)
        if cid == SIGNALLING_CID:
            names = connection.names
            return events + connection.channels.signal(body, names, from_central=from_central, time_s=time_s)
        return events + connection.channels.data(cid, body, from_central=from_central, time_s=time_s)

    def _make(self, key: Key, names: dict[bool, str], time_s: float) -> Connection:
        if len(self._open) >= MAX_CONNECTIONS:
            self._counts.add(Passed.CONNECTIONS_FULL)
            _close(self._open.popitem(last=False)[1], time_s)
        # Where an address was not captured the connection stands for it.
        names = {side: names.get(side) or f"{UNKNOWN} {key[1]:x}" for side in (True, False)}
        connection = Connection(
            names=names,
            attributes=Attributes(names, self._streams, self._linkage),
            channels=Channels(self._streams, self._counts),
        )
        self._open[key] = connection
        return connection


def _close(connection: Connection, time_s: float) -> list[Event]:
    why = "connection lost"
    return connection.attributes.close(why, time_s) + connection.channels.close(why, time_s)


def _told(connection: Connection, time_s: float, *, is_open: bool) -> Connected:
    names = connection.names
    return Connected(time_s=time_s, central=names[True], peripheral=names[False], is_open=is_open)
