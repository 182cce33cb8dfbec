# SPDX-License-Identifier: GPL-2.0-or-later
"""A contact URI as a QR code, on a terminal or to be printed."""

import io
from itertools import zip_longest
from typing import Final

import segno

_QUIET_MODULES: Final = 4
"""Around the code, as ISO/IEC 18004 demands."""
_COLOURS: Final = "\x1b[38;5;16;48;5;231m"
"""Black on white, whatever the terminal's own: readers expect dark on light. These two of the 256 are no theme's."""
_END: Final = "\x1b[0m"
_HALVES: Final = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def terminal_qr(text: str) -> str:
    """Return a QR code in half blocks, two modules above each other in one character."""
    code = _code(text)
    modules = [[bool(module) for module in row] for row in code.matrix_iter(border=_QUIET_MODULES)]
    lines = []
    for upper, lower in zip_longest(modules[::2], modules[1::2], fillvalue=[False] * len(modules[0])):
        halves = "".join(_HALVES[pair] for pair in zip(upper, lower, strict=True))
        lines.append(f"{_COLOURS}{halves}{_END}\n")
    return "".join(lines)


def svg_qr(text: str) -> bytes:
    """Return a QR code as a file of SVG 1.1, a millimetre for each module, black on white."""
    file = io.BytesIO()
    _code(text).save(file, kind="svg", unit="mm", border=_QUIET_MODULES, dark="#000", light="#fff")
    return file.getvalue()


def _code(text: str) -> segno.QRCode:
    return segno.make(text, error="m", micro=False)
