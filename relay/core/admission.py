# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is let into the store, and who leaves for him (docs/protocol.md section 9).

Everything is decided before anything is stored. Each interface has a guaranteed
share: a flood on one cannot take the store away from the others. Within its share
an interface always finds room; beyond it a newcomer must have paid more work per
byte than the least paid envelope of the interface furthest above its share.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.core.envelope import ALL_CLASSES, MAX_LIFETIME_HOURS, SIZES, Header, price_paid
from relay.core.messages import Refusal

if TYPE_CHECKING:
    from relay.core.clock import Clock
    from relay.core.log import AdmittedLog

#: Distinct expiry hours that one interface may hold: the 170 of a full window and
#: a day of slack. Without a clock any hour passes the floor; this bounds what
#: reconciliation has to compare.
MAX_HOURS_PER_INTERFACE: Final = 194
#: Candidates for eviction found by one walk over the store (0.2 MB).
VICTIMS_PER_SCAN: Final = 2048
MAX_PRICE: Final = 255

_Key = tuple[int, int, int]
#: Greater than any key: the list of candidates is complete.
_BEYOND: Final[_Key] = (MAX_PRICE + 1, 0, 0)


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
        self._candidates: dict[int, list[_Key]] = {}
        self._cutoff: dict[int, _Key] = {}
        #: Best price by hour, per interface that has ever had too many hours.
        self._hour_prices: dict[int, dict[int, int]] = {}

    # -- decisions --------------------------------------------------------

    def decide(self, *, header: Header, identity: bytes, interface: int, now: float) -> Decision:
        """Decide over a whole envelope that is not a duplicate."""
        price = price_paid(identity, header.size_class)
        refusal = self._refusal(header.expiry_hour, header.size_class, price, interface, now)
        if refusal is None and self._log.purged(header):
            refusal = Refusal.PURGED
        if refusal is not None:
            return Decision(refusal)
        decision = self._place(self._units[header.size_class], price, interface)
        if decision.refusal is None:
            decision = self._note_hour(header.expiry_hour, price, interface, decision)
        return decision

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
        if not self.policy.classes >> size_class & 1:
            return Refusal.CLASS
        if price < self.policy.min_price:
            return Refusal.UNDERPAID
        if self._is_one_hour_too_many(expiry_hour, interface) and price <= self._weakest_hour(interface)[0]:
            return Refusal.HOURS
        return None

    # -- distinct hours ---------------------------------------------------

    def _is_one_hour_too_many(self, expiry_hour: int, interface: int) -> bool:
        hours = self._log.hours.get(interface)
        return hours is not None and len(hours) >= MAX_HOURS_PER_INTERFACE and expiry_hour not in hours

    def _weakest_hour(self, interface: int) -> tuple[int, int]:
        """Return (price, hour): the hour whose best paid envelope paid least, the latest of these.

        Without a clock anybody can name any hour. Whoever fills the hours with free
        envelopes must not keep out those who paid.
        """
        held = self._log.hours[interface]
        prices = self._hour_prices.get(interface)
        if prices is None:
            found = self._log.held_in_hours(interface)
            prices = self._hour_prices[interface] = {hour: max(entries)[0] for hour, entries in found.items()}
        for hour in prices.keys() - held.keys():
            del prices[hour]
        return min((price, -hour) for hour, price in prices.items())

    def _note_hour(self, expiry_hour: int, price: int, interface: int, decision: Decision) -> Decision:
        """Keep the best price of each hour, and let the weakest hour go when there is one too many."""
        prices = self._hour_prices.get(interface)
        if prices is None:
            return decision
        if self._is_one_hour_too_many(expiry_hour, interface):
            _, negative = self._weakest_hour(interface)
            entries = self._log.held_in_hours(interface)[-negative]
            if not all(self._log.is_held(seq) for _, seq in entries):
                return Decision(Refusal.HOURS)  # about to be acknowledged: not before its commit
            decision = Decision(
                victims=(*decision.victims, *(seq for _, seq in entries if seq not in decision.victims))
            )
        prices[expiry_hour] = max(price, prices.get(expiry_hour, price))
        return decision

    # -- price and room ---------------------------------------------------

    def price(self, interface: int, size_class: int = len(SIZES) - 1) -> int:
        """Return the work per byte that a newcomer on ``interface`` needs now, by default one of any size."""
        units = self._units[size_class]
        if units <= self._free() or self._within_share(interface, units):
            return self.policy.min_price
        least = self._least(self._furthest_above(interface, units, {}), set())
        return MAX_PRICE if least is None else min(max(self.policy.min_price, least[0] + 1), MAX_PRICE)

    def _place(self, units: int, price: int, interface: int) -> Decision:
        free = self._free()
        if units <= free:
            return _WELCOME
        within = self._within_share(interface, units)
        taken: dict[int, int] = {}
        victims: set[int] = set()
        while free < units:
            loser = self._furthest_above(interface, units, taken)
            least = self._least(loser, victims)
            guaranteed = within and loser != interface
            if least is None or (least[0] >= price and not guaranteed):
                return Decision(Refusal.FULL)
            victims.add(least[2])
            entry = self._log.entry(least[2])
            gained = self._units[entry.header.size_class] if entry else 0
            taken[loser] = taken.get(loser, 0) + gained
            free += gained
        return Decision(victims=tuple(victims))

    def excess(self) -> list[int]:
        """Return what has to leave because the operator lowered the limits: as in eviction, in one go."""
        free = self._free()
        if free >= 0:
            return []
        interfaces = set(self._log.held_by_interface)
        above = {i: self._used(i) - self._share(i, interfaces) for i in interfaces}
        candidates = {i: self._log.cheapest(i, self._log.held_count)[::-1] for i in interfaces}
        leaving: list[int] = []
        while free < 0 and any(candidates.values()):
            loser = max((i for i in interfaces if candidates[i]), key=lambda i: (above[i], i))
            _, _, seq = candidates[loser].pop()
            gained = self._units[self._log.terms(seq)[0]]
            above[loser] -= gained
            free += gained
            leaving.append(seq)
        return leaving

    # -- shares -----------------------------------------------------------

    def _used(self, interface: int) -> int:
        held = self._log.held_by_interface.get(interface)
        return sum(map(int.__mul__, held, self._units)) if held else 0

    def _free(self) -> int:
        # Spelled out: every envelope passes here.
        held, units = self._log.held, self._units
        used = held[0] * units[0] + held[1] * units[1] + held[2] * units[2] + held[3] * units[3]
        return self.policy.max_bytes - used

    def _share(self, interface: int, known: set[int]) -> float:
        """Return the guaranteed share of one of the ``known`` interfaces, in bytes."""
        shares = self.policy.shares
        if interface in shares:
            return shares[interface] * self.policy.max_bytes
        return max(0.0, 1.0 - sum(shares.values())) * self.policy.max_bytes / len(known - shares.keys())

    def _known(self, newcomer: int) -> set[int]:
        """Interfaces that have a share: a newcomer's counts before it holds anything."""
        return {*self._log.held_by_interface, newcomer}

    def _within_share(self, interface: int, units: int) -> bool:
        return self._used(interface) + units <= self._share(interface, self._known(interface))

    def _furthest_above(self, newcomer: int, units: int, taken: dict[int, int]) -> int:
        """Return the interface with the most beyond its share, the newcomer's envelope included."""
        known = self._known(newcomer)

        def above(interface: int) -> float:
            used = self._used(interface) - taken.get(interface, 0) + (units if interface == newcomer else 0)
            return used - self._share(interface, known)

        return max(known, key=lambda interface: (above(interface), interface))

    # -- candidates for eviction ------------------------------------------

    def _least(self, interface: int, excluded: set[int]) -> _Key | None:
        """Return (price, expiry hour, seq) of the next to leave, or None when there is none.

        Candidates are kept sorted from one walk to the next, so that a flood of
        evictions costs one walk for each VICTIMS_PER_SCAN.
        """
        for scanned in (False, True):
            candidates = self._candidates.get(interface, [])
            while candidates and not self._log.is_held(candidates[0][2]):
                candidates.pop(0)
            for key in candidates:
                if key[2] not in excluded and self._log.is_held(key[2]):
                    return key
            if scanned:
                break
            found = self._log.cheapest(interface, VICTIMS_PER_SCAN + len(excluded))
            self._candidates[interface] = found
            self._cutoff[interface] = found[-1] if len(found) >= VICTIMS_PER_SCAN else _BEYOND
        return None

    def committed(self, *, seq: int, price: int, expiry_hour: int, interface: int) -> None:
        """Note an entry that may be evicted from now on."""
        candidates = self._candidates.get(interface)
        key = (price, expiry_hour, seq)
        if candidates and key < self._cutoff[interface]:
            insort(candidates, key)
            if len(candidates) > 2 * VICTIMS_PER_SCAN:
                del candidates[VICTIMS_PER_SCAN:]
                self._cutoff[interface] = candidates[-1]

    def forget_candidates(self) -> None:
        """Start anew, after the log was loaded again."""
        self._candidates.clear()
        self._cutoff.clear()
        self._hour_prices.clear()

    @property
    def has_candidates(self) -> bool:
        """Whether :meth:`committed` has to be told of every new entry, lest a cheaper one be passed over."""
        return any(self._candidates.values())
