# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulation notices when the core is broken: each defect planted here fails the town's assertions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relay.core.envelope import envelope_id
from relay.core.exchange import Exchange
from relay.core.intake import Intake
from relay.core.live import Live
from relay.core.log import AdmittedLog, EntryState
from relay.core.node import Node
from relay.core.retention import Retention
from relay.core.session import Session
from tests.sim.hostile import Kind
from tests.sim.judge import faults, live_faults
from tests.sim.radio import Radio
from tests.sim.report import make_report
from tests.sim.steps import give, ids, letters
from tests.sim.town import Simulation, Town, town_of
from tests.sim.world import World

#: A defect must be noticed in one of these at the latest: where nobody walks by, nothing shows.
SEEDS = ("one", "two", "three")
#: Thirty relays are few; what they deliver says little.
LEAST_DELIVERED = 0.6


def town(seed: str) -> list[str]:
    """Return the faults of a small town."""
    return judge(town_of(30, minutes=8, seed=seed, letters=40, hostile=0.1, flood=24))


def cramped_town(seed: str) -> list[str]:
    """Return the faults of a town whose stores are so small that most of what comes has to leave again."""
    found = judge(town_of(30, minutes=8, seed=seed, letters=40, hostile=0.2, flood=60, store_envelopes=40))
    # They may lose letters to others that paid as much, which is no fault of the core.
    return [fault for fault in found if not fault.startswith("delivered only")]


def judge(some_town: Town) -> list[str]:
    """Return the faults of a town; an exception that escapes from the core is one too."""
    simulation = Simulation(some_town)
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it was noticed
        return [f"{type(error).__name__}: {error}", *simulation.world.ledger.broken]
    return faults(make_report(simulation), least_delivered=LEAST_DELIVERED)


def ambush(seed: str) -> list[str]:
    """Three enemies with better links offer everything first, and give nothing."""
    world = World(seed)
    sender, receiver = world.add_relay(), world.add_relay()
    for kind in (Kind.WITHHOLD, Kind.MISSING, Kind.WITHHOLD):
        enemy = world.add_hostile(kind)
        world.join(sender.name, enemy.name, Radio(latency_s=0.001))
        world.join(enemy.name, receiver.name, Radio(latency_s=0.001))
    world.join(sender.name, receiver.name, Radio(latency_s=0.4))
    world.run(10)
    written = letters(world, 100)
    give(world, sender, written)
    world.run(60)
    found = world.unsettled_rules()
    missing = ids(written) - receiver.held()
    if missing:
        found.append(f"{len(missing)} envelopes never reached a connected neighbour")
    return found


def ring(seed: str) -> list[str]:
    """Four relays in a ring, and one that hears only one of them, say something each."""
    world = World(seed)
    relays = [world.add_relay() for _ in range(5)]
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 0), (3, 4)):
        world.join(a, b)
    world.run(10)
    for relay in relays:
        world.talk.say(relay)
    world.run(30)
    return live_faults(world.talk.report(), least_reached=1.0)


def every_third_offer_is_skipped(patch: pytest.MonkeyPatch) -> None:
    original, count = Exchange._add, [0]

    def add(self: Exchange, *arguments) -> None:
        count[0] += 1
        if count[0] % 3:
            original(self, *arguments)

    patch.setattr(Exchange, "_add", add)


def acknowledged_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    original = Intake.take_puts

    def take_puts(self: Intake, link, puts, now):
        known = {number for number, envelope in puts if self._log.find(envelope_id(envelope)) is not None}
        refused = original(self, link, puts, now)
        # What is held or on its way is acknowledged later, as it should be.
        link.session.acknowledge({number for number, _ in puts} - known - {number for number, _ in refused})
        return refused

    patch.setattr(Intake, "take_puts", take_puts)
    patch.setattr(Node, "committed", _without_acknowledgements(Node.committed))


def _without_acknowledgements(committed: Callable) -> Callable:
    def silent(self: Node, pending, now: float) -> None:
        for waiting in pending.waiters:
            waiting.numbers.clear()
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
    original = AdmittedLog.find

    def find(self: AdmittedLog, identity: bytes):
        entry = original(self, identity)
        return None if entry is None or entry.state in {EntryState.GONE, EntryState.DISPLACED} else entry

    patch.setattr(AdmittedLog, "find", find)
    patch.setattr(AdmittedLog, "__contains__", lambda self, identity: self.find(identity) is not None)


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
    original = Intake._settle

    def settle(self: Intake, pending):
        before = self.pending_bytes
        waiters = original(self, pending)
        self.pending_bytes = before
        return waiters

    patch.setattr(Intake, "_settle", settle)


def reconciliation_finds_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exchange, "add_backlog", lambda *_: None)


def bodies_are_sent_unasked(patch: pytest.MonkeyPatch) -> None:
    """Every body twice: the second is one that nobody asked for."""
    original = Session.send_envelopes
    patch.setattr(
        Session, "send_envelopes", lambda self, envelopes: original(self, [e for e in envelopes for _ in range(2)])
    )


def what_a_neighbour_has_is_remembered_without_bound(patch: pytest.MonkeyPatch) -> None:
    def note(self: Exchange, identity: bytes) -> None:
        for number in range(40):
            self._peer_has[identity + bytes([number])] = None
        self._peer_has[identity] = None

    patch.setattr(Exchange, "note_peer_has", note)


def what_was_seen_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A loop, which only the limit of hops ends."""
    patch.setattr(Live, "_is_known", lambda *_: False)


def the_last_neighbour_is_left_out(patch: pytest.MonkeyPatch) -> None:
    original = Live._pass_on

    def pass_on(self: Live, key, message, source, now) -> None:
        last = list(self._neighbours)[-1]
        original(self, key, message, source, now)
        last.live.discard(key)

    patch.setattr(Live, "_pass_on", pass_on)


Scenario = Callable[[str], list[str]]
DEFECTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Scenario, str]] = [
    (every_third_offer_is_skipped, town, "never reached a connected neighbour"),
    (acknowledged_before_the_commit, town, "acknowledged what its store did not have"),
    (acknowledged_ones_vanish_uncounted, town, "uncounted"),
    (what_left_is_taken_again, cramped_town, "admitted twice"),
    (requests_never_time_out, ambush, "never reached a connected neighbour"),
    (pending_bytes_are_never_given_back, town, "pending"),
    (reconciliation_finds_nothing, town, "never reached a connected neighbour"),
    (bodies_are_sent_unasked, town, "came unwanted"),
    (what_a_neighbour_has_is_remembered_without_bound, town, "too many peer_has"),
    (what_was_seen_is_forgotten, ring, "more than once"),
    (the_last_neighbour_is_left_out, ring, "live datagrams reached"),
]


@pytest.mark.parametrize("scenario", [town, cramped_town, ambush, ring], ids=lambda scenario: scenario.__name__)
def test_a_sound_core_shows_no_fault(scenario: Scenario) -> None:
    assert scenario(SEEDS[0]) == []


@pytest.mark.parametrize(
    ("plant", "scenario", "sign"), [pytest.param(*defect, id=defect[0].__name__) for defect in DEFECTS]
)
def test_a_planted_defect_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None], scenario: Scenario, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in SEEDS:
        found = scenario(seed)
        print(seed, *found[:10], sep="\n")
        if any(sign in fault for fault in found):
            return
    pytest.fail("the simulation did not notice")
