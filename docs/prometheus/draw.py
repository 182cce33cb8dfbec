# SPDX-License-Identifier: GPL-2.0-or-later
"""Draws what the dashboards' queries returned in the scene of tests/netns/test_watching.py: docs/dashboard.png.

`python -m docs.prometheus.draw`, after `make test-alerts`, which leaves the results in
build/dashboard.json. Needs Chromium. This is not Grafana: it shows what there is to be drawn, in its places.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docs.prometheus.dashboard import FLEET, RELAY, Panel, View

ROOT = Path(__file__).parents[2]
RESULTS, PICTURE = ROOT / "build" / "dashboard.json", ROOT / "docs" / "dashboard.png"
#: Pixels.
COLUMN, ROW, GAP, WIDTH = 64, 30, 8, 24 * 64
PLOT_LEFT, PLOT_TOP, LEGEND_ROW = 58, 30, 15
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#9c755f", "#edc948", "#bab0ac", "#d37295")
MOST_IN_LEGEND = 6
#: A relay is read each second; after this a line ends, and begins anew.
MOST_GAP_S = 4


class Drawing:
    """SVG, piece by piece; ``rows`` of a panel are (legend, points)."""

    def __init__(self, began_s: float, ended_s: float, worst_s: float) -> None:
        """``worst_s``: the moment that single figures are of; in the end all is mended."""
        self._began_s, self._ended_s, self._worst_s = began_s, ended_s, worst_s
        self._parts: list[str] = []
        self.height = 0

    def view(self, view: View, title: str, results: dict[str, list]) -> None:
        """Add a dashboard below what is there; ``results`` by query."""
        self._text(4, self.height + 24, title, size=20, weight="bold")
        self.height += 36
        for name, panels in view.rows:
            self._text(4, self.height + 16, name, size=14, weight="bold", colour="#555")
            self.height += 24
            column, tallest = 0, 0
            for panel in panels:
                height = ROW * (3 if panel.kind == "stat" else 7)
                if column + panel.span > 24:
                    self.height += tallest + GAP
                    column, tallest = 0, 0
                self._panel(panel, results, column * COLUMN, self.height, panel.span * COLUMN - GAP, height)
                column, tallest = column + panel.span, max(tallest, height)
            self.height += tallest + 2 * GAP

    def svg(self) -> str:
        """All of it."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" '
            f'font-family="sans-serif">{"".join(self._parts)}</svg>'
        )

    def _panel(self, panel: Panel, results: dict[str, list], x: float, y: float, width: float, height: float) -> None:
        self._rect(x, y, width, height, "#fff", "#ccc")
        self._text(x + 8, y + 18, panel.title, weight="bold")
        rows = [
            (_legend(legend, row["metric"]), [(float(at), float(value)) for at, value in row["values"]])
            for query, legend in panel.queries
            for row in results[query]
        ]
        if not rows:
            self._text(x + width / 2, y + height / 2, "did not happen here", anchor="middle", colour="#999")
            return
        draw = {"stat": self._stat, "states": self._states, "lines": self._lines}[panel.kind]
        draw(panel, rows, x, y, width, height)

    def _stat(self, panel: Panel, rows: list, x: float, y: float, width: float, height: float) -> None:
        worst = min(rows[0][1], key=lambda point: abs(point[0] - self._worst_s))[1]
        is_bad = panel.bad_from is not None and worst >= panel.bad_from
        self._rect(x + 1, y + 24, width - 2, height - 25, "#e15759" if is_bad else "#59a14f")
        self._text(x + width / 2, y + 68, f"{worst:g}", size=34, anchor="middle", colour="#fff", weight="bold")

    def _states(self, panel: Panel, rows: list, x: float, y: float, width: float, height: float) -> None:
        step = (height - PLOT_TOP - 4) / max(len(rows), 1)
        for number, (legend, points) in enumerate(sorted(rows)):
            top = y + PLOT_TOP + number * step
            self._text(x + 8, top + step / 2 + 4, legend, size=min(11, step))
            for (at, value), after in zip(points, [*(at for at, _ in points[1:]), points[-1][0] + 1], strict=True):
                left = x + 200 + (width - 208) * (at - self._began_s) / self._span()
                right = x + 200 + (width - 208) * (min(after, at + 2) - self._began_s) / self._span()
                self._rect(left, top + 1, max(right - left, 1), step - 2, _colour(panel, legend, value))

    def _lines(self, panel: Panel, rows: list, x: float, y: float, width: float, height: float) -> None:
        values = [value for _, points in rows for _, value in points if abs(value) < float("inf")] or [0.0]
        low, high = min(0.0, *values), panel.most or max(*values, panel.bad_from or 0.0, 1e-9)
        legend_rows = (min(len(rows), MOST_IN_LEGEND) + 2) // 3
        bottom = y + height - 8 - legend_rows * LEGEND_ROW
        top, left, right = y + PLOT_TOP, x + PLOT_LEFT, x + width - 8

        def at_height(value: float) -> float:
            return bottom - (bottom - top) * (value - low) / (high - low)

        for value in (low, (low + high) / 2, high):
            self._line([(left, at_height(value)), (right, at_height(value))], "#eee")
            self._text(left - 4, at_height(value) + 4, _amount(value, panel.unit), size=10, anchor="end", colour="#777")
        if panel.bad_from is not None:
            self._line([(left, at_height(panel.bad_from)), (right, at_height(panel.bad_from))], "#e15759", dash="4")
        for number, (legend, points) in enumerate(rows):
            colour = COLOURS[number % len(COLOURS)]
            drawn = [
                (left + (right - left) * (at - self._began_s) / self._span(), at_height(value))
                for at, value in points
                if abs(value) < float("inf")  # also not NaN
            ]
            for piece in _pieces(drawn, MOST_GAP_S * (right - left) / self._span()):
                self._line(piece, colour, width=1.6)
            if number < MOST_IN_LEGEND:
                at_x = x + 8 + (number % 3) * (width - 8) / 3
                at_y = y + height - 6 - (legend_rows - 1 - number // 3) * LEGEND_ROW
                self._rect(at_x, at_y - 8, 8, 8, colour)
                self._text(at_x + 12, at_y, legend[:22], size=10)

    def _span(self) -> float:
        return self._ended_s - self._began_s

    def _rect(self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" stroke="{stroke}"/>'
        )

    def _line(self, points: list, colour: str, *, width: float = 1, dash: str = "") -> None:
        if len(points) == 1:
            self._rect(points[0][0] - 2, points[0][1] - 2, 4, 4, colour)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-dasharray="{dash}"/>'
        )

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        anchor: str = "start",
        colour: str = "#222",
        weight: str = "",
    ) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}" '
            f'font-weight="{weight or "normal"}">{html.escape(text)}</text>'
        )


