# SPDX-License-Identifier: GPL-2.0-or-later
"""What is inside an envelope has one encoding, and names from strangers do no harm."""

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.client.card import Card
from relay.client.group import Group, split_group_head
from relay.client.pieces import (
    MAX_BODY_BYTES,
    MAX_WHOLE_BYTES,
    PIECE_BYTES,
    Inner,
    Kind,
    Part,
    decode_inner,
    file_head,
    piece_count,
    piece_length,
    split_file_head,
)
from relay.client.text import rows, safe_file_name, safe_text
from relay.core.errors import DecodeError

IDS = st.binary(min_size=16, max_size=16)
ANY_TEXT = st.text(st.characters() | st.sampled_from("./\\-~ \0\n\x1b:*é"))


@st.composite
def groups(draw):
    members = draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4, unique=True))
    return Group(
        id=draw(IDS),
        version=draw(st.integers(0, 2**32 - 1)),
        name=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=60)),
        members=tuple(Card(static=static, rendezvous=draw(IDS)) for static in members),
    )


@given(groups(), st.binary(max_size=20))
def test_a_group_comes_through_in_front_of_any_content(group, content):
    told, start = split_group_head(group.encode() + content)
    assert told == group
    assert (group.encode() + content)[start:] == content
    whole = Group(
        id=group.id,
        version=0,
        name="x" * 300,
        members=tuple(Card(static=bytes([n]) * 32, rendezvous=bytes(16)) for n in range(255)),
    )
    assert len(whole.encode()) + 256 < PIECE_BYTES
    for twice_or_none in ((), (*group.members, group.members[0])):
        with pytest.raises(DecodeError):
            split_group_head(Group(id=group.id, version=0, name="x", members=twice_or_none).encode())


@st.composite
def inners(draw):
    kind = draw(st.sampled_from(Kind))
    group = draw(st.none() | groups()) if kind is not Kind.RECEIPT else None
    part = None
    data = b""
    if kind is not Kind.RECEIPT and draw(st.booleans()):
        size = draw(st.integers(MAX_WHOLE_BYTES + 1, MAX_BODY_BYTES))
        index = draw(st.integers(0, piece_count(size) - 1) | st.just(0) | st.just(piece_count(size) - 1))
        part = Part(index=index, size=size, digest=draw(st.binary(min_size=32, max_size=32)))
        data = random.Random(index).randbytes(piece_length(size, index))
        if group and not index:
            data = (group.encode() + data)[: piece_length(size, index)]
    elif kind is Kind.FILE:
        data = file_head(draw(ANY_TEXT)) + draw(st.binary(max_size=50))
    elif kind is Kind.TEXT:
        data = draw(st.binary(min_size=1, max_size=50))
    if group and part is None:
        data = group.encode() + data
    return Inner(
        kind=kind,
        message_id=draw(IDS),
        reply_rendezvous=draw(IDS),
        age_minutes=draw(st.integers(0, 168 * 60)),
        sequence=draw(st.integers(0, 2**32 - 1)),
        is_to_group=group is not None,
        part=part,
        data=data,
    )


@given(inners())
def test_what_is_encoded_is_decoded(inner):
    assert decode_inner(inner.encode()) == inner


@given(inners(), st.data())
def test_other_bytes_mean_something_else_or_nothing(inner, data):
    encoded = bytearray(inner.encode())
    place = data.draw(st.integers(0, min(len(encoded), 90) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_inner(bytes(encoded))
    except DecodeError:
        return
    assert decoded.encode() == bytes(encoded)
    assert decoded != inner


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_a_value_or_are_refused(data):
    for attempt in (data, b"\x01" + data, b"\x01\x80" + data, b"\x01\x01" + data):
        try:
            decoded = decode_inner(attempt)
        except DecodeError:
            continue
        assert decoded.encode() == attempt


def make_piece(**changes):
    fields = {"index": 1, "size": PIECE_BYTES + 100, "digest": bytes(32)} | changes
    length = fields.pop("length", 100)
    return Inner(
        kind=Kind.TEXT,
        message_id=bytes(16),
        reply_rendezvous=bytes(16),
        age_minutes=1,
        sequence=1,
        part=Part(**fields),
        data=bytes(length),
    ).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 2},
        {"index": 2**32 - 1},
        {"index": 0},
        {"length": 99},
        {"length": 101},
        {"size": MAX_WHOLE_BYTES, "index": 0, "length": MAX_WHOLE_BYTES},
        {"size": 0, "index": 0, "length": 0},
        {"size": MAX_BODY_BYTES + 1},
        {"size": 2**64 - 1},
    ],
)
def test_a_piece_that_does_not_fit_its_message_is_refused(changes):
    assert decode_inner(make_piece()).part
    with pytest.raises(DecodeError):
        decode_inner(make_piece(**changes))


