# SPDX-License-Identifier: GPL-2.0-or-later
"""What came out of a simulation: numbers, their digest, and a picture."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sim.town import Sample, Simulation

PERCENTILES = (50, 90, 99)
WIDTH, HEIGHT, MARGIN = 460, 300, 54


def percentile(ordered: list[float], percent: float) -> float | None:
    """Return the nearest-rank percentile of an ascending list."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def make_report(simulation: Simulation) -> dict:
    """Gather everything that the same seed has to give again."""
    world, town, last = simulation.world, simulation.town, simulation.samples[-1]
    counters: Counter[str] = Counter()
    streams: Counter[str] = Counter()
    for relay in world.honest():
        for stats in (*relay.past, relay.node.stats):
            for family, counts in stats.totals().items():
                counters.update({f"{family}.{label}": count for label, count in counts.items() if count})
            for link in stats.links():
                streams.update({f"{link.interface}.in": link.bytes_in, f"{link.interface}.out": link.bytes_out})
                counters.update({f"session.{reason}": count for reason, count in link.errors.items() if count})
    return {
        "seed": town.seed,
        "relays": town.relays,
        "hostile": sum(relay.hostile for relay in world.relays.values()),
        "minutes": town.minutes,
        "contacts": simulation.contacts_made,
        "visits": simulation.visits,
        "crashes": sum(relay.crashes for relay in world.honest()),
        "written": len(simulation.letters),
        "acknowledged": last.written,
        "delivered": last.delivered,
        "delivery_ratio": round(last.delivered / last.written, 4) if last.written else None,
        "delay_s": {f"p{percent}": rounded(percentile(last.delays_s, percent)) for percent in PERCENTILES},
        "taken_by_people": sum(len(person.received) + person.again for person in world.people),
        "air": {name: getattr(world.air, name) for name in world.air.__slots__},
        "stream_bytes": dict(sorted(streams.items())),
        "lacking": world.lacking(),
        "live": world.talk.report(),
        "broken_rules": sorted(set(simulation.broken)),
        "counters": dict(sorted(counters.items())),
        "over_time": [_row(sample) for sample in simulation.samples],
    }


def rounded(value: float | None) -> float | None:
    """Return seconds to the millisecond."""
    return None if value is None else round(value, 3)


def _row(sample: Sample) -> dict:
    return {
        "at_s": sample.at_s,
        "air_bytes": sample.air_bytes,
        "acknowledged": sample.written,
        "delivered": sample.delivered,
        **{f"delay_p{percent}_s": rounded(percentile(sample.delays_s, percent)) for percent in PERCENTILES},
    }


def digest(report: dict) -> str:
    """Return a hash over every number of a report."""
    return hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()


def as_text(report: dict) -> str:
    """Write a report for people."""
    delay = report["delay_s"]
    air, live = report["air"], report["live"]
    lines = [
        f"seed {report['seed']}: {report['relays']} relays ({report['hostile']} hostile), {report['minutes']:g} min",
        f"{report['contacts']} contacts, {report['visits']} visits, {report['crashes']} power cuts",
        f"delivered {report['delivered']} of {report['acknowledged']} acknowledged: {report['delivery_ratio']}",
        f"delay p50 {delay['p50']} s, p90 {delay['p90']} s, p99 {delay['p99']} s",
        f"live: {live['said']} said, heard at {live['reached']} of {live['reachable']} in reach: {live['reach_ratio']}",
        (
            f"live delay p50 {live['delay_s']['p50']} s, p99 {live['delay_s']['p99']} s, "
            f"{live['sent_bytes_a_relay']} bytes sent by each relay"
        ),
        f"on the air {air['bytes'] / 1e6:.1f} MB in {air['packets']} packets",
        f"{air['lost']} lost, {air['doubled']} doubled, {air['overtaken']} overtaken, {air['broken']} breaks",
        "   minute   air MB  delivered  of acknowledged   p50 s   p90 s   p99 s",
    ]
    lines += [
        f"{row['at_s'] / 60:9.1f} {row['air_bytes'] / 1e6:8.1f} {row['delivered']:10} {row['acknowledged']:16} "
        + " ".join(f"{row[f'delay_p{percent}_s'] or 0:7.1f}" for percent in PERCENTILES)
        for row in report["over_time"][:: max(1, len(report["over_time"]) // 12)]
    ]
    lines += [f"BROKEN: {rule}" for rule in report["broken_rules"]]
    return "\n".join(lines)


def as_svg(simulation: Simulation) -> str:
    """Draw delivery against bytes sent, and how many letters took how long."""
    samples = simulation.samples
    by_bytes = [(s.air_bytes / 1e6, s.delivered / s.written if s.written else 0.0) for s in samples]
    delays_s = samples[-1].delays_s
    total = max(1, samples[-1].written)
    by_delay = [(0.0, 0.0), *((delay_s / 60, (i + 1) / total) for i, delay_s in enumerate(delays_s))]
    charts = _chart(by_bytes, 0, "sent on the air, MB", "delivered, of acknowledged so far")
    charts += _chart(by_delay, WIDTH, "delay, minutes", "delivered within, of all acknowledged")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>{charts}</svg>\n'
    )


def _chart(points: list[tuple[float, float]], left: int, x_label: str, y_label: str) -> str:
    x_max = max(1e-9, *(x for x, _ in points))
    width, height = WIDTH - 1.5 * MARGIN, HEIGHT - 1.6 * MARGIN
    x0, y0 = left + MARGIN, HEIGHT - MARGIN
    line = " ".join(f"{x0 + x / x_max * width:.1f},{y0 - y * height:.1f}" for x, y in points)
    ticks = "".join(
        f'<text x="{x0 + part * width:.1f}" y="{y0 + 16}" text-anchor="middle">{part * x_max:.3g}</text>'
        f'<text x="{x0 - 6}" y="{y0 - part * height + 4:.1f}" text-anchor="end">{part:g}</text>'
        f'<path d="M{x0} {y0 - part * height:.1f}h{width:.1f}" stroke="#ddd"/>'
        for part in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'{ticks}<polyline points="{line}" fill="none" stroke="#1565c0" stroke-width="2"/>'
        f'<text x="{x0 + width / 2:.1f}" y="{y0 + 34}" text-anchor="middle">{x_label}</text>'
        f'<text x="{x0}" y="{MARGIN / 3:.1f}">{y_label}</text>'
    )


def write(simulation: Simulation, report: dict, folder: Path) -> None:
    """Write report.json, report.txt and delivery.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "report.txt").write_text(as_text(report) + "\n")
    (folder / "delivery.svg").write_text(as_svg(simulation))
