# SPDX-License-Identifier: GPL-2.0-or-later
import codecs

import pytest

from relay.config.textfile import TextError, blanks_hint, decode_text, quotes_hint

TEXT = '[appliance]\ncountry = "DE"  # Müller\n'


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_every_editors_text_is_the_same_text(mark, encoding, end):
    assert decode_text(mark + TEXT.replace("\n", end).encode(encoding)) == TEXT


@pytest.mark.parametrize(
    ("raw", "line", "remedy"),
    [
        (b"a = 1\nb = '\xff'\n", 2, "UTF-8 in Notepad|plain text"),
        (codecs.BOM_UTF16_LE + "a = 1\nb".encode("utf-16-le") + b"\x00", 2, "UTF-16-LE"),
        (b"a = 1\n\0\0\0", 2, "zero bytes"),
        (b"{\\rtf1\\ansi", 0, "word processor"),
        (b"PK\x03\x04....", 0, "office program"),
        ("a = 1".encode("utf-16-le"), 1, "zero bytes"),
    ],
)
def test_what_is_no_text_is_told_with_a_remedy(raw, line, remedy):
    with pytest.raises(TextError, match=remedy) as caught:
        decode_text(raw)
    assert caught.value.line == line


def test_typographic_quotes_are_pointed_out_on_their_line_only():
    text = "a = 1 # \u201cone\u201d\nb = \u201cDE\u201d\n"
    assert 'type " instead' in quotes_hint(text, 2)
    assert quotes_hint(text, 1) == ""
    assert quotes_hint(text, 9) == ""


def test_what_only_looks_like_a_space_is_pointed_out_by_its_place():
    text = "a = 1\nb\u00a0= 2\nc = \u200b3\n\u3000\n"
    assert "character 2 is no plain space but U+00A0 (no-break space)" in blanks_hint(text, 2)
    assert "character 5 is no plain space but U+200B (zero width space)" in blanks_hint(text, 3)
    assert "character 1 " in blanks_hint(text, 4)
    assert blanks_hint(text, 1) == blanks_hint(text, 9) == ""
