# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulation notices when the core is broken: each defect planted here fails the town's assertions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.core.exchange import Exchange
from relay.core.log import AdmittedLog, EntryState
from relay.core.node import Node
from relay.core.retention import Retention
from relay.core.session import Session
from tests.sim.judge import faults
from tests.sim.report import make_report
from tests.sim.town import Simulation, Town, town_of

if TYPE_CHECKING:
    from collections.abc import Callable

TOWN = town_of(30, minutes=8, seed="defects", letters=40, hostile=0.1, flood=24)
#: Stores so small that most of what comes has to leave again.
CRAMPED = town_of(30, minutes=8, seed="defects", letters=40, hostile=0.2, flood=60, store_envelopes=40)


def judge(town: Town) -> list[str]:
    """Return the faults of a town; an exception that escapes from the core is one too."""
    simulation = Simulation(town)
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it was noticed
        return [f"{type(error).__name__}: {error}", *simulation.world.ledger.broken]
    return faults(make_report(simulation))


def every_third_offer_is_skipped(patch: pytest.MonkeyPatch) -> None:
    original, count = Exchange._add, [0]

    def add(self: Exchange, *arguments) -> None:
        count[0] += 1
        if count[0] % 3:
            original(self, *arguments)

    patch.setattr(Exchange, "_add", add)


def acknowledged_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    original = Node._take

    def take(self: Node, link, number, *arguments):
        refusal = original(self, link, number, *arguments)
        if refusal is None and number is not None:
            link.session.acknowledge(number)
        return refusal

    patch.setattr(Node, "_take", take)
    patch.setattr(Node, "committed", _without_acknowledgements(Node.committed))


def _without_acknowledgements(committed: Callable) -> Callable:
    def silent(self: Node, pending, now: float) -> None:
        pending.waiters = [(link, None, size) for link, _, size in pending.waiters]
        committed(self, pending, now)

    return silent


def acknowledged_ones_vanish_uncounted(patch: pytest.MonkeyPatch) -> None:
    original = Retention.retire

    def retire(self: Retention, now: float):
        dropped, forgotten = original(self, now)
        oldest = next(self._log.entries(EntryState.HELD), None)
        if oldest is not None:
            self._log.drop_body(oldest.seq)
            dropped.append(oldest.seq)
        return dropped, forgotten

    patch.setattr(Retention, "retire", retire)


def what_left_is_taken_again(patch: pytest.MonkeyPatch) -> None:
    def contains(self: AdmittedLog, identity: bytes) -> bool:
        seq = self._by_id.get(identity)
        entry = None if seq is None else self.entry(seq)
        return entry is not None and entry.state is not EntryState.GONE

    patch.setattr(AdmittedLog, "__contains__", contains)


def requests_never_time_out(patch: pytest.MonkeyPatch) -> None:
    original = Exchange.ask

    def ask(self: Exchange, *arguments) -> None:
        original(self, *arguments)
        self.deadline = None

    patch.setattr(Exchange, "ask", ask)
    patch.setattr(Exchange, "answered", _without_deadline(Exchange.answered))


def _without_deadline(answered: Callable) -> Callable:
    def late(self: Exchange, *arguments) -> None:
        answered(self, *arguments)
        self.deadline = None

    return late


def pending_bytes_are_never_given_back(patch: pytest.MonkeyPatch) -> None:
    original = Node._settle

    def settle(self: Node, pending):
        before = self.pending_bytes
        waiters = original(self, pending)
        self.pending_bytes = before
        return waiters

    patch.setattr(Node, "_settle", settle)


def reconciliation_finds_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exchange, "add_backlog", lambda *_: None)


def bodies_are_sent_unasked(patch: pytest.MonkeyPatch) -> None:
    """Every body twice: the second is one that nobody asked for."""
    original = Session.send_envelopes
    patch.setattr(
        Session, "send_envelopes", lambda self, envelopes: original(self, [e for e in envelopes for _ in range(2)])
    )


def refusals_and_neighbours_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The bound on what is remembered of a neighbour is gone."""

    def note(self: Exchange, identity: bytes) -> None:
        for number in range(40):
            self._peer_has[identity + bytes([number])] = None
        self._peer_has[identity] = None

    patch.setattr(Exchange, "note_peer_has", note)


DEFECTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Town, str]] = [
    (every_third_offer_is_skipped, TOWN, "never reached a connected neighbour"),
    (acknowledged_before_the_commit, TOWN, "acknowledged what its store did not have"),
    (acknowledged_ones_vanish_uncounted, TOWN, "uncounted"),
    (what_left_is_taken_again, CRAMPED, "admitted twice"),
    (requests_never_time_out, TOWN, "never reached a connected neighbour"),
    (pending_bytes_are_never_given_back, TOWN, "pending"),
    (reconciliation_finds_nothing, TOWN, "never reached a connected neighbour"),
    (bodies_are_sent_unasked, TOWN, "came unwanted"),
    (refusals_and_neighbours_are_forgotten, TOWN, "too many peer_has"),
]


@pytest.mark.parametrize("town", [TOWN, CRAMPED], ids=["town", "cramped"])
def test_a_sound_core_shows_no_fault(town: Town) -> None:
    found = judge(town)
    # A cramped store may lose letters to others that paid as much; that is no fault of the core.
    assert [fault for fault in found if town is TOWN or not fault.startswith("delivered only")] == []


@pytest.mark.parametrize(("plant", "town", "sign"), DEFECTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_defect_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None], town: Town, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = judge(town)
    print("\n".join(found[:10]))
    assert any(sign in fault for fault in found)
