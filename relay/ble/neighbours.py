# SPDX-License-Identifier: GPL-2.0-or-later
"""Which relays to dial over Bluetooth, and when (docs/ble.md section 2).

No I/O: what was heard and how dials ended comes in with `now` (seconds, monotonic), the next device to dial
comes out. A neighbour is known by its salt only for as long as it keeps its address; across that, it is
recognised by the news value that it told in a session.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.core.clock import jittered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.bluetooth.gatt import Beacon

#: Relays heard and remembered, 600 bytes each. Whoever invents more makes us forget others at random, so that an
#: honest relay, which keeps advertising, is found in proportion.
MAX_HEARD: Final = 64
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


@dataclass(slots=True)
class _Neighbour:
    beacon: Beacon
    last_s: float
    free_s: float
    """Since when it is near and there is no session with it that we know of: the other side could have dialled."""
    is_there: bool = True
    """BlueZ has an object to call; it lets go of what it has not heard for a while."""
    is_ours: bool = False
    """We are dialling it or have a session."""
    retry_s: float = 0.0
    ends: int = 0


class Neighbours:
    """The relays around one adapter. They are named by `device`, the path of the object that BlueZ made."""

    def __init__(self, *, max_neighbours: int, random: Callable[[], float]) -> None:
        """Have at most `max_neighbours` dialled at once. `random` returns floats in [0, 1)."""
        self._max_neighbours = max_neighbours
        self._random = random
        self._heard: dict[str, _Neighbour] = {}
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
        """Whether there is no place for another, so that listening is of no use."""
        return self.dialled >= self._max_neighbours

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

    def heard(self, device: str, beacon: Beacon, now: float) -> bool:
        """Note an advertisement; False when another one had to be forgotten for it."""
        neighbour = self._heard.get(device)
        if neighbour is not None and neighbour.beacon.salt == beacon.salt:
            neighbour.beacon = beacon
            neighbour.last_s = now
            neighbour.is_there = True
            return True
        if neighbour is not None and neighbour.is_ours:
            return True  # a salt that changes without the address: not before the session is over
        self._heard.pop(device, None)
        self._forget(now)
        has_room = len(self._heard) < MAX_HEARD
        if not has_room:
            idle = [name for name, other in self._heard.items() if not other.is_ours]
            del self._heard[idle[int(self._random() * len(idle))]]
        self._heard[device] = _Neighbour(beacon=beacon, last_s=now, free_s=now)
        return has_room

    def heard_again(self, device: str, now: float) -> None:
        """Note that a device advertises what it did before."""
        if (neighbour := self._heard.get(device)) is not None:
            neighbour.last_s = now
            neighbour.is_there = True

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

    def ended(self, device: str, end: End, now: float, *, ran_s: float = 0.0) -> None:
        """Note how a dial, or a session of `ran_s` seconds, ended."""
        neighbour = self._heard.get(device)
        if neighbour is None:
            return
        neighbour.is_ours = False
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

    def choose(self, own_salt: bytes, now: float) -> str | None:
        """Return the device to dial now, if any; from then on it counts until `ended`."""
        self._forget(now)
        values = [self._own_news, *self._known]
        visited = [value for value, (own, until_s) in self._visited.items() if own == self._own_news and now < until_s]
        due = []
        for device, neighbour in self._heard.items():
            is_near = neighbour.is_there and now - neighbour.last_s < RECENT_S
            is_linked = neighbour.is_ours or device in self._connected or neighbour.beacon.matches(values)
            if is_linked or not is_near:
                neighbour.free_s = now
            elif self._is_due(neighbour, own_salt, now) and not neighbour.beacon.matches(visited):
                due.append(device)
        if self.is_full or not due:
            return None
        # At random: whoever invents relays must not decide by their names whose turn it is.
        device = due[int(self._random() * len(due))]
        self._heard[device].is_ours = True
        return device

    @staticmethod
    def _is_due(neighbour: _Neighbour, own_salt: bytes, now: float) -> bool:
        is_our_turn = neighbour.beacon.salt < own_salt or now - neighbour.free_s >= GRACE_S
        return is_our_turn and now >= neighbour.retry_s

    def _forget(self, now: float) -> None:
        for device, neighbour in list(self._heard.items()):
            if not neighbour.is_ours and now - neighbour.last_s >= FORGET_S:
                del self._heard[device]
