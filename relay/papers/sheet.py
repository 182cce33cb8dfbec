# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of A4 with texts, boxes and QR codes, as SVG and as PDF.

Coordinates are points from the upper left corner. Texts are of Latin letters, in the
fonts that every PDF reader brings along (ISO 32000-1 section 9.6.2.2); Arabic ones,
which those lack, are drawn as outlines (outlines.json, made by outline.py).
"""

from __future__ import annotations

import functools
import json
import re
import zlib
from html import escape
from pathlib import Path
from typing import Final

import segno

WIDTH: Final = 595.0
HEIGHT: Final = 842.0
#: ISO/IEC 18004 demands as much around a code.
_QUIET_MODULES: Final = 4
_BLACK: Final = "#111111"
#: Widths of Helvetica are between 0.22 and 1.0 of its size; texts are laid out by this mean.
MEAN_WIDTH: Final = 0.52
_OUTLINES: Final = Path(__file__).with_name("outlines.json")


@functools.cache
def outlines() -> dict[str, dict[str, str | float]]:
    """By text: ``path``, SVG's with y downward, and ``width``, both for a size of 1000."""
    found: dict[str, dict[str, str | float]] = json.loads(_OUTLINES.read_text(encoding="utf-8"))
    return found


class Sheet:
    """What is drawn on it, in order; ``title`` is the document's."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._svg: list[str] = []
        self._pdf: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        self._svg.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{colour}"/>')
        self._pdf.append(f"{_colour(colour)} rg {x:g} {HEIGHT - y - height:g} {width:g} {height:g} re f")

    def text(self, x: float, y: float, size: float, text: str, *, bold: bool = False, colour: str = _BLACK) -> None:
        """A line of Latin text whose baseline begins at (x, y)."""
        weight = ' font-weight="bold"' if bold else ""
        self._svg.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}"{weight}>{escape(text)}</text>'
        )
        shown = text.encode("cp1252", "replace").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
        font = "F2" if bold else "F1"
        self._pdf.append(
            f"BT {_colour(colour)} rg /{font} {size:g} Tf {x:g} {HEIGHT - y:g} Td ({shown.decode('latin-1')}) Tj ET"
        )

    def outline(self, right: float, y: float, size: float, text: str, *, colour: str = _BLACK) -> None:
        """A line of text that has an outline; it ends, as read from right to left begins, at ``right``."""
        known = outlines()[text]
        scale = size / 1000
        x = right - float(known["width"]) * scale
        path = str(known["path"])
        self._svg.append(
            f'<path transform="translate({x:.2f} {y:g}) scale({scale:g})" fill="{colour}" d="{path}">'
            f"<title>{escape(text)}</title></path>"
        )
        drawn = _pdf_path(path)
        self._pdf.append(f"q {_colour(colour)} rg {scale:g} 0 0 {-scale:g} {x:.2f} {HEIGHT - y:g} cm {drawn} f Q")

    def code(self, x: float, y: float, side: float, content: str) -> None:
        """A QR code of ``content``, ``side`` points wide with the white around it."""
        self._code(x, y, side, segno.make(content, error="m", micro=False))

    def _code(self, x: float, y: float, side: float, code: segno.QRCode) -> None:
        rows = [[bool(module) for module in row] for row in code.matrix_iter(border=_QUIET_MODULES)]
        module = side / len(rows)
        self.box(x, y, side, side, "#ffffff")
        for down, row in enumerate(rows):
            across = 0
            while across < len(row):
                run = next((n for n, dark in enumerate(row[across:]) if not dark), len(row) - across)
                if run:
                    # Of one row at once: seams between modules would show.
                    self.box(x + across * module, y + down * module, run * module, module * 1.02, "#000000")
                across += run + 1

    def svg(self) -> str:
        """The page as SVG."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="210mm" height="297mm" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" '
            'font-family="Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif">\n'
            "<!-- SPDX-License-Identifier: GPL-2.0-or-later -->\n"
            f"<title>{escape(self._title)}</title>\n"
            f'<rect width="{WIDTH:g}" height="{HEIGHT:g}" fill="#ffffff"/>\n' + "\n".join(self._svg) + "\n</svg>\n"
        )

    def pdf(self) -> bytes:
        """The page as PDF 1.4, without a date and without who made it."""
        # One byte is one character from here on.
        content = zlib.compress("\n".join(self._pdf).encode("latin-1"), 9)
        fonts = "".join(
            f"/F{number} << /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >> "
            for number, name in ((1, "Helvetica"), (2, "Helvetica-Bold"))
        )
        title = self._title.encode("utf-16-be").hex()
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH:g} {HEIGHT:g}] /Contents 4 0 R "
            f"/Resources << /Font << {fonts}>> >> >>".encode(),
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(content), content),
            f"<< /Title <FEFF{title}> >>".encode(),
        ]
        body = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"
        places = []
        for number, what in enumerate(objects, 1):
            places.append(len(body))
            body += b"%d 0 obj\n%s\nendobj\n" % (number, what)
        table = b"".join(b"%010d 00000 n \n" % place for place in places)
        count = len(objects) + 1
        return body + (
            b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R /Info 5 0 R >>\n"
            b"startxref\n%d\n%%%%EOF\n" % (count, table, count, len(body))
        )


def _colour(colour: str) -> str:
    return " ".join(f"{int(colour[place : place + 2], 16) / 255:.3g}" for place in (1, 3, 5))


def _pdf_path(path: str) -> str:
    """SVG's absolute M, L, C and Z as PDF's operators."""
    operators = {"M": "m", "L": "l", "C": "c", "Z": "h"}
    return " ".join(f"{rest.strip()} {operators[command]}" for command, rest in re.findall(r"([MLCZ])([^MLCZ]*)", path))
