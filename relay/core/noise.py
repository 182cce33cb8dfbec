# SPDX-License-Identifier: GPL-2.0-or-later
"""Noise handshakes XX, XXpsk3 and X with 25519, ChaChaPoly and SHA256.

Written from "The Noise Protocol Framework", revision 34; the sections cited below are of that text.
A handshake that fails is dead: its keys are forgotten and every later call on it is refused.

Beyond the framework there is `HandshakeState.export`, secrets for uses outside the transport:

    PRK                    = HMAC-SHA256(key = ck, data = "relay-noise-export-v1" || h)
    export(label, length)  = the first `length` bytes of HMAC-SHA256(key = PRK, data = label || 0x01)

with ck and h the chaining key and the handshake hash when the handshake ends. That is HKDF-SHA256 of
RFC 5869 (salt = ck, IKM = "relay-noise-export-v1" || h, info = label). Split() uses ck with an empty
input (section 5.2), so no export equals a transport key; h ties it to the prologue and every payload.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from struct import Struct
from typing import Any, Final

import nacl.exceptions

# The AEAD wrappers of nacl.bindings format their error texts on every call, needed or not: 4 to 5.5
# microseconds for a record of 300 bytes, against 1.5 for the same libsodium call made directly. Importing
# nacl.bindings is still what initialises libsodium.
from nacl import _sodium
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

from relay.core.errors import RelayError

Bytes = bytes | bytearray | memoryview

MAX_MESSAGE_BYTES: Final = 65_535
"""Longest handshake or transport message, tag included (section 3): what one side may have to buffer."""

TAG_BYTES: Final = 16
"""What a record is longer than its plaintext (section 12.3, Poly1305)."""

MAX_PLAINTEXT_BYTES: Final = MAX_MESSAGE_BYTES - TAG_BYTES
"""Longest plaintext of a transport message."""

KEY_BYTES: Final = 32
"""DHLEN of 25519, HASHLEN of SHA256 and the length of a pre-shared key, all 32 (sections 9, 12.1, 12.5)."""

MAX_NONCE: Final = 2**64 - 1
"""Reserved (section 5.1): a key encrypts 2^64 - 1 records, then no more, because a repeated nonce breaks it."""

_EXPORT_CONTEXT: Final = b"relay-noise-export-v1"

_ffi: Any = _sodium.ffi
_NULL: Final[Any] = _ffi.NULL
_new: Final[Any] = _ffi.new_allocator(should_clear_after_alloc=False)
_buffer: Final[Any] = _ffi.buffer
_from_buffer: Final[Any] = _ffi.from_buffer
_aead_encrypt: Final[Any] = _sodium.lib.crypto_aead_chacha20poly1305_ietf_encrypt
_aead_decrypt: Final[Any] = _sodium.lib.crypto_aead_chacha20poly1305_ietf_decrypt
_OUTPUT: Final[Any] = _ffi.typeof("unsigned char[]")
# 32 zero bits, then the counter in little-endian (section 12.3).
_pack_nonce: Final = Struct("<4xQ").pack


class HandshakeReason(StrEnum):
    """Why a handshake failed; the values label the metric."""

    TRUNCATED = "truncated"
    """Shorter than the pattern demands."""
    TOO_LONG = "too_long"
    """Longer than a Noise message can be."""
    LOW_ORDER_KEY = "low_order_key"
    """The peer's public key gives an all-zero shared secret, whatever our key is."""
    DECRYPT = "decrypt"
    """A tag does not verify: tampering, another prologue, another pre-shared key, or not Noise at all."""
    OUT_OF_ORDER = "out_of_order"
    """Not this side's turn, already finished, not finished yet, or failed before."""


class HandshakeError(RelayError):
    """A handshake that cannot go on; `reason` says why."""

    def __init__(self, reason: HandshakeReason) -> None:
        """Keep `reason`; nothing else, so that no key can reach a log through an error."""
        super().__init__(f"handshake failed: {reason}")
        self.reason = reason


