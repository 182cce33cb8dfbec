# SPDX-License-Identifier: GPL-2.0-or-later
"""One session over one reliable byte stream (docs/protocol.md sections 4 to 6).

Free of I/O: bytes and ``now`` (monotonic seconds) come in, events, bytes and the
next deadline go out. The same class serves clients and relays, on the dialling
and on the accepting side; what a peer may send is a table, and whatever is
absent from it ends the session.
"""

from __future__ import annotations

import enum
import hmac
from array import array
from collections import deque
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

from relay.core import messages as m
from relay.core.codec import Reader
from relay.core.errors import DecodeError
from relay.core.frames import (
    CONTROL_LANE,
    LIVE_LANE,
    MAX_RECORD_PLAINTEXT_BYTES,
    FrameReader,
    FrameWriter,
    OversizedError,
)
from relay.core.messages import Goodbye, Hello, MessageType, Role
from relay.core.news import NEWS_BYTES
from relay.core.noise import XX, XXPSK3, DecryptError, HandshakeError, HandshakeState, KeyPair
from relay.core.stats import HandshakeFailure, SessionError
from relay.core.update_wire import Ask, Given, Leaving, Stays, decode_update
from relay.core.update_wire import Offer as UpdateOffer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from relay.core.stats import Reason

PROTOCOL_VERSION: Final = 1
#: Second byte of a session: which handshake the initiator speaks.
PATTERN_XX: Final = 0
PATTERN_XXPSK3: Final = 3
_PROLOGUE: Final = b"mesh-relay/1 session"
_LINK_LABEL: Final = b"mesh-relay/1 link"
_RECONCILE_LABEL: Final = b"mesh-relay/1 reconcile"
RECONCILE_KEY_BYTES: Final = 16

#: Handshake and hello together; a slow-loris holds a connection no longer.
HANDSHAKE_TIMEOUT_S: Final = 15.0
#: A silent peer is asked after so long ...
PING_AFTER_S: Final = 40.0
#: ... and given up after so long.
DEAD_AFTER_S: Final = 100.0
#: ... or so long after a probe, when there is reason to doubt it.
PROBE_TIMEOUT_S: Final = 8.0
#: Records of a fast link: as large as Noise allows, so that a burst of envelopes
#: shares one encryption. A turn of 4,352 bytes holds a 4 KiB envelope whole.
FAST_RECORD_BYTES: Final = MAX_RECORD_PLAINTEXT_BYTES
FAST_FRAGMENT_BYTES: Final = 4352
#: Records of a slow link: two fragments, so that a small message waits for 1 kB at most.
SLOW_RECORD_BYTES: Final = 976
SLOW_FRAGMENT_BYTES: Final = 480
#: Puts that a client may have unanswered; the relay says its own number in its hello.
MAX_PUTS: Final = 8192
#: Work of one turn of a session (:meth:`Session.take_turn`): frames, of which 64 KiB hold
#: 16,000 that each cost as much as a whole message; a record, which is decrypted, counts
#: for several. A turn takes a millisecond or two at the most, whatever is said.
TURN_FRAMES: Final = 128
RECORD_FRAMES: Final = 8
#: ... and bytes of frames: lists of identities and offers cost by their length.
TURN_BYTES: Final = 64 << 10
#: What an answer takes until it is sent: its number, and a reference to the reason.
_ACK_BYTES: Final = 4
_REFUSAL_BYTES: Final = 12
_LENGTH_BYTES: Final = 2
_SAME_MULTIPLE: Final = 8
# Plain integers: attributes of an enum are slow where every envelope passes.
_PUT: Final = int(MessageType.PUT)
_ENVELOPE: Final = int(MessageType.ENVELOPE)
_LIVE: Final = int(MessageType.LIVE)
_ENVELOPE_START: Final = bytes([_ENVELOPE])
#: Handshake messages are at most e, s and two tags; a peer cannot make us keep more.
_MAX_HANDSHAKE_BYTES: Final = 256


class State(enum.Enum):
    """Where a session stands."""

    HANDSHAKE = enum.auto()
    HELLO = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


