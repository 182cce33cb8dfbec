# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters for those who are away: taken from phones, kept in the store as envelopes like all others, handed over.

What is kept says nothing of bitchat: bucket, tag and key follow from the letter's own tag (relay.core.named). Handing
over removes nothing; copies end with the letter.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.bitchat.courier import (
    EXPIRY_SLACK_MS,
    MAX_LIFETIME_MS,
    Letter,
    candidate_tags,
    decode_letter,
)
from relay.bitchat.limits import LETTERS, LETTERS_OF_PHONE
from relay.core.clock import HOUR_S
from relay.core.envelope import EXPIRY_STEP_HOURS, decode_header
from relay.core.errors import DecodeError
from relay.core.named import MAX_PIECES, Name, NamedPiece, join, unwrap, wrap
from relay.core.pool import GONE, Pool
from relay.core.rate import Bucket

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

_Who = tuple[bytes, bytes]
"""Somebody who is near: peer ID and signing key."""

USE: Final = b"bitchat courier"
PRICE: Final = 8
"""Work in each envelope: a step of the ladder of all senders, half a second for a full one on the slowest board. It is
fixed, as two relays have to come to the same envelopes."""
MAX_WANTED: Final = 1_000
"""Recipients who are near and whose letters are looked for."""
WANTED_S: Final = 900.0
"""How long after an announce."""
MAX_READ: Final = 6
"""Buckets that are read in the store at a time, of 32: those of two people, and of all others who are in the same."""
MAX_UNREAD_OF_LINK: Final = 300
"""Names that wait for that, of one link; more of it cost it the oldest."""
AGAIN_S: Final = 3_600.0
"""A letter is not handed to the same recipient again before this: nobody acknowledges one."""
MAX_HANDED: Final = 2_000
MAX_PARTS: Final = 128
"""Envelopes of letters that are not whole yet, 16 KiB each at most."""
MAX_PARTS_BYTES: Final = 1 << 20
PARTS_S: Final = 600.0
MAX_BRIEF: Final = 64
"""Letters that end too soon for an envelope, so that this relay alone keeps them, in RAM."""
MAX_BRIEF_BYTES: Final = 256 << 10


class Outcome(enum.StrEnum):
    """What became of a letter that a phone gave us."""

    TAKEN = "taken"
    KNOWN = "known"
    EXPIRED = "expired"
    LIFETIME = "lifetime"
    """It would live longer than a letter does."""
    BRIEF = "brief"
    """Taken, but it ends before the next of the hours at which envelopes end: no other relay gets it."""
    LIMIT = "limit"
    MALFORMED = "malformed"
    NO_CLOCK = "no_clock"


@dataclass(frozen=True, slots=True)
class _Wanted:
    tags: tuple[bytes, ...]
    names: tuple[tuple[int, bytes, Name], ...]
    """Bucket, tag and name of each."""


@dataclass(frozen=True, slots=True)
class Handover:
    """A letter for somebody who is near.

    ``signing_key`` is that of the announce which said so: anybody can announce another's Noise key beside a signing key
    of his own, and what he is given is not given to the other.
    """

    recipient: bytes
    letter: Letter
    signing_key: bytes = b""

    @property
    def who(self) -> _Who:
        """Whose it is."""
        return self.recipient, self.signing_key


def name_of(tag: bytes) -> Name:
    """Return the name under which letters with a tag are kept."""
    return Name.of(USE, tag)


def expiry_hour(letter: Letter) -> int:
    """Return the hour at which its envelopes end: up to six hours before the letter does."""
    hour = letter.expiry_ms // (1000 * HOUR_S)
    return hour - hour % EXPIRY_STEP_HOURS


def to_envelopes(letter: Letter) -> tuple[bytes, ...]:
    """Return the envelopes that keep a letter: the same for all copies of it, whoever had them and has wrapped them."""
    return wrap(letter.to_deliver().encode(), name_of(letter.tag), expiry_hour=expiry_hour(letter), price=PRICE)


