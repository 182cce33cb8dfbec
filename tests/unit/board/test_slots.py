# SPDX-License-Identifier: GPL-2.0-or-later
"""Which slot starts: the record, and what becomes of it over starts that fail and starts that do not."""

import contextlib
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image.initrd import INIT
from relay.board import slots
from relay.board.card import CLOSED_SECTOR, MARK_SECTORS
from relay.board.slot_app import UNITS
from relay.board.slots import RECORD_SECTORS, TRIES, Record, choose, newest, other
from relay.control.conditions import TABLE
from relay.core.errors import DecodeError

SCRIPT = INIT.with_name("boot.cmd").read_text()
NAMES = st.text("0123456789abcdef", min_size=0, max_size=16)
RECORDS = st.builds(
    Record,
    serial=st.integers(0, 0xFFFFFFFF),
    first=st.sampled_from("AB"),
    left=st.tuples(st.integers(0, TRIES), st.integers(0, TRIES)),
    good=st.sampled_from("AB"),
    trial=st.sampled_from(["", "A", "B"]),
    failed=NAMES,
    known=st.frozensets(st.sampled_from(sorted(slots.OWN_FAULTS))),
)


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record):
    assert Record.decode(record.encode()) == record
    assert len(record.encode()) == slots.SECTOR_BYTES


def test_the_largest_record_fits():
    known = slots.OWN_FAULTS | set(UNITS) | {"systemd", "watchdog"}
    everything = Record(serial=0xFFFFFFFF, first="B", trial="B", failed="f" * 16, known=known)
    assert Record.decode(everything.encode()) == everything
    assert len(everything.encode()) == slots.SECTOR_BYTES


def test_it_is_an_environment_of_u_boots_with_its_checksum():
    """`env export -c -s 200` of U-Boot 2025.01, of a card that was started once; kept from an emulated start."""
    data = b"good=A\0left_A=2\0left_B=0\0order=A B\0serial=1".ljust(508, b"\0")
    assert Record.decode(struct.pack("<I", zlib.crc32(data)) + data) == choose(Record()).record
    assert choose(Record()).record.encode() == struct.pack("<I", zlib.crc32(data)) + data


@given(RECORDS, st.integers(0, 511), st.integers(0, 7))
def test_a_record_that_was_not_written_whole_is_none(record, at, bit):
    sector = bytearray(record.encode())
    sector[at] ^= 1 << bit
    with pytest.raises(DecodeError):
        Record.decode(bytes(sector))


@given(st.binary(min_size=0, max_size=508))
def test_any_other_environment_is_refused_and_nothing_worse(data):
    data = data.ljust(508, b"\0")
    with contextlib.suppress(DecodeError):
        Record.decode(struct.pack("<I", zlib.crc32(data)) + data)


@given(RECORDS, st.binary(min_size=512, max_size=512), st.integers(0, 1))
def test_whichever_sector_is_lost_the_other_one_counts(record, rest, lost):
    sectors = [record.encode(), replace(record, serial=record.serial + 1 & 0xFFFFFFFF).encode()]
    sectors[lost] = rest
    found, write = newest(sectors)
    assert found == Record.decode(sectors[1 - lost])
    assert write == lost


def test_a_card_that_lost_both_starts_as_a_fresh_one():
    assert newest([bytes(512), bytes(512)]) == (Record(), 0)
    assert choose(newest([b"", b""])[0]).slots == ("A",)


def test_the_sectors_are_the_scripts_and_nobody_elses():
    for sector in RECORD_SECTORS:
        assert f" {sector:x} 1" in SCRIPT
    assert not {*RECORD_SECTORS} & {*MARK_SECTORS, CLOSED_SECTOR}
    assert f'setenv record "{" ".join(slots._FIELDS)}"' in SCRIPT


def test_what_counts_of_conditions_are_conditions():
    assert {condition.name for condition in TABLE} >= slots.OWN_FAULTS


