# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's page: the status in words and pictures (relay/pages/templates/operator.html)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from relay.control.coarse import PEOPLE, people
from relay.core.stats import LinkKind
from relay.pages.language import N_, Tongue
from relay.process.reports import MEMORY
from relay.run import pictures, words
from relay.run.sayings import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relay.control.status import ComponentStatus, ConditionStatus, LinkStatus, Status
    from relay.pages.language import Language
    from relay.pages.render import Pages
    from relay.run.history import Sample

#: What the form for the clock answers, by the word in the address that the browser is sent to.
SAID: Final = {
    "clock": ("ok", N_("The relay goes by the time that you gave.")),
    "early": ("bad", N_("That time cannot be right. Look at the year, and try again.")),
    "time": ("bad", N_("That is no time. Write date and time, and choose your time zone.")),
    "token": ("bad", N_("The token is not right. It stands below [http] in relay.toml.")),
    "guesses": ("bad", N_("Too many wrong tokens. Wait some minutes, and try again.")),
}
#: Hours and minutes from UTC that are in use anywhere (tz database), in minutes.
OFFSETS: Final = (
    *range(-720, -180, 60), -570, -210, -180, -150, -120, -60, 0, 60, 120, 180, 210, 240, 270, 300, 330, 345, 360, 390,
    420, 480, 525, 540, 570, 600, 630, 660, 720, 765, 780, 840,
)  # fmt: skip
#: Gauges that count people.
_PEOPLE: Final = frozenset({"clients", "phones", "slots_used"})
_YES_OR_NO: Final = frozenset({"undervoltage", "undervoltage_seen", "power_external"})
_UNITS: Final = {"temperature_celsius": "°C", "card_life_used_percent": "%", "power_percent": "%"}
_ICONS: Final = {"critical": "bad", "warning": "warn", "info": "info"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """What somebody else says; ``is_english``: in English, on a page of another language."""

    text: str
    is_english: bool

    @classmethod
    def of(cls, text: str, tongue: Tongue) -> Detail:
        """``text`` as this page says it."""
        if tongue.is_english:
            return cls(text=text, is_english=False)
        found = translated(text, tongue)
        return cls(text=found or text, is_english=found is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A condition on the page; texts in English, to be translated; ``details`` are already, as far as they can be."""

    icon: str
    what: str
    do: str
    details: tuple[Detail, ...]


def operator_page(
    pages: Pages,
    language: Language,
    status: Status,
    samples: Sequence[Sample],
    *,
    can_set_clock: bool,
    said: str = "",
) -> str:
    """Return the document. ``said``: a key of SAID, for whoever comes from the form."""
    tongue = Tongue(language)
    conditions = [_shown(condition, tongue) for condition in status.conditions]
    notes = [row.icon for row in conditions]
    return pages.render(
        "operator.html",
        language,
        {
            "is_live": True,
            "status": status,
            "verdict": "bad" if "bad" in notes else "warn" if "warn" in notes else "ok",
            "troubles": [row for row in conditions if row.icon != "info"],
            "remarks": [row for row in conditions if row.icon == "info"],
            "notices": [Detail.of(notice.text, tongue) for notice in status.notices if not notice.serious],
            "figures": _figures(status, tongue),
            "segments": sorted(pictures.segments(status), key=lambda row: (row.up, not (row.relays or row.people))),
            "store": _store(status, samples, tongue),
            "traffic": _traffic(samples, tongue),
            "clock": _clock(status),
            "can_set_clock": can_set_clock,
            "said": SAID.get(said),
            "offsets": [(minutes, _offset(minutes)) for minutes in OFFSETS],
            "links": [_link(link, tongue) for link in status.links],
            "components": [_component(row, tongue) for row in status.components],
            "queues": [
                (
                    _QUEUES.get(str(queue.name), str(queue.name)),
                    tongue.number(queue.length),
                    tongue.number(queue.capacity),
                )
                for queue in status.queues
            ],
            "happened": list(_happened(status, tongue)),
            "technical": list(_technical(status, tongue)),
        },
    )


_QUEUES: Final = {"commit": N_("Messages that wait for the card"), "requests": N_("Messages on their way here")}


def _shown(condition: ConditionStatus, tongue: Tongue) -> Shown:
    said = words.CONDITIONS.get(condition.name, words.Said(condition.says, condition.remedy))
    details = tuple(Detail.of(detail, tongue) for detail in condition.details if detail)
    return Shown(icon=_ICONS[condition.severity], what=said.what, do=said.do, details=details)


def _figures(status: Status, tongue: Tongue) -> list[tuple[str, str]]:
    totals = status.totals.get("total", {})
    return [
        (N_("Messages kept"), tongue.number(status.store.envelopes)),
        (N_("Taken in"), tongue.number(totals.get("accepted", 0))),
        (N_("Handed on"), tongue.number(totals.get("forwarded", 0))),
        (N_("Relays nearby"), tongue.number(status.relays)),
        (N_("People connected"), _people(people(sum(link.clients for link in status.links)), tongue)),
    ]


def _store(status: Status, samples: Sequence[Sample], tongue: Tongue) -> dict[str, Any]:
    store = status.store
    held = [float(sample.envelopes) for sample in samples]
    most = max(held)
    return {
        "levels": [
            _level(N_("Messages"), store.envelopes, store.max_envelopes, tongue.number),
            _level(N_("Room"), store.bytes, store.max_bytes, tongue.size),
        ],
        "oldest": tongue.duration(store.oldest_age_s) if store.envelopes else "",
        "work": max(store.price_bits.values(), default=0),
        "durable": store.durable,
        "curve": pictures.curve(samples, held, most),
        "most": tongue.number(most),
        "now": tongue.number(store.envelopes),
        "span": tongue.duration(samples[-1].at_s - samples[0].at_s),
    }  # fmt: skip


def _level(name: str, now: int, most: int, shown: Callable[[float], str]) -> tuple[str, str, str, float]:
    return name, shown(now), shown(most), now / max(most, 1)


def _traffic(samples: Sequence[Sample], tongue: Tongue) -> dict[str, Any]:
    received, sent = [float(sample.received) for sample in samples], [float(sample.sent) for sample in samples]
    most = max(*received, *sent)
    return {
        "received": pictures.curve(samples, received, most),
        "sent": pictures.curve(samples, sent, most),
        "received_sum": tongue.size(sum(received)),
        "sent_sum": tongue.size(sum(sent)),
        "most": tongue.size(most),
        "span": tongue.duration(samples[-1].at_s - samples[0].at_s),
    }


def _clock(status: Status) -> dict[str, Any]:
    clock = status.clock
    shown = time.strftime("%Y-%m-%d %H:00", time.gmtime(clock.hour * 3600)) if clock.hour is not None else ""
    return {"trusted": clock.trusted, "source": clock.source, "hour": shown}


def _offset(minutes: int) -> str:
    sign = "-" if minutes < 0 else "+"
    return f"UTC{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _link(link: LinkStatus, tongue: Tongue) -> dict[str, Any]:
    state, icon = words.STATES["down" if link.missed else link.state]
    # Who finds relays carries nothing: its cells stay empty.
    carries = link.kind != str(LinkKind.DNSSD)
    cells = (
        (N_("Relays"), tongue.number(link.relays)),
        (N_("People"), _people(link.clients, tongue)),
        (N_("Received"), tongue.size(link.bytes_in)),
        (N_("Sent"), tongue.size(link.bytes_out)),
        (N_("Started anew"), tongue.number(link.restarts)),
        (N_("Errors"), tongue.number(sum(link.errors.values()))),
    )
    return {
        "interface": "" if link.kind == str(LinkKind.UNIX) else link.interface,
        "kind": words.LINKS.get(link.kind, link.kind),
        "state": state,
        "icon": icon,
        "cells": [(name, value if carries else "") for name, value in cells],
    }


def _people(count: int, tongue: Tongue) -> str:
    """A coarse number of people: nobody is not told from a few."""
    if not count:
        return tongue.text(N_("under %s")) % tongue.number(PEOPLE[1])
    # The mark keeps the sign behind the digits where one writes from right to left.
    return f"{tongue.number(count)}+\N{LEFT-TO-RIGHT MARK}"


def _component(row: ComponentStatus, tongue: Tongue) -> dict[str, Any]:
    state, icon = words.STATES[row.state]
    return {
        "name": words.COMPONENTS.get(row.name, row.name),
        "state": state,
        "icon": icon,
        "gauges": [(words.GAUGES.get(name, name), _gauge(name, value, tongue)) for name, value in row.gauges.items()],
    }


def _gauge(name: str, value: int, tongue: Tongue) -> str:
    if name in _PEOPLE:
        return _people(value, tongue)
    if name == MEMORY:
        return tongue.size(value)
    if name in _YES_OR_NO:
        return tongue.text(N_("yes") if value else N_("no"))
    unit = _UNITS.get(name, "")
    return f"{tongue.number(value)}\N{NO-BREAK SPACE}{unit}" if unit else tongue.number(value)


def _happened(status: Status, tongue: Tongue) -> Iterator[tuple[str, str, str]]:
    for family, counts in status.totals.items():
        for reason, count in counts.items():
            if count and family in words.FAMILIES:
                said = words.REASONS.get(family, {}).get(reason, reason.replace("_", " "))
                yield words.FAMILIES[family], said, tongue.number(count)


def _technical(status: Status, tongue: Tongue) -> Iterator[tuple[str, str, str]]:
    """Counts with a meaning for whoever mends the program only, by their names."""
    for link in status.links:
        for reason, count in (link.ended | link.errors).items():
            yield f"{link.kind} {link.interface}", reason, tongue.number(count)
    for component in status.components:
        for event, count in component.counters.items():
            if count:
                yield component.name, event, tongue.number(count)
