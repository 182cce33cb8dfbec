# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m relay.papers.outline FONT`: draws the poster's Arabic lines, for outlines.json; needs hb-view (HarfBuzz).

For whoever changes these lines: joining and placing Arabic letters is HarfBuzz' work,
and no PDF reader brings a font along that has them. The font was DejaVu Sans (2.37),
whose licence lets its outlines go into documents.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from relay.papers.poster import arabic_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


def outline(font: str, text: str) -> dict[str, str | float]:
    """The line's path and width for a size of 1000."""
    command = ("hb-view", "--output-format=svg", "--font-size=1000", "--margin=0", "--direction=rtl", font, text)
    drawn = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - the developer's own font
    root = ET.fromstring(drawn)  # noqa: S314 - hb-view's
    uses = list(root.iter(f"{_SVG}use"))
    # Most letters stand on it; marks are placed above or below.
    baseline = Counter(float(use.attrib["y"]) for use in uses).most_common(1)[0][0]
    shapes = {f"#{symbol.attrib['id']}": symbol for symbol in root.iter(f"{_SVG}symbol")}
    parts: list[str] = []
    for use in uses:
        for path in shapes[use.attrib[_LINK]].iter(f"{_SVG}path"):
            parts += _moved(path.attrib["d"], float(use.attrib["x"]), float(use.attrib["y"]) - baseline)
    return {"width": round(float(root.attrib["viewBox"].split()[2])), "path": " ".join(parts)}


def _moved(path: str, x: float, y: float) -> Iterator[str]:
    for command, rest in re.findall(r"([MLCZ])([^MLCZ]*)", path):
        numbers = [float(number) for number in rest.split()]
        moved = [f"{number + (y if place % 2 else x):.0f}" for place, number in enumerate(numbers)]
        yield command + " ".join(moved)


def main(font: str) -> None:
    """Write outlines.json."""
    found = {text: outline(font, text) for text in arabic_lines()}
    path = Path(__file__).with_name("outlines.json")
    path.write_text(json.dumps(found, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
