# SPDX-License-Identifier: GPL-2.0-or-later
"""Two relays find out which entries only one of them has admitted.

docs/protocol.md section 8. The initiator sends a root; if it differs
the responder answers with a fingerprint for each hour, the initiator with
which hours differ and a first batch of rateless symbols over those (riblt.py),
and the responder asks for more until it can decode, or until a list of short
IDs is cheaper. What a peer says only ever adds to what is offered to it:
nothing is forgotten or deleted on its word.
"""

from __future__ import annotations

import enum
from array import array
from typing import TYPE_CHECKING, ClassVar

from relay.core.codec import Reader, Writer
from relay.core.errors import DecodeError
from relay.core.reconcile_set import SCALAR_ENTRIES, Admitted, AdmittedColumns, Entries, Scope, make_entries
from relay.core.reconcile_wire import (
    MAX_FINGERPRINTS_BYTES,
    MAX_FIRST_SYMBOLS,
    MAX_HOURS,
    MAX_NUMBER_BYTES,
    MAX_RECONCILE_MESSAGE,
    MIN_MORE_SYMBOLS,
    MORE_FRAGMENTS,
    ROOT_BYTES,
    HourStatus,
    Kind,
    ReconcileError,
    ReconcileReason,
    decode_fingerprints,
    decode_hours,
    decode_marks,
    decode_number,
    decode_short_ids,
    encode_fingerprints,
    encode_hours,
    encode_number,
    encode_short_ids,
    fingerprint,
    first_batch,
    fragments,
    list_comes_first,
    max_hours_bytes,
    root,
    symbol_cap,
)
from relay.core.riblt import SHORT_ID_BYTES, SLICE, SYMBOL_BYTES, Decoder, Encoder, Symbols, symbols_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = ["AdmittedColumns", "ReconcileError", "ReconcileReason", "Reconciler", "Scope"]

KEY_BYTES = 16
#: What a responder asks for at least: enough for 100 differences in three hours.
USUAL_MORE_SYMBOLS = 160
#: An estimate of this many times the symbols at hand is no accident, which a smaller
#: one may be; up to there the next batch is not left to the estimate alone.
FAR = 4


class State(enum.Enum):
    """Where a side is; the table at the end says what it accepts there."""

    START = "start"
    SENT_ROOT = "sent root"
    SENT_SYMBOLS = "sent symbols"
    SENT_FINGERPRINTS = "sent fingerprints"
    WAIT_FIRST = "wait for first symbols"
    WAIT_MORE = "wait for more symbols"
    WAIT_LIST = "wait for list"
    SENT_LIST = "sent list"
    DONE = "done"
    FAILED = "failed"


