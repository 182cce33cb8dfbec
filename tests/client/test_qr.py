# SPDX-License-Identifier: GPL-2.0-or-later
"""The QR code of a card, as a phone sees it on a light and on a dark terminal."""

import random
import re

import numpy as np
import pytest
import zxingcpp

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