@dataclass(frozen=True, slots=True)
class Established:
    """Both hellos are exchanged; ``secret`` tells whether the mesh secret was used."""

    hello: Hello
    secret: bool


@dataclass(frozen=True, slots=True)
class Puts:
    """Envelopes to store: (put number, envelope)."""

    items: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Envelopes:
    """Bodies that were subscribed to or fetched."""

    items: list[bytes]


@dataclass(frozen=True, slots=True)
class Fetch:
    """The peer wants these identities."""

    identities: list[bytes]


@dataclass(frozen=True, slots=True)
class Missing:
    """The peer does not hold these identities now; says nothing about anybody else."""

    identities: list[bytes]


@dataclass(frozen=True, slots=True)
class Offers:
    """The peer holds these."""

    items: list[m.Offer]


@dataclass(frozen=True, slots=True)
class Credit:
    """So many of our offers are settled: fetched, known or refused."""

    count: int


@dataclass(frozen=True, slots=True)
class Reconcile:
    """A message of the reconciliation."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Same:
    """MACs by which the peer shows that it is a neighbour known from another session."""

    macs: list[bytes]


@dataclass(frozen=True, slots=True)
class PriceChanged:
    """The relay asks this price from now on."""

    price: int


@dataclass(frozen=True, slots=True)
class News:
    """By this value (16 bytes) the relay can be recognised in its advertisement for as long as it admits nothing."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Live:
    """A datagram for gateways, which ``hops`` more relays may pass on."""

    hops: int
    datagram: m.LiveDatagram


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All that the subscription matched at its start has been sent."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over; nothing follows.

    ``reason`` is what to count, ``goodbye`` what the peer said (None when it said nothing).
    """

    reason: Reason
    goodbye: Goodbye | None = None


Event = (
    Established
    | Puts
    | Envelopes
    | Fetch
    | Missing
    | Offers
    | Credit
    | Reconcile
    | Same
    | PriceChanged
    | News
    | Live
    | UpdateOffer
    | Ask
    | Given
    | Leaving
    | Stays
    | CaughtUp
    | Closed
    | m.Ack
    | m.Refused
    | m.Subscribe
)

_T = MessageType
_ANY = {_T.GOODBYE, _T.PING, _T.PONG}
#: What is allowed in state OPEN, by (role of the sender, role of the receiver).
ALLOWED: Final[dict[tuple[Role, Role], frozenset[MessageType]]] = {
    (Role.CLIENT, Role.RELAY): frozenset(_ANY | {_T.PUT, _T.SUBSCRIBE, _T.FETCH}),
    (Role.RELAY, Role.CLIENT): frozenset(
        _ANY | {_T.ACK, _T.REFUSE, _T.PRICE, _T.CAUGHT_UP, _T.ENVELOPE, _T.MISSING, _T.OFFER}
    ),
    (Role.RELAY, Role.RELAY): frozenset(
        _ANY
        | {
            _T.SAME,
            _T.PRICE,
            _T.NEWS,
            _T.OFFER,
            _T.FETCH,
            _T.ENVELOPE,
            _T.MISSING,
            _T.RECONCILE,
            _T.CREDIT,
            _T.LIVE,
            _T.UPDATE,
        }
    ),
}


class Session:
    """State machine of one side of one stream."""

    def __init__(
        self,
        *,
        initiator: bool,
        hello: Hello,
        random_bytes: Callable[[int], bytes],
        now: float,
        secret: bytes | None = None,
        static: KeyPair | None = None,
        secret_required: bool = False,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        """Start a session; an initiator has bytes to send at once.

        ``secret`` (32 bytes) makes an initiator speak XXpsk3 and lets a responder
        answer it; a responder answers plain XX as well, unless ``secret_required``,
        and says so in Established.
        ``static`` is for relays whose key others pin; by default it is drawn anew.
        """
        self.initiator = initiator
        self.state = State.HANDSHAKE
        self.peer: Hello | None = None
        self.handshake_hash = b""
        self.link_secret = b""
        self._reconcile_secret = b""
        self.peer_static = b""
        self.frames_in = self.frames_out = 0
        self.hello = hello
        self._secret = secret
        self._secret_required = secret_required and secret is not None
        self._random_bytes = random_bytes
        self._static = static or KeyPair.generate(random_bytes)
        #: Bytes of records, and how many of them are done with: moving those that follow costs more than they do.
        self._inbound = bytearray()
        self._done_bytes = 0
        self._outbound: deque[bytes] = deque()
        self._events: list[Event] = []
        self._reader = FrameReader()
        self._writer = self._make_writer(slow=hello.slow)
        self._handshake: HandshakeState | None = None
        self._used_secret = False
        self._opened_by = now + handshake_timeout_s
        self._last_received = now
        self._pinged = False
        self._puts_sent = 0
        self._pong_due = False
        # As small as they can be: a peer decides how many there are, and when they leave.
        self._acks = array("I")
        self._refused = array("I")
        self._refusals: list[m.Refusal] = []
        self._refusal_price = 0
        if initiator:
            pattern = PATTERN_XXPSK3 if secret else PATTERN_XX
            self._begin_handshake(pattern)
            first = self._running_handshake().write_message()
            self._outbound.append(_with_length(bytes([PROTOCOL_VERSION, pattern]) + first))

    @staticmethod
    def _make_writer(*, slow: bool) -> FrameWriter:
        return FrameWriter(
            record_bytes=SLOW_RECORD_BYTES if slow else FAST_RECORD_BYTES,
            fragment_bytes=SLOW_FRAGMENT_BYTES if slow else FAST_FRAGMENT_BYTES,
        )

    # -- bytes in ---------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take bytes of the stream; return all that they mean."""
        self.feed(data, now)
        events: list[Event] = []
        while self.has_input:
            events += self.take_turn()
        return events

    def feed(self, data: bytes | memoryview, now: float) -> None:
        """Take bytes of the stream, for :meth:`take_turn` to make something of."""
        if not self._is_over():
            self._inbound += data
            self._last_received = now
            self._pinged = False

    @property
    def has_input(self) -> bool:
        """Whether :meth:`take_turn` has something to work on."""
        if self._is_over():
            return False
        return self._reader.left_bytes > 0 or self._next_record_bytes() is not None

    def _next_record_bytes(self) -> int | None:
        """Return the length of the next record, if it is all there, or too long for what it is."""
        buffer, at = self._inbound, self._done_bytes
        left_bytes = len(buffer) - at - _LENGTH_BYTES
        if left_bytes < 0:
            return None
        size = buffer[at] << 8 | buffer[at + 1]
        if left_bytes >= size or (self.state is State.HANDSHAKE and size > _MAX_HANDSHAKE_BYTES):
            return size
        return None

    @property
    def input_bytes(self) -> int:
        """Bytes kept of what was received: nothing was made of them yet, or not of all that came with them."""
        return len(self._inbound) + self._reader.held_bytes

    def take_turn(self) -> list[Event]:
        """Work on what was received, so much that others need not wait long; return what it means."""
        work = taken_bytes = 0
        while work < TURN_FRAMES and taken_bytes < TURN_BYTES and not self._is_over():
            if left_bytes := self._reader.left_bytes:
                work += self._receive_frames(TURN_FRAMES - work, TURN_BYTES - taken_bytes)
                taken_bytes += left_bytes - self._reader.left_bytes
                continue
            size = self._next_record_bytes()
            # A record that would not be through in this turn is begun in the next: by two halves it costs more.
            if size is None or (work and taken_bytes + size > TURN_BYTES):
                break
            if self.state is State.HANDSHAKE and size > _MAX_HANDSHAKE_BYTES:
                self._fail(HandshakeFailure.OVERSIZED, None)
                break
            start = self._done_bytes + _LENGTH_BYTES
            self._done_bytes = start + size
            record = bytes(memoryview(self._inbound)[start : self._done_bytes])
            work += RECORD_FRAMES
            if self.state is State.HANDSHAKE:
                self._receive_handshake(record)
            else:
                self._receive_record(record)
        if self._done_bytes and self._next_record_bytes() is None:
            del self._inbound[: self._done_bytes]
            self._done_bytes = 0
        return self._take_events()

    def _is_over(self) -> bool:
        return self.state is State.CLOSED

    def connection_lost(self) -> list[Event]:
        """Say that the stream ended; returns Closed unless the session was closed before."""
        if self.state is not State.CLOSED:
            early = self.state is not State.OPEN
            self._close(HandshakeFailure.TRUNCATED if early else SessionError.CONNECTION_LOST, None)
        return self._take_events()

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _begin_handshake(self, pattern: int) -> None:
        with_secret = pattern == PATTERN_XXPSK3
        self._used_secret = with_secret
        self._handshake = HandshakeState(
            XXPSK3 if with_secret else XX,
            initiator=self.initiator,
            prologue=_PROLOGUE + bytes([PROTOCOL_VERSION, pattern]),
            static=self._static,
            random_bytes=self._random_bytes,
            psk=self._secret if with_secret else None,
        )

    def _running_handshake(self) -> HandshakeState:
        if self._handshake is None:  # pragma: no cover - callers run in state HANDSHAKE
            raise AssertionError("no handshake under way")
        return self._handshake

    def _receive_handshake(self, record: bytes) -> None:
        if self._handshake is None:
            if len(record) < 2:
                self._fail(HandshakeFailure.TRUNCATED, None)
                return
            version, pattern, record = record[0], record[1], record[2:]
            if version != PROTOCOL_VERSION or pattern not in (PATTERN_XX, PATTERN_XXPSK3):
                self._fail(HandshakeFailure.VERSION, None)
                return
            if self._secret_required if pattern == PATTERN_XX else self._secret is None:
                self._fail(HandshakeFailure.SECRET_REQUIRED, None)
                return
            self._begin_handshake(pattern)
        handshake = self._running_handshake()
        try:
            if handshake.read_message(record):
                self._fail(HandshakeFailure.OVERSIZED, None)
                return
            if handshake.is_my_turn:
                self._outbound.append(_with_length(handshake.write_message()))
        except HandshakeError as error:
            self._fail(_HANDSHAKE_FAILURES.get(error.reason, HandshakeFailure.DECRYPT), None)
            return
        if handshake.finished:
            self._finish_handshake(handshake)

    def _finish_handshake(self, handshake: HandshakeState) -> None:
        self.handshake_hash = handshake.handshake_hash
        self.peer_static = handshake.remote_static or b""
        self.link_secret = handshake.export(_LINK_LABEL)
        self._reconcile_secret = handshake.export(_RECONCILE_LABEL)
        self._encrypt, self._decrypt = handshake.split()
        self._handshake = None
        self.state = State.HELLO
        self._writer.push(CONTROL_LANE, self.hello.encode())

    def _receive_record(self, record: bytes) -> None:
        try:
            self._reader.feed(self._decrypt.decrypt(record))
        except DecryptError:
            self._fail(SessionError.REPLAY, Goodbye.DECODE)

    def _receive_frames(self, most_frames: int, most_bytes: int) -> int:
        """Go on with the record; return how many frames were taken."""
        try:
            received, frames = self._reader.take(most_frames, most_bytes)
        except DecodeError as error:
            is_oversized = isinstance(error, OversizedError)
            self._fail(SessionError.OVERSIZED_FRAME if is_oversized else SessionError.GARBAGE_FRAME, Goodbye.DECODE)
            return 0
        self.frames_in += len(received)
        puts: list[tuple[int, bytes]] = []
        envelopes: list[bytes] = []
        allowed, decode_put = self._allowed, m.decode_put
        try:
            for message in received:
                kind = message[0]
                if kind not in allowed:
                    if not self._receive_early(kind, message):
                        break
                    allowed = self._allowed
                elif kind == _PUT:
                    puts.append(decode_put(message))
                elif kind == _ENVELOPE:
                    envelopes.append(message[1:])
                elif kind == _LIVE:
                    self._events.append(Live(*m.decode_live(message)))
                else:
                    self._receive_message(kind, message)
                    if self.state is State.CLOSED:
                        break
        except DecodeError:
            self._fail(SessionError.DECODE, Goodbye.DECODE)
        # What came whole before a mistake is as good as if the mistake had not followed.
        tail = self._events.pop() if self.state is State.CLOSED else None
        if puts:
            self._events.append(Puts(puts))
        if envelopes:
            self._events.append(Envelopes(envelopes))
        if tail:
            self._events.append(tail)
        return frames

    _allowed: frozenset[int] = frozenset()

    def _receive_early(self, kind: int, message: bytes) -> bool:
        """Handle what is not allowed in OPEN: the hello, or a peer's mistake."""
        if self.state is not State.HELLO or kind != _T.HELLO:
            early = self.state is State.HELLO
            self._fail(HandshakeFailure.BAD_HELLO if early else SessionError.PROTOCOL, Goodbye.PROTOCOL)
            return False
        try:
            peer = m.decode_hello(Reader(message[1:]))
        except DecodeError:
            self._fail(HandshakeFailure.BAD_HELLO, Goodbye.DECODE)
            return False
        allowed = ALLOWED.get((peer.role, self.hello.role))
        if allowed is None:
            self._fail(HandshakeFailure.BAD_HELLO, Goodbye.PROTOCOL)
            return False
        self.peer = peer
        self._allowed = allowed
        self.state = State.OPEN
        if peer.slow and not self.hello.slow:
            # Cut for the slow side; what is queued already is the hello at most.
            queued = self._writer
            self._writer = self._make_writer(slow=True)
            if queued.queued_bytes:
                self._writer.push(CONTROL_LANE, self.hello.encode())
        self._events.append(Established(peer, self._used_secret))
        return True

    def _receive_message(self, kind: int, message: bytes) -> None:
        reader = Reader(memoryview(message)[1:])
        event: Event
        match kind:
            case _T.ACK:
                event = m.decode_ack(reader, max_number=self._puts_sent)
            case _T.REFUSE:
                event = m.decode_refuse(reader, max_number=self._puts_sent)
            case _T.SUBSCRIBE:
                event = m.decode_subscribe(reader)
            case _T.FETCH:
                event = Fetch(m.decode_ids(reader))
            case _T.MISSING:
                event = Missing(m.decode_ids(reader))
            case _T.OFFER:
                event = Offers(m.decode_offers(reader))
            case _T.RECONCILE:
                event = Reconcile(reader.rest())
            case _T.CREDIT:
                event = Credit(reader.u16())
                reader.end()
            case _T.SAME:
                event = Same(m.decode_macs(reader))
            case _T.PRICE:
                event = PriceChanged(reader.u8())
                reader.end()
            case _T.NEWS:
                event = News(reader.bytes(NEWS_BYTES))
                reader.end()
            case _T.UPDATE:
                event = decode_update(message)
            case _T.CAUGHT_UP:
                reader.end()
                event = CaughtUp()
            case _T.PING:
                reader.end()
                # One answer to any number of them: a peer that pings without reading costs no memory.
                self._pong_due = True
                return
            case _T.PONG:
                reader.end()
                return
            case _:  # GOODBYE is all that is left of ALLOWED
                reason = reader.u8()
                known = Goodbye(reason) if reason in Goodbye._value2member_map_ else Goodbye.PROTOCOL
                self._close(SessionError.GOODBYE, known)
                return
        self._events.append(event)

    # -- bytes out --------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages and records that wait to be pulled (acknowledgements excluded)."""
        return self._writer.queued_bytes + sum(map(len, self._outbound))

    @property
    def unanswered_bytes(self) -> int:
        """Bytes that answers to the peer's puts and pings take in memory, about; bounded by not reading on."""
        return _ACK_BYTES * len(self._acks) + _REFUSAL_BYTES * len(self._refused) + self._pong_due

    def data_to_send(self, max_bytes: int = 1 << 18, *, urgent_only: bool = False) -> bytes:
        """Return bytes for the stream, about ``max_bytes`` at most; empty when there are none.

        ``urgent_only``: handshake and control lane alone. Of a slow link a record or two at
        a time: what was taken out nothing can pass any more.
        """
        if self.is_slow:
            max_bytes = min(max_bytes, SLOW_RECORD_BYTES)
        parts: list[bytes] = []
        size = 0
        while self._outbound:
            size += len(self._outbound[0])
            parts.append(self._outbound.popleft())
        if self.state is State.OPEN:
            self._flush_answers()
        if self._handshake is None and self.handshake_hash:
            while size < max_bytes:
                record = self._writer.pull_record(urgent_only=urgent_only)
                if record is None:
                    break
                data = self._encrypt.encrypt(record)
                parts += (len(data).to_bytes(_LENGTH_BYTES, "big"), data)
                size += len(data) + _LENGTH_BYTES
        return b"".join(parts)

    def _flush_answers(self) -> None:
        if self._pong_due:
            self._push(CONTROL_LANE, bytes([_T.PONG]))
            self._pong_due = False
        if self._acks:
            for message in m.encode_acks(durable=self.hello.durable, numbers=self._acks):
                self._push(CONTROL_LANE, message)
            self._acks = array("I")
        if self._refused:
            refusals = list(zip(self._refused, self._refusals, strict=True))
            for message in m.encode_refusals(refusals, price=self._refusal_price):
                self._push(CONTROL_LANE, message)
            self._refused, self._refusals = array("I"), []

    def _push(self, lane: int, message: bytes) -> None:
        self.frames_out += 1
        self._writer.push(lane, message)

    # -- what a client says -----------------------------------------------

    def put(self, envelope: bytes) -> int:
        """Send an envelope to be stored; return its put number."""
        number = self._puts_sent
        self._puts_sent += 1
        self._push(m.lane_of(len(envelope)), m.encode_put(number, envelope))
        return number

    def subscribe(self, subscription: m.Subscribe) -> None:
        """Ask for a bucket prefix; replaces the subscription before."""
        self._push(CONTROL_LANE, subscription.encode())

    def fetch(self, identities: Sequence[bytes]) -> None:
        """Ask for bodies by identity."""
        for message in m.encode_ids(_T.FETCH, identities):
            self._push(CONTROL_LANE, message)

    # -- what a relay says ------------------------------------------------

    def acknowledge(self, numbers: Iterable[int]) -> None:
        """Say that puts are committed; sent with the next bytes pulled."""
        self._acks.extend(numbers)

    def refuse(self, number: int, reason: m.Refusal, *, price: int) -> None:
        """Say that a put was not taken."""
        self._refused.append(number)
        self._refusals.append(reason)
        self._refusal_price = price

    def send_envelopes(self, envelopes: Sequence[bytes]) -> None:
        """Send bodies that were subscribed to or fetched."""
        self.frames_out += len(envelopes)
        for size, group in groupby(envelopes, len):
            if size < FAST_FRAGMENT_BYTES and not self.is_slow:
                self._writer.push_whole(_ENVELOPE_START, list(group))
            else:
                for envelope in group:
                    self._writer.push(m.lane_of(size), _ENVELOPE_START + envelope)

    @property
    def has_urgent(self) -> bool:
        """Whether handshake or control lane have something to send."""
        return bool(self._outbound or self.unanswered_bytes) or not self._writer.is_idle(CONTROL_LANE)

    @property
    def is_slow(self) -> bool:
        """Whether either side says that the link is slow."""
        return self.hello.slow or (self.peer is not None and self.peer.slow)

    def is_lane_idle(self, lane: int) -> bool:
        """Whether nothing waits on a lane, so that a message on it would share the link at once."""
        return self._writer.is_idle(lane)

    def send_missing(self, identities: Sequence[bytes]) -> None:
        """Say that these are not held."""
        for message in m.encode_ids(_T.MISSING, identities):
            self._push(CONTROL_LANE, message)

    def offer(self, offers: Sequence[m.Offer]) -> None:
        """Offer envelopes."""
        for message in m.encode_offers(offers):
            self._push(m.OFFER_LANE, message)

    def credit(self, count: int) -> None:
        """Say that ``count`` of the peer's offers are settled."""
        self._push(CONTROL_LANE, bytes([_T.CREDIT]) + count.to_bytes(2, "big"))

    def caught_up(self) -> None:
        """Say that a subscription has delivered all there was."""
        self._push(m.OFFER_LANE, bytes([_T.CAUGHT_UP]))

    def reconcile(self, body: bytes) -> None:
        """Send a message of the reconciliation."""
        self._push(m.RECONCILE_LANE, bytes([_T.RECONCILE]) + body)

    def announce_price(self, price: int) -> None:
        """Say what price is asked from now on."""
        self._push(CONTROL_LANE, bytes([_T.PRICE, price]))

    def tell_news(self, value: bytes) -> None:
        """Say by which value our advertisement is recognised from now on."""
        self._push(CONTROL_LANE, bytes([_T.NEWS]) + value)

    def send_live(self, message: bytes) -> None:
        """Send a live datagram, encoded with its hops."""
        self._push(LIVE_LANE, message)

    def send_update(self, body: bytes) -> None:
        """Say something of newer software, behind all messages."""
        self._push(LIVE_LANE, bytes([_T.UPDATE]) + body)

    def send_same(self, other_link_secrets: Iterable[bytes]) -> None:
        """Show which of our other sessions this peer shares; see :meth:`same_mac`.

        Sorted and filled up with random ones, so that their order says nothing of our
        neighbours, and their number only the next multiple of 8.
        """
        macs = [self.same_mac(secret) for secret in other_link_secrets][: m.MAX_SAME_MACS]
        while len(macs) % _SAME_MULTIPLE or not macs:
            macs.append(self._random_bytes(m.SAME_MAC_BYTES))
        self._push(CONTROL_LANE, bytes([_T.SAME]) + b"".join(sorted(macs)))

    def same_mac(self, other_link_secret: bytes) -> bytes:
        """Return the MAC by which both ends of another session recognise each other here."""
        return hmac.digest(other_link_secret, self.handshake_hash, "sha256")[: m.SAME_MAC_BYTES]

    def reconcile_key(self, count: int) -> bytes:
        """Return the 16-byte key of the reconciliation before which this session had ``count`` others."""
        return hmac.digest(self._reconcile_secret, count.to_bytes(4), "sha256")[:RECONCILE_KEY_BYTES]

    # -- end and time -----------------------------------------------------

    def close(self, goodbye: Goodbye, reason: Reason) -> list[Event]:
        """End the session from this side; pull the last bytes afterwards."""
        if self.state is not State.CLOSED:
            self._fail(reason, goodbye)
        return self._take_events()

    def _fail(self, reason: Reason, goodbye: Goodbye | None) -> None:
        if goodbye is not None and self.handshake_hash:
            if self.state is State.OPEN:
                self._flush_answers()
            self._writer.push(CONTROL_LANE, bytes([_T.GOODBYE, goodbye]))
        self._close(reason, None)

    def _close(self, reason: Reason, goodbye: Goodbye | None) -> None:
        self.state = State.CLOSED
        self._inbound, self._done_bytes, self._reader = bytearray(), 0, FrameReader()
        self._events.append(Closed(reason, goodbye))

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timer` is due, in monotonic seconds; None once closed."""
        if self.state is State.CLOSED:
            return None
        if self.state is not State.OPEN:
            return self._opened_by
        return self._last_received + (DEAD_AFTER_S if self._pinged else PING_AFTER_S)

    def probe(self, now: float) -> None:
        """Find out soon whether the peer is still there."""
        if self.state is State.OPEN:
            self._pinged = True
            self._last_received = min(self._last_received, now + PROBE_TIMEOUT_S - DEAD_AFTER_S)
            self._push(CONTROL_LANE, bytes([_T.PING]))

    def was_silent_since(self, since: float) -> bool:
        """Whether nothing came from the peer since then (monotonic seconds)."""
        return self._last_received < since

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due: ask a silent peer, or give it up."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self.state is not State.OPEN:
            self._fail(HandshakeFailure.TIMEOUT, Goodbye.TIMEOUT)
        elif self._pinged:
            self._fail(SessionError.TIMEOUT_IDLE, Goodbye.TIMEOUT)
        else:
            self._pinged = True
            self._push(CONTROL_LANE, bytes([_T.PING]))
        return self._take_events()


_HANDSHAKE_FAILURES: Final = {
    "truncated": HandshakeFailure.TRUNCATED,
    "too_long": HandshakeFailure.OVERSIZED,
    "low_order_key": HandshakeFailure.LOW_ORDER_KEY,
    "decrypt": HandshakeFailure.DECRYPT,
}


def _with_length(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data