class Reconciler:
    """One reconciliation, either side, without I/O.

    ``key``: 16 bytes that only the two sides know, fresh for each
    reconciliation. Feed messages to `receive`, call `step` until it returns
    False (each call is a bounded slice of work), and send what
    `messages_to_send` gives. When ``done``, ``to_offer`` holds the ``seq`` of
    own entries that the peer lacks, in no order. `receive` and `step` raise
    DecodeError or ReconcileError on what a peer must not send; the object is
    then of no further use, and nothing but this reconciliation is lost.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        key: bytes,
        columns: Admitted,
        scope: Scope,
        scalar_entries: int = SCALAR_ENTRIES,
    ) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key of {len(key)} bytes, expected {KEY_BYTES}")
        self.to_offer: array[int] | None = None
        self.used_list = False
        self._initiator = initiator
        self._key = key
        self._scope = scope
        self._scalar_entries = scalar_entries
        self._entries: Entries | None = make_entries(columns, scope, key, scalar_entries=scalar_entries)
        self._state = State.START
        self._work: Iterator[None] | None = None
        self._outbox: list[bytes] = []
        self._partial = bytearray()
        self._partial_kind: Kind | None = None
        # Offered whatever the decoding brings: hours of which the peer has nothing.
        self._offered: array[int] = array("Q")
        # Entries in hours that differ; ours and, as far as it says so, the peer's.
        self._kept = self._peer_kept = 0
        self._sent_list: array[int] = array("Q")
        self._encoder: Encoder | None = None
        # The responder's alone: the initiator's entries in scope; hours listed, of
        # which only those that differ are left later; those of which the initiator
        # has nothing; symbols asked for.
        self._peer_count = 0
        self._hours: list[int] = []
        self._empty: list[int] = []
        self._asked = 0
        self._theirs = Symbols()
        self._decoder = Decoder()

    @property
    def done(self) -> bool:
        """Whether ``to_offer`` is known and nothing more will be sent or accepted."""
        return self._state is State.DONE

    def start(self) -> None:
        """Begin as initiator; a responder begins with the initiator's first message."""
        if not self._initiator or self._state is not State.START or self._work:
            raise ValueError("only an initiator starts, and once")
        self._work = self._send_root()

    @property
    def is_resting(self) -> bool:
        """Whether :meth:`rest` was called and :meth:`resume` was not yet."""
        return self._entries is None and not self.done

    @property
    def is_awake(self) -> bool:
        """Whether there is work for which a resting initiator needs its entries again."""
        return self._work is not None

    def rest(self) -> bool:
        """Let an initiator keep nothing of size while it waits for the first answer; False elsewhere."""
        if self._state is not State.SENT_ROOT or self._work:
            return False
        self._entries = None
        return True

    def resume(self, columns: Admitted) -> None:
        """Go on with another snapshot: what the answer is compared with need not be what the root told."""
        self._entries = make_entries(columns, self._scope, self._key, scalar_entries=self._scalar_entries)
        self._work = self._resumed(self._entries, self._work)

    @staticmethod
    def _resumed(entries: Entries, work: Iterator[None] | None) -> Iterator[None]:
        yield from entries.scan()
        if work is not None:
            yield from work

    def messages_to_send(self) -> list[bytes]:
        """Return what has to go out since the last call, each at most MAX_RECONCILE_MESSAGE bytes."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def step(self) -> bool:
        """Do one bounded slice of pending work; return whether more remains."""
        if self._work is None:
            return False
        try:
            next(self._work)
        except StopIteration:
            self._work = None
            self._free_if_done()
            return False
        except (DecodeError, ReconcileError):
            self._fail()
            raise
        return True

    def receive(self, message: bytes) -> None:
        """Take one message of the peer; see the class for errors."""
        try:
            self._receive(message)
        except (DecodeError, ReconcileError):
            self._fail()
            raise

    def _receive(self, message: bytes) -> None:
        if len(message) > MAX_RECONCILE_MESSAGE:
            raise ReconcileError(ReconcileReason.TOO_LONG, "message")
        number = Reader(message).u8()
        more, number = number & MORE_FRAGMENTS, number & ~MORE_FRAGMENTS
        if number not in Kind._value2member_map_:
            raise DecodeError("unknown kind of message")
        kind = Kind(number)
        handler = self._TABLE.get((self._initiator, self._state, kind))
        if handler is None or self._work or self._partial_kind not in {None, kind}:
            raise ReconcileError(ReconcileReason.UNEXPECTED_MESSAGE, f"{kind.name} in state {self._state.value}")
        if len(self._partial) + len(message) - 1 > self._max_body(kind):
            raise ReconcileError(ReconcileReason.TOO_LONG, kind.name)
        self._partial += memoryview(message)[1:]
        if more:
            # Were short ones allowed, a message of empty fragments would never end.
            if len(message) != MAX_RECONCILE_MESSAGE:
                raise DecodeError("short fragment")
            self._partial_kind = kind
            return
        body, self._partial, self._partial_kind = bytes(self._partial), bytearray(), None
        self._work = handler(self, body)
        self._free_if_done()

    def _max_body(self, kind: Kind) -> int:
        """Bytes of body that a message may have here, so that nothing larger is ever kept."""
        match kind:
            case Kind.ROOT:
                return ROOT_BYTES + MAX_NUMBER_BYTES
            case Kind.FINGERPRINTS:
                return MAX_FINGERPRINTS_BYTES
            case Kind.HOURS:
                return max_hours_bytes(len(self._hours))
            case Kind.SYMBOLS:
                return SYMBOL_BYTES * (self._asked or min(MAX_FIRST_SYMBOLS, symbol_cap(self._peer_kept)))
            case Kind.MORE:
                return MAX_NUMBER_BYTES
            case Kind.WANTS:
                return SHORT_ID_BYTES * self._sent_symbols
            case Kind.LIST if self._initiator:
                # A responder sends its list only when it is the shorter one.
                return SHORT_ID_BYTES * (self._kept - 1)
            case Kind.LIST if self._state is State.WAIT_LIST or list_comes_first(self._peer_kept):
                # Asked for only when no longer than our own; unasked no longer than symbols.
                return SHORT_ID_BYTES * self._peer_kept
            case Kind.MARKS:
                return (len(self._sent_list) + 7) // 8
            case _:
                return 0

    @property
    def _own(self) -> Entries:
        if self._entries is None:
            raise AssertionError("entries are freed only when no work is left")
        return self._entries

    @property
    def _sent_symbols(self) -> int:
        return len(self._encoder.symbols) if self._encoder else 0

    def _send(self, kind: Kind, body: bytes | bytearray = b"") -> None:
        self._outbox += fragments(kind, bytes(body))

    def _finish(self, chosen: Collection[int] = ()) -> None:
        self._offered.extend(chosen)
        self.to_offer = self._offered
        self._state = State.DONE

    def _fail(self) -> None:
        self._state, self._work = State.FAILED, None
        self._outbox.clear()
        self._free()

    def _free_if_done(self) -> None:
        if self.done:
            self._free()

    def _free(self) -> None:
        self._entries = self._encoder = None
        self._sent_list, self._offered, self._partial = array("Q"), array("Q"), bytearray()
        self._theirs, self._decoder, self._hours, self._empty = Symbols(), Decoder(), [], []

    # Initiator: root, hours, symbols

    def _send_root(self) -> Iterator[None]:
        yield from self._own.scan()
        hours = self._own.hours
        count = sum(number for _, number in hours.values())
        self._send(Kind.ROOT, bytes(Writer().bytes(root(self._key, hours)).varint(count)))
        self._state = State.SENT_ROOT

    def _on_complete(self, _body: bytes) -> None:
        self._finish()

    def _on_fingerprints(self, body: bytes) -> Iterator[None]:
        peer_count, prints = decode_fingerprints(body, self._scope.first_hour, self._scope.last_hour)
        return self._send_hours(peer_count, prints)

    def _send_hours(self, peer_count: int, prints: dict[int, bytes]) -> Iterator[None]:
        own = self._own
        statuses = {hour: self._compare(hour, theirs) for hour, theirs in prints.items()}
        differ = {hour for hour, status in statuses.items() if status is HourStatus.DIFFERS}
        self._kept = sum(own.hours[hour][1] for hour in differ)
        self._send(Kind.HOURS, encode_hours(self._kept, list(statuses.values())))
        self._offered = yield from own.in_hours(own.hours.keys() - prints.keys())
        if not differ:
            self._finish()
            return
        yield
        # More entries mean different entries, unless they lie in hours that we have nothing of.
        surplus = sum(own.hours[hour][1] for hour in prints if hour in own.hours) - peer_count
        surplus = max(surplus, 0) if HourStatus.EMPTY in statuses.values() else abs(surplus)
        batch = first_batch(len(differ), surplus, peer_count)
        own.keep(differ)
        if batch >= symbol_cap(self._kept):
            yield from self._send_list()
        else:
            self._encoder = own.encoder()
            yield from self._send_symbols(self._encoder, batch)

    def _compare(self, hour: int, theirs: bytes) -> HourStatus:
        own = self._own.hours.get(hour)
        if own is None:
            return HourStatus.EMPTY
        return HourStatus.EQUAL if fingerprint(own[0]) == theirs else HourStatus.DIFFERS

    def _send_symbols(self, encoder: Encoder, batch: int) -> Iterator[None]:
        begin = len(encoder.symbols)
        end = begin + batch
        yield from encoder.extend(end)
        body = bytearray()
        for start in range(begin, end, SLICE):
            body += encoder.symbols.encode(start, min(start + SLICE, end))
            yield
        self._send(Kind.SYMBOLS, body)
        self._state = State.SENT_SYMBOLS

    def _on_more(self, body: bytes) -> Iterator[None]:
        batch, sent = decode_number(body), self._sent_symbols
        # Growth by a quarter each time bounds the round trips, the cap the bytes.
        if batch < max(MIN_MORE_SYMBOLS, sent // 4) or sent + batch > symbol_cap(self._kept) or not self._encoder:
            raise ReconcileError(ReconcileReason.BAD_COUNT, "symbols asked for")
        return self._send_symbols(self._encoder, batch)

    def _on_wants(self, body: bytes) -> Iterator[None]:
        wanted = array("Q")
        yield from decode_short_ids(body, wanted)
        if len(set(wanted)) < len(wanted):
            raise DecodeError("short ID wanted twice")
        chosen = yield from self._own.select(wanted)
        if len(chosen) < len(wanted):
            raise ReconcileError(ReconcileReason.UNKNOWN_ID, "wanted")
        self._finish(chosen)

    # Both sides: the list

    def _send_list(self) -> Iterator[None]:
        self._sent_list = yield from self._own.listing()
        body = bytearray()
        yield from encode_short_ids(self._sent_list, body)
        self._send(Kind.LIST, body)
        self._state, self.used_list = State.SENT_LIST, True

    def _on_list_please(self, _body: bytes) -> Iterator[None]:
        return self._send_list()

    def _on_list(self, body: bytes) -> Iterator[None]:
        if not self._initiator and len(body) != self._peer_kept * SHORT_ID_BYTES:
            raise ReconcileError(ReconcileReason.BAD_COUNT, "list")
        return self._answer_list(body)

    def _answer_list(self, body: bytes) -> Iterator[None]:
        theirs, own = array("Q"), self._own
        yield from decode_short_ids(body, theirs)
        if not self._initiator:
            yield from self._keep_those_that_differ()
        marks = yield from own.missing(theirs)
        self._finish((yield from own.select(theirs, others=True)))
        self.used_list = True
        self._send(Kind.MARKS, marks)

    def _on_marks(self, body: bytes) -> Iterator[None]:
        marked = decode_marks(body, self._sent_list)
        self._finish((yield from self._own.select(marked)))

    # Responder: fingerprints, decoding

    def _on_root(self, body: bytes) -> Iterator[None]:
        reader = Reader(body)
        theirs, self._peer_count = reader.bytes(ROOT_BYTES), reader.varint()
        reader.end()
        return self._answer_root(theirs)

    def _answer_root(self, theirs: bytes) -> Iterator[None]:
        own = self._own
        yield from own.scan()
        if not self._peer_count or root(self._key, own.hours) == theirs:
            self._finish(() if self._peer_count else (yield from own.in_hours(own.hours)))
            self._send(Kind.COMPLETE)
            return
        hours = sorted(own.hours)
        self._hours = hours[-MAX_HOURS:]
        self._offered = yield from own.in_hours(hours[:-MAX_HOURS])
        self._send(Kind.FINGERPRINTS, encode_fingerprints(self._hours, own.hours, self._scope.first_hour))
        self._state = State.SENT_FINGERPRINTS

    def _on_hours(self, body: bytes) -> Iterator[None] | None:
        self._peer_kept, statuses = decode_hours(body, len(self._hours))
        differ = [hour for hour, status in zip(self._hours, statuses, strict=True) if status is HourStatus.DIFFERS]
        if self._peer_kept < len(differ) or bool(self._peer_kept) != bool(differ):
            raise ReconcileError(ReconcileReason.BAD_COUNT, "entries in hours that differ")
        own = self._own
        self._empty = [hour for hour, status in zip(self._hours, statuses, strict=True) if status is HourStatus.EMPTY]
        self._hours = differ
        self._kept = sum(own.hours[hour][1] for hour in differ)
        self._state = State.WAIT_FIRST
        # With symbols or a list on their way, what follows from this waits for them.
        return None if differ else self._finish_without()

    def _finish_without(self) -> Iterator[None]:
        yield from self._keep_those_that_differ()
        self._finish()

    def _keep_those_that_differ(self) -> Iterator[None]:
        """Offer what the peer has nothing of the hour of; look no further than at the hours that differ."""
        empty, self._empty = self._empty, []
        self._offered.extend((yield from self._own.in_hours(empty)))
        self._own.keep(set(self._hours))

    def _on_symbols(self, body: bytes) -> Iterator[None]:
        if not body or (self._asked and len(body) != self._asked * SYMBOL_BYTES):
            raise ReconcileError(ReconcileReason.BAD_COUNT, "symbols")
        return self._decode(body)

    def _decode(self, body: bytes) -> Iterator[None]:
        own, decoder = self._own, self._decoder
        for start in range(0, len(body), SLICE * SYMBOL_BYTES):
            self._theirs.decode(body[start : start + SLICE * SYMBOL_BYTES])
            yield
        if self._encoder is None:
            yield from self._keep_those_that_differ()
            self._encoder = own.encoder()
        yield from self._encoder.extend(len(self._theirs))
        yield from decoder.add(self._theirs, self._encoder.symbols)
        yield from decoder.peel()
        if decoder.complete:
            ours, theirs = array("Q", sorted(decoder.ours)), array("Q", sorted(decoder.theirs))
            yield
            chosen = yield from own.select(ours)
            # What cancelled and yet contradicts our own set came from a false match.
            if len(chosen) >= len(ours) and not (yield from own.select(theirs)):
                wants = bytearray()
                yield from encode_short_ids(theirs, wants)
                self._finish(chosen)
                self._send(Kind.WANTS, wants)
                return
            decoder.broken = True
        yield from self._ask()

    def _ask(self) -> Iterator[None]:
        """Ask for more symbols or, once it is cheaper, turn to the shorter list."""
        have = len(self._theirs)
        more = self._wanted() - have
        listed = min(self._kept, self._peer_kept)
        affordable = have + more <= symbol_cap(self._peer_kept) and more * SYMBOL_BYTES < listed * SHORT_ID_BYTES
        if affordable and not self._decoder.broken:
            self._asked = more
            self._send(Kind.MORE, encode_number(more))
            self._state = State.WAIT_MORE
        elif self._kept < self._peer_kept:
            yield from self._send_list()
        else:
            self._send(Kind.LIST_PLEASE)
            self._state = State.WAIT_LIST

    def _wanted(self) -> int:
        """Symbols in all that should decode, from what those at hand tell of the difference."""
        have = len(self._theirs)
        differences = self._decoder.estimate(self._peer_kept - self._kept)
        wanted = symbols_for(differences)
        if differences > FAR * have:
            # Few symbols tell little of many differences; another round trip costs more than a quarter.
            wanted = symbols_for(differences + differences // 4)
        else:
            wanted = min(wanted, FAR * have + have // 4)
        return max(wanted, have + USUAL_MORE_SYMBOLS, have + have // 4)

    #: (initiator, state, kind) to what follows; whatever is absent is an error.
    _TABLE: ClassVar[dict[tuple[bool, State, Kind], Callable[[Reconciler, bytes], Iterator[None] | None]]] = {
        (True, State.SENT_ROOT, Kind.COMPLETE): _on_complete,
        (True, State.SENT_ROOT, Kind.FINGERPRINTS): _on_fingerprints,
        (True, State.SENT_SYMBOLS, Kind.MORE): _on_more,
        (True, State.SENT_SYMBOLS, Kind.WANTS): _on_wants,
        (True, State.SENT_SYMBOLS, Kind.LIST_PLEASE): _on_list_please,
        (True, State.SENT_SYMBOLS, Kind.LIST): _on_list,
        (True, State.SENT_LIST, Kind.MARKS): _on_marks,
        (False, State.START, Kind.ROOT): _on_root,
        (False, State.SENT_FINGERPRINTS, Kind.HOURS): _on_hours,
        (False, State.WAIT_FIRST, Kind.SYMBOLS): _on_symbols,
        (False, State.WAIT_FIRST, Kind.LIST): _on_list,
        (False, State.WAIT_MORE, Kind.SYMBOLS): _on_symbols,
        (False, State.WAIT_LIST, Kind.LIST): _on_list,
        (False, State.SENT_LIST, Kind.MARKS): _on_marks,
    }
