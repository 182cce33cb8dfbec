# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether what a listener recorded joins what should be apart (docs/ble.md section 2).

Whoever advertises does so under addresses that change; each address is one epoch.
Whoever talks does so in sessions, each with fresh keys. A value that shows up under
two of them joins them, unless all relays say the same by the protocol.

Salt and digest are 3 random bytes, so that in a long capture some repeat by chance.
Such a repetition tells nobody anything unless there are more of them than chance
gives; that is computed.

So is what times tell: where one address after the other lasts equally long, or the
silence between them does, rhythm alone joins them. (That of two addresses the one ends
and the other begins soon after is seen by everybody, and not reported.)
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

#: (who, field, value) remembered, about 400 B each: 80 MB in a capture of a week or of a flood.
MAX_SIGHTINGS: Final = 200_000
#: Shorter values join nobody: too many have the same.
MIN_VALUE_BYTES: Final = 3
#: BlueZ draws an address for 15 minutes; a relay in use may keep it a little longer.
MAX_ADDRESS_S: Final = 1200.0
#: Two sightings so close in time are those of a careless change of address.
NEAR_S: Final = 60.0
#: Times from one address to a later one that are compared, 32 B each.
MAX_INTERVALS: Final = 1_000_000
#: No change of address takes longer.
MOST_SILENT_S: Final = 300.0
#: Times that differ by no more than one of these are counted as equal ...
EQUAL_S: Final = (0.2, 1.0)
#: ... if there are more of them than those around would have it, so far to both sides; or this part of the longest
#: time that an address is in use, if that is less: silence of random length is of no great length then.
AROUND_S: Final = 10.0
AROUND_SHARE: Final = 0.1
#: Fewer are no rhythm.
LEAST_EQUAL: Final = 4
#: A repetition less likely than that is none of chance: one false alarm in a thousand captures.
CHANCE: Final = 0.001
#: ... and so for times, which are not as independent of each other as is computed with.
RHYTHM_CHANCE: Final = 1e-4


class Field(enum.StrEnum):
    """What a value is."""

    ADDRESS = "address"
    SALT = "salt"
    DIGEST = "digest"
    NEWS = "salt and digest together"
    ADVERTISED = "advertised data"
    NAME = "name"
    GATT = "GATT value"
    BITCHAT = "bitchat identity"
    EPHEMERAL_KEY = "ephemeral key"
    HANDSHAKE = "encrypted handshake"
    RECORD = "first record after the handshake"
    INSTANCE = "DNS-SD instance"
    HOST = "DNS-SD host"
    RHYTHM = "rhythm"


