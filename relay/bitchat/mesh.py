# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay in bitchat's mesh: what it passes on, remembers, answers and keeps; all of it without I/O.

Phones are links, by number; the other relays together are one more (:data:`RELAYS`). Frames and live packets come in
by `receive` and `receive_live`; `frames_to_send`, `events` and `next_s` say what goes out, and when to come again.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.bitchat.announce import NEUTRAL_NICKNAME, Identity, read_announce
from relay.bitchat.answers import ANSWER_S, Planned, Told, plan_answer
from relay.bitchat.clock import MeshClock
from relay.bitchat.couriers import Couriers, Handover, Outcome
from relay.bitchat.fragments import (
    MAX_PASSING_OF_LINK,
    MAX_PASSING_OF_RELAYS,
    MAX_SET_PIECES,
    MAX_SETS_OF_LINK,
    MAX_SETS_OF_RELAYS,
    Passing,
    Reassembly,
    decode_piece,
    split,
)
from relay.bitchat.limits import (
    ANSWERS,
    BYTES_IN,
    BYTES_OUT,
    CHECKED_LIVE,
    EXPANDED_LIVE,
    HANDSHAKES,
    LIVE_PACKET_COST,
    NEW_PEERS,
    NEW_PEERS_LIVE,
    OTHER_KEYS,
    OTHER_KEYS_LIVE,
    PACKETS_IN,
    PLANS,
    UNCHECKED_LIVE,
    WELCOMES,
)
from relay.bitchat.memory import Memory
from relay.bitchat.outbox import Group, Outbox, is_checked
from relay.bitchat.packet import (
    ORIGIN_TTL,
    UNSIGNED_TYPES,
    Packet,
    PacketType,
    decode_packet,
    expanded_bytes,
    make_packet,
)
from relay.bitchat.private import NoiseSession
from relay.bitchat.rules import Kind, Phone, refusal_of_kind
from relay.bitchat.sync import decode_request_sync
from relay.core.errors import DecodeError, RelayError
from relay.core.messages import MAX_LIVE_BYTES
from relay.core.pool import Pool
from relay.core.rate import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from relay.bitchat.announce import Announce
    from relay.bitchat.courier import Letter
    from relay.core.named import Name

RELAYS: Final = "relays"
"""The link to all other relays."""
OWN: Final = "own"
"""Where our own packets and answers come from."""

FRESH_MS: Final = 600_000
"""Nothing older, or further ahead, is passed on live; Androids take announces for so long."""
UNKNOWN_MS: Final = 120_000
"""Nor, but for announces, what is so old and from before all that we know again: it may have been here before we were
started, or before a flood had us forget it. iPhones take nothing that old, and Androids know it for longer."""
SEEN_S: Final = 2 * FRESH_MS / 1000 + 60
"""How long a packet is known again: what is ten minutes ahead is fresh for twenty."""
MAX_SEEN: Final = 10_000
"""Packets that are known again: 8 a second for all that time, in 4 MiB."""
MAX_PENDING: Final = 1_000
"""Packets that wait for their turn to be passed on."""
MAX_STRANGERS: Final = 64
"""Packets that wait for the announce of their sender, without which nobody can check them."""
STRANGER_S: Final = 30.0
"""A phone announces itself twice in this time."""
MAX_LETTERS_HELD: Final = 8
"""Letters that wait for one phone: for its air, and before until it shows whether its app knows what they are, which
takes five seconds. Of what is more the store is read anew when these have gone."""
LETTERS_AHEAD_BYTES: Final = 16 << 10
"""What may wait for a phone's air where another letter is added: a second of it. Letters may be junk of anybody who
knows for whom they are, and must not take each other's room."""
LIVE_WAIT_S: Final = 30.0
"""What has waited so long for the air is of use to nobody."""
HOUSEKEEPING_S: Final = 10.0
RELAYED_TTL: Final = ORIGIN_TTL - 1
"""What others said is passed on with no more: an announce with the TTL of its origin is believed to be the link's."""

ANNOUNCE_WAIT_S: Final = (0.01, 0.03)
"""Announces are passed on first: nothing of a sender can be checked without one."""
CONVERSATION_WAIT_S: Final = (0.03, 0.06)
AIR_WAIT_S: Final = (0.06, 0.22)
"""As iPhones wait with several links, to hear whether a phone passes it on."""
RELAYS_WAIT_S: Final = (0.06, 0.4)
"""What came from another island: long enough to hear it from a phone that had it of another relay."""
TO_RELAYS_WAIT_S: Final = (0.0, 0.05)
"""To hear whether another relay of the same island was first."""

