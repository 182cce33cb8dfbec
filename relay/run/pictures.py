# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operator's page draws: this relay's own segments and who is there, and curves over the last day.

Of what lies beyond the neighbours a relay knows nothing, and a seized one must not map the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.core.stats import LinkKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.control.status import Status
    from relay.run.history import Sample

#: Symbols drawn for one segment; the text beside them has the number.
MAX_SYMBOLS: Final = 12
#: The curves' own units; they are stretched to what room there is.
WIDTH: Final = 1000
HEIGHT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One interface with who is on it; ``name`` is "" for this machine itself; both counts are coarse."""

    name: str
    kind: str
    up: bool
    relays: int
    people: int

    @property
    def relay_symbols(self) -> int:
        """How many relays to draw."""
        return min(self.relays, MAX_SYMBOLS)


def segments(status: Status) -> list[Segment]:
    """Merge links of one interface; discovery carries no sessions and is left out. ``status`` with coarse counts."""
    merged: dict[str, tuple[str, bool, int, int]] = {}
    for link in status.links:
        if link.kind == str(LinkKind.DNSSD):
            continue
        name = "" if link.kind == str(LinkKind.UNIX) else link.interface
        _, up, relays, people = merged.get(name, (link.kind, False, 0, 0))
        merged[name] = (link.kind, up or link.up, relays + link.relays, people + link.clients)
    return [
        Segment(name=name, kind=kind, up=up, relays=relays, people=people)
        for name, (kind, up, relays, people) in merged.items()
    ]


def curve(samples: Sequence[Sample], values: Sequence[float], most: float) -> str:
    """The points of a polyline from the first sample (left) to the last, from zero (below) to ``most``."""
    first, span_s = samples[0].at_s, samples[-1].at_s - samples[0].at_s
    points = [
        (WIDTH * (sample.at_s - first) / span_s if span_s else WIDTH * place, HEIGHT * (1 - value / max(most, 1)))
        for place, (sample, value) in enumerate(zip(samples, values, strict=True))
    ]
    if len(points) == 1:
        points = [(0.0, points[0][1]), (float(WIDTH), points[0][1])]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