def _colour(panel: Panel, legend: str, value: float) -> str:
    """Of a state: well, wrong, or neither."""
    if legend.startswith("info") or legend.endswith((": off", "never_started", "stopped", "no_adapter", "discovering")):
        return "#bab0ac"
    is_answer = panel.queries[0][0].startswith("up{")
    is_well = value == 1 if is_answer else legend.endswith((": up", ": listening"))
    return "#59a14f" if is_well else "#e15759"


def _pieces(points: list, most_apart: float) -> list[list]:
    """A line, cut where there was nothing for a while."""
    pieces: list[list] = []
    for point in points:
        if not pieces or point[0] - pieces[-1][-1][0] > most_apart:
            pieces.append([])
        pieces[-1].append(point)
    return pieces


def _legend(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)


def _amount(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}"
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g}"


def main() -> int:
    """Draw; return the exit status."""
    chromium = shutil.which("chromium")
    if chromium is None or not RESULTS.exists():
        print(
            "This needs chromium, and build/dashboard.json from make test-alerts",
            file=sys.stderr,
        )
        return 1
    kept = json.loads(RESULTS.read_text())
    fleet, one = kept["fleet.json"], kept["relay.json"]
    times = [at for rows in fleet.values() for row in rows for at, _ in row["values"]]
    (alerts,) = (panel.queries[0][0] for _, row in FLEET.rows for panel in row if panel.title == "Alerts")
    worst_s, _ = max(fleet[alerts][0]["values"], key=lambda point: float(point[1]))
    drawing = Drawing(min(times), max(times), worst_s)
    drawing.view(FLEET, "Mesh relays", fleet)
    drawing.view(RELAY, "One mesh relay: that of the worn card", one)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f'<body style="margin:0;background:#f4f4f4">{drawing.svg()}')
        subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--hide-scrollbars", f"--screenshot={PICTURE}",
             f"--window-size={WIDTH},{drawing.height}", page.as_uri()],
            check=True, capture_output=True, timeout=60, cwd=folder,
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
