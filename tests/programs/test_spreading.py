# SPDX-License-Identifier: GPL-2.0-or-later
"""One relay updates another: real `relay run`s over TCP, real slots on files, real signatures."""

import contextlib
import os
import select
import socket
import threading
from types import MappingProxyType

import pytest

from image import minisign
from image.slot import signed
from relay.board import slots
from relay.board.card import Card
from relay.board.card_slots import CardSlots
from relay.board.device import Part
from relay.board.giving import Giver
from relay.board.manifest import PIECE_BYTES, Head, Manifest, Own
from relay.board.manifest import Part as Described
from relay.board.slot_app import Slots
from relay.control.control_client import ControlClient
from relay.core.errors import DecodeError
from tests.client.online import RelayProcess
from tests.unit.board.test_card_slots import PARTS
from tests.waiting import wait_until

MIB = 1 << 20
KEY = minisign.SecretKey(number=b"12345678", seed=b"s" * 32)
OTHER = minisign.SecretKey(number=b"87654321", seed=b"o" * 32)
BOARD = "test"
PATIENCE_S = 120


def part(data):
    return Described.of(data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))


class Box:
    """An appliance: a card in a file, `relay slot` and `relay slot --give` in threads, `relay run` in a process."""

    def __init__(self, folder, version, built, *, key=KEY, peers=(), restart="never", storage="durable"):
        folder.mkdir()
        self.folder = folder
        path = folder / "card"
        path.write_bytes(b"")
        os.truncate(path, 18 * MIB)
        parts = {number: Part(path=path, start=at * MIB, size=size * MIB) for number, (at, size) in PARTS.items()}
        self.card = Card(disk=path, boot=parts[1], data=None, parts=MappingProxyType(parts), root=5)
        self.slots = CardSlots(self.card)
        self.boot, self.root = os.urandom(MIB + 4096), os.urandom(MIB + 8192)
        head = Head(
            manifest=Manifest(board=BOARD, version=version, built=built, boot=part(self.boot), root=part(self.root))
        )
        self.head = signed(head, key)
        self.bytes = self.head.encode() + self.boot + self.root
        self.slots["A"].write(self.head, lambda at, size: (self.boot + self.root)[at : at + size], lambda: True)
        self.own = Own(board=BOARD, version=version, built=built, keys=(KEY.public(),))
        self.sockets = {name: self._listen(name) for name in ("update", "spread", "give")}
        self.app = Slots(
            self.slots, folder / "no-relay", notices=folder / "notices", settled=folder / "settled",
            listener=self.sockets["update"], spread=self.sockets["spread"], own=self.own,
        )  # fmt: skip
        self.giver = Giver(self.slots, self.own)
        self._stopping = False
        self.threads = [threading.Thread(target=work) for work in (self._serve, self._give)]
        for thread in self.threads:
            thread.start()
        self.relay = RelayProcess(
            folder / "relay",
            store={"path": str(folder / "relay" / "store"), "storage": storage},
            tcp={"port": 0, "discovery": False, "interfaces": ["lo"], "peers": list(peers)},
            updates={"relays": True, "restart": restart, "path": str(folder)},
        ).start()

    def _listen(self, name):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / f"{name}.sock"))
        listener.listen()
        return listener

    def _serve(self):
        while not self._stopping:
            self.app._serve(0.2)

    def _give(self):
        listener = self.sockets["give"]
        while not self._stopping:
            if select.select([listener], [], [], 0.2)[0]:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError, DecodeError):
                    self.giver.serve(connection)

    def other(self):
        """The bytes of the update in the slot that does not run."""
        head = self.slots["B"].head()
        with self.slots["B"].reading(head.manifest) as source:
            whole = head.manifest.boot.size + head.manifest.root.size
            size = head.manifest.boot.size
            return head.encode() + source(0, size) + source(size, whole - size)

    def updates(self):
        with ControlClient(self.relay.folder / "control") as control:
            totals = control.status()["totals"]
        return totals["updates"] | totals["updates_refused"]

    def stop(self):
        self._stopping = True
        self.relay.stop()
        for thread in self.threads:
            thread.join()
        for listener in self.sockets.values():
            listener.close()


@pytest.fixture
def boxes(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(name, *args, **options):
            box = Box(tmp_path / name, *args, **options)
            stack.callback(box.stop)
            return box

        yield make


def test_a_relay_has_newer_software_of_its_neighbour_byte_for_byte(boxes):
    newer = boxes("newer", "1.1", 2000)
    older = boxes("older", "1.0", 1000, peers=[newer.relay.address])
    wait_until("it is written", lambda: older.updates()["written"] == 1, PATIENCE_S)
    assert older.other() == newer.bytes
    record = older.slots.record()
    assert (record.trial, slots.choose(record).slots) == ("B", ("B",))
    assert newer.updates()["given"] == older.updates()["taken"] > 0
    assert older.updates()["given"] == newer.updates()["taken"] == 0
