# SPDX-License-Identifier: GPL-2.0-or-later
"""No peer can make a reconciliation hang, swell, end wrong or forget; any bytes are a value or an error."""

import itertools
from array import array
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.codec import Reader, Writer
from relay.core.errors import DecodeError
from relay.core.reconcile import ReconcileError, Reconciler, ReconcileReason
from relay.core.reconcile_set import ScalarEntries
from relay.core.reconcile_wire import MAX_RECONCILE_MESSAGE, MORE_FRAGMENTS, Kind, symbol_cap
from relay.core.riblt import SHORT_ID_BYTES, SLICE, SYMBOL_BYTES, ScalarEncoder, Symbols, indices, mix
from tests.property.reconciling import (
    HOUR,
    KEY,
    SCENARIOS,
    WHOLE,
    columns,
    entries,
    initiator,
    offers,
    replayed,
    responder,
    result,
    seqs,
    tell,
    transcript,
)

LONG = "long lists"
SHORT_SCENARIOS = [name for name in SCENARIOS if name != LONG]

EXPECTED = {
    # As docs/protocol.md says; (initiator, state) to what may come.
    (True, "start"): set(),
    (True, "sent root"): {Kind.COMPLETE, Kind.FINGERPRINTS},
    (True, "sent symbols"): {Kind.MORE, Kind.WANTS, Kind.LIST_PLEASE, Kind.LIST},
    (True, "sent list"): {Kind.MARKS},
    (True, "done"): set(),
    (True, "failed"): set(),
    (False, "start"): {Kind.ROOT},
    (False, "sent fingerprints"): {Kind.HOURS},
    (False, "wait for first symbols"): {Kind.SYMBOLS, Kind.LIST},
    (False, "wait for more symbols"): {Kind.SYMBOLS},
    (False, "wait for list"): {Kind.LIST},
    (False, "sent list"): {Kind.MARKS},
    (False, "done"): set(),
    (False, "failed"): set(),
}


@cache
def places():
    """(role, state) to one (role, scenario, steps) that leads there."""
    found = {}
    for role, name in itertools.product((True, False), SHORT_SCENARIOS):
        for steps in range(sum(sender is not role for sender, _ in transcript(name)) + 1):
            side, _ = replayed(role, name, steps)
            found.setdefault((role, side._state.value), (role, name, steps))
    return found


def in_state(role, state):
    if state == "failed":
        side = (initiator if role else responder)(entries(range(5)))
        with pytest.raises(ReconcileError):
            side.receive(bytes([Kind.MARKS]))
        return side
    if (role, state) == (True, "start"):
        return Reconciler(initiator=True, key=KEY, columns=columns(entries(range(5))), scope=WHOLE)
    return replayed(*places()[role, state])[0]


def test_the_scenarios_reach_every_state():
    assert places().keys() | {(True, "start"), (True, "failed"), (False, "failed")} == EXPECTED.keys()


@pytest.mark.parametrize(("role", "state"), EXPECTED)
@pytest.mark.parametrize("kind", Kind)
def test_each_state_takes_only_what_the_table_says(role, state, kind):
    genuine = {message for name in SHORT_SCENARIOS for _, message in transcript(name) if message[0] == kind}
    for message in {bytes([kind]), *genuine}:
        side = in_state(role, state)
        if kind in EXPECTED[role, state]:
            try:
                tell(side, message)
            except DecodeError:
                pass
            except ReconcileError as error:
                assert error.reason is not ReconcileReason.UNEXPECTED_MESSAGE  # noqa: PT017 - it may also be right
        else:
            with pytest.raises(ReconcileError) as caught:
                side.receive(message)
            assert caught.value.reason is ReconcileReason.UNEXPECTED_MESSAGE
            assert not side.messages_to_send()
            assert not side.step()


@pytest.mark.parametrize(("role", "state"), EXPECTED)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_garbage_in_any_state_is_an_error_or_a_value_and_ends(role, state, data):
    kinds = sorted(EXPECTED[role, state]) or list(Kind)
    first = data.draw(st.sampled_from([*kinds, *(kind | MORE_FRAGMENTS for kind in kinds), 0, 11, 255]))
    body = data.draw(st.binary(max_size=400) | st.binary(max_size=6).map(lambda b: b * 80))
    side = in_state(role, state)
    try:
        assert tell(side, bytes([first]) + body) < 100
    except (DecodeError, ReconcileError):
        assert not side.done
        assert not side.messages_to_send()
        with pytest.raises((DecodeError, ReconcileError)):
            side.receive(bytes([first]) + body)


