# SPDX-License-Identifier: GPL-2.0-or-later
"""Handbook, card and poster: current, alike in all languages, and true to what the box does."""

import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import zxingcpp

import relay.board.light
from relay.appliance.constants import ACCESS_POINT_ADDRESS
from relay.board.light import PATTERNS, Code
from relay.cli import main
from relay.papers.handbook import flashes
from relay.papers.organiser_card import ADDRESS, BAR, CODES, SHOWN_S
from relay.papers.poster import Wifi, poster
from relay.papers.sheet import HEIGHT, WIDTH, outlines
from relay.papers.texts import LANGUAGES, RIGHT_TO_LEFT, read_texts
from relay.papers.writing import papers

COMMITTED = Path(__file__).parents[3] / "docs/organisers"
PAPERS = papers()
SVG = "{http://www.w3.org/2000/svg}"
each = pytest.mark.parametrize("language", LANGUAGES)


def test_what_is_in_the_repository_is_what_the_command_writes(tmp_path):
    assert main(["appliance", "papers", str(tmp_path / "new")]) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    committed = {path.name: path.read_bytes() for path in COMMITTED.iterdir()}
    assert committed == written, "run: relay appliance papers docs/organisers"


def shape(value):
    """Keys and lengths, without the words."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else str


@each
def test_every_language_says_as_much(language):
    def keys(texts):
        found = shape(texts)
        for section, theirs in zip(found["handbook"]["section"], texts["handbook"]["section"], strict=True):
            section["typed"] = sorted(
                word.split(" = ")[0] for text in theirs.get("steps", []) + theirs.get("text", []) for word in code(text)
            )
        return found

    def code(text):
        return re.findall(r"`([^`]+)`", text)

    assert keys(read_texts(language)) == keys(read_texts("en"))


@each
def test_the_card_s_light_is_that_of_the_box(language):
    root = ET.fromstring(PAPERS[f"card-{language}.svg"])  # noqa: S314 - our own
    assert set(CODES) == set(Code) - {Code.ERASED, Code.HELD, Code.IDENTIFY}
    for code in CODES:
        (row,) = root.findall(f".//{SVG}g[@id='light-{code.value}']")
        frame, *lights = row
        begins = [(float(light.get("x")) - float(frame.get("x"))) * SHOWN_S / BAR for light in lights]
        pattern, at, wanted = PATTERNS[code], 0.0, []
        while at < SHOWN_S - 0.01:
            wanted.append(at)
            at += sum(pattern[:2])
            pattern = pattern[2:] + pattern[:2]
        assert begins == pytest.approx(wanted, abs=0.01), code


def test_flashes_are_written_as_they_are_counted():
    told = {code: flashes(PATTERNS[code]) for code in CODES}
    assert len(set(told.values())) == len(told)
    assert told[Code.CONFIG] == "• • • •"
    assert told[Code.WIFI] == "━ • •"


def test_the_documents_tell_the_light_as_it_is():
    """The table in relay.board.light and that of docs/appliance.md have the patterns, in the order of what matters."""

    def told(pattern):
        shorts, longs = (sum(kind == (on > 0.4) for on in pattern[::2]) for kind in (False, True))
        counts = ["", "one", "two", "three", "four", "five", "six"]
        long = f"{counts[longs]} long flash{'es' * (longs > 1)}" if longs else ""
        short = f"{counts[shorts]} {'short ' * (longs > 0 or shorts == 1)}flash{'es' * (shorts > 1)}" if shorts else ""
        if longs and shorts:
            short = short.replace("one short flash", "a short one").replace("short flashes", "short ones")
        return " and ".join(filter(None, (long, short))) + ", a pause"

    counted = [(code.value, told(PATTERNS[code])) for code in Code if sum(PATTERNS[code]) > 2]
    rows = re.findall(r"^(\w+) +(\S.*?a pause) ", relay.board.light.__doc__, re.MULTILINE)
    assert rows == counted
    document = (COMMITTED.parent / "appliance.md").read_text()
    section = document.partition("## 5. Read the light")[2].partition("\n## ")[0]
    lights = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:]
    assert [light for light in lights if light.endswith("a pause")] == [light for _, light in counted]
    # The others, which nobody counts: erasing and erased are one row.
    assert len(lights) == len(Code) - 1


@each
def test_the_address_and_settings_that_are_printed_are_those_there_are(language):
    card = PAPERS[f"card-{language}.svg"].decode()
    book = PAPERS[f"handbook-{language}.html"].decode()
    assert f"http://{ACCESS_POINT_ADDRESS.ip}/" == ADDRESS
    assert ADDRESS in card
    assert ADDRESS in book
    for name in ("country", "access_point", "mesh_interface"):
        assert f"{name} = " in card
        assert f"{name} = " in book
    for name in ("panic_button", "panic_hold_s", "mesh_secret"):
        assert name in book


@each
def test_card_poster_and_handbook_say_what_bitchat_and_berty_give_away(language):
    texts = read_texts(language)
    for text in (texts["card"]["bitchat"], texts["poster"]["lines"][-1]):
        assert "bitchat" in text
    assert texts["card"]["bitchat"] in PAPERS[f"card-{language}.svg"].decode().replace("&#x27;", "'")
    handbook = PAPERS[f"handbook-{language}.html"].decode()
    assert "[bitchat]" in handbook
    # So of Berty, which is on the networks alone: with what does not wait, and until when.
    assert "[libp2p]" in handbook
    assert "UTC" in handbook


class Outer(HTMLParser):
    """What a page asks for, and its attributes."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.tags = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.ids.add(found.get("id"))


