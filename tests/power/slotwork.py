# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay slot` does to a card, on one that is a file: ``python -m tests.power.slotwork CARD UPDATE``.

Fills slot B from A, or, where there is an UPDATE, writes that into it.
"""

import os
import sys
import tempfile
from pathlib import Path
from types import MappingProxyType

from image import minisign
from image.slot import signed
from relay.board.card import Card
from relay.board.card_slots import CardSlots
from relay.board.device import Part
from relay.board.manifest import PIECE_BYTES, Head, Manifest, Own
from relay.board.manifest import Part as Described
from relay.board.slot_app import Slots

MIB = 1 << 20
KEY = minisign.SecretKey(number=b"12345678", seed=b"s" * 32)
OWN = Own(board="test", version="1.0", built=1000, keys=(KEY.public(),))
#: As of the image: MESH-RELAY, two for kernels, two for roots; start and size in MiB.
PARTS = {1: (1, 1), 2: (2, 3), 3: (5, 3), 5: (8, 8), 6: (16, 8)}
CARD_BYTES = 24 * MIB


def card_in(path):
    parts = {number: Part(path=path, start=at * MIB, size=size * MIB) for number, (at, size) in PARTS.items()}
    return Card(disk=path, boot=parts[1], data=None, parts=MappingProxyType(parts), root=5)


def head(boot, root, *, version, built):
    def part(data):
        return Described.of(data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))

    made = Head(manifest=Manifest(board="test", version=version, built=built, boot=part(boot), root=part(root)))
    return signed(made, KEY)


def made_card(path, boot, root):
    """A card whose slot A has these; nothing in B."""
    path.write_bytes(b"")
    os.truncate(path, CARD_BYTES)
    card = card_in(path)
    both = boot + root
    CardSlots(card)["A"].write(
        head(boot, root, version="1.0", built=1000), lambda at, length: both[at : at + length], lambda: True
    )
    return card


def work(card, update):
    """As relay.board.slot_app does it; ``update``: the bytes of one, or None."""
    with tempfile.TemporaryDirectory() as folder:
        app = Slots(
            CardSlots(card), Path(folder, "no-relay"), notices=Path(folder, "notices"),
            settled=Path(folder, "settled"), own=OWN,
        )  # fmt: skip
        if update is None:
            app.fill(lambda: True)
        else:
            app.take(lambda at, length: update[at : at + length], older=False)


if __name__ == "__main__":
    work(card_in(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes() if sys.argv[2:] else None)
