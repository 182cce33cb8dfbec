# SPDX-License-Identifier: GPL-2.0-or-later
"""Which relays to dial over Bluetooth, and when (docs/ble.md section 2).

No I/O: what was heard and how dials ended comes in with `now` (seconds, monotonic), the next device to dial
comes out. A neighbour is known by its salt only for as long as it keeps its address; across that, it is
recognised by the news value that it told in a session.

Anybody can advertise himself as a relay. So those heard again after some seconds come first, each has its turn,
and what a dial in vain costs, it costs that kind of advertiser (:mod:`relay.bluetooth.kinds`). Who has a session for
long gives way to others that wait for one.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.bluetooth.kinds import Failures, kind_of
from relay.core.clock import jittered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.bluetooth.gatt import Beacon
    from relay.bluetooth.kinds import Kind

#: Relays heard and remembered, 600 bytes each: 300 kB. Whoever invents more makes us forget those that have not been
#: heard for longest, and first those that were heard once: an honest relay is heard again with every scan.
MAX_HEARD: Final = 512
#: Longer than a scan: who was heard so long after the first time was heard in two scans.
STEADY_HEARD_S: Final = 5.0
#: Dialled at once beyond the places that there are, one for each dial in vain of late: of false relays some let us
#: connect and never answer, which takes until a timeout. The links of small controllers are seven.
MAX_EXTRA: Final = 3
#: A session that lasted so long gives way if there is no place for another relay: three false neighbours, which
#: never hang up, would be all that there is. Reconciling a full store takes a minute or two.
TENURE_S: Final = 300.0
#: A relay advertises about once a second, and we listen at least every 30 s.
FORGET_S: Final = 90.0
#: Dialling one that is no longer there costs a timeout, so it must have been heard in the scan just before.
RECENT_S: Final = 8.0
#: The one with the lesser salt waits so long for the other to dial, again after each session.
GRACE_S: Final = 20.0
MAX_DELAY_S: Final = 600.0
#: A session that lasts so long was one: the next failure is a new one.
STEADY_S: Final = 30.0
#: News values of sessions that ended, 200 bytes each.
MAX_VISITED: Final = 64
#: When neither side had anything new for so long, all that one had the other has.
QUIET_S: Final = 120.0
#: After this time even those with nothing new are visited: relays let envelopes go that others keep.
VISITED_S: Final = 3600.0


class End(enum.Enum):
    """How a dial or a session ended, and how long to wait before dialling that neighbour again.

    The delay doubles with each end in a row, up to MAX_DELAY_S, and is jittered.
    """

    UNREACHABLE = 5.0
    #: Its places are taken.
    BUSY = 60.0
    #: It hung up at once: we have another session with it, or it and we do not share a secret.
    TURNED_AWAY = 120.0
    #: It speaks another version. Left alone for as long as it keeps its salt.
    UNUSABLE = float("inf")
    #: The session is over.
    CLOSED = 2.0
    #: It gave way to another relay, or came when there was no place any more.
    GAVE_WAY = 300.0


#: No relay there, or none that is of use: whoever invents relays has these at hand. One that is busy answered.
_IN_VAIN: Final = {End.UNREACHABLE, End.TURNED_AWAY, End.UNUSABLE}


@dataclass(slots=True)
class _Neighbour:
    beacon: Beacon
    first_s: float
    last_s: float
    free_s: float
    """Since when it is near and there is no session with it that we know of: the other side could have dialled."""
    is_there: bool = True
    """BlueZ has an object to call; it lets go of what it has not heard for a while."""
    is_ours: bool = False
    """We are dialling it or have a session."""
    session_s: float | None = None
    """Since when we have a session."""
    dialled_s: float = -math.inf
    rssi_dbm: int | None = None
    retry_s: float = 0.0
    ends: int = 0

    @property
    def kind(self) -> Kind:
        return kind_of(is_steady=self.last_s - self.first_s >= STEADY_HEARD_S, rssi_dbm=self.rssi_dbm)


class Neighbours:
    """The relays around one adapter. They are named by `device`, the path of the object that BlueZ made."""

    def __init__(self, *, max_neighbours: int, random: Callable[[], float]) -> None:
        """Have sessions with at most `max_neighbours`. `random` returns floats in [0, 1)."""
        self._max_neighbours = max_neighbours
        self._random = random
        #: Those heard longest ago first.
        self._heard: dict[str, _Neighbour] = {}
        self._failures = Failures()
        #: As many as the controller has connections.
        self._connected: set[str] = set()
        self._own_news = b""
        self._own_since_s = 0.0
        self._known: dict[bytes, float] = {}
        #: Its news value: ours then, and until when that counts.
        self._visited: dict[bytes, tuple[bytes, float]] = {}

    def __len__(self) -> int:
        return len(self._heard)

    @property
    def dialled(self) -> int:
        """How many we are dialling or have dialled."""
        return sum(neighbour.is_ours for neighbour in self._heard.values())

    @property
    def is_full(self) -> bool:
        """Whether there is a place for another only when one gives way."""
        return self._sessions >= self._max_neighbours

    @property
    def _sessions(self) -> int:
        return sum(neighbour.session_s is not None for neighbour in self._heard.values())

    # -- what comes in -----------------------------------------------------------

    def news(self, own: bytes, known: Iterable[bytes], now: float) -> None:
        """Take our own news value, and those of the relays with which there is a session on whatever link."""
        values = set(known)
        is_quiet = now - self._own_since_s >= QUIET_S and own == self._own_news
        for value, since_s in self._known.items():
            if value not in values and is_quiet and now - since_s >= QUIET_S:
                self._visited[value] = (own, now + VISITED_S)
        while len(self._visited) > MAX_VISITED:
            del self._visited[next(iter(self._visited))]
        self._known = {value: self._known.get(value, now) for value in values}
        if own != self._own_news:
            self._own_news = own
            self._own_since_s = now

    def heard(self, device: str, beacon: Beacon, now: float, *, rssi_dbm: int | None = None) -> bool:
        """Note an advertisement; False when another one had to be forgotten for it."""
        neighbour = self._heard.get(device)
        if neighbour is not None and neighbour.beacon.salt == beacon.salt:
            neighbour.beacon = beacon
            self.heard_again(device, now, rssi_dbm=rssi_dbm)
            return True
        if neighbour is not None and neighbour.is_ours:
            return True  # a salt that changes without the address: not before the session is over
        self._heard.pop(device, None)
        self._forget(now)
        has_room = len(self._heard) < MAX_HEARD
        if not has_room:
            idle = [name for name, other in self._heard.items() if not other.is_ours]
            del self._heard[next((name for name in idle if not self._heard[name].kind.is_steady), idle[0])]
        self._heard[device] = _Neighbour(beacon=beacon, first_s=now, last_s=now, free_s=now, rssi_dbm=rssi_dbm)
        return has_room

    def heard_again(self, device: str, now: float, *, rssi_dbm: int | None = None) -> None:
        """Note that a device advertises what it did before."""
        if (neighbour := self._heard.pop(device, None)) is not None:
            neighbour.last_s = now
            neighbour.is_there = True
            neighbour.rssi_dbm = neighbour.rssi_dbm if rssi_dbm is None else rssi_dbm
            self._heard[device] = neighbour

    def gone(self, device: str) -> None:
        """Note that BlueZ no longer has a device; what is known of it counts if it comes back."""
        self._connected.discard(device)
        if (neighbour := self._heard.get(device)) is not None:
            neighbour.is_there = False

    def connected(self, device: str, *, is_connected: bool) -> None:
        """Note that a device has a Bluetooth connection with us, whoever made it, or none any more."""
        if is_connected:
            self._connected.add(device)
        else:
            self._connected.discard(device)

    def entered(self, device: str, now: float) -> bool:
        """Note that a dial led to a stream; False if there is no place for it any more."""
        neighbour = self._heard.get(device)
        if neighbour is None or self.is_full:
            return False
        neighbour.session_s = now
        return True

    def ended(self, device: str, end: End, now: float, *, ran_s: float = 0.0) -> None:
        """Note how a dial, or a session of `ran_s` seconds, ended."""
        neighbour = self._heard.get(device)
        if neighbour is None:
            return
        if end in _IN_VAIN:
            self._failures.note(neighbour.kind, now)
        neighbour.is_ours = False
        neighbour.session_s = None
        neighbour.free_s = now
        if ran_s >= STEADY_S:
            neighbour.ends = 0
        delay_s = min(end.value * 2.0**neighbour.ends, MAX_DELAY_S) if end is not End.UNUSABLE else end.value
        neighbour.retry_s = now + jittered(delay_s, self._random())
        neighbour.ends = min(neighbour.ends + 1, 16)

    def reset(self) -> None:
        """Forget all that was heard: BlueZ restarted, so that its names for devices mean nothing."""
        self._heard.clear()
        self._connected.clear()

    # -- what comes out -----------------------------------------------------------

    def choose(self, own_salt: bytes, now: float) -> list[str]:
        """Return the devices to dial now, each of which counts from then on until `ended`."""
        due = self._due(own_salt, now)
        room = self._max_neighbours - self.dialled
        if not self.is_full:
            room += min(self._failures.total(now), MAX_EXTRA)
        chosen: list[str] = []
        while due and len(chosen) < room:
            tried = Counter(self._heard[device].kind for device in chosen)

            def rank(device: str, tried: Counter[Kind] = tried) -> tuple[int, bool, float, float]:
                neighbour = self._heard[device]
                kind = neighbour.kind
                # In the end at random: whoever invents relays must not decide by their names whose turn it is.
                in_vain = self._failures.of(kind, now) + tried[kind]
                return in_vain, not kind.is_steady, neighbour.dialled_s, self._random()

            chosen.append(min(due, key=rank))
            due.remove(chosen[-1])
        for device in chosen:
            self._heard[device].is_ours = True
            self._heard[device].dialled_s = now
        return chosen

    def give_way(self, own_salt: bytes, now: float) -> str | None:
        """Return the device whose session should end now, since others wait for its place."""
        due = self._due(own_salt, now)
        if not self.is_full or not any(self._heard[device].kind.is_steady for device in due):
            return None
        since_s, device = min((one.session_s, name) for name, one in self._heard.items() if one.session_s is not None)
        return device if now - since_s >= TENURE_S else None

    def _due(self, own_salt: bytes, now: float) -> list[str]:
        self._forget(now)
        values = [self._own_news, *self._known]
        visited = [value for value, (own, until_s) in self._visited.items() if own == self._own_news and now < until_s]
        due = []
        for device, neighbour in self._heard.items():
            is_near = neighbour.is_there and now - neighbour.last_s < RECENT_S
            is_linked = neighbour.is_ours or device in self._connected
            if is_linked or not is_near or neighbour.beacon.matches(values):
                neighbour.free_s = now
            elif self._is_due(neighbour, own_salt, now) and not neighbour.beacon.matches(visited):
                due.append(device)
        return due

    @staticmethod
    def _is_due(neighbour: _Neighbour, own_salt: bytes, now: float) -> bool:
        is_our_turn = neighbour.beacon.salt < own_salt or now - neighbour.free_s >= GRACE_S
        return is_our_turn and now >= neighbour.retry_s

    def _forget(self, now: float) -> None:
        for device, neighbour in list(self._heard.items()):
            if not neighbour.is_ours and now - neighbour.last_s >= FORGET_S:
                del self._heard[device]