ANNOUNCE_EVERY_S: Final = 15.0
ANNOUNCE_EVERY_CROWDED_S: Final = 30.0
CROWDED_LINKS: Final = 6
"""The rhythm of iPhones."""
OWN_OFF_MS: Final = 5_000
"""So far at most is what we say from the time that we have, each identity by an amount of its own: how far our clock is
off, to the millisecond, would join one identity to the next. iPhones take two minutes."""

_SALT_BYTES: Final = 16
_MUST_BE_SIGNED: Final = frozenset({PacketType.ANNOUNCE, PacketType.MESSAGE, PacketType.LEAVE})
_MEDIA: Final = frozenset({PacketType.FILE_TRANSFER, PacketType.VOICE_FRAME})
_NAMES: Final = {int(kind): kind.name.lower() for kind in PacketType}


@dataclass(frozen=True, slots=True)
class ToRelays:
    """A live packet for the other islands; ``is_first``: an announce, which goes before others."""

    data: bytes
    is_first: bool


@dataclass(frozen=True, slots=True)
class KeepLetter:
    """A letter to be kept in the store: `relay.bitchat.couriers.to_envelopes` makes envelopes of it."""

    letter: Letter = field(repr=False)


@dataclass(frozen=True, slots=True)
class LookFor:
    """Somebody is near: envelopes of these names are to be looked for, in their buckets, and given to `Mesh.found`."""

    names: tuple[Name, ...] = field(repr=False)


@dataclass(slots=True)
class _Link:
    number: int
    frame_bytes: int
    can_stream: bool
    outbox: Outbox
    packets: Bucket
    bytes_in: Bucket
    answers: Bucket
    plans: Bucket
    handshakes: Bucket
    welcomes: Bucket
    new_peers: Bucket
    other_keys: Bucket
    announce_at: float
    kind: Kind = Kind.UNKNOWN
    peer: bytes | None = None
    """Who is at the other end: whose verified announce came by it with the TTL of its origin."""
    peer_key: bytes = b""
    has_announce: bool = False
    """Whether it was told who we are."""
    asked_at: float | None = None

    @property
    def takes_long(self) -> bool:
        """Whether it is known to put a packet together from several notifications, which only iPhones do."""
        return self.can_stream and self.kind is Kind.IPHONE

    told: Told = field(default_factory=Told)
    plan: deque[Planned] = field(default_factory=deque)
    session: NoiseSession | None = None
    letters: deque[Handover] = field(default_factory=deque)
    """For this phone, until it shows which app it is and there is room."""


@dataclass(slots=True)
class _Pending:
    packet: Packet
    origin: Hashable
    targets: set[Hashable]


