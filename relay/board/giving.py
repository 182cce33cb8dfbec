# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay slot --give`: reads the slot that runs for `relay run`, which gives it to neighbours; reads, and nothing else.

The update that this relay once took is what it has in its slot, byte for byte: the head, the bytes of the boot
partition, those of the root. It is given only once it has proved itself here, and only if it is signed by who is
trusted here: so what does not come up well stays where it was tried first.

A process of its own, started by relay-give.socket and ended when nobody asks: `relay run` is not given the card, and
`relay slot`, which writes, has nothing to do with strangers. Each connection begins with one line of JSON
(:func:`describe`); then each line ``{"read": [OFFSET, LENGTH]}`` of the other side is answered with so many bytes.
"""

from __future__ import annotations

import hashlib
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from relay.board import slots
from relay.board.card import find_card
from relay.board.card_slots import CardSlots, NoSlotsError
from relay.board.manifest import HEAD_BYTES, is_trusted
from relay.board.slot_app import handed_over, read_own
from relay.core.errors import DecodeError
from relay.process import logs
from relay.process.update_request import MAX_LINE_BYTES, VERSION, decode_line, decode_range, encode_line

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from relay.board.manifest import Head, Own

#: Nobody asks for so long: this process ends, and is started again.
IDLE_S: Final = 120.0


class Giver:
    """What the running slot holds; ``own``: what this relay is and whom it trusts, None: nothing is given."""

    def __init__(self, card: CardSlots, own: Own | None) -> None:
        self._card = card
        self._own = own

    def head(self) -> Head | None:
        """That of what may be given; None: nothing."""
        own, running = self._own, self._card.running
        try:
            head = self._card[running].head()
            is_proved = self._card.record().trial != running
        except (OSError, DecodeError):
            return None
        if own is None or not is_proved or not is_trusted(head, own.keys):
            return None
        return head if head.manifest.board == own.board else None

    def describe(self) -> dict[str, object]:
        """What `relay run` is told: what runs here, whether newer software waits for a start, and what can be given.

        ``offer``: None where nothing can be; ``digest``: SHA-256 of the head in hexadecimal; ``size``: bytes in all.
        """
        own, other = self._own, slots.other(self._card.running)
        try:
            record = self._card.record()
            is_waiting = record.trial == other and record.tries(other) > 0
        except OSError:
            is_waiting = False
        head = self.head()
        offer: dict[str, object] | None = None
        if head is not None:
            offer = {
                "digest": hashlib.sha256(head.encode()).hexdigest(),
                "size": head.manifest.size,
                "version": head.manifest.version,
                "built": head.manifest.built,
            }
        return {
            "v": VERSION,
            "board": own.board if own else "",
            "built": own.built if own else 0,
            "waiting": is_waiting,
            "offer": offer,
        }

    def serve(self, connection: socket.socket) -> None:
        """Answer one who asks, until he goes or asks nothing for a while; raise OSError or DecodeError."""
        connection.settimeout(IDLE_S)
        connection.sendall(encode_line(self.describe()))
        head = self.head()
        if head is None:
            return
        raw = head.encode()
        with self._card[self._card.running].reading(head.manifest) as source, connection.makefile("rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES):
                offset, length = decode_range(decode_line(line))
                if offset + length > head.manifest.size:
                    raise DecodeError("more than there is")
                connection.sendall(_read(raw, head, source, offset, length))


def _read(raw: bytes, head: Head, source: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    """So many bytes of an update, which may lie in several of its parts."""
    found = raw[offset : offset + length]
    # Of the boot partition, and behind it of the root.
    borders = (head.manifest.boot.size, head.manifest.boot.size + head.manifest.root.size)
    while len(found) < length:
        at = offset + len(found) - HEAD_BYTES
        end = next(border for border in borders if at < border)
        found += source(at, min(length - len(found), end - at))
    return found


def run() -> int:
    """Serve until nobody asks; return the exit status."""
    logs.setup("info")
    card = find_card()
    listener = next(iter(handed_over().values()), None)
    if card is None or listener is None:
        raise NoSlotsError("this is started by relay-give.socket, on a machine that started from a relay's card")
    giver = Giver(CardSlots(card), read_own())
    while select.select([listener], [], [], IDLE_S)[0]:
        connection, _ = listener.accept()
        with connection, suppress(OSError, DecodeError):
            giver.serve(connection)
    return 0
