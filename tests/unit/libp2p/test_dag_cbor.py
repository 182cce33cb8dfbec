# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of logs: whose they are and what they link to."""

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import DecodeError
from relay.libp2p.cid import DAG_CBOR, Cid, raw
from relay.libp2p.dag_cbor import MAX_DEPTH, MAX_LINKS, Entry, read_entry
from tests.unit.libp2p.berty_bytes import entry, head, link, text

CIDS = st.builds(Cid, st.just(1), st.sampled_from([0x55, DAG_CBOR]), st.binary(min_size=32, max_size=32))


@given(st.text(max_size=80), st.lists(CIDS, max_size=20), st.binary(max_size=300))
def test_the_log_and_the_links_of_an_entry_are_read(log, links, payload):
    assert read_entry(entry(log, links, payload)) == Entry(log, tuple(links))


def test_links_are_found_wherever_they_are_and_a_log_only_where_it_is_one():
    cid = raw(hashlib.sha256(b"x").digest())
    deep = head(5, 1) + text("id") + head(4, 2) + head(5, 1) + text("id") + text("no log") + link(cid)
    assert read_entry(deep) == Entry("", (cid,))
    assert read_entry(text("id")) == Entry("", ())
    assert read_entry(head(4, 2) + text("id") + text("a")) == Entry("", ())
    assert read_entry(head(5, 0)) == read_entry(head(4, 0)) == read_entry(b"\xf6") == Entry("", ())


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"", "cut"),
        (entry("log")[:-1], "cut"),
        (entry("log") + b"\0", "after it"),
        (head(5, 1) + head(0, 1) + head(0, 1), "key of another kind"),
        (head(6, 42), "cut"),
        (head(6, 42) + text("a"), "another kind"),
        (head(6, 1) + head(0, 1), "another tag"),
        (head(6, 42) + head(2, 1) + b"\1", "first byte"),
        (b"\x9f\xff", "has not"),
        (b"\xf7", "has not"),
        (head(4, 1 << 60), "room"),
        (head(4, 1) * (MAX_DEPTH + 1) + b"\0", "room"),
        (head(4, MAX_LINKS + 1) + link(raw(bytes(32))) * (MAX_LINKS + 1), "too many links"),
        (head(5, 1) + text("id") + head(3, 1) + b"\xff", "UTF-8"),
    ],
)
def test_what_is_no_entry_is_refused(block, why):
    with pytest.raises(DecodeError, match=why):
        read_entry(block)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_entry_or_a_decode_error(data):
    with contextlib.suppress(DecodeError):
        read_entry(data)
