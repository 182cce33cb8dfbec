# SPDX-License-Identifier: GPL-2.0-or-later
"""One relay updates another: real `relay run`s over TCP, real slots on files, real signatures."""

import contextlib

import pytest

from relay.board import slots
from relay.control.control_client import ControlClient
from tests.client.online import RelayProcess
from tests.unit.board.box import OTHER, Box
from tests.waiting import wait_until

PATIENCE_S = 120


class Appliance:
    """A box, and `relay run` in a process."""

    def __init__(self, folder, *args, peers=(), updates=True, **options):
        self.box = Box(folder, *args, **options)
        self.relay = RelayProcess(
            folder / "relay",
            tcp={"port": 0, "discovery": False, "interfaces": ["lo"], "peers": [peer.relay.address for peer in peers]},
            updates={"relays": updates, "path": str(folder)},
        ).start()

    def counts(self):
        with ControlClient(self.relay.folder / "control") as control:
            totals = control.status()["totals"]
        return totals["updates"] | totals["updates_refused"]

    def stop(self):
        self.relay.stop()
        self.box.stop()


@pytest.fixture
def appliance(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(name, *args, **options):
            made = Appliance(tmp_path / name, *args, **options)
            stack.callback(made.stop)
            return made

        yield make


def test_a_relay_has_newer_software_of_its_neighbour_byte_for_byte(appliance):
    newer = appliance("newer", "1.1", 2000)
    older = appliance("older", "1.0", 1000, peers=[newer])
    wait_until("it is written", lambda: older.counts()["written"] == 1, PATIENCE_S)
    assert older.box.other() == newer.box.update
    record = older.box.slots.record()
    assert (record.trial, slots.choose(record).slots) == ("B", ("B",))
    assert newer.counts()["given"] == older.counts()["taken"] > 0
    assert older.counts()["given"] == newer.counts()["taken"] == 0


def test_what_is_not_signed_by_who_is_trusted_is_not_taken_and_no_piece_of_it_is_asked_for(appliance):
    newer = appliance("newer", "1.1", 2000, key=OTHER, trusts=OTHER)
    older = appliance("older", "1.0", 1000, peers=[newer])
    before = older.box.card.disk.read_bytes()
    wait_until("it is refused", lambda: older.counts()["wrong_key"] == 1, PATIENCE_S)
    # The head alone: four parts.
    assert older.counts()["taken"] == 4
    assert older.box.card.disk.read_bytes() == before


def test_where_the_operator_says_so_nothing_is_given_or_taken(appliance):
    off = appliance("off", "1.2", 3000, updates=False)
    newer = appliance("newer", "1.1", 2000, peers=[off])
    older = appliance("older", "1.0", 1000, peers=[newer, off], updates=False)
    middle = appliance("middle", "1.0", 1000, peers=[newer, off, older])
    wait_until("it is written", lambda: middle.counts()["written"] == 1, PATIENCE_S)
    assert middle.box.other() == newer.box.update
    assert newer.counts()["heard"] == 1  # of the one between
    for one in (off, older):
        counts = one.counts()
        assert counts.pop("heard") > 0  # it is told, and does not listen
        assert set(counts.values()) == {0}
