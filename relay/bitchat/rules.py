# SPDX-License-Identifier: GPL-2.0-or-later
"""What each app takes and what it refuses, as data: learned by running both apps' own code (docs/bitchat.md).

We send nothing that the phone at the other end of a link would refuse. Of a phone that we do not know yet, both apps'
rules hold.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.bitchat.packet import ORIGIN_TTL, PacketType

if TYPE_CHECKING:
    from relay.bitchat.packet import Packet


class Kind(enum.Enum):
    """Which app is at the other end of a link."""

    UNKNOWN = "unknown"
    ANDROID = "android"
    IPHONE = "iphone"


class Refusal(enum.StrEnum):
    """Why a phone would not take a packet."""

    OWN = "own"
    """It is the phone's own, and no answer to a request."""
    SENDER = "sender"
    """It claims to be of somebody else than the link, which only what passes on may."""
    TAKES_LINK = "takes_link"
    """An announce of somebody else with the TTL of its origin: the phone would believe that the link is that peer."""
    UNASKED = "unasked"
    """An answer to a request that the phone did not make of us, or not lately."""
    TIMESTAMP = "timestamp"
    """Too far from the phone's own clock."""
    TOO_OLD = "too_old"
    """Older than the phone takes such a packet at all."""
    LATE_IN_PIECES = "late_in_pieces"
    """Late packets die when their pieces have been put together."""
    PIECES = "pieces"
    """More pieces than it takes."""
    TYPE = "type"
    """It does not know the type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRules:
    """What one app takes; times in milliseconds unless they say otherwise, None where it does not look.

    ``live_skew_ms``: any packet that is no marked answer. ``answer_window_s``: after its own request, for marked
    answers; None: it does not know the mark. Ages count from the timestamp of the packet, by the phone's clock.
    """

    live_skew_ms: int | None
    answer_window_s: float | None
    announce_age_ms: int
    announce_ahead_ms: int | None
    message_age_ms: int | None
    leave_skew_ms: int | None
    voice_skew_ms: int | None
    late_in_pieces: bool
    max_pieces: int
    unknown_types: frozenset[int]


IPHONE: Final = AppRules(
    live_skew_ms=120_000,
    answer_window_s=30.0,
    announce_age_ms=900_000,
    announce_ahead_ms=None,
    message_age_ms=21_600_000,
    leave_skew_ms=None,
    voice_skew_ms=None,
    late_in_pieces=False,
    max_pieces=10_000,
    unknown_types=frozenset(),
)
ANDROID: Final = AppRules(
    live_skew_ms=None,
    answer_window_s=None,
    announce_age_ms=600_000,
    announce_ahead_ms=600_000,
    message_age_ms=None,
    leave_skew_ms=300_000,
    voice_skew_ms=30_000,
    late_in_pieces=True,
    max_pieces=256,
    unknown_types=frozenset({PacketType.COURIER.value}),
)
RULES: Final = {Kind.UNKNOWN: (IPHONE, ANDROID), Kind.ANDROID: (ANDROID,), Kind.IPHONE: (IPHONE,)}
"""By kind of phone, all that hold."""

MARGIN_MS: Final = 5_000
"""What we stay below their bounds: the packet is on its way for a while, and we know a phone's clock no better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """What a phone knows when a packet reaches it.

    ``peer_id``: its own, None before we heard it; ``linked_to``: who it believes is at our end, None before it took
    our announce; ``time_ms``: its clock; ``asked_s``: seconds since it last asked us for what it misses, or None.
    """

    peer_id: bytes | None
    linked_to: bytes | None
    time_ms: int
    asked_s: float | None = None


def refusal(rules: AppRules, packet: Packet, phone: Phone, *, pieces: int = 1, margin_ms: int = 0) -> Refusal | None:
    """Return why a phone would not take a packet that comes in so many pieces; None where it does."""
    answers = packet.is_answer and rules.answer_window_s is not None
    if packet.sender == phone.peer_id and not (answers and packet.ttl == 0):
        return Refusal.OWN
    if packet.type in rules.unknown_types:
        return Refusal.TYPE
    if phone.linked_to is not None and packet.sender != phone.linked_to:
        if packet.type == PacketType.REQUEST_SYNC:
            return Refusal.SENDER
        if packet.type == PacketType.ANNOUNCE and packet.ttl >= ORIGIN_TTL:
            return Refusal.TAKES_LINK
    if pieces > rules.max_pieces:
        return Refusal.PIECES
    return _by_time(rules, packet, phone, pieces, margin_ms)


def _by_time(rules: AppRules, packet: Packet, phone: Phone, pieces: int, margin_ms: int) -> Refusal | None:
    age_ms = phone.time_ms - packet.timestamp_ms
    skew_ms = abs(age_ms) + margin_ms
    if packet.is_answer and rules.answer_window_s is not None:
        if pieces > 1 and not rules.late_in_pieces:
            return Refusal.LATE_IN_PIECES
        asked_s = phone.asked_s
        if phone.linked_to is None or asked_s is None or asked_s + margin_ms / 1000 > rules.answer_window_s:
            return Refusal.UNASKED
    elif rules.live_skew_ms is not None and skew_ms > rules.live_skew_ms:
        return Refusal.TIMESTAMP if pieces == 1 else Refusal.LATE_IN_PIECES
    if packet.type == PacketType.ANNOUNCE:
        if age_ms + margin_ms > rules.announce_age_ms:
            return Refusal.TOO_OLD
        if rules.announce_ahead_ms is not None and -age_ms + margin_ms > rules.announce_ahead_ms:
            return Refusal.TIMESTAMP
    if packet.type == PacketType.MESSAGE and rules.message_age_ms is not None:
        return Refusal.TOO_OLD if age_ms + margin_ms > rules.message_age_ms else None
    if packet.type == PacketType.LEAVE:
        most_ms = rules.leave_skew_ms
    else:
        most_ms = rules.voice_skew_ms if packet.type == PacketType.VOICE_FRAME else None
    return Refusal.TIMESTAMP if most_ms is not None and skew_ms > most_ms else None


def refusal_of_kind(kind: Kind, packet: Packet, phone: Phone, *, pieces: int = 1) -> Refusal | None:
    """Return why a phone of a kind might refuse a packet, by all the rules that may hold and with our margin."""
    found = (refusal(rules, packet, phone, pieces=pieces, margin_ms=MARGIN_MS) for rules in RULES[kind])
    return next((reason for reason in found if reason is not None), None)
