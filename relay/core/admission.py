# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is let into the store, and who leaves for him (docs/protocol.md section 9).

Everything is decided before anything is stored. Each interface has a guaranteed
share: a flood on one cannot take the store away from the others. Within its share
an interface always finds room; beyond it a newcomer must have paid more work per
byte than the least paid envelope of the interface furthest above its share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.core.envelope import ALL_CLASSES, MAX_LIFETIME_HOURS, SIZES, Header, price_paid
from relay.core.messages import Refusal
from relay.core.shares import shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relay.core.clock import Clock
    from relay.core.log import AdmittedLog

#: Distinct expiry hours that one interface may hold: the 170 of a full window and
#: a day of slack. Without a clock any hour passes the floor; this bounds what
#: reconciliation has to compare.
MAX_HOURS_PER_INTERFACE: Final = 194
MAX_PRICE: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The operator's limits.

    ``shares``: interface number to guaranteed fraction of the store; interfaces
    that are not named divide the rest evenly. ``residence_s``: how long an envelope
    stays without a trusted clock; by default as long as a sender may ask for.
    """

    max_bytes: int
    max_envelopes: int
    min_price: int = 0
    classes: int = ALL_CLASSES
    shares: dict[int, float] = field(default_factory=dict)
    residence_s: float = MAX_LIFETIME_HOURS * 3600.0

    def units(self, size_class: int) -> int:
        """Room that an envelope takes, in bytes, so that both limits hold at once.

        A small envelope counts as one part of ``max_envelopes``, or its own length
        if that is more.
        """
        return max(SIZES[size_class], -(-self.max_bytes // self.max_envelopes))


@dataclass(frozen=True, slots=True)
class Decision:
    """Admission: nobody, or the sequence numbers that leave; or the reason of a refusal."""

    refusal: Refusal | None = None
    victims: tuple[int, ...] = ()


_WELCOME: Final = Decision()


class Admission:
    """Decides over newcomers for one log."""

    def __init__(self, policy: Policy, log: AdmittedLog, clock: Clock) -> None:
        self.policy = policy
        self._log = log
        self._clock = clock
        self._units = [policy.units(size_class) for size_class in range(len(SIZES))]
        #: What of the store no share was named for.
        #: Who loses first, by the newcomer's interface and units, while the log's balance is this.
        self._furthest: dict[tuple[int, int], int] = {}
        self._furthest_at = -1

    # -- decisions --------------------------------------------------------

    def decide(self, header: Header, price: int, interface: int, now: float) -> Decision:
        """Decide over a whole envelope that is not a duplicate; ``price`` is what it paid."""
        _, size_class, expiry_hour, _ = header
        refusal = self._refusal(expiry_hour, size_class, price, interface, now)
        if refusal is None and self._log.purged(header):
            refusal = Refusal.PURGED
        if refusal is not None:
            return Decision(refusal)
        units = self._units[size_class]
        decision = _WELCOME if units <= self._free() else self._place(units, price, interface)
        if decision.refusal or not self._is_one_hour_too_many(expiry_hour, interface):
            return decision
        return self._make_hour(price, interface, decision)

    def welcomes_all(
        self, expiry_hours: Sequence[int], size_classes: Sequence[int], least_price: int, interface: int, now: float
    ) -> bool:
        """Tell whether each of these messages would be let in and nobody had to leave, whatever their order.

        They paid ``least_price`` or more. False says nothing but that :meth:`decide` has to be asked about each.
        """
        known = self._log.hours.get(interface)
        if known is None or self._log.has_purges or not known.keys() >= set(expiry_hours):
            return False
        if sum(map(self._units.__getitem__, size_classes)) > self._free():
            return False
        # A window has no holes, and a price no upper bound.
        return not any(
            self._refusal(hour, size_class, least_price, interface, now)
            for hour in (min(expiry_hours), max(expiry_hours))
            for size_class in set(size_classes)
        )

    def refuses_offer(
        self, *, identity: bytes, size_class: int, expiry_hour: int, interface: int, now: float
    ) -> Refusal | None:
        """Tell from an offer whether its envelope would be refused, so that no body moves in vain."""
        price = price_paid(identity, size_class)
        refusal = self._refusal(expiry_hour, size_class, price, interface, now)
        if refusal is None and price < self.price(interface, size_class):
            refusal = Refusal.FULL
        return refusal

    def _refusal(self, expiry_hour: int, size_class: int, price: int, interface: int, now: float) -> Refusal | None:
        first, last = self._clock.window(now)
        if expiry_hour < first:
            return Refusal.EXPIRED if self._clock.trusted else Refusal.BELOW_FLOOR
        if expiry_hour > last:
            return Refusal.FAR_FUTURE
        policy = self.policy
        if not policy.classes >> size_class & 1:
            return Refusal.CLASS
        if price < policy.min_price:
            return Refusal.UNDERPAID
        if self._is_one_hour_too_many(expiry_hour, interface) and price <= self._weakest_price(interface):
            return Refusal.HOURS
        return None

    # -- distinct hours ---------------------------------------------------

    def _is_one_hour_too_many(self, expiry_hour: int, interface: int) -> bool:
        hours = self._log.hours.get(interface)
        # In this order: of most envelopes, the hour is known.
        return hours is not None and expiry_hour not in hours and len(hours) >= MAX_HOURS_PER_INTERFACE

    def _weakest_price(self, interface: int) -> int:
        """Return what the best paid envelope paid of the hour where that is least.

        Without a clock anybody can name any hour. Whoever fills the hours with free
        envelopes must not keep out those who paid.
        """
        ranks = self._log.ranks.get(interface)
        price = ranks.weakest_price if ranks is not None else None
        return MAX_PRICE if price is None else price

    def _make_hour(self, price: int, interface: int, decision: Decision) -> Decision:
        """Let the weakest hour go, as there is one too many.

        One in which something is about to be acknowledged does not go before its commit, but
        the next one does: who always has something under way must not keep the hours.
        """
        ranks, hours = self._log.ranks[interface], self._log.hours[interface]
        for hour in ranks.weak_hours(price):
            if ranks.count_in_hour(hour) == hours[hour]:
                leaving = dict.fromkeys((*decision.victims, *ranks.in_hour(hour)))
                return Decision(victims=tuple(leaving))
        return Decision(Refusal.HOURS)

    # -- price and room ---------------------------------------------------

    def price(self, interface: int, size_class: int = len(SIZES) - 1) -> int:
        """Return the work per byte that a newcomer on ``interface`` needs now, by default one of any size."""
        units = self._units[size_class]
        if units <= self._free() or self._within_share(interface, units):
            return self.policy.min_price
        least = next(self._log.by_rank(self._furthest_above(interface, units, {})), None)
        return MAX_PRICE if least is None else min(max(self.policy.min_price, least[0] + 1), MAX_PRICE)

    def _place(self, units: int, price: int, interface: int) -> Decision:
        """Find room where there is none: who has to leave for a newcomer, if anybody does."""
        free = self._free()
        within = self._within_share(interface, units)
        taken: dict[int, int] = {}
        victims: list[int] = []
        ranked: dict[int, Iterator[tuple[int, int]]] = {}
        # At most as many as small ones fit in the place of a large one.
        while free < units:
            loser = self._furthest_above(interface, units, taken)
            if loser not in ranked:
                ranked[loser] = self._log.by_rank(loser)
            least = next(ranked[loser], None)
            guaranteed = within and loser != interface
            if least is None or (least[0] >= price and not guaranteed):
                return Decision(Refusal.FULL)
            victims.append(least[1])
            gained = self._units[self._log.terms(least[1])[0]]
            taken[loser] = taken.get(loser, 0) + gained
            free += gained
        return Decision(victims=tuple(victims))

    def has_spare_room(self, size_class: int, kept_free: float, *, besides: int = 0) -> bool:
        """Tell whether there is room for one more, and ``besides`` units, and a part of the store still free."""
        return self._free() - besides - self._units[size_class] >= kept_free * self.policy.max_bytes

    def excess(self) -> list[int]:
        """Return what has to leave because the operator lowered the limits: as in eviction, in one go."""
        free = self._free()
        if free >= 0:
            return []
        share = self._shares(set(self._log.held_by_interface))
        ranked = {i: self._log.by_rank(i) for i in self._log.held_by_interface}
        above = {i: self._used(i) - share(i) for i in ranked}
        leaving: list[int] = []
        while free < 0 and ranked:
            loser = max(ranked, key=lambda i: (above[i], i))
            least = next(ranked[loser], None)
            if least is None:
                del ranked[loser]
                continue
            gained = self._units[self._log.terms(least[1])[0]]
            above[loser] -= gained
            free += gained
            leaving.append(least[1])
        return leaving

    # -- shares -----------------------------------------------------------

    def _used(self, interface: int) -> int:
        held = self._log.held_by_interface.get(interface)
        return sum(map(int.__mul__, held, self._units)) if held else 0

    def _free(self) -> int:
        # Spelled out: every envelope passes here.
        a, b, c, d = self._log.held
        e, f, g, h = self._units
        return self.policy.max_bytes - a * e - b * f - c * g - d * h

    def _shares(self, known: set[int]) -> Callable[[int], float]:
        """Return the guaranteed share, in bytes, of each of the ``known`` interfaces."""
        return shares(known, self.policy.shares, self.policy.max_bytes)

    def _known(self, newcomer: int) -> set[int]:
        """Interfaces that have a share: a newcomer's counts before it holds anything."""
        return {*self._log.held_by_interface, newcomer}

    def _within_share(self, interface: int, units: int) -> bool:
        return self._used(interface) + units <= self._shares(self._known(interface))(interface)

    def _furthest_above(self, newcomer: int, units: int, taken: dict[int, int]) -> int:
        """Return the interface with the most beyond its share, the newcomer's envelope included."""
        if taken:
            return self._find_furthest_above(newcomer, units, taken)
        # Nothing changes while everything is refused: then this is a lookup.
        if self._furthest_at != self._log.balance:
            self._furthest.clear()
            self._furthest_at = self._log.balance
        furthest = self._furthest.get((newcomer, units))
        if furthest is None:
            furthest = self._furthest[newcomer, units] = self._find_furthest_above(newcomer, units, taken)
        return furthest

    def _find_furthest_above(self, newcomer: int, units: int, taken: dict[int, int]) -> int:
        known = self._known(newcomer)
        share = self._shares(known)

        def above(interface: int) -> float:
            used = self._used(interface) - taken.get(interface, 0) + (units if interface == newcomer else 0)
            return used - share(interface)

        return max(known, key=lambda interface: (above(interface), interface))