@each
def test_a_handbook_needs_nothing_but_what_lies_beside_it(language):
    page = Outer(PAPERS[f"handbook-{language}.html"].decode())
    (root,) = [found for tag, found in page.tags if tag == "html"]
    assert root == {"lang": language, "dir": "rtl" if language in RIGHT_TO_LEFT else "ltr"}
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe"})
    for link in page.links:
        assert link.removeprefix("#") in page.ids if link.startswith("#") else link in PAPERS, link


def drawn(svg):
    """The boxes of a poster as a picture: enough for its QR codes."""
    scale = 2
    image = np.full((int(HEIGHT * scale), int(WIDTH * scale)), 255, dtype=np.uint8)
    for box in ET.fromstring(svg).iter(f"{SVG}rect"):  # noqa: S314 - our own
        x, y, width, height = (float(box.get(name, 0)) * scale for name in ("x", "y", "width", "height"))
        colour = 0 if box.get("fill") == "#000000" else 255
        image[round(y) : round(y + height), round(x) : round(x + width)] = colour
    return image


@pytest.mark.parametrize(
    ("wifi", "read"),
    [
        (Wifi(name="Mesh relay"), "WIFI:S:Mesh relay;;"),
        (Wifi(name='Camp; "3", é', password="a:b;c\\d,e"), r"WIFI:T:WPA;S:Camp\; \"3\", é;P:a\:b\;c\\d,e;;"),
    ],
)
def test_phones_read_the_poster(wifi, read):
    sheet = poster(wifi)
    found = {code.text for code in zxingcpp.read_barcodes(drawn(sheet.svg()))}
    assert {text.replace("T:nopass;", "") for text in found} == {ADDRESS, read}


def test_a_blank_poster_has_the_address_alone():
    assert [code.text for code in zxingcpp.read_barcodes(drawn(poster(None).svg()))] == [ADDRESS]


def test_the_pdf_is_one_and_has_all_texts_and_no_date():
    raw = poster(Wifi(name="Mesh relay")).pdf()
    start = int(re.search(rb"startxref\n(\d+)\n%%EOF\n\Z", raw)[1])
    places = [int(place) for place in re.findall(rb"(\d{10}) 00000 n", raw[start:])]
    assert [raw[place:].split(b" ", 1)[0] for place in places] == [b"%d" % number for number in range(1, 6)]
    stream = re.search(rb"/Length (\d+) [^>]*>>\nstream\n", raw)
    content = zlib.decompress(raw[stream.end() : stream.end() + int(stream[1])]).decode("latin-1")
    for language in LANGUAGES.keys() - RIGHT_TO_LEFT:
        for line in read_texts(language)["poster"]["lines"]:
            assert line.encode("cp1252").decode("latin-1").replace("(", "\\(").replace(")", "\\)") in content
    assert b"Date" not in raw


def test_every_line_that_no_font_of_a_pdf_has_is_drawn():
    for language in RIGHT_TO_LEFT:
        texts = read_texts(language)["poster"]
        for line in (texts["title"], *texts["lines"]):
            assert line in outlines(), "run: python -m relay.papers.outline FONT"
            assert f"<title>{line}</title>" in poster(None).svg()
