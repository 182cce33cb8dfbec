# SPDX-License-Identifier: GPL-2.0-or-later
"""An appliance without its machine: a card in a file, and `relay slot`, with and without `--give`, in threads."""

import contextlib
import os
import select
import socket
import threading
from dataclasses import replace
from types import MappingProxyType

from image import minisign
from image.slot import signed
from relay.board import slots
from relay.board.card import Card
from relay.board.card_slots import PARTITIONS, CardSlots
from relay.board.device import Part
from relay.board.giving import Giver
from relay.board.manifest import PIECE_BYTES, Head, Manifest, Own
from relay.board.manifest import Part as Described
from relay.board.slot_app import RESTART, Slots
from relay.core.errors import DecodeError
from tests.unit.board.test_card_slots import PARTS

MIB = 1 << 20
KEY = minisign.SecretKey(number=b"12345678", seed=b"s" * 32)
OTHER = minisign.SecretKey(number=b"87654321", seed=b"o" * 32)
BOARD = "test"


def part(data):
    return Described.of(data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))


class Box:
    """``key``: who signed what runs in slot A; ``trusts``: whom it believes."""

    def __init__(self, folder, version, built, *, key=KEY, trusts=KEY, board=BOARD):
        folder.mkdir()
        self.folder = folder
        path = folder / "card"
        path.write_bytes(b"")
        os.truncate(path, 18 * MIB)
        parts = {number: Part(path=path, start=at * MIB, size=size * MIB) for number, (at, size) in PARTS.items()}
        self.card = Card(disk=path, boot=parts[1], data=None, parts=MappingProxyType(parts), root=5)
        self.slots = CardSlots(self.card)
        boot, root = os.urandom(MIB + 4096), os.urandom(MIB + 8192)
        head = Head(manifest=Manifest(board=board, version=version, built=built, boot=part(boot), root=part(root)))
        self.head = head if key is None else signed(head, key)
        self.update = self.head.encode() + boot + root
        self.slots["A"].write(self.head, lambda at, size: (boot + root)[at : at + size], lambda: True)
        self._keys = (trusts.public(),)
        self.sockets = {name: self._listen(name) for name in ("update", "spread", "give")}
        self._threads = []
        self._start()

    def _start(self):
        found = self.slots[self.slots.running].head().manifest
        self.own = Own(board=found.board, version=found.version, built=found.built, keys=self._keys)
        self.app = Slots(
            self.slots, self.folder / "no-relay", notices=self.folder / "notices", settled=self.folder / "settled",
            listener=self.sockets["update"], spread=self.sockets["spread"], own=self.own,
        )  # fmt: skip
        self.giver = Giver(self.slots, self.own)
        self._stopping = False
        self._threads = [threading.Thread(target=work) for work in (self._serve, self._give)]
        for thread in self._threads:
            thread.start()

    def restart(self):
        """Start anew with the slot that is due, which proves itself. Whoever is connected has to be gone."""
        self._end()
        (self.folder / RESTART.name).unlink(missing_ok=True)
        chosen = slots.choose(self.slots.record())
        running = chosen.slots[0]
        self.slots.remember(chosen.record)
        self.card = replace(self.card, root=PARTITIONS[running][1])
        self.slots = CardSlots(self.card)
        self.slots.remember(slots.came_up(self.slots.record(), running, ""))
        self.slots.remember(slots.proved(self.slots.record(), running))
        self._start()

    def _listen(self, name):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / f"{name}.sock"))
        listener.listen()
        return listener

    def _serve(self):
        while not self._stopping:
            self.app._serve(0.1)

    def _give(self):
        listener = self.sockets["give"]
        while not self._stopping:
            if select.select([listener], [], [], 0.1)[0]:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError, DecodeError):
                    self.giver.serve(connection)

    @property
    def is_told_to_restart(self):
        return (self.folder / RESTART.name).exists()

    def other(self):
        """The bytes of the update in the slot that does not run."""
        head = self.slots["B"].head()
        boot, root = head.manifest.boot.size, head.manifest.root.size
        with self.slots["B"].reading(head.manifest) as source:
            return head.encode() + source(0, boot) + source(boot, root)

    def stop(self):
        """Whoever is connected has to be gone."""
        self._end()
        for listener in self.sockets.values():
            listener.close()

    def _end(self):
        self._stopping = True
        for thread in self._threads:
            thread.join()