class DecryptError(RelayError):
    """A transport message that is not what the peer sent next: altered, replayed, reordered or cut."""


class NonceExhaustedError(RelayError):
    """A transport key that must not be used any more (or, after a one-way handshake, at all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """An X25519 key pair, 32 bytes each (RFC 7748)."""

    private: bytes = field(repr=False)
    public: bytes

    def __post_init__(self) -> None:
        """Refuse other lengths with ValueError: libsodium would read past the end of a shorter key."""
        _require_length("private key", self.private)
        _require_length("public key", self.public)

    @classmethod
    def from_private(cls, private: bytes) -> "KeyPair":
        """Return the pair of a 32-byte private key; ValueError for any other length."""
        _require_length("private key", private)
        return cls(private=private, public=crypto_scalarmult_base(private))

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> "KeyPair":
        """Return a fresh pair; `random_bytes(n)` must give n unpredictable bytes."""
        return cls.from_private(random_bytes(KEY_BYTES))


class Token(StrEnum):
    """What a handshake message does (section 7.1); in a DH token the first letter is the initiator's key."""

    E = "e"
    S = "s"
    EE = "ee"
    ES = "es"
    SE = "se"
    SS = "ss"
    PSK = "psk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A handshake pattern: who sends which tokens, the initiator first and then in turns (section 7)."""

    name: str
    messages: tuple[tuple[Token, ...], ...]
    responder_known: bool = False

    @property
    def one_way(self) -> bool:
        """Whether only the initiator ever sends (section 7.4)."""
        return len(self.messages) == 1

    @property
    def uses_psk(self) -> bool:
        """Whether a pre-shared key is mixed in (section 9)."""
        return any(Token.PSK in tokens for tokens in self.messages)

    @property
    def protocol_name(self) -> bytes:
        """The full name, which is the first input to the handshake hash (section 8)."""
        return f"Noise_{self.name}_25519_ChaChaPoly_SHA256".encode()


_XX_1, _XX_2, _XX_3 = (Token.E,), (Token.E, Token.EE, Token.S, Token.ES), (Token.S, Token.SE)
XX: Final = Pattern(name="XX", messages=(_XX_1, _XX_2, _XX_3))
"""Section 7.5: both sides learn the other's static key."""
XXPSK3: Final = Pattern(name="XXpsk3", messages=(_XX_1, _XX_2, (*_XX_3, Token.PSK)))
"""Section 9.4: as XX, and the third message proves that both hold the pre-shared key."""
X: Final = Pattern(name="X", messages=((Token.E, Token.ES, Token.S, Token.SS),), responder_known=True)
"""Section 7.4: one message to a recipient whose static key the sender knows."""


