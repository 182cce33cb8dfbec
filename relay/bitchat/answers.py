# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers to a REQUEST_SYNC: what the phone may take and has not, announces first, then messages, paced.

A phone's screen takes one message a second of each sender, after the first five, and loses the rest without a word.

Both apps have nobody in their filters who has been silent for one to three minutes, and ask for what he said again and
again. So what went by a link, either way, is not told there once more: else the same newest would come each time, and
the rest never.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
MAX_TOLD: Final = 1_000
"""Senders, and messages, that are known to be known on one link: as many as are remembered at all."""
FORGOTTEN_MS: Final = 180_000
"""Whoever was silent for so long Androids have forgotten, with his key: what they were told then is told again."""


@dataclass(slots=True)
class _Sender:
    announced_ms: int = 0
    messages: set[bytes] = field(default_factory=set)


class Told:
    """What the phone on a link was told, or told us."""

    def __init__(self) -> None:
        self._senders: dict[bytes, _Sender] = {}
        self._messages = 0

    def note(self, packet: Packet) -> None:
        """An announce or a message went by the link."""
        if packet.type not in {PacketType.ANNOUNCE, PacketType.MESSAGE}:
            return
        sender = self._senders.pop(packet.sender, None) or _Sender()
        self._senders[packet.sender] = sender
        self._messages -= len(sender.messages)
        if packet.type == PacketType.MESSAGE:
            sender.messages.add(packet.sync_id)
        else:
            if packet.timestamp_ms > sender.announced_ms + FORGOTTEN_MS:
                sender.messages.clear()
            sender.announced_ms = max(sender.announced_ms, packet.timestamp_ms)
        self._messages += len(sender.messages)
        while len(self._senders) > MAX_TOLD or self._messages > MAX_TOLD:
            self._messages -= len(self._senders.pop(next(iter(self._senders))).messages)

    def has(self, packet: Packet) -> bool:
        """Whether that phone knows it."""
        sender = self._senders.get(packet.sender)
        if sender is None:
            return False
        if packet.type == PacketType.ANNOUNCE:
            return sender.announced_ms >= packet.timestamp_ms
        return packet.sync_id in sender.messages

    def clear(self) -> None:
        """What waited for the phone is lost: nobody knows what it knows."""
        self._senders.clear()
        self._messages = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A packet that answers, and when."""

    at: float
    packet: Packet


def plan_answer(
    request: RequestSync, memory: Memory, *, told: Told, kind: Kind, phone: Phone, now: float
) -> list[Planned]:
    """Return what answers a request, in order; the announces are due at once."""
    marked = kind is Kind.IPHONE
    plan: list[Planned] = []
    for packet in memory.announces_now() if request.asks_for(PacketType.ANNOUNCE) else []:
        if len(plan) == MAX_ANSWER:
            break
        if told.has(packet) or request.filter.may_have(packet.sync_id):
            continue
        answer = packet.as_answer(is_answer=marked)
        if refusal_of_kind(kind, answer, phone) is None:
            plan.append(Planned(now, answer))
    due: dict[bytes, float] = {}
    for sync_id, packet in memory.messages_now() if request.asks_for(PacketType.MESSAGE) else []:
        if len(plan) == MAX_ANSWER:
            break
        if request.since_ms is not None and packet.timestamp_ms < request.since_ms:
            continue
        at = due.get(packet.sender, now)
        if at > now + ANSWER_S or told.has(packet) or request.filter.may_have(sync_id):
            continue
        answer = packet.as_answer(is_answer=marked)
        if refusal_of_kind(kind, answer, phone) is None:
            plan.append(Planned(at, answer))
            due[packet.sender] = at + SENDER_PACE_S
    return sorted(plan, key=lambda planned: planned.at)