@pytest.mark.parametrize("role", [True, False])
@pytest.mark.parametrize("name", SHORT_SCENARIOS)
def test_each_message_cut_anywhere_flipped_anywhere_or_told_twice_harms_nothing_else(role, name):
    source = Random(name)
    steps = 0
    while rest := replayed(role, name, steps)[1]:
        message = rest[0]
        places_hit = [source.sample(range(len(message)), min(len(message), 12)) for _ in range(2)]
        variants = [message[:at] for at in places_hit[0]]
        variants += [
            message[:at] + bytes([message[at] ^ 1 << source.randrange(8)]) + message[at + 1 :] for at in places_hit[1]
        ]
        for variant in [*variants, message + b"\0"]:
            side, _ = replayed(role, name, steps)
            with suppress(DecodeError, ReconcileError):
                tell(side, variant)
        side, _ = replayed(role, name, steps)
        tell(side, message)
        # To ask for more twice is to ask for more, within the cap.
        if message[0] != Kind.MORE:
            with pytest.raises(ReconcileError):
                tell(side, message)
        steps += 1


def test_an_empty_or_oversized_message_is_an_error():
    with pytest.raises(DecodeError):
        responder([]).receive(b"")
    with pytest.raises(ReconcileError) as caught:
        responder([]).receive(bytes([Kind.ROOT]) + bytes(MAX_RECONCILE_MESSAGE))
    assert caught.value.reason is ReconcileReason.TOO_LONG


def test_a_message_while_the_answer_is_still_being_worked_out_is_out_of_turn():
    b = responder(entries(range(3 * SLICE)))
    message = initiator(entries(range(10))).messages_to_send()[0]
    b.receive(message)
    assert b.step()
    with pytest.raises(ReconcileError) as caught:
        b.receive(message)
    assert caught.value.reason is ReconcileReason.UNEXPECTED_MESSAGE


def test_only_an_initiator_starts_and_once():
    with pytest.raises(ValueError, match="once"):
        responder([]).start()
    with pytest.raises(ValueError, match="once"):
        initiator([]).start()


def waiting_for_symbols(peer_rows, own_rows):
    """A responder that waits for symbols over one hour, and what the initiator told it."""
    a, b = initiator(peer_rows), responder(own_rows)
    tell(b, a.messages_to_send()[0])
    tell(a, b.messages_to_send()[0])
    hours, symbols = a.messages_to_send()
    tell(b, hours)
    return a, b, symbols


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_symbols_damaged_on_purpose_at_most_cost_the_list(data):
    """Whatever stands in the symbols, the answer is right in the end, or there is none."""
    left, right = entries(range(1000)), entries(range(20, 1020))
    a, b, symbols = waiting_for_symbols(left, right)
    source = data.draw(st.randoms(use_true_random=False))
    body = bytearray(symbols[1:])
    for _ in range(data.draw(st.integers(1, 30))):
        body[source.randrange(len(body))] = source.randrange(256)
    tell(b, symbols[:1] + bytes(body))
    try:
        for _ in range(8):
            for message in b.messages_to_send():
                tell(a, message)
            for message in a.messages_to_send():
                tell(b, message)
    except ReconcileError as error:
        assert error.reason is ReconcileReason.UNKNOWN_ID  # noqa: PT017 - it may also go well
        return
    assert offers(b) == seqs(right) - seqs(left)


def bombs(count):
    """Symbol bodies of ``count`` symbols that show ever new or ever the same single entries."""
    source = Random(9)

    def pure(short_id, sign):
        return short_id.to_bytes(6, "big") + (mix(short_id) >> 40).to_bytes(3, "big") + bytes([sign])

    own = ScalarEncoder(array("Q", [5]))
    list(own.extend(count))
    return [
        b"".join(pure(7, 1) for _ in range(count)),
        b"".join(pure(7, 1 if i % 2 else 255) for i in range(count)),
        b"".join(pure(source.getrandbits(48), 1) for _ in range(count)),
        source.randbytes(SYMBOL_BYTES * count),
        bytes(SYMBOL_BYTES * count),
        b"\xff" * SYMBOL_BYTES * count,
        own.symbols.encode(0, count),
    ]


