# SPDX-License-Identifier: GPL-2.0-or-later
"""The readers and writers under every decoder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.codec import MAX_U32, Reader, Writer
from relay.core.errors import DecodeError

WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


@given(
    st.lists(
        st.sampled_from(sorted(WIDTHS)).flatmap(lambda k: st.tuples(st.just(k), st.integers(0, 256 ** WIDTHS[k] - 1)))
    )
)
def test_integers_come_back_as_written(values):
    writer = Writer()
    for kind, value in values:
        getattr(writer, kind)(value)
    reader = Reader(bytes(writer))
    assert [(kind, getattr(reader, kind)()) for kind, _ in values] == values
    reader.end()
    assert len(writer) == sum(WIDTHS[kind] for kind, _ in values)


@given(st.integers(0, MAX_U32))
def test_varints_come_back_in_as_few_bytes_as_possible(value):
    data = bytes(Writer().varint(value))
    reader = Reader(data)
    assert reader.varint() == value
    reader.end()
    assert len(data) == max(1, -(-value.bit_length() // 7))


@given(st.binary(max_size=8))
def test_a_varint_has_one_encoding_only(data):
    reader = Reader(data)
    try:
        value = reader.varint()
    except DecodeError:
        return
    assert bytes(Writer().varint(value)) == data[: len(data) - reader.remaining]


@pytest.mark.parametrize("data", ["80", "8000", "ff00", "ffffffff10", "ffffffffff", "808080808001", ""])
def test_varints_that_are_long_cut_or_beyond_32_bits_are_refused(data):
    with pytest.raises(DecodeError):
        Reader(bytes.fromhex(data)).varint()


@pytest.mark.parametrize("value", [-1, MAX_U32 + 1])
def test_values_that_no_reader_would_take_are_not_written(value):
    with pytest.raises(ValueError, match="out of range"):
        Writer().varint(value)


OPERATIONS = st.lists(st.sampled_from(["u8", "u16", "u32", "u64", "varint", "rest", "end"]) | st.integers(-3, 40))


@given(st.binary(max_size=64), OPERATIONS)
def test_whatever_is_read_gives_a_value_or_a_decode_error_and_no_byte_twice(data, operations):
    reader = Reader(memoryview(data))
    for operation in operations:
        before = reader.remaining
        try:
            value = reader.bytes(operation) if isinstance(operation, int) else getattr(reader, operation)()
        except DecodeError:
            continue
        if isinstance(value, bytes):
            start = len(data) - before
            assert value == data[start : start + len(value)]
            assert reader.remaining == before - len(value)
        assert 0 <= reader.remaining <= before


def test_trailing_bytes_are_an_error_where_a_message_has_to_end():
    reader = Reader(b"\x01\x02")
    reader.u8()
    with pytest.raises(DecodeError, match="1 trailing"):
        reader.end()