class Mesh:
    """One relay among its phones, and the other relays beyond."""

    def __init__(
        self,
        identity: Identity,
        *,
        now: float,
        earliest_ms: int,
        draw: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        nickname: str = NEUTRAL_NICKNAME,
        carry_media: bool = False,
    ) -> None:
        """``draw`` gives random numbers in [0, 1), ``random_bytes`` unpredictable bytes; ``identity`` is a new one.

        ``earliest_ms``: when this program was made. ``carry_media``: files and voice go to other islands too.
        """
        self.identity = identity
        self.clock = MeshClock(earliest_ms=earliest_ms)
        self.memory = Memory()
        self.couriers = Couriers(now)
        #: By (type of packet, outcome); neither names anybody.
        self.counts: Counter[tuple[str, str]] = Counter()
        self._began_at = now
        self._nickname = nickname
        self._carry_media = carry_media
        self._draw = draw
        self._random_bytes = random_bytes
        self._salt = random_bytes(_SALT_BYTES)
        self._links: dict[int, _Link] = {}
        #: With how much TTL each was to go on: 0 ended here.
        self._seen: Pool[bytes, int] = Pool(most=MAX_SEEN, most_bytes=1, life_s=SEEN_S)
        self._strangers: Pool[bytes, tuple[Packet, Hashable]] = Pool(
            most=MAX_STRANGERS, most_bytes=1 << 18, life_s=STRANGER_S
        )
        self._expanded_live = Bucket(EXPANDED_LIVE, now)
        self._new_peers_live = Bucket(NEW_PEERS_LIVE, now)
        self._other_keys_live = Bucket(OTHER_KEYS_LIVE, now)
        self._reassembly = Reassembly()
        self._passing = Passing()
        self._pending: dict[bytes, _Pending] = {}
        self._turns: list[tuple[float, int, bytes, Hashable]] = []
        self._turn_number = 0
        self._to_relays = {
            checked: Outbox(now, rate, frame_cost=LIVE_PACKET_COST)
            for checked, rate in ((True, CHECKED_LIVE), (False, UNCHECKED_LIVE))
        }
        self._events: list[ToRelays | KeepLetter | LookFor] = []
        self._housekeeping_at = now + HOUSEKEEPING_S

    # Links

    def open_link(self, number: int, now: float, *, frame_bytes: int, can_stream: bool = False) -> None:
        """A phone is connected. It takes frames of so many bytes.

        ``can_stream``: if it is an iPhone, it takes longer ones too, as a stream of notifications.
        """
        self._links[number] = _Link(
            number=number,
            frame_bytes=frame_bytes,
            can_stream=can_stream,
            outbox=Outbox(now, BYTES_OUT),
            packets=Bucket(PACKETS_IN, now),
            bytes_in=Bucket(BYTES_IN, now),
            answers=Bucket(ANSWERS, now),
            plans=Bucket(PLANS, now),
            handshakes=Bucket(HANDSHAKES, now),
            welcomes=Bucket(WELCOMES, now),
            new_peers=Bucket(NEW_PEERS, now),
            other_keys=Bucket(OTHER_KEYS, now),
            announce_at=now,
        )

    def narrow_link(self, number: int, frame_bytes: int) -> None:
        """A phone takes frames of so many bytes from now on, and none longer as a stream. What waits may not fit."""
        link = self._links.get(number)
        if link is not None and (frame_bytes < link.frame_bytes or link.takes_long):
            link.outbox.clear()
            self._count_lost(link.outbox, link.told)
        if link is not None:
            link.frame_bytes, link.can_stream = frame_bytes, False

    def close_link(self, number: int) -> None:
        """A phone is gone."""
        if (link := self._links.pop(number, None)) is not None:
            for handover in link.letters:
                self.couriers.missed(handover)
        self.clock.forget(number)
        self.memory.close_link(number)
        self.couriers.close_link(number)
        self._reassembly.forget(number)
        self._passing.forget(number)
        self._seen.leave(number)
        self._strangers.leave(number)

    def change_identity(self, identity: Identity) -> None:
        """Be somebody else from now on; all links have to be closed before."""
        if self._links:
            raise ValueError("phones that are linked would see one identity become the other")
        self.identity = identity

    # What comes in

    def receive(self, number: int, frame: bytes, now: float) -> None:
        """Take one frame of a phone: one packet."""
        link = self._links.get(number)
        if link is None:
            return
        size = max(len(frame), expanded_bytes(frame))
        if not link.packets.take(1, now) or not link.bytes_in.take(size, now):
            self.counts["any", "limited"] += 1
            return
        packet = self._decode(frame)
        if packet is not None:
            self._take(packet.with_ttl(min(packet.ttl, ORIGIN_TTL)), number, link, now)

    def receive_live(self, data: bytes, now: float) -> None:
        """Take a live packet that another relay heard."""
        if not self._expanded_live.take(expanded_bytes(data), now):
            self.counts["any", "limited"] += 1
            return
        packet = self._decode(data)
        if packet is not None:
            self._take(packet.with_ttl(min(packet.ttl, RELAYED_TTL)), RELAYS, None, now)

    def found(self, envelope: bytes, now: float) -> None:
        """Take an envelope from the store, which may be under a name that is looked for."""
        for handover in self.couriers.found(envelope, time_ms=self.clock.time_ms(now), now=now):
            self._hand_over(handover, now)

    # What goes out

    def frames_to_send(self, number: int, now: float) -> list[bytes]:
        """Return the frames that may be sent to a phone now."""
        link = self._links.get(number)
        if link is None:
            return []
        frames = link.outbox.take(now)
        self._count_lost(link.outbox, link.told)
        return frames

    def events(self) -> list[ToRelays | KeepLetter | LookFor]:
        """Return what happened since."""
        happened, self._events = self._events, []
        return happened

    def next_s(self, now: float) -> float:
        """When `take_due`, and `frames_to_send` of every link that can be written to, are to be called at the latest.

        Monotonic seconds. What may go already is not waited for: whoever can write asks.
        """
        times = [self._housekeeping_at]
        if self._turns:
            times.append(self._turns[0][0])
        for link in self._links.values():
            if self.clock.time_ms(now, link.number) is not None:
                times.append(link.announce_at)
            if link.plan:
                times.append(link.plan[0].at)
            if (at := link.outbox.next_s(now)) is not None and at > now:
                times.append(at)
            if self._can_deliver(link, now):
                times.append(now)
        times += [at for box in self._to_relays.values() if (at := box.next_s(now)) is not None]
        return min(times)

    def take_due(self, now: float) -> None:
        """Do what is due: pass on, answer, announce, forget."""
        for link in self._links.values():
            if link.announce_at <= now:
                self._announce(link, now)
            self._deliver(link, now)
        while self._turns and self._turns[0][0] <= now:
            _, _, name, target = heapq.heappop(self._turns)
            self._pass_on(name, target, now)
        for box in self._to_relays.values():
            for data in box.take(now):
                self._events.append(ToRelays(data, data[1] == PacketType.ANNOUNCE))
            self._count_lost(box)
        for link in self._links.values():
            while link.plan and link.plan[0].at <= now:
                self._send(link, link.plan.popleft().packet, OWN, now, until=(link.asked_at or now) + ANSWER_S + 5)
        if self._housekeeping_at <= now:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self.memory.expire(now)
            if over := self.couriers.expire(now):
                self.counts["courier", "letter_over"] += over
            self._seen.expire(now)
            self._strangers.expire(now)
            self._reassembly.expire(now)
            if self._reassembly.lost:
                self.counts["fragment", "incomplete"] += self._reassembly.lost
                self._reassembly.lost = 0

    # Decisions about one packet

    def _decode(self, data: bytes) -> Packet | None:
        try:
            return decode_packet(data)
        except DecodeError:
            self.counts["any", "malformed"] += 1
            return None

    def _count(self, packet: Packet, outcome: str) -> None:
        self.counts[_NAMES.get(packet.type, "other"), outcome] += 1

    def _take(self, packet: Packet, origin: Hashable, link: _Link | None, now: float) -> None:
        if packet.sender == self.identity.peer_id:
            return self._count(packet, "own")
        if packet.type == PacketType.REQUEST_SYNC:
            return self._request(packet, link, now)
        name = packet.flood_id
        if name in self._seen:
            return self._take_again(packet, name, origin, link, now)
        if packet.ttl == 0:
            return self._count(packet, "no_ttl")
        announce: Announce | None = None
        if packet.type == PacketType.ANNOUNCE:
            try:
                announce = read_announce(packet)
            except DecodeError:
                return self._count(packet, "forged")
            if announce.is_relay:
                return self._count(packet, "relay")
        reason = self._why_not(packet, announce, origin, link, now)
        if reason is not None:
            return self._count(packet, reason)
        if packet.recipient == self.identity.peer_id:
            # What comes by the link of another is not remembered: he cannot make us deaf to the one whose it is.
            if link is not None and packet.sender == link.peer:
                self._seen.put(name, packet.ttl, origin=origin, now=now)
            return self._for_us(packet, link, now)
        onward = _onward(packet, link)
        self._seen.put(name, onward.ttl, origin=origin, now=now)
        if announce is not None and link is not None and packet.ttl == ORIGIN_TTL:
            self._bind(link, packet, announce, now)
        if link is not None:
            link.told.note(packet)
        if self._is_late(packet, link, now):
            return self._count(packet, "late")
        self._remember(onward, announce, origin, link, now)
        return self._spread(onward, origin, now)

    def _take_again(self, packet: Packet, name: bytes, origin: Hashable, link: _Link | None, now: float) -> None:
        """A packet that is known: who sent it needs it no more, and what the first copy lacked it may have."""
        if link is not None:
            link.told.note(packet)
            self._bind_late(link, packet, now)
        onward = _onward(packet, link)
        pending = self._pending.get(name)
        if pending is not None:
            # The shorter way may have been the slower one, and no signature covers a TTL.
            pending.packet = pending.packet.with_ttl(max(pending.packet.ttl, onward.ttl))
            if origin in pending.targets:
                pending.targets.discard(origin)
                return self._count(packet, "heard_there")
        elif onward.ttl and self._seen.get(name) == 0 and not self._is_late(packet, link, now):
            # The first copy ended here. This one may say to be the same, and has to be signed as well as that.
            if self._is_genuine(packet, origin):
                self._seen.put(name, onward.ttl, origin=origin, now=now)
                return self._spread(onward, origin, now)
            return self._count(packet, "forged")
        return self._count(packet, "known")

    def _bind_late(self, link: _Link, packet: Packet, now: float) -> None:
        """A phone announces itself by its own link, and its announce was here before, by another relay or phone."""
        if packet.type != PacketType.ANNOUNCE or packet.ttl != ORIGIN_TTL or link.peer is not None:
            return
        if any(other.peer == packet.sender for other in self._links.values()) or self._is_late(packet, link, now):
            return
        with suppress(DecodeError):
            announce = read_announce(packet)
            if self.memory.is_newest(packet, announce):
                self._bind(link, packet, announce, now)

    def _is_genuine(self, packet: Packet, origin: Hashable) -> bool:
        if packet.type == PacketType.ANNOUNCE:
            try:
                read_announce(packet)
            except DecodeError:
                return False
            return True
        if packet.signature is None or packet.type in UNSIGNED_TYPES:
            return packet.type not in _MUST_BE_SIGNED
        return any(packet.is_signed_by(key) for key in self.memory.keys_of(packet.sender, origin))

    def _is_late(self, packet: Packet, link: _Link | None, now: float) -> bool:
        """Whether a packet is a replay, or history: Androids would show it again, as they do not look at its age."""
        time_ms = self.clock.time_ms(now, None if link is None else link.number)
        if time_ms is None:
            return False
        age_ms = time_ms - packet.timestamp_ms
        known_s = now - max(self._began_at, self._seen.evicted_until)
        most_ms = FRESH_MS if packet.type == PacketType.ANNOUNCE else max(UNKNOWN_MS, min(FRESH_MS, 1000 * known_s))
        return -age_ms > FRESH_MS or age_ms > most_ms

    def _why_not(
        self, packet: Packet, announce: Announce | None, origin: Hashable, link: _Link | None, now: float
    ) -> str | None:
        """Return why a packet is not taken; None where it is."""
        if announce is not None:
            if self._is_late(packet, link, now):
                return "late"
            if not self.memory.is_news(packet, announce):
                return "old"
            known = self.memory.keys_of(packet.sender)
            if announce.signing_key in known:
                return None
            if not known:
                new_peers = self._new_peers_live if link is None else link.new_peers
                return None if new_peers.take(1, now) else "identities"
            other_keys = self._other_keys_live if link is None else link.other_keys
            return None if other_keys.take(1, now) else "keys"
        if packet.type == PacketType.FRAGMENT:
            return self._why_not_piece(packet, origin, now)
        if packet.type in _MUST_BE_SIGNED and packet.signature is None:
            return "unsigned"
        if packet.signature is None or packet.type in UNSIGNED_TYPES:
            return None
        keys = self.memory.keys_of(packet.sender, origin)
        signed_by = next((key for key in keys if packet.is_signed_by(key)), None)
        if signed_by is not None:
            is_void = packet.type == PacketType.LEAVE and self.memory.is_here(
                packet.sender, signed_by, packet.timestamp_ms
            )
            return "old" if is_void else None
        if keys:
            return "forged"
        self._strangers.put(packet.flood_id, (packet, origin), origin=origin, now=now, size=packet.held_bytes)
        return "stranger"

    def _why_not_piece(self, packet: Packet, origin: Hashable, now: float) -> str | None:
        most = MAX_PASSING_OF_RELAYS if origin == RELAYS else MAX_PASSING_OF_LINK
        try:
            may = self._passing.may_pass(origin, packet.sender, decode_piece(packet.payload), now, most=most)
        except DecodeError:
            return "malformed"
        return None if may else "limited"

    def _remember(
        self, packet: Packet, announce: Announce | None, origin: Hashable, link: _Link | None, now: float
    ) -> None:
        if announce is not None:
            self._met(packet, announce, origin, link, now)
        elif packet.type == PacketType.MESSAGE and packet.is_broadcast:
            self.memory.keep_message(packet, origin=origin, now=now)
        elif packet.type == PacketType.LEAVE:
            for key in self.memory.keys_of(packet.sender):
                if packet.is_signed_by(key):
                    self.memory.leave(packet.sender, key)
        elif packet.type == PacketType.FRAGMENT:
            self._piece(packet, origin, link, now)

    def _bind(self, link: _Link, packet: Packet, announce: Announce, now: float) -> None:
        """A link is that peer: it is told who we are and, once, who else is there, as nothing can be checked before."""
        is_new = link.peer != packet.sender
        who = packet.sender, announce.signing_key
        if (link.peer, link.peer_key) != who:
            for handover in link.letters:
                self.couriers.missed(handover)
            # Somebody may have said before what this one said of himself, and not be him.
            claimed = [other for other in self._links.values() if (other.peer, other.peer_key) == who]
            link.peer, link.peer_key = who
            link.letters = deque(claimed[0].letters if claimed else ())
            self._look_for(self.couriers.look_again(who, link=link.number))
        # Not by his name, which anybody can announce: a liar would take the place of who is called so.
        self.clock.hear(link.number, announce.signing_key, packet.timestamp_ms, now)
        if not link.has_announce:
            self._announce(link, now)
        if is_new and link.welcomes.take(1, now):
            for known in self.memory.announces_now():
                if known.ttl and known.sender != link.peer:
                    self._send(link, known, OWN, now, until=now + LIVE_WAIT_S)

    def _met(self, packet: Packet, announce: Announce, origin: Hashable, link: _Link | None, now: float) -> None:
        self.memory.keep_announce(packet, announce, origin=origin, now=now)
        if link is not None:
            names = self.couriers.heard(
                packet.sender,
                announce.noise_key,
                packet.timestamp_ms,
                link=link.number,
                now=now,
                signing_key=announce.signing_key,
            )
            self._look_for(names)
            for handover in self.couriers.waiting(
                packet.sender, time_ms=self.clock.time_ms(now), now=now, signing_key=announce.signing_key
            ):
                self._hand_over(handover, now)
        waited = [item for item in self._strangers.items() if item[1][0].sender == packet.sender]
        for name, (other, came_by) in waited:
            self._strangers.pop(name)
            self._take(other, came_by, self._links.get(came_by) if isinstance(came_by, int) else None, now)

    def _piece(self, packet: Packet, origin: Hashable, link: _Link | None, now: float) -> None:
        """Read what is in pieces where we have to: letters to us, and messages, which are answered with whole."""
        for_us = packet.recipient == self.identity.peer_id
        try:
            if not for_us and decode_piece(packet.payload).whole_type != PacketType.MESSAGE:
                return None
            most = MAX_SETS_OF_RELAYS if origin == RELAYS else MAX_SETS_OF_LINK
            whole = self._reassembly.take(origin, packet, now, most=most)
        except DecodeError:
            return self._count(packet, "malformed")
        if whole is None or whole.type in {PacketType.FRAGMENT, PacketType.ANNOUNCE}:
            return None
        if for_us and whole.recipient == self.identity.peer_id:
            self._for_us(whole, link, now)
        elif whole.type == PacketType.MESSAGE and whole.flood_id not in self._seen:
            reason = "late" if self._is_late(whole, link, now) else self._why_not(whole, None, origin, link, now)
            if reason is not None:
                return self._count(whole, reason)
            # It goes on in its pieces. If it comes whole, too, that is no news.
            self._seen.put(whole.flood_id, ORIGIN_TTL, origin=origin, now=now)
            self._remember(whole, None, origin, link, now)
        return None

    # Passing on

    def _spread(self, packet: Packet, origin: Hashable, now: float) -> None:
        """Let a packet wait for its turn at all links but the one by which it came; heard there, it is not sent."""
        if packet.ttl == 0:
            return self._count(packet, "ends_here")
        if len(self._pending) >= MAX_PENDING:
            return self._count(packet, "crowded")
        targets: dict[Hashable, tuple[float, float]] = {
            number: self._wait(packet, origin)
            for number, link in self._links.items()
            if number != origin and link.peer != packet.sender
        }
        if origin != RELAYS and self._goes_to_relays(packet):
            targets[RELAYS] = (0.0, 0.0) if packet.type == PacketType.ANNOUNCE else TO_RELAYS_WAIT_S
        if not targets:
            return None
        name = packet.flood_id
        self._pending[name] = _Pending(packet, origin, set(targets))
        for target, (least, most) in targets.items():
            self._turn_number += 1
            at = now + least + self._share_of(packet.sender, target) * (most - least)
            heapq.heappush(self._turns, (at, self._turn_number, name, target))
        return None

    def _share_of(self, sender: bytes, target: Hashable) -> float:
        """Which part of a wait is for a sender's packets to a link, in [0, 1): of each relay another one.

        It is the same for all of them, as a message that overtakes the end of its handshake is lost.
        """
        digest = hashlib.sha256(self._salt + sender + str(target).encode()).digest()
        return int.from_bytes(digest[:4], "big") / (1 << 32)

    @staticmethod
    def _wait(packet: Packet, origin: Hashable) -> tuple[float, float]:
        if packet.type == PacketType.ANNOUNCE:
            return ANNOUNCE_WAIT_S
        if not packet.is_broadcast:
            return CONVERSATION_WAIT_S
        return RELAYS_WAIT_S if origin == RELAYS else AIR_WAIT_S

    def _goes_to_relays(self, packet: Packet) -> bool:
        if not self._carry_media and _is_media(packet):
            self._count(packet, "media")
            return False
        return True

    def _pass_on(self, name: bytes, target: Hashable, now: float) -> None:
        pending = self._pending.get(name)
        if pending is None:
            return None
        is_due = target in pending.targets
        pending.targets.discard(target)
        if not pending.targets:
            del self._pending[name]
        if not is_due:
            return None
        packet = pending.packet
        if target == RELAYS:
            data = packet.encode(padded=False)
            if len(data) > MAX_LIVE_BYTES:
                return self._count(packet, "too_long")
            self._count(packet, "to_relays")
            group = Group((data,), now + LIVE_WAIT_S)
            self._to_relays[is_checked(packet)].put(packet, group, pending.origin)
        elif isinstance(target, int) and (link := self._links.get(target)) is not None:
            self._send(link, packet, pending.origin, now, until=now + LIVE_WAIT_S)
        return None

    def _send(self, link: _Link, packet: Packet, origin: Hashable, now: float, *, until: float) -> None:
        """Let a packet wait for a phone's air, unless that phone would not take it."""
        try:
            frames = self._frames(link, packet)
        except ValueError:
            return self._count(packet, "too_long")
        phone_ms = self.clock.phone_ms(now, link.number)
        # Where nobody has said what time it is, it is taken for live.
        phone = self._phone(link, packet.timestamp_ms if phone_ms is None else phone_ms, now)
        reason = refusal_of_kind(link.kind, packet, phone, pieces=len(frames))
        if reason is not None:
            return self._count(packet, f"refused_{reason}")
        link.told.note(packet)
        link.outbox.put(packet, Group(frames, until), origin)
        self._count_lost(link.outbox, link.told)
        return self._count(packet, "sent")

    def _count_lost(self, outbox: Outbox, told: Told | None = None) -> None:
        if outbox.lost:
            self.counts["any", "lost"] += outbox.lost
            outbox.lost = 0
            if told is not None:
                # Nobody knows which of it that was: if the phone asks, it is told again.
                told.clear()

    def _phone(self, link: _Link, phone_ms: int, now: float) -> Phone:
        return Phone(
            peer_id=link.peer,
            linked_to=self.identity.peer_id if link.has_announce else None,
            time_ms=phone_ms,
            asked_s=None if link.asked_at is None else now - link.asked_at,
        )

    @staticmethod
    def _frames(link: _Link, packet: Packet) -> tuple[bytes, ...]:
        """A packet as the frames that a link takes; ValueError where it takes none such."""
        plain = packet.encode(padded=False)
        if link.takes_long or len(plain) <= link.frame_bytes:
            padded = packet.encode()
            return (padded if link.takes_long or len(padded) <= link.frame_bytes else plain,)
        if packet.type == PacketType.FRAGMENT:
            raise ValueError("a piece that is itself too long")
        return tuple(piece.encode() for piece in split(packet, link.frame_bytes))

    def _announce(self, link: _Link, now: float) -> None:
        """Say who we are, in the rhythm of the phones, as soon as anybody knows the time."""
        time_ms = self.clock.time_ms(now, link.number)
        every = ANNOUNCE_EVERY_CROWDED_S if len(self._links) >= CROWDED_LINKS else ANNOUNCE_EVERY_S
        link.announce_at = now + every * (0.75 + 0.5 * self._draw())
        if time_ms is None:
            link.announce_at = now + 1.0
            return
        packet = self.identity.announce(self._nickname, self._own_ms(time_ms), is_relay=True)
        link.outbox.put(packet, Group(self._frames(link, packet), now + LIVE_WAIT_S), OWN)
        link.has_announce = True
        self._count(packet, "announced")

    def _own_ms(self, time_ms: int) -> int:
        """The time as this identity says it."""
        digest = hashlib.sha256(self._salt + self.identity.signing_secret).digest()
        return time_ms - OWN_OFF_MS + int.from_bytes(digest[:4], "big") % (2 * OWN_OFF_MS + 1)

    # What is for us

    def _for_us(self, packet: Packet, link: _Link | None, now: float) -> None:
        if link is None:
            return self._count(packet, "for_us")
        if packet.type == PacketType.COURIER:
            return self._letter(packet, link, now)
        if packet.type == PacketType.NOISE_HANDSHAKE:
            return self._handshake(packet, link, now)
        if packet.type == PacketType.FRAGMENT:
            return self._piece(packet, link.number, link, now)
        return self._count(packet, "for_us")

    def _request(self, packet: Packet, link: _Link | None, now: float) -> None:
        """Answer a phone's own request; those of others never come by its link, and none goes further."""
        if link is None or packet.recipient not in {None, self.identity.peer_id, b"\xff" * 8}:
            return self._count(packet, "not_for_us")
        if link.peer != packet.sender or not packet.is_signed_by(link.peer_key):
            return self._count(packet, "forged")
        if not link.answers.take(1, now):
            return self._count(packet, "limited")
        try:
            request = decode_request_sync(packet.payload)
        except DecodeError:
            return self._count(packet, "malformed")
        link.kind = Kind.IPHONE if request.is_of_iphone else Kind.ANDROID
        link.asked_at = now
        self._deliver(link, now)
        if not request.asks_for(PacketType.ANNOUNCE) and not request.asks_for(PacketType.MESSAGE):
            # iPhones ask for fragments, files and more right after messages: the answer about those goes on.
            return self._count(packet, "answered")
        phone_ms = self.clock.phone_ms(now, link.number)
        if phone_ms is None:
            return self._count(packet, "no_clock")
        if not link.plans.take(1, now):
            return self._count(packet, "limited")
        phone = self._phone(link, phone_ms, now)
        link.plan = deque(plan_answer(request, self.memory, told=link.told, kind=link.kind, phone=phone, now=now))
        return self._count(packet, "answered")

    def _letter(self, packet: Packet, link: _Link, now: float) -> None:
        """Take a letter that the phone at the other end of this link gives us in its own name."""
        if packet.sender != link.peer or not packet.is_signed_by(link.peer_key):
            return self._count(packet, "forged")
        outcome, letter = self.couriers.take(
            packet.payload,
            depositor=packet.sender,
            link=link.number,
            time_ms=self.clock.time_ms(now, link.number),
            now=now,
        )
        if outcome is Outcome.TAKEN and letter is not None:
            self._events.append(KeepLetter(letter))
        return self._count(packet, f"letter_{outcome}")

    def _handshake(self, packet: Packet, link: _Link, now: float) -> None:
        """Answer a handshake: iPhones give letters of others only to who finished one."""
        if packet.sender != link.peer:
            return self._count(packet, "not_linked")
        if link.session is None or len(packet.payload) == 32:
            if not link.handshakes.take(1, now):
                return self._count(packet, "limited")
            link.session = NoiseSession(initiator=False, static=self.identity.noise, random_bytes=self._random_bytes)
        try:
            answer = link.session.receive_handshake(packet.payload)
        except RelayError:
            link.session = None
            return self._count(packet, "malformed")
        time_ms = self.clock.time_ms(now, link.number)
        if answer is not None and time_ms is not None:
            self._send_own(link, PacketType.NOISE_HANDSHAKE, answer, packet.sender, time_ms, now)
        return self._count(packet, "answered")

    def _send_own(
        self, link: _Link, kind: PacketType, payload: bytes, recipient: bytes, time_ms: int, now: float
    ) -> None:
        packet = make_packet(
            kind, payload, sender=self.identity.peer_id, recipient=recipient, timestamp_ms=self._own_ms(time_ms)
        )
        if kind not in UNSIGNED_TYPES:
            packet = self.identity.sign(packet)
        self._send(link, packet, OWN, now, until=now + LIVE_WAIT_S)

    def _hand_over(self, handover: Handover, now: float) -> None:
        """Give a letter to its recipient's own link, or to the links of iPhones where he is further away."""
        direct = [link for link in self._links.values() if (link.peer, link.peer_key) == handover.who]
        taking = [
            link
            for link in direct or [link for link in self._links.values() if link.kind is Kind.IPHONE]
            if len(link.letters) < MAX_LETTERS_HELD
        ]
        for link in taking:
            link.letters.append(handover)
            self._deliver(link, now)
        if not taking:
            self.couriers.missed(handover)

    def _can_deliver(self, link: _Link, now: float) -> bool:
        return (
            bool(link.letters)
            and link.kind is not Kind.UNKNOWN
            and link.outbox.held_bytes < LETTERS_AHEAD_BYTES
            and self.clock.time_ms(now, link.number) is not None
        )

    def _deliver(self, link: _Link, now: float) -> None:
        """Let letters wait for a phone's air, as many as there is room for."""
        while self._can_deliver(link, now) and (time_ms := self.clock.time_ms(now, link.number)) is not None:
            handover = link.letters.popleft()
            self.counts["courier", "letter_handed_over"] += 1
            payload = handover.letter.encode()
            self._send_own(link, PacketType.COURIER, payload, handover.recipient, time_ms, now)
            if not link.letters and link.peer is not None:
                self._look_for(self.couriers.look_again((link.peer, link.peer_key), link=link.number))

    def _look_for(self, names: tuple[Name, ...]) -> None:
        if names:
            self._events.append(LookFor(names))


def _onward(packet: Packet, link: _Link | None) -> Packet:
    """As it goes on: its TTL is lowered by the relay that heard it from a phone, and by no other relay."""
    return packet if link is None else packet.with_ttl(max(0, packet.ttl - 1))


def _is_media(packet: Packet) -> bool:
    """Whether a packet is a file or voice, or a piece of one as far as that can be seen."""
    if packet.type != PacketType.FRAGMENT:
        return packet.type in _MEDIA
    try:
        piece = decode_piece(packet.payload)
    except DecodeError:
        return True
    return piece.whole_type in _MEDIA or piece.count > MAX_SET_PIECES