#: Fields drawn at random that are so short that chance repeats them.
_CHANCY: Final = frozenset({Field.SALT, Field.DIGEST})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One value that joins ``who``; ``detail`` says how."""

    field: Field
    value: bytes
    who: tuple[str, ...]
    detail: str = ""

    def words(self) -> str:
        """The finding in a line."""
        shown = ", ".join(self.who[:4]) + (f" and {len(self.who) - 4} more" if len(self.who) > 4 else "")
        value = f" {self.value[:16].hex()}" if self.value and self.field is not Field.ADDRESS else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.field}{value} joins {shown}{detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was compared, and what was found.

    ``epochs``: addresses of relays and people that used them; ``sessions``;
    ``dropped``: values that were not compared, so that nothing found means less.
    ``software``: found too, but the same for all with that software: it tells versions
    apart, not relays.
    """

    epochs: int
    sessions: int
    dropped: int
    findings: tuple[Finding, ...]
    software: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether all was compared, there was something, and nothing joins anything."""
        return not self.findings and not self.dropped and self.epochs + self.sessions > 1


@dataclass(slots=True)
class _Span:
    """When a value was seen under one address."""

    first_s: float
    last_s: float


class Linkage:
    """Collects values and by whom they were shown."""

    def __init__(self, *, max_address_s: float = MAX_ADDRESS_S) -> None:
        """``max_address_s``: how long an address may be in use; less where a test lets it change sooner."""
        self._max_address_s = max_address_s
        self._own: set[str] = set()
        self._software: set[tuple[Field, bytes]] = set()
        self._unexpected: set[tuple[Field, bytes]] = set()
        self._spans: dict[tuple[Field, bytes], dict[str, _Span]] = {}
        self._size = 0
        self._dropped = 0

    def own(self, who: str) -> None:
        """``who`` is an address or session of a relay or of somebody who talks to one; others are not judged."""
        if len(self._own) < MAX_SIGHTINGS:
            self._own.add(who)
        else:
            self._dropped += 1

    def add(
        self,
        time_s: float,
        who: str,
        field: Field,
        value: bytes,
        *,
        of_software: bool = False,
        is_unexpected: bool = False,
    ) -> None:
        """``who`` showed ``value``, which the protocol does not have at all if ``is_unexpected``."""
        if len(value) < MIN_VALUE_BYTES:
            return
        key = (field, value)
        spans = self._spans.get(key, {})
        span = spans.get(who)
        if span is not None:
            span.first_s, span.last_s = min(span.first_s, time_s), max(span.last_s, time_s)
            return
        if self._size >= MAX_SIGHTINGS:
            self._dropped += 1
            return
        self._size += 1
        self._spans.setdefault(key, spans)[who] = _Span(time_s, time_s)
        if of_software:
            self._software.add(key)
        if is_unexpected:
            self._unexpected.add(key)

    def report(self) -> Report:
        """Compare everything."""
        findings: list[Finding] = []
        software: list[Finding] = []
        spans = {key: self._of_own(whos) for key, whos in self._spans.items()}
        for (field, value), whos in spans.items():
            is_unexpected = (field, value) in self._unexpected
            if field is Field.ADDRESS or field in _CHANCY or len(whos) < (1 if is_unexpected else 2):
                continue
            detail = "not of the protocol" if is_unexpected else ""
            found = Finding(field=field, value=value, who=tuple(sorted(whos)), detail=detail)
            (software if (field, value) in self._software else findings).append(found)
        for field in sorted(_CHANCY):
            findings += _beyond_chance(field, {value: whos for (one, value), whos in spans.items() if one is field})
        findings += self._addresses(spans)
        findings += self._rhythms(spans)
        sessions = sum(who.startswith("session ") for who in self._own)
        return Report(
            epochs=len(self._own) - sessions,
            sessions=sessions,
            dropped=self._dropped,
            findings=tuple(findings),
            software=tuple(software),
        )

    def _of_own(self, whos: dict[str, _Span]) -> dict[str, _Span]:
        return {who: span for who, span in whos.items() if who in self._own}

    def _addresses(self, spans: dict[tuple[Field, bytes], dict[str, _Span]]) -> Iterable[Finding]:
        """Addresses that are no epoch: kept or used again beyond a salt or their time, or not random at all."""
        salts: dict[str, set[bytes]] = {}
        for (field, value), whos in spans.items():
            if field is Field.SALT:
                for who in whos:
                    salts.setdefault(who, set()).add(value)
        for who, seen in salts.items():
            if len(seen) > 1:
                yield Finding(field=Field.ADDRESS, value=b"", who=(who,), detail=f"one address, {len(seen)} salts")
        for (field, value), whos in spans.items():
            if field is not Field.ADDRESS:
                continue
            for who, span in whos.items():
                if not _is_private(value):
                    yield Finding(field=field, value=value, who=(who,), detail="an address that never changes")
                elif span.last_s - span.first_s > self._max_address_s:
                    lasted = f"in use for {span.last_s - span.first_s:.0f} s"
                    yield Finding(field=field, value=value, who=(who,), detail=lasted)

    def _rhythms(self, spans: dict[tuple[Field, bytes], dict[str, _Span]]) -> Iterable[Finding]:
        """Times from one advertised address to the next that are equal too often."""
        lives: dict[str, _Span] = {}
        for (field, _), whos in spans.items():
            if field is Field.SALT:
                for who, span in whos.items():
                    life = lives.setdefault(who, _Span(span.first_s, span.last_s))
                    life.first_s, life.last_s = min(life.first_s, span.first_s), max(life.last_s, span.last_s)
        lasted: list[_Interval] = []
        silent: list[_Interval] = []
        ordered = sorted(lives.items(), key=lambda item: item[1].first_s)
        starts = [life.first_s for _, life in ordered]
        for who, life in lives.items():
            for later, other in ordered[bisect_right(starts, life.last_s) :]:
                if other.first_s - life.last_s > MOST_SILENT_S:
                    break
                if len(lasted) >= MAX_INTERVALS:
                    self._dropped += 1
                    return
                lasted.append((other.first_s - life.first_s, who, later))
                silent.append((other.first_s - life.last_s, who, later))
        around_s = min(AROUND_S, AROUND_SHARE * self._max_address_s)
        yield from _rhythm("begins {:.1f} s after another", lasted, around_s)
        yield from _rhythm("begins {:.1f} s after another ended", silent, around_s)


#: A time in seconds, from whom, and to whom.
_Interval = tuple[float, str, str]


def _rhythm(what: str, intervals: list[_Interval], around_s: float) -> Iterable[Finding]:
    """The time of which chance explains the number least, if it is too many at all."""
    intervals.sort()
    times_s = [time_s for time_s, _, _ in intervals]
    chance = RHYTHM_CHANCE / max(len(times_s) * len(EQUAL_S), 1)
    most: list[_Interval] = []
    for width_s in EQUAL_S:
        for index, time_s in enumerate(times_s):
            end = bisect_right(times_s, time_s + width_s)
            around = bisect_right(times_s, time_s + width_s + around_s) - bisect_left(times_s, time_s - around_s)
            # Of those around, one more lest there are none.
            expected = (around - (end - index) + 1) * width_s / (2 * around_s)
            if end - index > max(len(most), LEAST_EQUAL - 1) and _is_unlikely(end - index - 1, expected, chance):
                most = intervals[index:end]
    if most:
        who = {name for _, *names in most for name in names}
        detail = f"{len(most)} times one {what.format(most[0][0])}"
        yield Finding(field=Field.RHYTHM, value=b"", who=tuple(sorted(who)), detail=detail)


def _is_private(address: bytes) -> bool:
    """Whether an address, type byte (1: random) and 6 bytes, is one that changes (Core Specification 6.B.1.3)."""
    return address[0] == 1 and address[1] >> 6 in (0b00, 0b01)


def _beyond_chance(field: Field, values: dict[bytes, dict[str, _Span]]) -> Iterable[Finding]:
    """Repetitions under two addresses that chance does not explain: in all, or at changes of address."""
    repeated = {value: whos for value, whos in values.items() if len(whos) > 1}
    sightings = [(who, span) for whos in values.values() for who, span in whos.items()]
    possible = 256 ** len(next(iter(values), b"..."))
    pairs, near_pairs = _pairs(sightings)
    coincidences = sum(math.comb(len(whos), 2) for whos in repeated.values())
    near = {value: whos for value, whos in repeated.items() if _pairs(list(whos.items()))[1]}
    near_coincidences = sum(_pairs(list(whos.items()))[1] for whos in near.values())
    if _is_unlikely(coincidences, pairs / possible):
        guilty = repeated
    elif _is_unlikely(near_coincidences, near_pairs / possible):
        guilty = near
    else:
        return
    detail = f"{pairs / possible:.2g} repetitions were to be expected by chance"
    for value, whos in guilty.items():
        yield Finding(field=field, value=value, who=tuple(sorted(whos)), detail=detail)


def _pairs(sightings: list[tuple[str, _Span]]) -> tuple[int, int]:
    """Pairs of sightings under different addresses: all, and those within NEAR_S of each other."""
    near = _near_pairs([span for _, span in sightings])
    total = math.comb(len(sightings), 2)
    by_who = sorted(sightings, key=lambda sighting: sighting[0])
    for _, group in groupby(by_who, key=lambda sighting: sighting[0]):
        spans = [span for _, span in group]
        total -= math.comb(len(spans), 2)
        near -= _near_pairs(spans)
    return total, near


def _near_pairs(spans: list[_Span]) -> int:
    starts = sorted(span.first_s for span in spans)
    ordered = sorted(spans, key=lambda span: span.first_s)
    # Of each, those that began later but before it was NEAR_S over.
    return sum(bisect_right(starts, span.last_s + NEAR_S) - index - 1 for index, span in enumerate(ordered))


def _is_unlikely(number: int, expected: float, chance: float = CHANCE) -> bool:
    """Whether chance that gives ``expected`` on average hardly gives ``number`` or more (Poisson)."""
    if number == 0:
        return False
    if number > 10 * expected + 20:
        return True  # far out; and the sum below would be long
    below = sum(math.exp(count * math.log(expected) - expected - math.lgamma(count + 1)) for count in range(number))
    if below < 0.9:
        return False
    # 1 - below would round away what is small: the first term left out bounds the rest.
    first = number * math.log(expected) - expected - math.lgamma(number + 1)
    return math.exp(first) / max(1 - expected / (number + 1), 0.1) < chance
