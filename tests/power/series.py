# SPDX-License-Identifier: GPL-2.0-or-later
"""The power fails under load, again and again; at each start all that was acknowledged has to be there."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field

from image.layout import SECTOR_BYTES
from relay.board.card import DATA_PARTITION
from tests.image.seizure import ANSWER_S, connect
from tests.netns.rawclient import RawClient, make_envelopes
from tests.power.cut import Log
from tests.power.guests import DATABASE, ENVIRONMENT, Light

#: Of each cycle, before its power fails.
LEAST_ACKNOWLEDGED = 100
#: How long the load goes on after that, at most.
LOAD_S = 0.1
#: Puts that wait for their answer at once: as of some phones, so that there are many small commits.
IN_FLIGHT = 48
#: So many of 256 bytes, of a KiB, of 4 and of 16, again and again.
MIX = ((256, 12), (1024, 6), (4096, 2), (16384, 1))
MIXES = 12
#: The store is full after so many times the cycles of a series, and who pays more displaces others from then on: not
#: sooner, as of no more than that many that left the relay knows that they did.
ROOM_PER_CYCLE = 130
LEAST_ROOM = 800
#: What is paid in each quarter of a series.
PRICES = (0, 0, 6, 8)
#: Where a LUKS2 volume begins behind its header.
LUKS_BYTES = 16 << 20
_GONE = (
    "import sqlite3; print(*[row[0].hex() for row in sqlite3.connect('file:{}?mode=ro', uri=True).execute("
    "'SELECT id FROM admitted JOIN gone USING (seq) WHERE displaced')])"
)


@dataclass
class Found:
    """What a start found: how many there are, what of those acknowledged is lost, what is wrong with the store.

    ``displaced``: what was acknowledged and left, since the start before, for what paid more.
    """

    held: int = 0
    lost: int = 0
    displaced: int = 0
    wrong: str = ""

    @property
    def is_whole(self):
        return not self.lost and not self.wrong


@dataclass
class Cycle:
    """What there was of one: what its start found, how much was acknowledged, and where its power failed."""

    found: Found
    acknowledged: int = 0
    sectors_lost: int = 0
    #: Of these the cut was in the middle: commit, checkpoint, eviction.
    within: frozenset[str] = frozenset()


@dataclass
class Load:
    """What was put and acknowledged in one cycle: IDs, and how long the log was when the answer was here."""

    acknowledged: dict[bytes, int] = field(default_factory=dict)
    #: When there were enough of them, so many bytes.
    enough_at: int = 0


class Series:
    """One card, and what it has to have. So large that its room is counted in envelopes, not in bytes.

    :param storage: ``plain`` or ``durable``; ``sync`` and ``options``: of watched.py, and of the mount, for controls
    :param flushes: whether the card heeds them
    """

    def __init__(
        self, kernel, card, lan, library, folder, chance, *, storage, cycles, sync="full", options="", flushes=True
    ):
        self._kernel = kernel
        self._card = card
        self._lan = lan
        self._library = library
        self._log = folder / f"{storage}.log"
        self._chance = chance
        self._storage = storage
        self._sync = sync
        self._options = options
        self._flushes = flushes
        self._cycles = cycles
        self._room = max(ROOM_PER_CYCLE * cycles, LEAST_ROOM)
        self._needed = set()
        self._number = 0
        settings = f'[appliance]\nstorage = "{storage}"\n[store]\nmax_envelopes = {self._room}\n'
        card.write("MESH-RELAY", "relay.toml", settings.encode())

    def run(self):
        """Yield each cycle, and at the end what the last start found."""
        for number in range(self._cycles):
            yield self._cycle(PRICES[number * len(PRICES) // self._cycles])
        with self._guest(log=None) as guest:
            yield Cycle(self._look(guest, self._start(guest)))

    def _guest(self, log):
        self._number += 1
        name = f"{self._storage}-{self._number}"
        return Light(self._kernel, name, self._card, self._library, log=log, network=self._lan.port())

    def _cycle(self, price):
        self._log.unlink(missing_ok=True)
        hour = int(time.time()) // 3600 + 48
        envelopes = [
            envelope
            for size, count in MIX
            for envelope in make_envelopes(
                self._chance.randrange(1 << 40),
                count * MIXES,
                size,
                expiry_hour=hour,
                # What is large pays in bytes.
                price=price if size < 4096 else 0,
            )
        ]
        self._chance.shuffle(envelopes)
        with self._guest(self._log) as guest:
            wrong = self._start(guest)
            found = self._look(guest, wrong)
            if not found.is_whole:
                return Cycle(found)
            with connect(guest, self._lan, pause_s=0.1) as client:
                load = self._put(client, envelopes)
                guest.kill()
                self._hear(client, envelopes, load)
        return self._cut(found, load)

    def _start(self, guest):
        """Everything before the relay; return what is wrong."""
        state = json.loads(guest.prepare())
        if self._storage == "durable":
            first = state["trouble"] == "unmade"
            if state["trouble"] not in {"unmade", "locked"} or (first and self._needed):
                return f"the partition is {state}"
            if told := guest.unlock().strip():
                said = told.splitlines()[-1]
                if json.loads(said):
                    return said
        elif state["trouble"]:
            return f"the partition is {state}"
        if self._options:
            guest.sh(f"mount -o remount,{self._options} /data")
        return ""

    def _look(self, guest, wrong):
        """Whether all is there that has to be; begins the relay."""
        if wrong:
            return Found(wrong=wrong)
        exists = guest.run("test", "-e", DATABASE, check=False).code == 0
        if not exists:
            return Found(lost=len(self._needed)) if self._needed else self._ask(guest)
        checked = guest.run("relay", "store", "check", DATABASE, env=ENVIRONMENT, check=False, timeout_s=ANSWER_S)
        if checked.code:
            return Found(wrong=checked.output)
        return self._ask(guest)

    def _ask(self, guest):
        process = guest.relay(self._sync)

        def explain():
            return f"{process.describe('the relay')}\n{guest.explain()}"

        with connect(guest, self._lan, pause_s=0.1, explain=explain) as client:
            assert client.relay.durable, explain()
            held = {hashlib.sha256(envelope).digest() for envelope in client.fetch_all(ANSWER_S)}
        missing = self._needed - held
        displaced = set()
        if missing:
            told = guest.run("python3", "-c", _GONE.format(DATABASE), timeout_s=ANSWER_S).stdout
            displaced = {bytes.fromhex(word) for word in told.split()}
            assert len(displaced) < self._room - 1, "it remembers no more of them: nobody knows whether this is a loss"
        found = Found(held=len(held), lost=len(missing - displaced), displaced=len(missing & displaced))
        # Each takes its part of the room, rounded up.
        # Counted once.
        self._needed -= displaced
        if displaced and len(held) < self._room - 1:
            found.wrong = f"{len(displaced)} left for others, and there are {len(held)}"
        return found

    def _put(self, client, envelopes):
        """Put until enough is acknowledged, and for a while more."""
        load, sent, until = Load(), 0, None
        began = time.monotonic()
        while until is None or time.monotonic() < until:
            assert time.monotonic() < began + ANSWER_S, f"{len(load.acknowledged)} acknowledged"
            while sent < len(envelopes) and sent - client.answered < IN_FLIGHT:
                client.session.put(envelopes[sent])
                sent += 1
            client.step(0.02)
            assert client.closed is None, client.closed
            self._note(client, envelopes, load)
            if until is None and len(load.acknowledged) >= LEAST_ACKNOWLEDGED:
                load.enough_at = self._log.stat().st_size
                until = time.monotonic() + self._chance.uniform(0, LOAD_S)
        return load

    def _hear(self, client, envelopes, load):
        """What was sent before the power failed, and lies in a socket."""
        before = -1
        while client.closed is None and before != client.answered:
            before = client.answered
            client.step(0.02)
        self._note(client, envelopes, load)

    def _note(self, client: RawClient, envelopes, load):
        size = self._log.stat().st_size
        for number in sorted(client.acked)[len(load.acknowledged) :]:
            load.acknowledged[hashlib.sha256(envelopes[number]).digest()] = size

    def _cut(self, found, load):
        """Let the power fail at some moment after enough was acknowledged."""
        with Log(self._log) as log:
            first = log.index_at(load.enough_at)
            moments = self._moments(log)
            last = len(log.records)
            # Of checkpoints there is not one in each cycle.
            there = sorted(frozenset().union(*moments[first : last + 1]))
            kind = self._chance.choice(("last", "any", *there, *["checkpoint"] * 2 * ("checkpoint" in there)))
            those = [at for at in range(first, last + 1) if kind in moments[at]] or range(first, last + 1)
            index = last if kind == "last" else self._chance.choice(those)
            lost = log.cut(self._card.path, index, self._chance, flushes=self._flushes)
            size = log.records[index - 1].end
        acknowledged = {one for one, at in load.acknowledged.items() if at <= size}
        self._needed |= acknowledged
        return Cycle(found, len(acknowledged), lost, moments[index])

    def _moments(self, log):
        """What the store does at each moment: before each record, and behind the last one."""
        start = self._card.partition(DATA_PARTITION)[0] * SECTOR_BYTES
        start += LUKS_BYTES if self._storage == "durable" else 0
        lies = {"base": [], "log": []}
        tail, leaving, moments = set(), 0, []
        for record in log.records:
            moments.append(_named(tail, leaving))
            if record.op == ord("F"):
                tail.clear()
            elif record.op == ord("W"):
                tail |= {
                    name
                    for name, places in lies.items()
                    for at, length in places
                    if record.offset < at + length and at < record.offset + record.length
                }
            elif record.op == ord("M"):
                leaving = self._hear_mark(log.before(record), start, lies, leaving)
        moments.append(_named(tail, leaving))
        return moments

    @staticmethod
    def _hear_mark(said, start, lies, leaving):
        for line in said.decode().splitlines():
            word, *rest = line.split()
            if word == "begin":
                leaving = int(rest[0])
            elif word == "end":
                leaving = 0
            elif word == "lies":
                places = [tuple(map(int, place.split("+"))) for place in rest[1:]]
                lies[rest[0]] = [(start + at, length) for at, length in places]
        return leaving


def _named(tail, leaving):
    found = {{"log": "commit", "base": "checkpoint"}[name] for name in tail}
    return frozenset(found | ({"eviction"} if leaving and "log" in tail else set()))
