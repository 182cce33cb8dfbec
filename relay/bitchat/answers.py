# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers to a REQUEST_SYNC: what the phone may take and has not, announces first, then messages, paced.

A phone's screen takes one message a second of each sender, after the first five, and loses the rest without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.bitchat.packet import PacketType
from relay.bitchat.rules import Kind, refusal_of_kind

if TYPE_CHECKING:
    from relay.bitchat.memory import Memory
    from relay.bitchat.packet import Packet
    from relay.bitchat.rules import Phone
    from relay.bitchat.sync import RequestSync

SENDER_PACE_S: Final = 1.0
"""Between two messages of one sender."""
ANSWER_S: Final = 20.0
"""For so long a request is answered; iPhones take answers for 30 s, ask every 15 s, and frames may wait for the air."""
MAX_ANSWER: Final = 400
"""Packets in one answer; the rest is for the next request."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A packet that answers, and when."""

    at: float
    packet: Packet


def plan_answer(request: RequestSync, memory: Memory, *, kind: Kind, phone: Phone, now: float) -> list[Planned]:
    """Return what answers a request, in order; the announces are due at once."""
    marked = kind is Kind.IPHONE
    plan = [
        Planned(now, answer)
        for packet in (memory.announces_now() if request.asks_for(PacketType.ANNOUNCE) else [])
        if not request.filter.may_have(packet.sync_id)
        and refusal_of_kind(kind, answer := packet.as_answer(is_answer=marked), phone) is None
    ]
    due: dict[bytes, float] = {}
    for sync_id, packet in memory.messages_now() if request.asks_for(PacketType.MESSAGE) else []:
        if request.since_ms is not None and packet.timestamp_ms < request.since_ms:
            continue
        at = due.get(packet.sender, now)
        if at > now + ANSWER_S or request.filter.may_have(sync_id):
            continue
        answer = packet.as_answer(is_answer=marked)
        if refusal_of_kind(kind, answer, phone) is None:
            plan.append(Planned(at, answer))
            due[packet.sender] = at + SENDER_PACE_S
    return sorted(plan[:MAX_ANSWER], key=lambda planned: planned.at)
