# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenario: clusters of relays in a town, carriers between them, people, and enemies.

Most relays stand in clusters out of reach of each other; some are carried, each
along its own short list of clusters (a route, not a random walk over the whole
town); people likewise. Clusters are jammed for minutes, relays lose power, and a
twentieth of them is hostile. At the end everybody stands still for a while, and
then everything must have come to rest.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from relay.core.admission import Policy
from relay.core.envelope import BUCKET_BITS
from tests.sim.hostile import Kind
from tests.sim.people import Letter, Person, write_letter
from tests.sim.radio import Radio, Tamper
from tests.sim.world import START_HOUR, World

if TYPE_CHECKING:
    from tests.sim.radio import Contact
    from tests.sim.relays import Relay

TICK_S = 5.0
REACH_M = 60.0
#: A contact lasts a little beyond the distance at which it forms.
LOSE_M = 70.0
CLUSTER_RELAYS = 20
CLUSTER_RADIUS_M = 55.0
CLUSTER_SPACING_M = 300.0
MESH_LINKS = 3
CARRIER_LINKS = 3
SAMPLE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """Size and hardships; fractions are of the relays, probabilities of the contacts."""

    relays: int
    minutes: float = 20.0
    seed: str = "1"
    people: int = 0
    letters: int = 0
    said: int = 0
    carriers: float = 0.15
    hostile: float = 0.05
    crashes: float = 0.05
    slow: float = 0.10
    damaged: float = 0.02
    silent_breaks: float = 0.3
    flood: int = 12
    price: int = 4
    store_envelopes: int = 800
    rest_s: float = 150.0


@dataclass(slots=True)
class Place:
    """Where something is, where it goes, and how long it still stays."""

    x: float
    y: float
    route: list[int]
    speed_m_per_s: float
    target: tuple[float, float] | None = None
    pause_s: float = 0.0


@dataclass(slots=True)
class Sample:
    """The state of the whole town at a time."""

    at_s: float
    air_bytes: int
    written: int
    delivered: int
    delays_s: list[float] = field(default_factory=list)


