# SPDX-License-Identifier: GPL-2.0-or-later
"""What one interface holds, in the order in which it would have to leave (docs/protocol.md sections 9.2 and 10.5).

Kept up to date as envelopes come and go, so that nobody has to walk over the store
to learn who pays least: least of all for somebody who is then refused.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_HOUR_MASK = _NARROW = (1 << 32) - 1


class Rank:
    """Sequence numbers of one price and expiry hour, the oldest first."""

    __slots__ = ("_head", "seqs")

    def __init__(self) -> None:
        self.seqs = array("I")
        self._head = 0

    def __len__(self) -> int:
        return len(self.seqs) - self._head

    def __iter__(self) -> Iterator[int]:
        for index in range(self._head, len(self.seqs)):
            yield self.seqs[index]

    def add(self, seq: int) -> None:
        """Take in a sequence number, which is above all before it."""
        if seq > _NARROW:
            self.widen()
        self.seqs.append(seq)

    def widen(self) -> None:
        """Make room for numbers after four thousand million envelopes."""
        if self.seqs.typecode == "I":
            self.seqs = array("Q", self.seqs)

    def remove(self, seq: int) -> None:
        """Let one go: mostly the oldest, which moves nothing."""
        index = bisect_left(self.seqs, seq, self._head)
        if index == self._head:
            self._head += 1
            if self._head * 2 > len(self.seqs):
                del self.seqs[: self._head]
                self._head = 0
        else:
            del self.seqs[index]


class Ranks:
    """All that an interface holds: 4.5 bytes each, and about 300 for each price in each hour.

    With the bound on hours (relay.core.admission) and some 20 prices that anybody can
    pay, that is 1.2 MB an interface at worst.
    """

    def __init__(self) -> None:
        #: By price and hour in one number, in whose order they leave.
        self._ranks: dict[int, Rank] = {}
        self._order: list[int] = []
        #: Prices held in each hour, ascending; and (best price, -hour), the weakest hour first.
        self._prices: dict[int, list[int]] = {}
        self._weakest: list[tuple[int, int]] = []
        #: How many there are in each hour.
        self._counts: Counter[int] = Counter()

    def add(self, price: int, expiry_hour: int, seq: int) -> None:
        """Take in what was committed; ``seq`` is above all before it."""
        key = price << 32 | expiry_hour
        rank = self._ranks.get(key)
        if rank is None:
            rank = self._begin(key)
        rank.add(seq)
        self._counts[expiry_hour] += 1

    def add_all(self, prices: Iterable[int], expiry_hours: Sequence[int], seqs: Sequence[int]) -> None:
        """Take in many at once, columns of what :meth:`add` takes."""
        ranks, counts = self._ranks, self._counts
        is_wide = bool(seqs) and seqs[-1] > _NARROW
        for price, expiry_hour, seq in zip(prices, expiry_hours, seqs, strict=True):
            key = price << 32 | expiry_hour
            rank = ranks.get(key)
            if rank is None:
                rank = self._begin(key)
            if is_wide:
                rank.widen()
            rank.seqs.append(seq)
            counts[expiry_hour] += 1

    def _begin(self, key: int) -> Rank:
        rank = self._ranks[key] = Rank()
        insort(self._order, key)
        price, expiry_hour = key >> 32, key & _HOUR_MASK
        self._set_prices(expiry_hour, sorted([*self._prices.get(expiry_hour, ()), price]))
        return rank

    def remove(self, price: int, expiry_hour: int, seq: int) -> None:
        """Let go of what leaves."""
        key = price << 32 | expiry_hour
        rank = self._ranks[key]
        rank.remove(seq)
        self._counts[expiry_hour] -= 1
        if not rank:
            del self._ranks[key]
            del self._order[bisect_left(self._order, key)]
            self._set_prices(expiry_hour, [other for other in self._prices[expiry_hour] if other != price])

    def _set_prices(self, expiry_hour: int, prices: list[int]) -> None:
        before = self._prices.pop(expiry_hour, None)
        if before:
            del self._weakest[bisect_left(self._weakest, (before[-1], -expiry_hour))]
        if prices:
            self._prices[expiry_hour] = prices
            insort(self._weakest, (prices[-1], -expiry_hour))
        else:
            del self._counts[expiry_hour]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (price, seq): the cheapest first, of these the next to expire, of these the oldest."""
        for key in self._order:
            price = key >> 32
            for seq in self._ranks[key]:
                yield price, seq

    def weak_hours(self, below_price: int) -> Iterator[int]:
        """Yield the hours whose best paid envelope paid less, the weakest first, the latest of these."""
        for price, negative in self._weakest:
            if price >= below_price:
                return
            yield -negative

    @property
    def weakest_price(self) -> int | None:
        """What the best paid envelope of the weakest hour paid."""
        return self._weakest[0][0] if self._weakest else None

    def in_hour(self, expiry_hour: int) -> list[int]:
        """Return all sequence numbers of an hour."""
        return [seq for price in self._prices.get(expiry_hour, ()) for seq in self._ranks[price << 32 | expiry_hour]]

    def count_in_hour(self, expiry_hour: int) -> int:
        """Return how many there are in an hour."""
        return self._counts[expiry_hour]