def altered(symbols, short_id, sign):
    """A first batch to which an entry was added, or from which one was taken that was not in it."""
    row = Symbols()
    row.decode(symbols[1:])
    for i in indices(short_id, len(row)):
        row.ids[i] ^= short_id
        row.checks[i] ^= mix(short_id) >> 40
        row.counts[i] = (row.counts[i] + sign) % 256
    return symbols[:1] + row.encode(0, len(row))


def test_symbols_that_decode_to_what_cannot_be_are_not_believed():
    """Only the initiator has what we have too; only we have what we do not have."""
    rows = entries(range(1000))
    common = ScalarEntries(columns(rows), WHOLE, KEY)
    list(common.scan())
    common.keep({HOUR})
    for short_id, sign in ((result(common.listing())[7], 1), (12345, -1)):
        _, b, symbols = waiting_for_symbols(rows, rows[5:])
        tell(b, altered(symbols, short_id, sign))
        assert b.messages_to_send()[0][0] == Kind.LIST
    _, b, symbols = waiting_for_symbols(rows, rows[5:])
    tell(b, symbols)
    assert b.messages_to_send()[0][0] == Kind.WANTS


def test_a_list_that_does_not_ascend_is_refused():
    side, rest = replayed(False, "list at once", 2)
    message = rest[0]
    assert message[0] == Kind.LIST
    with pytest.raises(DecodeError):
        tell(side, message[:1] + message[7:13] + message[1:7] + message[13:])


@pytest.mark.parametrize("number", range(7))
def test_symbol_bombs_without_end_lead_to_the_list(number):
    """However long a peer keeps sending such symbols, the other side stops asking, within its own list's cost."""
    rows = entries(range(400))
    a, b, symbols = waiting_for_symbols(entries(range(350, 1350)), rows)
    sent = (len(symbols) - 1) // SYMBOL_BYTES
    asked = sent
    for _ in range(30):
        slices = tell(b, bytes([Kind.SYMBOLS]) + bombs(asked)[number])
        assert slices < 50
        answer = b.messages_to_send()
        if answer[0][0] != Kind.MORE:
            break
        asked = Reader(answer[0][1:]).varint()
        sent += asked
    assert answer[0][0] == Kind.LIST
    assert (len(answer[0]) - 1) == 400 * SHORT_ID_BYTES
    assert sent <= symbol_cap(1000)
    assert a._state.value == "sent symbols"