@given(st.sampled_from([1, MAX_WHOLE_BYTES, MAX_WHOLE_BYTES + 1, 2 * PIECE_BYTES, 2 * PIECE_BYTES + 1, MAX_BODY_BYTES]))
def test_pieces_cover_a_body_without_gap(size):
    count = piece_count(size)
    lengths = [piece_length(size, index) for index in (0, count - 2, count - 1) if index >= 0]
    assert all(lengths)
    assert (count - 1) * PIECE_BYTES + piece_length(size, count - 1) == size


@given(ANY_TEXT, st.binary(max_size=20))
def test_a_file_keeps_its_content_behind_any_name(name, content):
    shown, start = split_file_head(file_head(name) + content)
    assert (file_head(name) + content)[start:] == content
    assert shown == safe_file_name(shown)


@given(ANY_TEXT)
def test_a_file_name_stays_in_its_folder_and_hides_nothing(name):
    safe = safe_file_name(name)
    assert safe
    assert not set(safe) & set('/\\\0<>:"|?*')
    assert safe.isprintable()
    assert safe[0] not in ".-~ "
    assert safe[-1] not in ". "
    assert len(safe.encode()) <= 200
    assert unicodedata.is_normalized("NFC", safe)
    assert safe_file_name(safe) == safe


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.jpg", "photo.jpg"),
        ("Übersicht 2025.pdf", "Übersicht 2025.pdf"),
        ("../../.bashrc", "_bashrc"),
        ("..", "file"),
        ("", "file"),
        ("a/b\\c.txt", "c.txt"),
        ("/etc/", "file"),
        ("-rf", "_rf"),
        ("~root", "_root"),
        ("gpj.\u202eexe", "gpj._exe"),
        ("a\x1b[31mb\n", "a_[31mb_"),
        ("é" * 150, "é" * 100),
        # 67 letters of three bytes; the last vowel sign does not go to another letter, nor a letter without it.
        ("ที่" * 22 + "ที.jpg", "ที่" * 21 + ".jpg"),
        ("a" * 300 + ".tar", "a" * 196 + ".tar"),
        ("a" * 195 + "é" + "e\u0323\u0301.jpg", "a" * 195 + ".jpg"),
        ("a." + "b" * 300, "a." + "b" * 198),
        ("x" + "\u0323" * 300, "x" + "\u0323" * 99),
        ("\N{HANGUL FILLER}.txt", "_.txt"),
    ],
)
def test_file_names_are_changed_no_more_than_needed(name, safe):
    assert safe_file_name(name) == safe


@given(ANY_TEXT)
def test_a_text_gives_a_terminal_nothing_to_obey(text):
    shown = safe_text(text)
    assert not {character for character in shown if unicodedata.category(character) == "Cc"} - {"\n", "\t"}
    assert not {character for character in shown if character in REORDERING}
    shown.encode()


#: UAX #9 (embeddings, overrides, isolates, marks), line ends beside the line feed, tags, a byte order mark.
REORDERING = set(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x61C, 0x200E, 0x200F, 0x2028, 0x2029)))
REORDERING |= set(map(chr, (*range(0xE0000, 0xE0080), 0xFEFF, 0xAD, 0x2060)))


@pytest.mark.parametrize("character", sorted(REORDERING))
def test_nothing_that_reorders_or_hides_comes_through(character):
    assert character not in safe_text(f"a{character}b")
    assert character not in safe_file_name(f"a{character}b")
    assert character not in rows(f"a{character}b", 80)


@given(ANY_TEXT, st.integers(20, 200))
def test_no_row_of_a_message_begins_like_another_message(text, columns):
    first, *others = rows(f"ana (2025-06-01 13:05): {text}", columns).split("\n")
    for row in others:
        assert row.startswith("  | ")
    # The screen of a terminal that goes to the next row by itself.
    for row in (first, *others):
        assert len(row) + sum(unicodedata.east_asian_width(one) in "WF" for one in row) < columns


def test_spaces_up_to_the_end_of_the_row_forge_no_row():
    forged = "hello" + " " * (80 - len("ana (2025-06-01 13:05): hello")) + "ben (2025-06-01 13:07): all cancelled"
    shown = rows(f"ana (2025-06-01 13:05): {forged}", 80)
    screen = [row[place : place + 80] for row in shown.split("\n") for place in range(0, len(row), 80)]
    assert not any(row.startswith("ben") for row in screen)
    # Words stay whole, and nothing is lost.
    assert rows("a " * 30, 30).replace("\n  | ", "") == "a " * 30
    assert rows("x" * 100, None) == "x" * 100
    assert rows("x\ny\tz", None) == "x\n  | y\tz"


def test_a_text_keeps_the_marks_that_languages_need():
    text = "می\u200cخواهم\n👩\u200d🚀"  # noqa: RUF001 - Persian
    assert safe_text(text) == text
    flag = "🏴"
    assert safe_text(flag + "\N{RIGHT-TO-LEFT MARK}\u202e") == flag + "�"
    assert safe_text("a\r\nb\x1b[2J\x9b") == "a\nb�[2J�"
