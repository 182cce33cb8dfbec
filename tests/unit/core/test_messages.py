# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of a session: every one comes back, and nothing else is taken for one."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import messages as m
from relay.core.codec import MAX_U32, Reader
from relay.core.envelope import BUCKET_BITS, SIZES
from relay.core.errors import DecodeError
from relay.core.frames import LANES, MAX_MESSAGE_BYTES

u32 = st.integers(0, MAX_U32)
identities = st.binary(min_size=32, max_size=32)
hellos = st.builds(
    m.Hello,
    role=st.sampled_from(m.Role),
    durable=st.booleans(),
    slow=st.booleans(),
    price=st.integers(0, 255),
    classes=st.integers(0, 15),
    window=st.tuples(u32, u32),
    prefix_bits=st.integers(0, 255),
    max_puts=st.integers(0, 65535),
)
subscriptions = st.integers(0, BUCKET_BITS).flatmap(
    lambda bits: st.builds(
        m.Subscribe,
        prefix_bits=st.just(bits),
        prefix=st.integers(0, (1 << bits) - 1),
        window=st.sampled_from(m.Window),
        offers_only=st.booleans(),
        follow=st.booleans(),
    )
)
offers = st.builds(m.Offer, identities, st.integers(0, 3), u32)


live_datagrams = st.builds(
    m.LiveDatagram,
    kind=st.integers(0, 255),
    identity=st.binary(min_size=m.LIVE_ID_BYTES, max_size=m.LIVE_ID_BYTES),
    data=st.binary(min_size=1, max_size=300),
)


def body(message):
    return Reader(message[1:])


@given(hellos, st.binary(max_size=20))
def test_a_hello_comes_back_whatever_later_versions_add(hello, later):
    assert m.decode_hello(body(hello.encode() + later)) == hello


@given(subscriptions)
def test_a_subscription_comes_back(subscription):
    assert m.decode_subscribe(body(subscription.encode())) == subscription


@given(st.integers(0, 255), live_datagrams)
def test_a_live_datagram_comes_back_with_no_more_hops_than_there_may_be(hops, datagram):
    assert m.decode_live(m.encode_live(hops, datagram.encode())) == (min(hops, m.MAX_HOPS), datagram)


@pytest.mark.parametrize("size", [0, 1, m.MAX_LIVE_BYTES, m.MAX_LIVE_BYTES + 1])
def test_a_live_datagram_has_data_and_fits_a_message(size):
    message = m.encode_live(1, bytes(1 + m.LIVE_ID_BYTES) + bytes(size))
    if 0 < size <= m.MAX_LIVE_BYTES:
        assert len(m.decode_live(message)[1].data) == size
        assert len(message) <= MAX_MESSAGE_BYTES
    else:
        with pytest.raises(DecodeError):
            m.decode_live(message)


@given(u32, st.binary(min_size=1, max_size=300))
def test_a_put_comes_back(number, envelope):
    assert m.decode_put(m.encode_put(number, envelope)) == (number, envelope)


@given(st.sets(st.integers(0, MAX_U32 - 1), max_size=200), st.booleans())
def test_acknowledgements_come_back_in_few_ranges(numbers, durable):
    acks = [m.decode_ack(body(x), max_number=MAX_U32) for x in m.encode_acks(durable=durable, numbers=numbers)]
    assert {number for ack in acks for number in ack.numbers()} == numbers
    assert all(ack.durable is durable for ack in acks)
    assert m.to_ranges(numbers) == [pair for ack in acks for pair in ack.ranges]


@given(st.lists(st.integers(0, 300), unique=True))
def test_ranges_are_as_few_as_possible(numbers):
    ranges = m.to_ranges(numbers)
    assert [n for first, count in ranges for n in range(first, first + count)] == sorted(numbers)
    assert all(a + n < b for (a, n), (b, _) in pairwise(ranges))


def test_a_client_that_uses_a_put_number_twice_gets_an_answer_it_has_to_refuse_itself():
    [message] = m.encode_acks(durable=True, numbers=[5, 5])
    with pytest.raises(DecodeError):
        m.decode_ack(body(message), max_number=6)