@pytest.mark.parametrize("step", [0, 1, 16, 40, 10**6, None])
def test_a_responder_that_asks_for_more_for_ever_is_stopped(step):
    left = entries(range(3000))
    a, _, symbols = waiting_for_symbols(left, entries(range(1000, 4000)))
    sent, rounds = (len(symbols) - 1) // SYMBOL_BYTES, 0

    def ask():
        more = max(16, sent // 4) if step is None else step
        tell(a, bytes(Writer().u8(Kind.MORE).varint(more)))
        return sum(len(message) - 1 for message in a.messages_to_send()) // SYMBOL_BYTES

    reason = None
    while reason is None:
        try:
            sent += ask()
        except ReconcileError as error:
            reason = error.reason
        rounds += 1
    assert reason is ReconcileReason.BAD_COUNT
    assert sent <= symbol_cap(len(left))
    assert rounds <= 25


def flood(side, kind):
    """Fragments without end; return how many bytes were taken before the error, and the reason."""
    taken = 0
    for _ in range(2000):
        try:
            tell(side, bytes([kind | MORE_FRAGMENTS]) + bytes(MAX_RECONCILE_MESSAGE - 1))
        except ReconcileError as error:
            return taken, error.reason
        taken += MAX_RECONCILE_MESSAGE - 1
    return taken, None


@pytest.mark.parametrize("kind", [Kind.SYMBOLS, Kind.LIST])
def test_counts_that_are_lies_make_room_for_nothing(kind):
    b = responder(entries(range(100)))
    tell(b, bytes(Writer().u8(Kind.ROOT).bytes(bytes(16)).varint(2**32 - 1)))
    tell(b, bytes(Writer().u8(Kind.HOURS).varint(2**32 - 1).u8(0b01_00_00_00)))
    taken, reason = flood(b, kind)
    assert reason is ReconcileReason.TOO_LONG
    assert taken <= MAX_RECONCILE_MESSAGE


@pytest.mark.parametrize(("role", "name", "steps"), [(True, "responder lists", 1), (False, LONG, 3)])
def test_a_list_longer_than_ones_own_is_cut_off_before_it_is_kept(role, name, steps):
    side, rest = replayed(role, name, steps)
    assert rest[0][0] & ~MORE_FRAGMENTS == Kind.LIST
    taken, reason = flood(side, Kind.LIST)
    assert reason is ReconcileReason.TOO_LONG
    assert taken <= SHORT_ID_BYTES * len(side_rows(role, name))
    assert not side._partial


def side_rows(role, name):
    left, right, _ = SCENARIOS[name]
    return left if role else right


def test_fragments_that_bring_nothing_are_refused():
    a, _ = replayed(True, "equal", 0)
    with pytest.raises(DecodeError):
        a.receive(bytes([Kind.FINGERPRINTS | MORE_FRAGMENTS]) + bytes(100))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\x05\x01\x00\x00" + bytes(5), "a run of nothing"),
        (b"\x05\x02\x00\x01\x00\x01" + bytes(10), "two runs that touch"),
        (b"\x05\x01\xff\x7f\x01" + bytes(5), "an hour out of scope"),
        (b"\x05\x01\xa7\x01\x02" + bytes(10), "a run that leaves the scope"),
        (b"\x00\x01\x00\x01" + bytes(5), "an hour of no entries"),
        (b"\x05\x00", "entries of no hour"),
        (b"\x05\x01\x00\x01" + bytes(4), "half a fingerprint"),
        (b"\x05\x01\x00\x01" + bytes(6), "one byte more"),
        (b"\x05\xff\xff\xff\xff\x0f", "runs without end"),
    ],
)
def test_fingerprints_that_make_no_sense_are_refused(body, what):
    a = initiator(entries(range(5)))
    with pytest.raises((DecodeError, ReconcileError)):
        tell(a, bytes([Kind.FINGERPRINTS]) + body)
    print(what)


def test_hours_beyond_the_bound_are_refused_without_being_listed():
    a = initiator(entries(range(5)), scope=replace(WHOLE, last_hour=HOUR + 10**9))
    with pytest.raises(ReconcileError) as caught:
        tell(a, bytes([Kind.FINGERPRINTS]) + b"\xff\xff\xff\x7f\x01\x00\xff\xff\xff\x7f")
    assert caught.value.reason is ReconcileReason.BAD_COUNT


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\x00\x40", "a differing hour with no entries"),
        (b"\x05\x00", "entries and no hour that differs"),
        (b"\x05\xc0", "an unknown status"),
        (b"\x05\x41", "padding"),
    ],
)
def test_hours_that_contradict_themselves_are_refused(body, what):
    b = responder(entries(range(3)))
    tell(b, bytes([Kind.ROOT]) + bytes(16) + b"\x0a")
    with pytest.raises((DecodeError, ReconcileError)):
        tell(b, bytes([Kind.HOURS]) + body)
    print(what)


@pytest.mark.parametrize("bad", [b"\0\0\0\0\0\1", None])
def test_a_peer_cannot_ask_for_what_is_not_ours_or_twice(bad):
    a, b, symbols = waiting_for_symbols(entries(range(1000)), entries(range(5, 1005)))
    tell(b, symbols)
    (wants,) = b.messages_to_send()
    assert wants[0] == Kind.WANTS
    with pytest.raises((DecodeError, ReconcileError)):
        tell(a, wants[:1] + (bad or wants[1:7] * 2))


def test_what_a_peer_says_never_removes_anything():
    """The columns are the same afterwards, and an offer is all that a lie brings about."""
    rows = entries(range(300), hours=3)
    snapshot = columns(rows)
    before = sha256(snapshot.ids + snapshot.seq.tobytes()).digest()
    b = Reconciler(initiator=False, key=KEY, columns=snapshot, scope=WHOLE)
    tell(b, bytes([Kind.ROOT]) + bytes(16) + b"\x00")
    assert offers(b) == seqs(rows)
    assert sha256(snapshot.ids + snapshot.seq.tobytes()).digest() == before