class Couriers:
    """Which letters are taken, and what is handed over to whom."""

    def __init__(self, now: float) -> None:
        self._all = Bucket(LETTERS, now)
        self._of_phone: Pool[bytes, Bucket] = Pool(most=MAX_WANTED, most_bytes=1, life_s=HOUR_S)
        self._taken: Pool[bytes, None] = Pool(most=MAX_HANDED, most_bytes=1, life_s=MAX_LIFETIME_MS / 1000)
        self._of_link: dict[Hashable, Bucket] = {}
        self._wanted: Pool[_Who, _Wanted] = Pool(most=MAX_WANTED, most_bytes=1, life_s=WANTED_S)
        #: Of all who are wanted, by bucket; None: to be made anew.
        self._buckets: dict[int, dict[Name, tuple[bytes, list[_Who]]]] | None = None
        #: By link, the names whose buckets were not read yet.
        self._unread: dict[Hashable, dict[Name, None]] = {}
        self._parts: Pool[tuple[bytes, bytes, int], NamedPiece] = Pool(
            most=MAX_PARTS, most_bytes=MAX_PARTS_BYTES, life_s=PARTS_S
        )
        self._brief: Pool[bytes, Letter] = Pool(
            most=MAX_BRIEF, most_bytes=MAX_BRIEF_BYTES, life_s=EXPIRY_STEP_HOURS * HOUR_S
        )
        self._handed: Pool[bytes, None] = Pool(most=MAX_HANDED, most_bytes=1, life_s=AGAIN_S)
        #: For whom there was a letter that he could not be given.
        self._missed: set[_Who] = set()

    def take(
        self, payload: bytes, *, depositor: bytes, link: Hashable, time_ms: int | None, now: float
    ) -> tuple[Outcome, Letter | None]:
        """Decide about a letter that a verified peer on its own link gives us; with TAKEN comes what to keep.

        :func:`to_envelopes` makes the envelopes of it, which is work for a thread.
        """
        try:
            letter = decode_letter(payload)
        except DecodeError:
            return Outcome.MALFORMED, None
        if time_ms is None:
            return Outcome.NO_CLOCK, None
        if letter.expiry_ms <= time_ms:
            return Outcome.EXPIRED, None
        if letter.expiry_ms > time_ms + MAX_LIFETIME_MS + EXPIRY_SLACK_MS:
            return Outcome.LIFETIME, None
        digest = _digest(letter)
        if digest in self._taken:
            return Outcome.KNOWN, None
        bucket = self._of_phone.get(depositor)
        if bucket is None:
            bucket = Bucket(LETTERS_OF_PHONE, now)
            self._of_phone.put(depositor, bucket, origin=link, now=now)
        # Names cost nothing: whoever gives letters in many has one link all the same.
        of_link = self._of_link.setdefault(link, Bucket(LETTERS_OF_PHONE, now))
        if not of_link.take(1, now) or not bucket.take(1, now) or not self._all.take(1, now):
            return Outcome.LIMIT, None
        self._taken.put(digest, None, origin=link, now=now)
        if expiry_hour(letter) * 1000 * HOUR_S <= time_ms:
            self._brief.put(digest, letter.to_deliver(), origin=link, now=now, size=len(letter.ciphertext))
            return Outcome.BRIEF, None
        return Outcome.TAKEN, letter.to_deliver()

    def heard(
        self,
        recipient: bytes,
        noise_key: bytes,
        timestamp_ms: int,
        *,
        link: Hashable,
        now: float,
        signing_key: bytes = b"",
    ) -> tuple[Name, ...]:
        """Somebody is near; return the names to look for in the store, or none if that is being done already.

        The day is that of the announce, which was checked against the clock where there is one.
        """
        tags, who = candidate_tags(noise_key, timestamp_ms), (recipient, signing_key)
        known = self._wanted.get(who)
        if known is not None and known.tags == tags:
            return ()
        names = tuple((name.bucket, tag, name) for tag in tags for name in [name_of(tag)])
        self._wanted.put(who, _Wanted(tags, names), origin=link, now=now)
        self._buckets = None
        self._note_unread(link, [name for _, _, name in names])
        return tuple(name for _, _, name in names)

    def take_unread(self) -> frozenset[Name]:
        """Return names whose buckets are to be read now, MAX_READ of them, by turns of the links; none: all were.

        Identities cost nothing, and reading does: whoever makes up many waits for himself.
        """
        wanted, chosen = self.names(), set[int]()
        while self._unread and len(chosen) < MAX_READ:
            link, names = next(iter(self._unread.items()))
            del self._unread[link]
            name = next(iter(names))
            if name in wanted:
                chosen.add(name.bucket)
            else:
                del names[name]
            self._unread[link] = {other: None for other in names if other.bucket not in chosen}
            if not self._unread[link]:
                del self._unread[link]
        found = {name for bucket in chosen for name in self._by_bucket().get(bucket, {})}
        self._unread = {
            link: left
            for link, names in self._unread.items()
            if (left := {name: None for name in names if name.bucket not in chosen})
        }
        return frozenset(found)

    def _note_unread(self, link: Hashable, names: Iterable[Name]) -> None:
        unread = self._unread.setdefault(link, {})
        unread.update(dict.fromkeys(names))
        while len(unread) > MAX_UNREAD_OF_LINK:
            del unread[next(iter(unread))]

    def names(self) -> frozenset[Name]:
        """All names that are looked for now."""
        return frozenset(name for names in self._by_bucket().values() for name in names)

    def is_anybody_wanted(self) -> bool:
        """Whether any are."""
        return len(self._wanted) > 0

    def _by_bucket(self) -> dict[int, dict[Name, tuple[bytes, list[_Who]]]]:
        """Return the tag of each name that is looked for, and for whom; each new envelope is compared with those."""
        if self._buckets is None:
            self._buckets = {}
            for who, wanted in self._wanted.items():
                for bucket, tag, name in wanted.names:
                    self._buckets.setdefault(bucket, {}).setdefault(name, (tag, []))[1].append(who)
        return self._buckets

    def waiting(self, recipient: bytes, *, time_ms: int | None, now: float, signing_key: bytes = b"") -> list[Handover]:
        """Return the letters in RAM for somebody who is near."""
        who = recipient, signing_key
        wanted = self._wanted.get(who)
        tags = () if wanted is None else wanted.tags
        found = [letter for _, letter in self._brief.items() if letter.tag in tags]
        return [ready for letter in found for ready in self._hand(who, letter, time_ms=time_ms, now=now)]

    def missed(self, handover: Handover) -> None:
        """A letter could not be given to whom it is for: it counts as not handed over."""
        self._handed.pop(_handed_id(handover.who, handover.letter))
        if handover.who in self._wanted:
            self._missed.add(handover.who)

    def look_again(self, who: _Who, *, link: Hashable) -> tuple[Name, ...]:
        """Somebody can be given letters now; return the names to look for again, none if he missed nothing."""
        wanted = self._wanted.get(who)
        if who not in self._missed or wanted is None:
            return ()
        self._missed.discard(who)
        names = tuple(name for _, _, name in wanted.names)
        self._note_unread(link, names)
        return names

    def found(self, envelope: bytes, *, time_ms: int | None, now: float) -> list[Handover]:
        """Take an envelope of the store and return the letters that are whole with it, for who is near."""
        try:
            bucket = decode_header(envelope).bucket
        except DecodeError:
            return []
        ready = []
        for name, (tag, wanting) in self._by_bucket().get(bucket, {}).items():
            if (piece := unwrap(envelope, name)) is not None:
                letter = self._whole(tag, piece, now)
                if letter is not None:
                    for who in wanting:
                        ready += self._hand(who, letter, time_ms=time_ms, now=now)
        return ready

    def _hand(self, who: _Who, letter: Letter, *, time_ms: int | None, now: float) -> list[Handover]:
        """Hand a letter over unless it is over or was lately; without a time, it is not known to be over."""
        handed = _handed_id(who, letter)
        if (time_ms is not None and letter.expiry_ms <= time_ms) or handed in self._handed:
            return []
        self._handed.put(handed, None, origin=who[0], now=now)
        return [Handover(who[0], letter, who[1])]

    @property
    def brief(self) -> int:
        """How many letters this relay alone has."""
        return len(self._brief)

    def expire(self, now: float) -> int:
        """Forget what is over; return how many letters that this relay alone had are."""
        for pool in (self._of_phone, self._taken, self._wanted, self._parts, self._handed):
            pool.expire(now)
        self._missed = {who for who in self._missed if who in self._wanted}
        self._buckets = None
        return self._brief.expire(now)

    def close_link(self, link: Hashable) -> None:
        """What a link brought is one part with that of other closed links."""
        self._of_link.pop(link, None)
        self._of_phone.leave(link)
        self._taken.leave(link)
        self._wanted.leave(link)
        # He may come back by another link.
        if (names := self._unread.pop(link, None)) is not None:
            self._note_unread(GONE, names)
        self._brief.leave(link)

    def _whole(self, tag: bytes, piece: NamedPiece, now: float) -> Letter | None:
        """Return the letter that a piece completes; None while it does not, or what it makes is none with this tag."""
        name = (tag, piece.digest)
        pieces = [found for index in range(MAX_PIECES) if (found := self._parts.get((*name, index))) is not None]
        content = join([*pieces, piece])
        if content is None:
            self._parts.put((*name, piece.index), piece, origin=tag, now=now, size=len(piece.data))
            return None
        try:
            letter = decode_letter(content)
        except DecodeError:
            return None
        return letter if letter.tag == tag else None


def _digest(letter: Letter) -> bytes:
    return hashlib.sha256(letter.to_deliver().encode()).digest()


def _handed_id(who: _Who, letter: Letter) -> bytes:
    return hashlib.sha256(who[0] + who[1] + _digest(letter)).digest()
