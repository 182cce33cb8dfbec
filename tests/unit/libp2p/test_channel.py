# SPDX-License-Identifier: GPL-2.0-or-later
"""Two channels that meet, byte by byte or all at once; and those that are hung up on."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.errors import DecodeError
from relay.libp2p import yamux
from relay.libp2p.channel import Channel, Established
from relay.libp2p.identity import Identity
from relay.libp2p.multistream import MAX_LINE_BYTES, MAX_PROPOSALS, Answering, Asking, NotSelectedError
from relay.libp2p.wire import delimited, varint


def pair(seed=1, expected=None):
    draw = random.Random(seed)
    ours, theirs = (Identity.generate(draw.randbytes) for _ in range(2))
    return (
        Channel(ours, initiator=True, expected=expected or theirs.peer, random_bytes=draw.randbytes),
        Channel(theirs, initiator=False, expected=None, random_bytes=draw.randbytes),
        ours,
        theirs,
    )


def talk(a, b, size):
    """Have both say all they can; return what each heard."""
    heard = {a: [], b: []}
    for _ in range(50):
        moved = False
        for one, other in ((a, b), (b, a)):
            data = one.data_to_send(1 << 16, [])
            for at in range(0, len(data), size):
                moved = True
                heard[other] += other.receive(data[at : at + size])
        if not moved:
            break
    return heard


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 500), st.binary(min_size=1, max_size=300_000 // 100))
def test_both_know_each_other_and_streams_carry(size, text):
    a, b, ours, theirs = pair()
    heard = talk(a, b, size)
    assert Established(theirs.peer) in heard[a]
    assert Established(ours.peer) in heard[b]
    number = a.mux.open()
    a.mux.write(number, text)
    heard = talk(a, b, size)
    assert b"".join(event.data for event in heard[b] if isinstance(event, yamux.Data)) == text


def test_another_than_was_dialled_is_hung_up_on():
    draw = random.Random(2)
    a, b, _, _ = pair(expected=Identity.generate(draw.randbytes).peer)
    with pytest.raises(DecodeError):
        talk(a, b, 1000)


def test_who_does_not_prove_his_key_is_hung_up_on():
    a, b, _, theirs = pair()
    # It says somebody else's key, and signs by its own.
    stranger = Identity.generate(random.Random(3).randbytes)
    forged = Identity(public=stranger.public, secret=theirs.secret)
    b = Channel(forged, initiator=False, expected=None, random_bytes=random.Random(4).randbytes)
    a = Channel(theirs, initiator=True, expected=None, random_bytes=random.Random(5).randbytes)
    with pytest.raises(DecodeError):
        talk(a, b, 1000)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 255))
def test_a_byte_that_is_changed_ends_it_or_changes_nothing(place, change):
    a, b, ours, theirs = pair()
    said, established = 0, []
    try:
        for _ in range(20):
            for one, other in ((a, b), (b, a)):
                data = bytearray(one.data_to_send(1 << 16, []))
                if said <= place < said + len(data):
                    data[place - said] ^= change
                said += len(data)
                if data:
                    established += other.receive(bytes(data))
    except DecodeError:
        return
    # If it went on, nobody took anybody for another.
    assert {event.peer for event in established if isinstance(event, Established)} <= {ours.peer, theirs.peer}


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_events_or_a_decode_error(data, initiator):
    channel = pair()[0 if initiator else 1]
    try:
        channel.receive(data)
        channel.data_to_send(1 << 16, [])
    except DecodeError:
        pass


def test_the_first_protocol_that_both_have_is_taken():
    asking, answering = Asking(["/a", "/b", "/c"]), Answering({"/c", "/b"})
    for _ in range(6):
        answering.receive(asking.data_to_send())
        asking.receive(answering.data_to_send())
    assert asking.selected == answering.selected == "/b"


def test_what_follows_the_agreement_is_left_for_the_protocol():
    asking, answering = Asking(["/a"]), Answering({"/a"})
    answering.receive(asking.data_to_send() + b"\x05hello")
    assert answering.selected == "/a"
    assert answering.rest() == b"\x05hello"


def test_nobody_asks_for_ever():
    answering = Answering({"/a"})
    answering.receive(delimited(b"/multistream/1.0.0\n"))
    for number in range(MAX_PROPOSALS - 1):
        answering.receive(delimited(f"/{number}\n".encode()))
    with pytest.raises(NotSelectedError):
        answering.receive(delimited(b"/one more\n"))


@pytest.mark.parametrize(
    "data",
    [
        varint(MAX_LINE_BYTES + 1),
        delimited(b"/multistream/2.0.0\n"),
        delimited(b"/multistream/1.0.0"),
        delimited(b"\xff\xfe\n"),
        delimited(b""),
        b"\xff" * 12,
    ],
)
def test_what_is_no_multistream_is_refused(data):
    with pytest.raises(DecodeError):
        Answering({"/a"}).receive(data)


def test_an_answer_to_what_was_not_asked_is_refused():
    asking = Asking(["/a"])
    with pytest.raises(DecodeError):
        asking.receive(delimited(b"/multistream/1.0.0\n") + delimited(b"/b\n"))