class CipherState:
    """One direction of the transport: a key and the number of the next record (section 5.1)."""

    __slots__ = ("_counter", "_key")

    def __init__(self, key: bytes, counter: int = 0) -> None:
        """Start at record `counter` with a 32-byte `key`; ValueError for any other length."""
        _require_length("key", key)
        self._key = key
        self._counter = counter

    def encrypt(self, plaintext: Bytes, ad: bytes = b"") -> bytes:
        """Return the next record, `TAG_BYTES` longer than `plaintext`.

        Raises ValueError above `MAX_PLAINTEXT_BYTES` and NonceExhaustedError after 2^64 - 1 records.
        """
        counter = self._counter
        if counter >= MAX_NONCE:
            raise NonceExhaustedError
        size = len(plaintext)
        if size > MAX_PLAINTEXT_BYTES:
            raise ValueError(f"plaintext of {size} bytes, at most {MAX_PLAINTEXT_BYTES} fit a record")
        out = _new(_OUTPUT, size + TAG_BYTES)
        # from_buffer stays inside the call: a local would keep the caller's bytearray locked while an error
        # of ours is being handled. The return value is always 0 for lengths this small.
        _aead_encrypt(out, _NULL, _from_buffer(plaintext), size, ad, len(ad), _NULL, _pack_nonce(counter), self._key)
        self._counter = counter + 1
        return _buffer(out)[:]  # type: ignore[no-any-return]

    def decrypt(self, ciphertext: Bytes, ad: bytes = b"") -> bytes:
        """Return the plaintext of the next record.

        Raises DecryptError for anything but the record the peer sent next, and does not count it
        (section 5.1); NonceExhaustedError after 2^64 - 1 records.
        """
        counter = self._counter
        if counter >= MAX_NONCE:
            raise NonceExhaustedError
        plaintext = self.decrypt_at(counter, ciphertext, ad)
        self._counter = counter + 1
        return plaintext

    def decrypt_at(self, counter: int, ciphertext: Bytes, ad: bytes = b"") -> bytes:
        """Return the plaintext of record `counter`, for transports that may lose and reorder (section 11.4).

        The caller sees to it that no record is taken twice. Raises DecryptError for any other record.
        """
        size = len(ciphertext)
        if not TAG_BYTES <= size <= MAX_MESSAGE_BYTES or not 0 <= counter < MAX_NONCE:
            raise DecryptError
        out = _new(_OUTPUT, size - TAG_BYTES)
        if _aead_decrypt(
            out, _NULL, _NULL, _from_buffer(ciphertext), size, ad, len(ad), _pack_nonce(counter), self._key
        ):
            raise DecryptError
        return _buffer(out)[:]  # type: ignore[no-any-return]


class _SymmetricState:
    """Chaining key, handshake hash and the handshake's cipher (section 5.2)."""

    __slots__ = ("cipher", "ck", "h")

    def __init__(self, protocol_name: bytes) -> None:
        if len(protocol_name) <= KEY_BYTES:
            self.h = protocol_name.ljust(KEY_BYTES, b"\0")
        else:
            self.h = sha256(protocol_name).digest()
        self.ck = self.h
        self.cipher: CipherState | None = None

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h + data).digest()

    def mix_key(self, ikm: bytes) -> None:
        self.ck, key = _hkdf(self.ck, ikm, 2)
        self.cipher = CipherState(key)

    def mix_key_and_hash(self, ikm: bytes) -> None:
        self.ck, mixed, key = _hkdf(self.ck, ikm, 3)
        self.mix_hash(mixed)
        self.cipher = CipherState(key)

    @property
    def tag_bytes(self) -> int:
        return 0 if self.cipher is None else TAG_BYTES

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = plaintext if self.cipher is None else self.cipher.encrypt(plaintext, self.h)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        try:
            plaintext = ciphertext if self.cipher is None else self.cipher.decrypt(ciphertext, self.h)
        except DecryptError:
            raise HandshakeError(HandshakeReason.DECRYPT) from None
        self.mix_hash(ciphertext)
        return plaintext


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Outcome:
    """What a finished handshake leaves behind; the chaining key is not among it."""

    handshake_hash: bytes
    export_key: bytes
    transport_keys: tuple[bytes, bytes]


