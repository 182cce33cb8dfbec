# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes docs/metrics.md from the tables of the code: `python -m relay.run.metrics_doc > docs/metrics.md`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.control import conditions
from relay.control.coarse import EVENT_STEP, PEOPLE, RELAYS
from relay.core.stats import BOUNDS
from relay.run.metrics import FAMILIES, HISTOGRAMS, Family, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Units by the end of a name, as Prometheus has them; of all others the values are counts.
_UNITS = {
    "_seconds": "s",
    "_bytes": "bytes",
    "_ratio": "0 to 1",
    "_celsius": "degrees Celsius",
    "_percent": "%",
    "_hours": "hours",
}
#: A list of more values than this is told by its length: the names stand beside the enum, and on the page.
_MOST_SHOWN = 14

_HEAD = """\
# Metrics and conditions

Written by `python -m relay.run.metrics_doc` from the tables in `relay/run/metrics.py` and
`relay/control/conditions.py`; a test holds it to be current. How a metric is added is in
[CONTRIBUTING.md](../CONTRIBUTING.md).

Prometheus reads `http://RELAY:9470/metrics`. No label names a person, an address or a place, and each label has the
values below and no others, so a relay has at most {series} series, whoever is there and whatever he sends. What a
machine cannot tell is absent and not 0: a rule on it does not fire by mistake.

Counts of who is there are **coarse**, rounded down, so that a graph does not show how many stood there: people to
{people} (0 is "fewer than {least}"), relays to
{relays}; what is counted once for each visit rises in steps of {step}. Other
counters are exact: bytes and envelopes show that *something* was sent, at the time of a scrape. Whoever
reads them sees as much as a listener on the air does ([threat-model.md](threat-model.md)).

"""
_CONDITIONS = """\

## Conditions

Whether a relay is well is decided in one table. What holds is in `relay_condition` (1), in `status.json` and
`relay status --json` (`conditions`: name, severity, says, remedy, details), on the status page, in `relay status`, in
`/healthz` (503 with a line for each that is not of severity info, else 200 and `ok`), in relay-status.txt and behind
the light. critical: messages are lost or not taken, go there. warning: look at it today. info: nothing is wrong.

| condition | severity | what is so | what to do |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    kind: str
    unit: str
    labels: str
    text: str
    act: str

    def line(self) -> str:
        cells = (f"`{self.name}`", self.kind, self.unit, self.labels, self.text, self.act)
        return f"| {' | '.join(cells)} |"


def document() -> str:
    """Return the whole text."""
    head = _HEAD.format(
        series=f"{most_series():,}",
        people=_steps(PEOPLE),
        least=PEOPLE[1],
        relays=_steps(RELAYS),
        step=EVENT_STEP,
    )
    table = "| metric | kind | unit | labels | meaning | what to do |\n|---|---|---|---|---|---|\n"
    rows = [_family(family) for family in FAMILIES]
    rows += [
        _Row(
            f"relay_{histogram}",
            "histogram",
            "s",
            "",
            f"{meaning.text}; buckets: {_steps(BOUNDS[histogram])}",
            meaning.act,
        )
        for histogram, meaning in HISTOGRAMS.items()
    ]
    conditions_table = "".join(
        f"| `{one.name}` | {one.severity} | {one.says} | {one.remedy or 'what it says itself'} |\n"
        for one in conditions.TABLE
    )
    metrics_table = table + "\n".join(row.line() for row in rows)
    process = (
        "\n\nBeside these, of the Prometheus client: `process_cpu_seconds_total`, `process_resident_memory_bytes` (in\n"
        "whole MiB, as all memory here) and `process_start_time_seconds` of `relay run`.\n"
    )
    return f"{head}## Metrics\n\n{metrics_table}{process}{_CONDITIONS}{conditions_table}"


def most_series() -> int:
    """The most series that a relay can have, histograms with their buckets, sums and counts included."""
    families = sum(1 for family in FAMILIES for _ in family.series())
    return families + sum(len(BOUNDS[histogram]) + 3 for histogram in HISTOGRAMS)


def _family(family: Family) -> _Row:
    stem = family.name.removesuffix("_total")
    unit = next((unit for end, unit in _UNITS.items() if stem.endswith(end)), "")
    return _Row(
        family.name,
        "counter" if family.kind is Kind.COUNTER else "gauge",
        unit,
        "; ".join(f"{label}: {_shown(values)}" for label, values in family.labels.items() if label != "version"),
        family.help,
        family.act,
    )


def _shown(values: tuple[str, ...]) -> str:
    return ", ".join(values) if len(values) <= _MOST_SHOWN else f"{len(values)} fixed names"


def _steps(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    sys.stdout.write(document())