def test_neighbours_places_and_clocks_turn_nothing_back():
    for name in ("alone", "no_link", "secret_differs", "clock_wrong", "clock_refused", "store_refusing", "hot"):
        assert name not in slots.OWN_FAULTS


class Machine:
    """A machine that starts, again and again. ``ends``: how a start of a slot ends, by slot: see :meth:`start`."""

    def __init__(self, **ends):
        self.record = Record()
        self.ends = {"A": "well", "B": "empty"} | ends
        self.held = {"A": "old", "B": ""}
        self.writes = 0

    def keep(self, record):
        if record != self.record:
            self.record = slots.next_record(record)
            self.writes += 1

    def start(self):
        """Start once, and let what comes up do its work; return the slot that stays, "" if the machine restarts.

        ``empty``: nothing to load. ``dies``: before our own process; ``damaged``: so, as a piece of it is another.
        ``unready``: the relay never gets ready. ``ill``: something of its own does not work. ``well``.
        """
        chosen = choose(self.record)
        self.record = chosen.record
        self.writes = 1
        for slot in chosen.slots:
            end = self.ends[slot]
            if end == "empty":
                continue
            if end in {"dies", "damaged"}:
                return ""
            self.keep(slots.came_up(self.record, slot, self.held[other(slot)]))
            faults = {"unready": None, "ill": {"net_down"}, "well": set()}[end]
            if slots.is_well(self.record, slot, faults):
                self.keep(slots.proved(self.record, slot))
                if not self.record.tries(other(slot)):
                    self.fill(slot)
                return slot
            return "" if chosen.on_trial else slot
        return ""

    def fill(self, slot):
        if slots.is_to_be_tried_again(self.record, other(slot)) and self.ends[other(slot)] not in {"empty", "damaged"}:
            self.keep(slots.updated(self.record, other(slot), ()))
            return
        self.keep(slots.emptied(self.record, other(slot)))
        self.ends[other(slot)], self.held[other(slot)] = self.ends[slot], self.held[slot]
        self.keep(slots.filled(self.record, other(slot)))

    def update(self, slot, end, name="new", faults=()):
        target = other(slot)
        self.keep(slots.emptied(self.record, target))
        self.ends[target], self.held[target] = end, name
        self.keep(slots.updated(self.record, target, faults))


def test_a_fresh_card_fills_the_other_slot_after_its_first_start_that_is_well():
    machine = Machine()
    assert machine.start() == "A"
    assert machine.record.left == (TRIES, TRIES)
    assert machine.held["B"] == "old"


def test_until_there_is_another_slot_the_first_is_tried_for_ever():
    machine = Machine(A="dies")
    assert [machine.start() for _ in range(20)] == [""] * 20
    machine.ends["A"] = "well"
    assert "A" in {machine.start(), machine.start()}


def test_a_start_that_is_well_costs_two_writes_and_no_more():
    machine = Machine()
    machine.start()
    for _ in range(5):
        assert machine.start() == "A"
        assert machine.writes == 2


@pytest.mark.parametrize("end", ["damaged", "empty"])
def test_a_slot_that_fails_three_times_makes_room_and_it_is_told(end):
    machine = Machine()
    machine.start()
    machine.ends["A"] = end
    assert [machine.start() for _ in range(TRIES)] == [""] * TRIES
    assert machine.start() == "B"
    assert machine.record.failed == "old"
    # And there is another to fall back to again: what runs is copied over what failed.
    assert machine.record.left == (TRIES, TRIES)
    assert machine.start() == "B"


def pull_plugs(machine):
    """Three times, each before the relay is ready."""
    for _ in range(TRIES):
        machine.record = choose(machine.record).record