def test_a_million_acknowledgements_are_a_few_bytes_and_scattered_ones_many_messages():
    [one] = m.encode_acks(durable=False, numbers=range(1_000_000))
    assert len(one) < 10
    many = m.encode_acks(durable=False, numbers=range(0, 5000, 2))
    assert len(many) == 3
    assert max(map(len, many)) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("ranges", "why"),
    [
        ("00000005 01", "never put"),
        ("00000000 06", "runs past what was put"),
        ("00000000 00", "empty range"),
        ("00000001 02 00000002 01", "overlap"),
        ("00000003 01 00000001 01", "descending"),
        ("00000000", "cut"),
        ("", "none"),
        ("00000000 ffffffff0f", "expands to four billion"),
    ],
)
def test_acknowledgements_of_what_was_not_put_are_refused(ranges, why):
    with pytest.raises(DecodeError):
        m.decode_ack(Reader(b"\x01" + bytes.fromhex(ranges)), max_number=5)
    assert why


def test_an_acknowledgement_is_durable_or_volatile_and_nothing_between():
    with pytest.raises(DecodeError):
        m.decode_ack(Reader(bytes.fromhex("02 00000000 01")), max_number=5)


@given(
    st.lists(st.tuples(st.integers(0, 999), st.sampled_from(m.Refusal)), min_size=1, max_size=30), st.integers(0, 255)
)
def test_refusals_come_back_with_the_price(refusals, price):
    [message] = m.encode_refusals(refusals, price=price)
    assert m.decode_refuse(body(message), max_number=1000) == m.Refused(price=price, refusals=refusals)


def test_a_reason_of_a_later_version_is_still_a_refusal():
    refused = m.decode_refuse(Reader(bytes.fromhex("00 00000000 c8")), max_number=1)
    assert refused.refusals == [(0, m.Refusal.MALFORMED)]


@given(st.lists(identities, min_size=1, max_size=600))
def test_identities_come_back_in_messages_of_bounded_length(ids):
    messages = m.encode_ids(m.MessageType.FETCH, ids)
    assert [x for message in messages for x in m.decode_ids(body(message))] == ids
    assert all(len(message) <= MAX_MESSAGE_BYTES for message in messages)


@given(st.lists(offers, min_size=1, max_size=900))
def test_offers_come_back_in_messages_of_bounded_length(items):
    messages = m.encode_offers(items)
    assert [x for message in messages for x in m.decode_offers(body(message))] == items
    assert all(len(message) <= MAX_MESSAGE_BYTES for message in messages)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=32))
def test_macs_come_back(macs):
    assert m.decode_macs(Reader(b"".join(macs))) == macs


DECODERS = {
    "hello": m.decode_hello,
    "subscribe": m.decode_subscribe,
    "ack": lambda reader: m.decode_ack(reader, max_number=1000),
    "refuse": lambda reader: m.decode_refuse(reader, max_number=1000),
    "ids": m.decode_ids,
    "offers": m.decode_offers,
    "macs": m.decode_macs,
    "put": lambda reader: m.decode_put(reader.rest()),
}


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=120) | st.binary(max_size=4).map(lambda x: x * 4000))
def test_every_decoder_gives_a_value_or_a_decode_error(name, data):
    try:
        DECODERS[name](Reader(data))
    except DecodeError:
        return


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("ids", 32 * 257),
        ("ids", 0),
        ("ids", 33),
        ("offers", 37 * 401),
        ("offers", 0),
        ("offers", 36),
        ("macs", 16 * 33),
    ],
)
def test_lists_that_are_empty_too_long_or_cut_are_refused(name, length):
    with pytest.raises(DecodeError):
        DECODERS[name](Reader(bytes(length)))


@pytest.mark.parametrize(
    "data", ["11 0000 ffff 00", "01 0002 ffff 00", "00 0001 ffff 00", "00 0000 ffff 04", "00 0000 ffff 00 00"]
)
def test_prefixes_that_do_not_fit_their_bits_are_refused(data):
    with pytest.raises(DecodeError):
        m.decode_subscribe(Reader(bytes.fromhex(data)))


def test_an_offer_of_an_unknown_class_and_a_hello_of_an_unknown_role_are_refused():
    with pytest.raises(DecodeError):
        m.decode_offers(Reader(bytes(32) + b"\x04" + bytes(4)))
    with pytest.raises(DecodeError):
        m.decode_hello(Reader(b"\x02" + bytes(14)))


def test_every_size_of_envelope_has_a_lane_of_its_own_beside_control_offers_and_reconciliation():
    lanes = [m.lane_of(size) for size in SIZES]
    assert len({0, m.OFFER_LANE, m.RECONCILE_LANE, *lanes}) == 3 + len(SIZES)
    assert max(lanes) < LANES
    assert m.lane_of(1) == lanes[0]
    assert m.lane_of(10**6) == lanes[-1]