class Simulation:
    """Runs one town from a seed."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.world = World(town.seed)
        self.rng = random.Random(f"town {town.seed}")
        self.letters: list[Letter] = []
        self.samples: list[Sample] = []
        self.broken: list[str] = []
        self.contacts_made = 0
        self.visits = 0
        self.jammed: set[int] = set()
        self.clusters: list[tuple[float, float]] = []
        self.places: dict[int, Place] = {}
        self.person_places: list[Place] = []
        self.slots: Counter[int] = Counter()
        self._recipients: dict[bytes, Person] = {}
        self._person_contacts: dict[int, tuple[int, Contact]] = {}
        self._home: dict[int, int] = {}
        self._fixed: list[tuple[int, int]] = []
        self._moving = True
        self._build()

    # -- building ---------------------------------------------------------

    def _build(self) -> None:
        town, rng = self.town, self.rng
        number = max(2, round(town.relays * (1 - town.carriers) / CLUSTER_RELAYS))
        side = CLUSTER_SPACING_M * number**0.5
        self.clusters = [(rng.uniform(0, side), rng.uniform(0, side)) for _ in range(number)]
        hostile = set(rng.sample(range(town.relays), round(town.hostile * town.relays)))
        kinds = list(Kind)
        first_carrier = round(town.relays * (1 - town.carriers))
        for name in range(town.relays):
            if name in hostile:
                kind = kinds[len([h for h in hostile if h < name]) % len(kinds)]
                self.world.add_hostile(kind, flood=town.flood if kind is Kind.FLOOD else 0)
            else:
                self.world.add_relay(policy=self._policy(), clock=rng.random() < 0.7)
            if name < first_carrier:
                self._home[name] = name % number
                self.places[name] = self._place([name % number], speed=0.0)
            else:
                self.places[name] = self._place(rng.sample(range(number), min(5, number)), speed=rng.uniform(3, 9))
        self._mesh(first_carrier)
        for _ in range(town.people):
            self.world.add_person(bucket=rng.randrange(1 << BUCKET_BITS))
            self.person_places.append(self._place(rng.sample(range(number), min(3, number)), speed=rng.uniform(1, 3)))
        self._plan()

    def _policy(self) -> Policy:
        scale = self.rng.choice((0.5, 1.0, 1.0, 2.0))
        envelopes = max(1, round(self.town.store_envelopes * scale))
        return Policy(max_bytes=envelopes << 10, max_envelopes=envelopes)

    def _place(self, route: list[int], *, speed: float) -> Place:
        x, y = self._spot(route[0])
        return Place(x, y, route, speed)

    def _spot(self, cluster: int) -> tuple[float, float]:
        x, y = self.clusters[cluster]
        return x + self.rng.gauss(0, CLUSTER_RADIUS_M / 2), y + self.rng.gauss(0, CLUSTER_RADIUS_M / 2)

    def _mesh(self, first_carrier: int) -> None:
        members: dict[int, list[int]] = {}
        for name in range(first_carrier):
            members.setdefault(self._home[name], []).append(name)
        pairs: set[tuple[int, int]] = set()
        for group in members.values():
            for name in group:
                near = sorted((self._distance(self.places[name], self.places[other]), other) for other in group)
                pairs |= {(min(name, other), max(name, other)) for _, other in near[1 : 1 + MESH_LINKS - 1]}
            # A chain through the group, so that a cluster is one mesh.
            pairs |= set(pairwise(group))
        self._fixed = sorted(pairs)

    def _plan(self) -> None:
        town, rng, at = self.town, self.rng, self.world.scheduler.at
        end_s = town.minutes * 60
        at(0.0, self._tick)
        at(SAMPLE_S, self._sample)
        for _ in range(town.letters):
            at(rng.uniform(10, end_s * 0.6), self._write)
        said = random.Random(f"talk {town.seed}")
        for _ in range(town.said):
            at(said.uniform(60, end_s), self._say, said)
        for cluster in range(len(self.clusters)):
            if rng.random() < 0.3:
                start_s = rng.uniform(60, end_s * 0.6)
                at(start_s, self.jammed.add, cluster)
                at(start_s + rng.uniform(60, 300), self.jammed.discard, cluster)
        for relay in self.world.honest():
            if rng.random() < town.crashes:
                at(rng.uniform(60, end_s * 0.8), self._crash, relay)
        for minute in range(5, int(town.minutes), 5):
            at(minute * 60.0, self._retire)

    def _crash(self, relay: Relay) -> None:
        for pair in [pair for pair in self.world.contacts if relay.name in pair]:
            self._part(pair)
        relay.crash()
        self.world.scheduler.after(self.rng.uniform(20, 120), relay.boot)

    def _say(self, rng: random.Random) -> None:
        up = [relay for relay in self.world.honest() if relay.up]
        self.world.talk.say(rng.choice(up))

    def _retire(self) -> None:
        for relay in self.world.honest():
            if relay.up:
                relay.retire()

    # -- moving -----------------------------------------------------------

    @staticmethod
    def _distance(a: Place, b: Place) -> float:
        return ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5

    def _tick(self) -> None:
        if not self._moving:
            return
        for place in (*self.places.values(), *self.person_places):
            if place.speed_m_per_s:
                self._walk(place)
        self._break_contacts()
        self._make_contacts()
        self._visit()
        self.world.scheduler.after(TICK_S, self._tick)

    def _walk(self, place: Place) -> None:
        if place.pause_s > 0:
            place.pause_s -= TICK_S
            return
        if place.target is None:
            place.target = self._spot(self.rng.choice(place.route))
        dx, dy = place.target[0] - place.x, place.target[1] - place.y
        distance = (dx * dx + dy * dy) ** 0.5
        step = place.speed_m_per_s * TICK_S
        if distance <= step:
            place.x, place.y = place.target
            place.target = None
            place.pause_s = self.rng.uniform(15, 90)
        else:
            place.x += dx / distance * step
            place.y += dy / distance * step

    def _is_jammed(self, place: Place) -> bool:
        return any(
            (place.x - self.clusters[c][0]) ** 2 + (place.y - self.clusters[c][1]) ** 2 < (2 * CLUSTER_RADIUS_M) ** 2
            for c in self.jammed
        )

    def _break_contacts(self) -> None:
        for pair, contact in list(self.world.contacts.items()):
            a, b = (self.places[name] for name in pair)
            fixed = pair[0] in self._home and pair[1] in self._home
            out_of_reach = not fixed and self._distance(a, b) > LOSE_M
            if contact.over or out_of_reach or self._is_jammed(a):
                self._part(pair)

    def _part(self, pair: tuple[int, int]) -> None:
        contact = self.world.contacts.pop(pair)
        for name in pair:
            self.slots[name] -= 1
        contact.fade()
        if self.rng.random() >= self.town.silent_breaks:
            self.world.scheduler.after(self.rng.uniform(0.2, 3.0), contact.cut)

    def _make_contacts(self) -> None:
        # Neighbours in the mesh of a cluster find each other again after a while.
        for pair in self._fixed:
            if pair not in self.world.contacts and (self.world.now == 0 or self.rng.random() < 0.3):
                self._meet(*pair)
        cells: dict[tuple[int, int], list[int]] = {}
        for name, place in self.places.items():
            cells.setdefault((int(place.x // REACH_M), int(place.y // REACH_M)), []).append(name)
        for name, place in self.places.items():
            if name in self._home or self.slots[name] >= CARRIER_LINKS:
                continue
            for distance, other in self._near(cells, place):
                if other == name or self.slots[name] >= CARRIER_LINKS or distance > REACH_M:
                    continue
                limit = MESH_LINKS + 5 if other in self._home else CARRIER_LINKS
                pair = (min(name, other), max(name, other))
                if self.slots[other] < limit and pair not in self.world.contacts and self.rng.random() < 0.5:
                    self._meet(*pair)

    def _near(self, cells: dict[tuple[int, int], list[int]], place: Place) -> list[tuple[float, int]]:
        column, row = int(place.x // REACH_M), int(place.y // REACH_M)
        return sorted(
            (self._distance(place, self.places[other]), other)
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            for other in cells.get((column + dx, row + dy), ())
        )

    def _meet(self, low: int, high: int) -> None:
        a, b = (low, high) if self.rng.random() < 0.5 else (high, low)
        relays = self.world.relays[a], self.world.relays[b]
        if not all(relay.up for relay in relays) or all(relay.hostile for relay in relays):
            return
        if self._is_jammed(self.places[low]):
            return
        slow = self.rng.random() < self.town.slow
        tamper = None
        if self.rng.random() < self.town.damaged:
            tamper = Tamper(flip=0.05, repeat=0.05, swap=0.05, drop=0.05)
        self.world.contacts[low, high] = self.world.join(a, b, self._radio(slow=slow), tamper=tamper, slow=slow)
        self.contacts_made += 1
        self.slots[low] += 1
        self.slots[high] += 1

    def _radio(self, *, slow: bool) -> Radio:
        rng = self.rng
        return Radio(
            latency_s=rng.uniform(0.02, 0.08) if slow else rng.uniform(0.002, 0.02),
            jitter_s=rng.uniform(0.0, 0.02),
            bytes_per_s=rng.uniform(8_000, 40_000) if slow else rng.uniform(100_000, 1_500_000),
            packet_bytes=1024 if slow else 1400,
            window_packets=8 if slow else 48,
            buffer_bytes=(4 if slow else 48) << 10,
            loss=rng.choice((0.0, 0.01, 0.03, 0.08)),
            duplicate=0.01,
            reorder=0.03,
        )

    # -- people -----------------------------------------------------------

    def _write(self) -> None:
        town, rng = self.town, self.rng
        sender, recipient = rng.choice(self.world.people), rng.choice(self.world.people)
        letter = write_letter(
            rng,
            bucket=recipient.bucket,
            size_class=rng.choice((0, 1, 1, 2)),
            expiry_hour=START_HOUR + rng.choice((24, 72, 168)),
            price=town.price,
            created_s=self.world.now,
        )
        self.letters.append(letter)
        self._recipients[letter.identity] = recipient
        sender.post(letter)

    def _visit(self) -> None:
        for number, person in enumerate(self.world.people):
            place = self.person_places[number]
            held = self._person_contacts.get(number)
            if held is not None:
                relay, contact = held
                gone = self._distance(place, self.places[relay]) > LOSE_M or self._is_jammed(place)
                # Somebody with more to hand over walks on to another relay once this one has it.
                done = person.caught_up and person.outbox and all(relay in x.acknowledged_by for x in person.outbox)
                if not (gone or done or not person.connected):
                    continue
                person.leave()
                del self._person_contacts[number]
                if gone:
                    contact.fade()
                    self.world.scheduler.after(self.rng.uniform(0.2, 3.0), contact.cut)
            if not self._is_jammed(place) and self.rng.random() < 0.5:
                self._find_relay(number, person, place)

    def _find_relay(self, number: int, person: Person, place: Place) -> None:
        near = [
            name
            for name, other in self.places.items()
            if abs(other.x - place.x) < REACH_M
            and self.world.relays[name].up
            and self._distance(place, other) < REACH_M
        ]
        if near:
            relay = self.rng.choice(near)
            contact = self.world.visit(person, relay, self._radio(slow=self.rng.random() < self.town.slow))
            self._person_contacts[number] = (relay, contact)
            self.visits += 1

    # -- measuring --------------------------------------------------------

    def _sample(self) -> None:
        self.samples.append(self.sample())
        if len(self.samples) % 2 == 0:
            self.broken += self.world.broken_rules()
        if self._moving:
            self.world.scheduler.after(SAMPLE_S, self._sample)

    def sample(self) -> Sample:
        """Return how things stand."""
        handed_over = [letter for letter in self.letters if letter.acknowledged_by]
        delays_s = []
        for letter in handed_over:
            arrived_s = self._recipients[letter.identity].received.get(letter.identity)
            if arrived_s is not None:
                letter.arrived_s = arrived_s
                delays_s.append(arrived_s - letter.created_s)
        return Sample(self.world.now, self.world.air.bytes, len(handed_over), len(delays_s), sorted(delays_s))

    def run(self) -> None:
        """Let the town live for its minutes, then stand still and come to rest."""
        self.world.run(self.town.minutes * 60)
        self._moving = False
        self.jammed.clear()
        self.world.run(self.town.rest_s)
        self.samples.append(self.sample())
        self.broken += self.world.unsettled_rules()


def town_of(relays: int, *, minutes: float = 20.0, seed: str = "1", **options) -> Town:
    """Return a town whose people and letters go with its number of relays."""
    load = {"people": max(8, relays // 4), "letters": max(24, relays // 2), "said": max(24, relays // 8), **options}
    return Town(relays=relays, minutes=minutes, seed=seed, **load)