def test_three_plugs_pulled_early_turn_nothing_back_for_good():
    machine = Machine()
    machine.start()
    machine.update("A", "well")
    assert machine.start() == "B"
    pull_plugs(machine)
    # What ran before runs; what is newer is still there, and has one more trial.
    assert machine.start() == "A"
    assert machine.record.failed == "new"
    assert machine.held == {"A": "old", "B": "new"}
    assert choose(machine.record).on_trial
    assert machine.start() == "B"
    assert (machine.record.failed, machine.record.trial, machine.record.left) == ("", "", (TRIES, TRIES))
    assert machine.start() == "B"


def test_what_made_room_is_tried_once_more_and_not_again():
    machine = Machine()
    machine.start()
    machine.ends["A"] = "dies"
    assert [machine.start() for _ in range(TRIES)] == [""] * TRIES
    assert machine.start() == "B"
    assert machine.record.first == "A"
    assert [machine.start() for _ in range(TRIES)] == [""] * TRIES
    assert [machine.start() for _ in range(5)] == ["B"] * 5
    assert machine.record.left == (TRIES, TRIES)
    assert machine.record.failed == "old"


@pytest.mark.parametrize("end", ["dies", "damaged", "unready", "ill", "empty"])
def test_an_update_that_is_not_well_turns_back_by_itself_and_is_remembered(end):
    machine = Machine()
    machine.start()
    machine.update("A", end)
    assert [machine.start() for _ in range(TRIES)] == [""] * TRIES
    assert machine.start() == "A"
    assert machine.record.failed == "new"
    assert machine.start() == "A"
    assert machine.record.failed == "new"


def test_an_update_that_is_well_stays_and_the_one_before_is_kept():
    machine = Machine()
    machine.start()
    machine.update("A", "well")
    assert [machine.start() for _ in range(5)] == ["B"] * 5
    assert machine.held == {"A": "old", "B": "new"}
    assert not machine.record.trial
    # A to B to A.
    machine.update("B", "well", "newer")
    assert machine.start() == "A"
    assert machine.held == {"A": "newer", "B": "new"}


def test_an_update_that_is_cut_off_over_another_that_was_never_started_is_no_failure():
    machine = Machine()
    machine.start()
    machine.update("A", "well", "new")
    machine.keep(slots.emptied(machine.record, "B"))
    assert machine.start() == "A"
    assert not machine.record.failed
    assert machine.held["B"] == "old"


def test_what_did_not_work_before_is_not_held_against_an_update():
    machine = Machine()
    machine.start()
    machine.update("A", "ill", faults={"net_down"})
    assert machine.start() == "B"


def test_who_proved_itself_is_not_restarted_for_a_cable():
    machine = Machine()
    machine.start()
    machine.ends["A"] = "ill"
    assert [machine.start() for _ in range(10)] == ["A"] * 10
    assert not machine.record.failed


def test_an_update_while_another_one_failed_forgets_that_once_it_is_well():
    machine = Machine()
    machine.start()
    machine.update("A", "dies")
    while machine.start() != "A":
        pass
    machine.update("A", "well", "mended")
    assert machine.start() == "B"
    assert not machine.record.failed


@settings(max_examples=150)
@given(st.data())
def test_it_never_restarts_for_ever_while_a_slot_comes_up(data):
    """Whatever the two slots are like, and whatever happened before: soon one stays that comes up at all."""
    machine = Machine()
    machine.start()
    kinds = st.sampled_from(["dies", "damaged", "unready", "ill", "well", "empty"])
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()):
            running = machine.start()
            if running and not machine.record.trial:
                machine.update(running, data.draw(kinds), data.draw(NAMES))
        else:
            machine.ends[data.draw(st.sampled_from("AB"))] = data.draw(kinds)
    comes_up = set(machine.ends.values()) & {"unready", "ill", "well"}
    stayed = [machine.start() for _ in range(4 * TRIES + 4)]
    assert any(stayed) == bool(comes_up)
    # Three tries of each, three more of one that had proved itself, with a start of the other one between, and one
    # in which the wrong one is the last resort.
    assert not comes_up or all(stayed[3 * TRIES + 2 :])
