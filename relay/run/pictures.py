# SPDX-License-Identifier: GPL-2.0-or-later
"""Inline SVG for the status page: topology by segment, never by place, and the store over time."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from relay.control.text import human_duration, people_text, plural
from relay.core.stats import LinkKind

if TYPE_CHECKING:
    from relay.control.status import Status
    from relay.run.history import Sample

#: Both pictures are drawn for a column on a phone and grow with it.
_WIDTH = 360
_ROW_HEIGHT = 64
#: Symbols drawn per segment; the text beside them has the number.
_MAX_SYMBOLS = 12
_CURVE_HEIGHT = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One interface with what was heard on it."""

    name: str
    up: bool
    relays: int
    clients: int


def segments(status: Status) -> list[Segment]:
    """Merge links of one interface; discovery carries no sessions and is left out."""
    merged: dict[str, Segment] = {}
    for link in status.links:
        if link.kind == str(LinkKind.DNSSD):
            continue
        name = "this machine" if link.kind == str(LinkKind.UNIX) else link.interface
        known = merged.get(name, Segment(name=name, up=False, relays=0, clients=0))
        merged[name] = Segment(
            name=name,
            up=known.up or link.up,
            relays=known.relays + link.relays,
            clients=known.clients + link.clients,
        )
    return list(merged.values())


def topology(rows: list[Segment]) -> str:
    """Draw this relay at the left, a wire to each segment, a symbol for each relay (square) and client (ring) there."""
    height = _ROW_HEIGHT * len(rows)
    middle = height / 2
    parts = []
    for index, row in enumerate(rows):
        y = index * _ROW_HEIGHT + _ROW_HEIGHT / 2
        state = "cut" if not row.up else "live" if row.relays or row.clients else ""
        # Wires leave the relay together and part in a curve; the wire then runs on as the segment.
        parts.append(
            f'<path class="wire {state}" d="M60 {middle:.0f}C100 {middle:.0f} 80 {y:.0f} 120 {y:.0f}H{_WIDTH - 10}"/>'
        )
        parts.append(f'<text x="124" y="{y - 14:.0f}">{escape(row.name)}</text>')
        parts.append(f'<text class="soft end" x="{_WIDTH - 10}" y="{y - 14:.0f}">{_peers(row)}</text>')
        parts += _symbols(row, y)
    parts.append(f'<rect class="box" x="4" y="{middle - 18:.0f}" width="60" height="36" rx="9"/>')
    parts.append(f'<text class="inbox" x="34" y="{middle + 5:.0f}">relay</text>')
    label = "; ".join(f"{row.name}: {_peers(row)}" for row in rows)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def _peers(row: Segment) -> str:
    if not row.up:
        return "down"
    found = [plural(row.relays, "relay")] if row.relays else []
    found += [f"{people_text(row.clients)} clients"] if row.clients else []
    return ", ".join(found) or "nobody"


def _symbols(row: Segment, y: float) -> list[str]:
    relays = min(row.relays, _MAX_SYMBOLS)
    clients = min(row.clients, _MAX_SYMBOLS - relays)
    squares = [
        f'<rect class="relay" x="{129 + 18 * place}" y="{y - 6:.0f}" width="12" height="12" rx="3"/>'
        for place in range(relays)
    ]
    rings = [
        f'<circle class="client" cx="{135 + 18 * place}" cy="{y:.0f}" r="5.5"/>'
        for place in range(relays, relays + clients)
    ]
    return squares + rings


def sparkline(samples: list[Sample]) -> str:
    """Envelopes held, from the first sample (left) to now (right), from zero to the most there were."""
    first, last = samples[0], samples[-1]
    most = max(sample.envelopes for sample in samples)
    span_s = last.at_s - first.at_s
    points = [
        (
            _WIDTH * (sample.at_s - first.at_s) / span_s if span_s else _WIDTH * place,
            _CURVE_HEIGHT - (_CURVE_HEIGHT - 20) * sample.envelopes / max(most, 1),
        )
        for place, sample in enumerate(samples)
    ]
    if len(points) == 1:
        points = [(0.0, points[0][1]), (float(_WIDTH), points[0][1])]
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    label = f"{plural(last.envelopes, 'envelope')} now, at most {most} in the last {human_duration(span_s)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_CURVE_HEIGHT + 20}" role="img" aria-label="{label}">'
        f'<polygon class="area" points="0,{_CURVE_HEIGHT} {curve} {_WIDTH},{_CURVE_HEIGHT}"/>'
        f'<polyline class="curve" points="{curve}"/>'
        f'<text class="soft" x="0" y="12">at most {most:,}</text>'
        f'<text class="soft" x="0" y="{_CURVE_HEIGHT + 16}">{human_duration(span_s)} ago</text>'
        f'<text class="soft end" x="{_WIDTH}" y="{_CURVE_HEIGHT + 16}">now: {last.envelopes:,}</text></svg>'
    )
