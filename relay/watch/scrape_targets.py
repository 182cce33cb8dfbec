# SPDX-License-Identifier: GPL-2.0-or-later
"""Which relays Prometheus should read, each once, from what the addresses that were found say of themselves.

Each interface of a relay is announced under a random name of its own, and a restart
changes all of them. That two addresses are one relay is told by /target.json of its
status server alone (relay.run.web), to whoever may read its metrics.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from relay.config.settings import Address, BadValueError, watch_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: A relay that answers no more is listed for so long, so that its absence is seen: a day of repairs.
KEEP_S: Final = 86_400.0
#: Relays listed, gone ones included. More are not watched by one machine's mDNS; each is under 1 KiB.
MAX_TARGETS: Final = 256
#: The label of service discovery from which prometheus.yml makes `instance`.
LABEL: Final = "__meta_relay_label"
_RUN: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a relay says of itself: ``run`` is drawn at each start, ``label`` is its operator's or ""."""

    run: str
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeTarget:
    """One relay, where it is read; ``seen_s``: when it last answered, in monotonic seconds."""

    address: Address
    identity: Identity
    seen_s: float

    @property
    def label(self) -> str:
        """The operator's name for it, or ""."""
        return self.identity.label


def read_identity(raw: bytes) -> Identity | None:
    """What /target.json said; None if that is no relay's answer. Any bytes are taken."""
    try:
        values = json.loads(raw)
        run, label = values["run"], values.get("label", "")
        if not _RUN.fullmatch(run):
            return None
        return Identity(run=run, label=watch_label(label))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, BadValueError):
        return None


def merge(known: Sequence[ScrapeTarget], answers: Mapping[Address, Identity], now: float) -> list[ScrapeTarget]:
    """Return the targets after a look around: each relay once, a label once, those that fell silent for KEEP_S.

    A relay keeps the address by which it is listed as long as it answers there: without
    a label that address is what names its series.
    """
    listed = {target.address for target in known}
    by_run: dict[str, list[Address]] = {}
    for address, identity in answers.items():
        by_run.setdefault(identity.run, []).append(address)
    # What a relay says of itself counts, and not what another says who repeats its value.
    chosen = [
        min(addresses, key=lambda address: (address not in listed, *_preference(address)))
        for addresses in by_run.values()
    ]
    found = [ScrapeTarget(address=address, identity=answers[address], seen_s=now) for address in chosen]
    # Of those of one label the one that had it before keeps it, or two relays would write into one series. And who is
    # listed stays so, also when he starts again, however many false ones come.
    identities = [old.identity for old in known]
    found.sort(
        key=lambda target: (
            target.identity not in identities,
            target.address not in listed,
            _preference(target.address),
        )
    )
    found = [
        target if not target.label or target.label not in {other.label for other in found[:at]} else _unlabelled(target)
        for at, target in enumerate(found)
    ]
    taken = {target.label for target in found if target.label}
    answering = set(answers)
    silent = [
        target
        for target in known
        if target.address not in answering and target.label not in taken and now - target.seen_s < KEEP_S
    ]
    kept = sorted([*found, *silent], key=lambda target: -target.seen_s)[:MAX_TARGETS]
    return sorted(kept, key=lambda target: (target.label, _preference(target.address)))


def same_label(answers: Iterable[Identity]) -> list[str]:
    """The labels that more than one relay has."""
    runs: dict[str, set[str]] = {}
    for identity in answers:
        runs.setdefault(identity.label, set()).add(identity.run)
    return sorted(label for label, having in runs.items() if label and len(having) > 1)


def service_discovery(targets: Iterable[ScrapeTarget]) -> list[dict[str, Any]]:
    """The targets as Prometheus' file_sd and http_sd have them."""
    return [
        {"targets": [str(target.address)], "labels": {LABEL: target.label} if target.label else {}}
        for target in targets
    ]


def _unlabelled(target: ScrapeTarget) -> ScrapeTarget:
    return replace(target, identity=replace(target.identity, label=""))


def _preference(address: Address) -> tuple[int, str]:
    """Addresses that a person can read first; link-local ones hold for one segment only."""
    parsed = ipaddress.ip_address(address.host.partition("%")[0])
    return (2 if parsed.is_link_local else parsed.version == 6, str(address))