class HandshakeState:
    """One side of one handshake (section 5.3)."""

    def __init__(
        self,
        pattern: Pattern,
        *,
        initiator: bool,
        prologue: bytes,
        static: KeyPair,
        random_bytes: Callable[[int], bytes],
        remote_static: bytes | None = None,
        psk: bytes | None = None,
    ) -> None:
        """Prepare one side; nothing is sent or drawn yet.

        `remote_static` (32 bytes) is for the initiator of X only, `psk` (32 bytes) for XXpsk3 only;
        ValueError where one is missing, of another length, or would be ignored.
        """
        if (remote_static is not None) != (initiator and pattern.responder_known):
            raise ValueError(
                f"remote_static is for the initiator of X, which needs it, not for this side of {pattern.name}"
            )
        if (psk is not None) != pattern.uses_psk:
            raise ValueError(f"psk is for XXpsk3, which needs it, not for {pattern.name}")
        self._pattern = pattern
        self._initiator = initiator
        self._random_bytes = random_bytes
        self._local = {"s": static}
        self._remote: dict[str, bytes] = {}
        self._psk = b""
        self._step = 0
        self._failed = False
        self._outcome: _Outcome | None = None
        self._is_split = False
        self._symmetric = _SymmetricState(pattern.protocol_name)
        self._symmetric.mix_hash(prologue)
        if remote_static is not None:
            _require_length("remote_static", remote_static)
            self._remote["s"] = remote_static
        if psk is not None:
            _require_length("psk", psk)
            self._psk = psk
        if pattern.responder_known:
            # The pre-message "<- s" (section 7.1).
            self._symmetric.mix_hash(static.public if remote_static is None else remote_static)

    @property
    def finished(self) -> bool:
        """Whether every message has been written or read, and `split` and `export` may be called."""
        return self._outcome is not None

    @property
    def is_my_turn(self) -> bool:
        """Whether this side writes next; False for both sides once finished or failed."""
        return self._may(writing=True)

    @property
    def remote_static(self) -> bytes | None:
        """The peer's static public key, as soon as known; only a finished handshake proves that the peer has it."""
        return self._remote.get("s")

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes that are the same on both sides and differ for every session (section 11.2)."""
        return self._finished_outcome().handshake_hash

    def write_message(self, payload: bytes = b"") -> bytes:
        """Return the next handshake message.

        Raises HandshakeError out of order, for a payload too long for one message, and for a low-order key
        that the peer sent earlier.
        """
        self._require_turn(writing=True)
        try:
            message = self._write(payload)
        except HandshakeError:
            self._fail()
            raise
        self._advance()
        return message

    def read_message(self, data: Bytes) -> bytes:
        """Return the payload of the peer's next handshake message; HandshakeError for any other bytes."""
        self._require_turn(writing=False)
        try:
            payload = self._read(bytes(data))
        except HandshakeError:
            self._fail()
            raise
        self._advance()
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """Return the cipher states of the transport: (send, receive) for this side.

        Only once, because a second pair would repeat nonces; HandshakeError (out_of_order) otherwise. After
        a one-way handshake the direction that must not be used (section 7.4) refuses every record.
        """
        first, second = self._finished_outcome().transport_keys
        if self._is_split:
            raise HandshakeError(HandshakeReason.OUT_OF_ORDER)
        self._is_split = True
        to_responder = CipherState(first)
        to_initiator = CipherState(second, MAX_NONCE if self._pattern.one_way else 0)
        return (to_responder, to_initiator) if self._initiator else (to_initiator, to_responder)

    def export(self, label: bytes, length: int = KEY_BYTES) -> bytes:
        """Return `length` (1 to 32) secret bytes that only the two sides have, other ones for each label.

        The derivation is in the module's docstring. A shorter export of a label is a prefix of a longer one.
        Raises ValueError for another length, HandshakeError (out_of_order) before the handshake is finished.
        """
        if not 1 <= length <= KEY_BYTES:
            raise ValueError(f"an export has 1 to {KEY_BYTES} bytes, not {length}")
        return hmac.digest(self._finished_outcome().export_key, label + b"\x01", "sha256")[:length]

    def _finished_outcome(self) -> _Outcome:
        if self._outcome is None:
            raise HandshakeError(HandshakeReason.OUT_OF_ORDER)
        return self._outcome

    def _may(self, *, writing: bool) -> bool:
        initiators_step = self._step % 2 == 0
        return not self._failed and not self.finished and (initiators_step == self._initiator) == writing

    def _require_turn(self, *, writing: bool) -> None:
        if not self._may(writing=writing):
            raise HandshakeError(HandshakeReason.OUT_OF_ORDER)

    def _write(self, payload: bytes) -> bytes:
        symmetric = self._symmetric
        message = b""
        for token in self._pattern.messages[self._step]:
            if token is Token.E:
                ephemeral = KeyPair.generate(self._random_bytes)
                self._local["e"] = ephemeral
                message += ephemeral.public
                self._mix_ephemeral(ephemeral.public)
            elif token is Token.S:
                message += symmetric.encrypt_and_hash(self._local["s"].public)
            else:
                self._mix_secret(token)
        if len(message) + len(payload) + symmetric.tag_bytes > MAX_MESSAGE_BYTES:
            raise HandshakeError(HandshakeReason.TOO_LONG)
        return message + symmetric.encrypt_and_hash(payload)

    def _read(self, data: bytes) -> bytes:
        if len(data) > MAX_MESSAGE_BYTES:
            raise HandshakeError(HandshakeReason.TOO_LONG)
        symmetric = self._symmetric
        for token in self._pattern.messages[self._step]:
            if token is Token.E:
                public, data = _take(data, KEY_BYTES)
                self._remote["e"] = public
                self._mix_ephemeral(public)
            elif token is Token.S:
                sealed, data = _take(data, KEY_BYTES + symmetric.tag_bytes)
                self._remote["s"] = symmetric.decrypt_and_hash(sealed)
            else:
                self._mix_secret(token)
        if len(data) < symmetric.tag_bytes:
            raise HandshakeError(HandshakeReason.TRUNCATED)
        return symmetric.decrypt_and_hash(data)

    def _mix_ephemeral(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if self._pattern.uses_psk:
            # Section 9.2: randomises the keys of psk handshakes before any DH is done.
            self._symmetric.mix_key(public)

    def _mix_secret(self, token: Token) -> None:
        if token is Token.PSK:
            self._symmetric.mix_key_and_hash(self._psk)
            return
        initiators, responders = token.value[0], token.value[1]
        ours, theirs = (initiators, responders) if self._initiator else (responders, initiators)
        try:
            shared = crypto_scalarmult(self._local[ours].private, self._remote[theirs])
        except nacl.exceptions.RuntimeError:
            # libsodium refuses low-order points, whose all-zero output section 12.1 lets us reject: with
            # them a peer could fix the session's keys without holding any.
            raise HandshakeError(HandshakeReason.LOW_ORDER_KEY) from None
        self._symmetric.mix_key(shared)

    def _advance(self) -> None:
        self._step += 1
        if self._step < len(self._pattern.messages):
            return
        ck, h = self._symmetric.ck, self._symmetric.h
        first, second = _hkdf(ck, b"", 2)
        self._outcome = _Outcome(
            handshake_hash=h,
            export_key=hmac.digest(ck, _EXPORT_CONTEXT + h, "sha256"),
            transport_keys=(first, second),
        )
        self._forget()

    def _fail(self) -> None:
        self._failed = True
        self._remote.clear()
        self._forget()

    def _forget(self) -> None:
        """Drop what could undo forward secrecy: ephemeral key, chaining key, pre-shared key."""
        self._local.clear()
        self._psk = b""
        del self._symmetric


def _hkdf(chaining_key: bytes, ikm: bytes, outputs: int) -> list[bytes]:
    """HKDF of section 4.3: `outputs` (2 or 3) keys of 32 bytes."""
    temp_key = hmac.digest(chaining_key, ikm, "sha256")
    keys: list[bytes] = []
    previous = b""
    for number in range(1, outputs + 1):
        previous = hmac.digest(temp_key, previous + bytes((number,)), "sha256")
        keys.append(previous)
    return keys


def _take(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise HandshakeError(HandshakeReason.TRUNCATED)
    return data[:size], data[size:]


def _require_length(name: str, value: bytes) -> None:
    if len(value) != KEY_BYTES:
        raise ValueError(f"{name} has {len(value)} bytes, not {KEY_BYTES}")
