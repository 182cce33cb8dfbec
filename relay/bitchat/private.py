# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations of two: Noise XX, then numbered messages, and what a private message says.

A relay reads none of it: it carries these packets, and answers a handshake that is meant for itself, as iPhones hand
letters only to peers who finished one (`relay.bitchat.courier`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.bitchat.tlv import decode_tlvs, encode_tlvs
from relay.core.errors import DecodeError
from relay.core.noise import XX, CipherState, DecryptError, HandshakeError, HandshakeReason, HandshakeState, KeyPair

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBER_BYTES: Final = 4
MAX_NUMBER: Final = 0xFFFF_FFFF
WINDOW: Final = 1024
"""How far a message may come behind the newest one; older ones cannot be told from replays."""
MAX_HANDSHAKE_BYTES: Final = 2048
"""iPhones take no longer message of a handshake."""

PRIVATE_MESSAGE: Final = 1
"""First byte of the plaintext that is a private message; the other kinds are the phones' own business."""
_MESSAGE_ID, _CONTENT = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMessage:
    """A private message; its ID is what receipts name."""

    message_id: str
    content: str = field(repr=False)

    def encode(self) -> bytes:
        """Return the plaintext; ValueError for more than 255 bytes of either."""
        values = [(_MESSAGE_ID, self.message_id.encode()), (_CONTENT, self.content.encode())]
        return bytes([PRIVATE_MESSAGE]) + encode_tlvs(values, 1)


def decode_private_message(plaintext: bytes) -> PrivateMessage:
    """Return the message in a plaintext; DecodeError where it is another kind, or none."""
    if plaintext[:1] != bytes([PRIVATE_MESSAGE]):
        raise DecodeError("not a private message")
    values = dict(decode_tlvs(plaintext[1:], 1))
    try:
        return PrivateMessage(message_id=values[_MESSAGE_ID].decode(), content=values[_CONTENT].decode())
    except (KeyError, UnicodeDecodeError):
        raise DecodeError("a private message without ID or content") from None


class ReplayWindow:
    """Which numbers have come, of the newest 1,024."""

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._newest = -1
        self._seen = 0

    def is_new(self, number: int) -> bool:
        """Whether a number may still be taken."""
        behind = self._newest - number
        return behind < 0 or (behind < WINDOW and not self._seen >> behind & 1)

    def note(self, number: int) -> None:
        """Take a number that was new, and whose message was genuine."""
        if number > self._newest:
            # A shift by more than the window would only make a large number of zeros.
            self._seen = self._seen << min(number - self._newest, WINDOW) & (1 << WINDOW) - 1
            self._newest = number
        self._seen |= 1 << self._newest - number


class NoiseSession:
    """One side of a conversation; bytes of packets in, bytes of packets out."""

    def __init__(self, *, initiator: bool, static: KeyPair, random_bytes: Callable[[int], bytes]) -> None:
        self._handshake = HandshakeState(
            XX, initiator=initiator, prologue=b"", static=static, random_bytes=random_bytes
        )
        self._ciphers: tuple[CipherState, CipherState] | None = None
        self._window = ReplayWindow()
        self._sent = 0

    @property
    def is_open(self) -> bool:
        """Whether the handshake is finished."""
        return self._ciphers is not None

    @property
    def remote_static(self) -> bytes | None:
        """The other's Noise key; proven once the session is open."""
        return self._handshake.remote_static

    @property
    def handshake_hash(self) -> bytes:
        """What both sides have in common; HandshakeError before the session is open."""
        return self._handshake.handshake_hash

    def start(self) -> bytes:
        """Return the initiator's first message."""
        return self._handshake.write_message()

    def receive_handshake(self, data: bytes) -> bytes | None:
        """Take a message of the handshake and return what is to be sent, if anything.

        Raises HandshakeError for anything but the message that is due; the session is over then.
        """
        if len(data) > MAX_HANDSHAKE_BYTES:
            raise DecodeError(f"message of a handshake with {len(data)} bytes, at most {MAX_HANDSHAKE_BYTES}")
        self._handshake.read_message(data)
        answer = self._handshake.write_message() if self._handshake.is_my_turn else None
        if self._handshake.finished:
            self._ciphers = self._handshake.split()
        return answer

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the payload of the next packet; HandshakeError before the session is open."""
        sending, _ = self._opened()
        if self._sent > MAX_NUMBER:
            raise DecodeError("a session has 2^32 messages, then it has to begin anew")
        payload = self._sent.to_bytes(NUMBER_BYTES, "big") + sending.encrypt(plaintext)
        self._sent += 1
        return payload

    def decrypt(self, payload: bytes) -> bytes:
        """Return the plaintext of a packet; DecryptError for a replay, one too old, or any that is not genuine."""
        _, receiving = self._opened()
        number = int.from_bytes(payload[:NUMBER_BYTES], "big")
        if len(payload) < NUMBER_BYTES or not self._window.is_new(number):
            raise DecryptError
        plaintext = receiving.decrypt_at(number, payload[NUMBER_BYTES:])
        self._window.note(number)
        return plaintext

    def _opened(self) -> tuple[CipherState, CipherState]:
        if self._ciphers is None:
            raise HandshakeError(HandshakeReason.OUT_OF_ORDER)
        return self._ciphers
