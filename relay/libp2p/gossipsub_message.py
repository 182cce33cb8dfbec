# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of gossipsub 1.1 (https://github.com/libp2p/specs/tree/master/pubsub), and their signatures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.libp2p.identity import MAX_PEER_BYTES, decode_key, is_signed, key_of, peer_of
from relay.libp2p.wire import as_bytes, as_number, as_text, bytes_field, fields, number_field

if TYPE_CHECKING:
    from relay.libp2p.identity import Identity

PROTOCOL: Final = "/meshsub/1.1.0"
#: As go-libp2p-pubsub has it by default.
MAX_RPC_BYTES: Final = 1 << 20
MAX_TOPIC_BYTES: Final = 512
MAX_ID_BYTES: Final = 128
_MAX_ITEMS: Final = 4096
_MAX_MESSAGE_FIELDS: Final = 16
_SEQNO_BYTES: Final = 8
_SIGNED: Final = b"libp2p-pubsub:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A message on a topic, of whom, and its number there."""

    sender: bytes
    seqno: bytes
    topic: str
    data: bytes = field(repr=False)
    signature: bytes = b""
    key_message: bytes = b""

    @property
    def identity(self) -> bytes:
        """By what it is recognised."""
        return self.sender + self.seqno

    def encode(self) -> bytes:
        """Return the protocol buffer."""
        out = self._signed()
        if self.signature:
            out += bytes_field(5, self.signature)
        if self.key_message:
            out += bytes_field(6, self.key_message)
        return out

    def _signed(self) -> bytes:
        out = bytes_field(1, self.sender) + bytes_field(2, self.data) + bytes_field(3, self.seqno)
        return out + bytes_field(4, self.topic.encode())

    def is_true(self) -> bool:
        """Whether its sender has signed it."""
        public = key_of(self.sender)
        if self.key_message:
            try:
                public = decode_key(self.key_message)
            except DecodeError:
                return False
            if peer_of(public) != self.sender:
                return False
        return public is not None and is_signed(public, _SIGNED + self._signed(), self.signature)


def sign(identity: Identity, *, seqno: int, topic: str, data: bytes) -> Published:
    """Return a message of ours."""
    unsigned = Published(sender=identity.peer, seqno=seqno.to_bytes(_SEQNO_BYTES), topic=topic, data=data)
    return Published(
        sender=unsigned.sender,
        seqno=unsigned.seqno,
        topic=topic,
        data=data,
        signature=identity.sign(_SIGNED + unsigned._signed()),  # noqa: SLF001 - its own
    )


@dataclass(slots=True, kw_only=True)
class Rpc:
    """What one message between two peers says."""

    subscriptions: list[tuple[str, bool]] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    have: list[tuple[str, list[bytes]]] = field(default_factory=list)
    want: list[bytes] = field(default_factory=list)
    graft: list[str] = field(default_factory=list)
    #: Topics, and for how many seconds nobody is to ask again.
    prune: list[tuple[str, int]] = field(default_factory=list)

    def encode(self) -> bytes:
        """Return the protocol buffer."""
        out = [
            bytes_field(1, number_field(1, joined) + bytes_field(2, topic.encode()))
            for topic, joined in self.subscriptions
        ]
        out += [bytes_field(2, message.encode()) for message in self.published]
        control = [
            bytes_field(1, bytes_field(1, topic.encode()) + b"".join(bytes_field(2, each) for each in identities))
            for topic, identities in self.have
        ]
        if self.want:
            control.append(bytes_field(2, b"".join(bytes_field(1, each) for each in self.want)))
        control += [bytes_field(3, bytes_field(1, topic.encode())) for topic in self.graft]
        control += [
            bytes_field(4, bytes_field(1, topic.encode()) + number_field(3, backoff_s))
            for topic, backoff_s in self.prune
        ]
        if control:
            out.append(bytes_field(3, b"".join(control)))
        return b"".join(out)


def decode_rpc(message: bytes) -> Rpc:
    """Decode what a peer says; raise DecodeError."""
    rpc = Rpc()
    for number, value in fields(message, _MAX_ITEMS):
        if number == 1:
            _decode_subscription(as_bytes(value), rpc)
        elif number == 2:
            rpc.published.append(decode_published(as_bytes(value)))
        elif number == 3:
            _decode_control(as_bytes(value), rpc)
    return rpc


def _decode_subscription(message: bytes, rpc: Rpc) -> None:
    topic, joined = "", False
    for number, value in fields(message, _MAX_MESSAGE_FIELDS):
        if number == 1:
            joined = bool(as_number(value))
        elif number == 2:
            topic = as_text(value, MAX_TOPIC_BYTES)
    if not topic:
        raise DecodeError("a subscription without its topic")
    rpc.subscriptions.append((topic, joined))


def decode_published(message: bytes) -> Published:
    """Decode a message on a topic; raise DecodeError."""
    sender = data = seqno = signature = key_message = b""
    topic = ""
    for number, value in fields(message, _MAX_MESSAGE_FIELDS):
        if number == 1:
            sender = as_bytes(value)
        elif number == 2:
            data = as_bytes(value)
        elif number == 3:
            seqno = as_bytes(value)
        elif number == 4:
            topic = as_text(value, MAX_TOPIC_BYTES)
        elif number == 5:
            signature = as_bytes(value)
        elif number == 6:
            key_message = as_bytes(value)
    if not topic or not 0 < len(sender) <= MAX_PEER_BYTES or not 0 < len(seqno) <= _SEQNO_BYTES:
        raise DecodeError("a message without topic, sender or number")
    return Published(sender=sender, seqno=seqno, topic=topic, data=data, signature=signature, key_message=key_message)


def _decode_control(message: bytes, rpc: Rpc) -> None:
    for number, value in fields(message, _MAX_ITEMS):
        if not 1 <= number <= 4:
            continue  # of later versions
        topic, identities, backoff_s = "", [], 0
        for part, said in fields(as_bytes(value), _MAX_ITEMS):
            if part == 1 and number != 2:
                topic = as_text(said, MAX_TOPIC_BYTES)
            elif (number, part) in ((1, 2), (2, 1)):
                identity = as_bytes(said)
                if not 0 < len(identity) <= MAX_ID_BYTES:
                    raise DecodeError("a message is not called so")
                identities.append(identity)
            elif (number, part) == (4, 3):
                backoff_s = as_number(said)
        if number == 1:
            rpc.have.append((topic, identities))
        elif number == 2:
            rpc.want += identities
        elif number == 3:
            rpc.graft.append(topic)
        else:
            rpc.prune.append((topic, backoff_s))
