# SPDX-License-Identifier: GPL-2.0-or-later
"""/noise (https://github.com/libp2p/specs/blob/master/noise/README.md): Noise XX, and in it who one is.

Free of I/O. Each message has its length before it in two bytes; in the second and the third each side says its lasting
key, and proves by a signature that the handshake's static key is its.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.core.noise import (
    MAX_PLAINTEXT_BYTES,
    XX,
    CipherState,
    DecryptError,
    HandshakeError,
    HandshakeState,
    KeyPair,
    NonceExhaustedError,
)
from relay.libp2p.identity import decode_key, is_signed, peer_of
from relay.libp2p.wire import as_bytes, bytes_field, fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.libp2p.identity import Identity

PROTOCOL: Final = "/noise"
_SIGNED: Final = b"noise-libp2p-static-key:"
_LENGTH_BYTES: Final = 2
_MAX_PAYLOAD_FIELDS: Final = 8


@dataclass(frozen=True, slots=True)
class Payload:
    """What each side says of itself: its lasting key, as a protocol buffer, and the signature."""

    key_message: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return the protocol buffer."""
        return bytes_field(1, self.key_message) + bytes_field(2, self.signature)


def decode_payload(message: bytes) -> Payload:
    """Decode a payload; raise DecodeError."""
    key_message = signature = b""
    for number, value in fields(message, _MAX_PAYLOAD_FIELDS):
        if number == 1:
            key_message = as_bytes(value)
        elif number == 2:
            signature = as_bytes(value)
    return Payload(key_message, signature)


class Secure:
    """One side of a connection: bytes of the network on one side, of what is inside on the other."""

    def __init__(
        self,
        identity: Identity,
        *,
        initiator: bool,
        expected: bytes | None,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """``expected``: the peer ID that was dialled, if it is known."""
        static = KeyPair.generate(random_bytes)
        self._handshake = HandshakeState(
            XX, initiator=initiator, prologue=b"", static=static, random_bytes=random_bytes
        )
        self._payload = Payload(identity.key_message, identity.sign(_SIGNED + static.public)).encode()
        self._initiator = initiator
        self._expected = expected
        self._buffer = bytearray()
        self._out = bytearray()
        self._send: CipherState | None = None
        self._receive: CipherState | None = None
        #: The other side's peer ID, once it has proved it.
        self.peer: bytes | None = None
        if initiator:
            self._put(self._handshake.write_message())

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is over, and `seal` may be called."""
        return self.peer is not None and self._send is not None

    def data_to_send(self) -> bytes:
        """Return what of the handshake is to be sent now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> list[bytes]:
        """Return what is inside; raise DecodeError for what is no handshake, or of another than was dialled."""
        buffer = self._buffer
        buffer += data
        plain: list[bytes] = []
        at, end = 0, len(buffer)
        view = memoryview(buffer)
        try:
            while end - at >= _LENGTH_BYTES:
                stop = at + _LENGTH_BYTES + (buffer[at] << 8 | buffer[at + 1])
                if stop > end:
                    break
                message = bytes(view[at + _LENGTH_BYTES : stop])
                at = stop
                if self._receive is None:
                    self._shake(message)
                else:
                    plain.append(self._receive.decrypt(message))
        except (HandshakeError, DecryptError, NonceExhaustedError) as error:
            raise DecodeError("a message of Noise that is none") from error
        finally:
            view.release()
        del buffer[:at]
        return plain

    def _shake(self, message: bytes) -> None:
        payload = self._handshake.read_message(message)
        if self._handshake.remote_static is not None:
            self._check(payload)
        if self._handshake.is_my_turn:
            self._put(self._handshake.write_message(self._payload))
        if self._handshake.finished:
            self._send, self._receive = self._handshake.split()

    def _check(self, payload: bytes) -> None:
        said = decode_payload(payload)
        public = decode_key(said.key_message)
        static = self._handshake.remote_static
        if static is None or not is_signed(public, _SIGNED + static, said.signature):
            raise DecodeError("a peer that is not who it says")
        peer = peer_of(public)
        if self._expected is not None and peer != self._expected:
            raise DecodeError("another peer than the one that was dialled")
        self.peer = peer

    def _put(self, message: bytes) -> None:
        self._out += len(message).to_bytes(_LENGTH_BYTES) + message

    def seal(self, plaintext: bytes | memoryview) -> bytes:
        """Return the messages that carry ``plaintext``; raise DecodeError once no more can be sent."""
        if self._send is None:  # pragma: no cover - the connection asks is_ready
            raise AssertionError("the handshake is not over")
        out = bytearray()
        view = memoryview(plaintext)
        try:
            for start in range(0, len(view), MAX_PLAINTEXT_BYTES):
                message = self._send.encrypt(view[start : start + MAX_PLAINTEXT_BYTES])
                out += len(message).to_bytes(_LENGTH_BYTES)
                out += message
        except NonceExhaustedError as error:  # pragma: no cover - after 2^64 messages
            raise DecodeError("no more can be sent") from error
        return bytes(out)
