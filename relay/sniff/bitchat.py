# SPDX-License-Identifier: GPL-2.0-or-later
"""bitchat as anybody near hears it (docs/bitchat.md): who says what to whom, as far as it is in the clear."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from relay.bitchat.announce import decode_announce
from relay.bitchat.courier import decode_letter
from relay.bitchat.fragments import decode_piece
from relay.bitchat.packet import Packet, PacketType, decode_packet, expanded_bytes
from relay.bitchat.service import SERVICE_UUID
from relay.bitchat.sync import decode_request_sync
from relay.core.errors import DecodeError
from relay.sniff.events import escaped

if TYPE_CHECKING:
    from relay.bitchat.announce import Announce

#: As advertised.
SERVICE: Final = uuid.UUID(SERVICE_UUID).bytes[::-1]
#: What is decompressed to be shown: a line of chat, and no more.
MAX_EXPANDED_BYTES: Final = 1 << 16
_NAMES: Final = {kind.value: kind.name for kind in PacketType}


def read_frame(value: bytes) -> tuple[str, Packet | None]:
    """Return a value of bitchat's characteristic in words, and the packet that it is; None where it is no whole one."""
    if expanded_bytes(value) > MAX_EXPANDED_BYTES:
        return f"would be {expanded_bytes(value)} bytes", None
    try:
        packet = decode_packet(value)
    except DecodeError:
        return "no packet, or a part of one", None
    return _words(packet), packet


def announced(packet: Packet) -> Announce | None:
    """What a packet announces; None where it is no announce. Nobody has checked who signed it."""
    if packet.type != PacketType.ANNOUNCE:
        return None
    try:
        return decode_announce(packet.payload)
    except DecodeError:
        return None


def _words(packet: Packet) -> str:
    name = _NAMES.get(packet.type, f"type {packet.type:#04x}")
    to = "all" if packet.recipient is None or packet.is_broadcast else packet.recipient.hex()
    notes = [
        f"version {packet.version}" if packet.version != 1 else "",
        "signed" if packet.signature is not None else "",
        "compressed" if packet.compressed else "",
        f"by way of {len(packet.route)}" if packet.route else "",
        "answers" if packet.is_answer else "",
        _content(packet),
    ]
    return ", ".join([f"{name} {packet.sender.hex()} > {to} TTL {packet.ttl}", *filter(None, notes)])


def _content(packet: Packet) -> str:
    """What the payload says to whoever hears it."""
    try:
        match packet.type:
            case PacketType.ANNOUNCE:
                announce = decode_announce(packet.payload)
                near = f", near {len(announce.neighbours)}" if announce.neighbours else ""
                return f'"{escaped(announce.nickname)}"{", a relay" if announce.is_relay else ""}{near}'
            case PacketType.MESSAGE:
                return f'"{escaped(packet.payload)}"'
            case PacketType.COURIER:
                letter = decode_letter(packet.payload)
                return f"letter under {letter.tag.hex()}, {len(letter.ciphertext)} bytes"
            case PacketType.FRAGMENT:
                piece = decode_piece(packet.payload)
                whole = _NAMES.get(piece.whole_type, f"type {piece.whole_type:#04x}")
                return f"{piece.index + 1} of {piece.count} of {whole} {piece.set_id.hex()}"
            case PacketType.REQUEST_SYNC:
                request = decode_request_sync(packet.payload)
                return f"has {len(request.filter.numbers)}, {'iPhone' if request.is_of_iphone else 'Android'}"
            case _:
                return f"{len(packet.payload)} bytes"
    except DecodeError:
        return f"{len(packet.payload)} bytes that say nothing"
