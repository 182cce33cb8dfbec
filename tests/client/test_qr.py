# SPDX-License-Identifier: GPL-2.0-or-later
"""The QR code of a card, as a phone sees it on a light and on a dark terminal."""

import random
import re
import stat
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import zxingcpp

from relay.cli import main
from relay.client.card import Card
from relay.client.identity import Identity
from relay.client.qr import terminal_qr

#: Grey of text and ground of terminals that are usual: dark, light, and one with little contrast.
THEMES = {"dark": (229, 0), "light": (0, 255), "pale": (131, 253)}
#: The fixed colours of the 256: a cube of 216 and a ramp of 24 greys (xterm's ctlseqs).
FIXED = {16: 0, 231: 255}
HALVES = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
PIXELS = 6


def photographed(output, theme):
    """What the output looks like: characters twice as high as wide, each of two halves, on a wide terminal."""
    text, ground = THEMES[theme]
    rows = [cells_of(line, text, ground) for line in output.splitlines()]
    width = max(map(len, rows)) + 20
    blank = (ground, ground)
    picture = [[half for cell in (*row, *[blank] * (width - len(row))) for half in (cell[side],)]
               for row in [[blank] * width] * 4 + rows + [[blank] * width] * 4 for side in (0, 1)]  # fmt: skip
    return np.kron(np.array(picture, dtype=np.uint8), np.ones((PIXELS, PIXELS), dtype=np.uint8))


def cells_of(line, text, ground):
    front, back = text, ground
    cells = []
    for sequence, character in re.findall("\x1b\\[([0-9;]*)m|(.)", line):
        if character:
            upper, lower = HALVES.get(character, (0, 0))
            cells.append((front if upper else back, front if lower else back))
            continue
        codes = [int(code or 0) for code in sequence.split(";")]
        while codes:
            code = codes.pop(0)
            if code == 0:
                front, back = text, ground
            elif code in {38, 48}:
                assert codes.pop(0) == 5, "one of the 256 colours"
                colour = FIXED[codes.pop(0)]
                front, back = (colour, back) if code == 38 else (front, colour)
            else:
                raise AssertionError(f"a colour of the theme: {code}")
    return cells


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", ["", "Zoë", "x" * 64])
def test_a_code_is_read_from_every_terminal(theme, name):
    uri = Card.of(Identity.generate(random.Random(name).randbytes)).to_uri(name)
    (found,) = zxingcpp.read_barcodes(
        photographed(f"{uri}\n{terminal_qr(uri)}$ \n", theme),
        formats=zxingcpp.BarcodeFormat.QRCode,
        # A phone's camera does not turn colours around.
        try_invert=False,
    )
    assert found.text == uri


def printed(path):
    """What a printer makes of the file: its ground and its strokes, of one module each."""
    drawing = ET.parse(path).getroot()  # noqa: S314 - made by us
    ground, strokes = drawing.iter("{http://www.w3.org/2000/svg}path")
    assert (ground.get("fill"), strokes.get("stroke")) == ("#fff", "#000")
    assert drawing.get("width") == drawing.get("height")
    size = int(drawing.get("width").removesuffix("mm"))
    picture = np.full((size, size), 255, dtype=np.uint8)
    x = y = 0.0
    for command, numbers in re.findall("([Mmh])([-0-9. ]+)", strokes.get("d")):
        values = [float(number) for number in re.findall(r"-?[0-9]*\.?[0-9]+", numbers)]
        if command == "h":
            picture[int(y), int(x) : int(x + values[0])] = 0
            x += values[0]
        else:
            x, y = (x + values[0], y + values[1]) if command == "m" else values
    return np.kron(picture, np.ones((PIXELS, PIXELS), dtype=np.uint8))


def test_a_card_can_be_printed(tmp_path, monkeypatch, capsys):
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def run(*arguments, status=0):
        done = main([*arguments, "--svg", str(path)])
        said = capsys.readouterr()
        assert done == status, said.err
        return said.err if status else next(line for line in said.out.splitlines() if line.startswith("mesh-relay:"))

    uris = {}
    for number, command in enumerate(
        (
            ("identity", "--name", "Zoë"),
            ("contact", "show", "z"),
            ("bulletin", "create", "camp"),
            ("bulletin", "card", "camp"),
            ("bulletin", "card", "camp", "--posting-key"),
        )
    ):
        if command[:2] == ("contact", "show"):
            assert main(["contact", "add", uris["identity"], "--name", "z"]) == 0
            assert main(["contact", "group", "g", "z"]) == 0
            capsys.readouterr()
        path = tmp_path / f"{number}.svg"
        uris[command[0]] = uri = run(*command)
        (found,) = zxingcpp.read_barcodes(printed(path), formats=zxingcpp.BarcodeFormat.QRCode, try_invert=False)
        assert found.text == uri
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    # Nothing else happens either: a board that was made would be taken the next time.
    assert "is there already; name a new file" in run("bulletin", "create", "lake", status=1)
    assert path.read_bytes() == before
    path = tmp_path / "none" / "x.svg"
    assert "No such file or directory; name another" in run("bulletin", "create", "lake", status=1)
    path = tmp_path / "left.svg"
    assert "is a group" in run("contact", "show", "g", status=1)
    assert "is taken" in run("bulletin", "create", "camp", status=1)
    assert not path.exists()
    assert "lake" not in (main(["bulletin", "list"]), capsys.readouterr().out)[1]
