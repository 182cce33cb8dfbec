# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that many share and that one cannot fill: who holds the most gives way.

Identities cost nothing in a mesh, so nothing is bounded for each sender. What cannot be had for nothing is a link:
when a pool is full, an entry goes of the origin that holds the most: of its part that holds the most, the oldest.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")

GONE: Final = "gone"
"""Origin of what came by links that are closed, all of them together: else who comes again begins at nothing."""


class _Part(Generic[K]):
    """Of an origin: its keys, the oldest first, and how many bytes they hold."""

    __slots__ = ("held_bytes", "keys")

    def __init__(self) -> None:
        self.keys: dict[K, None] = {}
        self.held_bytes = 0


class _Entry(NamedTuple, Generic[V]):
    value: V
    origin: Hashable
    part: Hashable
    size: int
    expires_at: float


class Pool(Generic[K, V]):
    """Values by key, each of an origin, for a time that is the same for all."""

    def __init__(self, *, most: int, most_bytes: int, life_s: float) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._life_s = life_s
        self._entries: dict[K, _Entry[V]] = {}
        self._of_origin: dict[Hashable, dict[K, None]] = {}
        self._bytes_of: Counter[Hashable] = Counter()
        #: By origin and part of it.
        self._of_part: dict[Hashable, dict[Hashable, _Part[K]]] = {}
        self.held_bytes = 0
        #: How many went because there was no room.
        self.evicted = 0
        #: When the last of these came (monotonic seconds): of what came later all is here.
        self.evicted_until = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return what is kept under a key."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def items(self) -> Iterator[tuple[K, V]]:
        """All that is kept, in no order that says anything."""
        return ((key, entry.value) for key, entry in self._entries.items())

    def put(self, key: K, value: V, *, origin: Hashable, now: float, size: int = 0, part: Hashable = None) -> None:
        """Keep a value, in place of the one before; others go where there is no room.

        ``part``: of the origin, such as who said it where many come by one link.
        """
        self.pop(key)
        self._entries[key] = _Entry(value, origin, part, size, now + self._life_s)
        self._of_origin.setdefault(origin, {})[key] = None
        self._note_part(origin, part, key, size)
        self._bytes_of[origin] += size
        self.held_bytes += size
        while len(self._entries) > self._most or self.held_bytes > self._most_bytes:
            by_bytes = self.held_bytes > self._most_bytes
            greediest = max(
                self._of_origin,
                key=lambda name: self._bytes_of[name] if by_bytes else len(self._of_origin[name]),
            )
            part = max(self._of_part[greediest].values(), key=lambda one: one.held_bytes if by_bytes else len(one.keys))
            loser = next(iter(part.keys))
            self.evicted_until = max(self.evicted_until, self._entries[loser].expires_at - self._life_s)
            self.pop(loser)
            self.evicted += 1

    def pop(self, key: K) -> V | None:
        """Forget a key and return what was kept under it."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        del self._of_origin[entry.origin][key]
        self._bytes_of[entry.origin] -= entry.size
        self.held_bytes -= entry.size
        parts = self._of_part[entry.origin]
        part = parts[entry.part]
        del part.keys[key]
        part.held_bytes -= entry.size
        if not part.keys:
            del parts[entry.part]
        if not self._of_origin[entry.origin]:
            del self._of_origin[entry.origin], self._bytes_of[entry.origin], self._of_part[entry.origin]
        return entry.value

    def expire(self, now: float) -> int:
        """Forget what is over; return how many."""
        late = []
        for origin, keys in self._of_origin.items():
            for key in keys:
                if self._entries[key].expires_at <= now:
                    late.append(key)
                elif origin != GONE:
                    break  # the oldest of a link are at its front; what links left behind is in no order
        for key in late:
            self.pop(key)
        return len(late)

    def leave(self, origin: Hashable) -> None:
        """A link is closed: what came by it is kept together with that of other closed links."""
        if origin == GONE:
            return
        for key in self._of_origin.pop(origin, {}):
            entry = self._entries[key]
            self._entries[key] = entry._replace(origin=GONE)
            self._of_origin.setdefault(GONE, {})[key] = None
            self._note_part(GONE, entry.part, key, entry.size)
            self._bytes_of[GONE] += entry.size
        del self._bytes_of[origin]
        self._of_part.pop(origin, None)

    def _note_part(self, origin: Hashable, part: Hashable, key: K, size: int) -> None:
        noted = self._of_part.setdefault(origin, {}).setdefault(part, _Part())
        noted.keys[key] = None
        noted.held_bytes += size
