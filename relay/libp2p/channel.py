# SPDX-License-Identifier: GPL-2.0-or-later
"""One connection from its first byte: agree on Noise, shake hands, agree on yamux, then streams. Free of I/O."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from relay.libp2p import secure, yamux
from relay.libp2p.multistream import Answering, Asking

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.libp2p.identity import Identity

#: Of one record: what fits into it, so that a frame of 64 KiB is in no more than two.
_SEAL_BYTES: Final = 60 << 10


class Established(NamedTuple):
    """The peer has proved who it is, and streams can be opened."""

    peer: bytes


class _Stage(enum.Enum):
    SECURITY = enum.auto()
    HANDSHAKE = enum.auto()
    MUXER = enum.auto()
    OPEN = enum.auto()


class Channel:
    """Bytes of the network on one side, events of streams on the other."""

    def __init__(
        self,
        identity: Identity,
        *,
        initiator: bool,
        expected: bytes | None,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """``expected``: the peer ID that was dialled, if it is known."""
        self._initiator = initiator
        self._stage = _Stage.SECURITY
        self._select = self._select_before = self._selecting(secure.PROTOCOL)
        self._make_secure: Callable[[], secure.Secure] = lambda: secure.Secure(
            identity, initiator=initiator, expected=expected, random_bytes=random_bytes
        )
        self._secure: secure.Secure | None = None
        #: Streams; to be used from Established on.
        self.mux = yamux.Yamux(initiator=initiator)

    def _selecting(self, protocol: str) -> Asking | Answering:
        return Asking([protocol]) if self._initiator else Answering({protocol})

    def receive(self, data: bytes) -> list[Established | yamux.Event]:
        """Take what came; raise DecodeError for what no honest peer sends."""
        if self._secure is None:
            self._select.receive(data)
            if self._select.selected is None:
                return []
            data = self._select.rest()
            self._secure = self._make_secure()
            self._stage = _Stage.HANDSHAKE
        events: list[Established | yamux.Event] = []
        for plain in self._secure.receive(data):
            # What comes in the same packet as the end of the handshake is of the muxer already.
            self._go_on()
            events += self._inside(plain)
        self._go_on()
        return events

    def _go_on(self) -> None:
        if self._stage is _Stage.HANDSHAKE and self._secure is not None and self._secure.is_ready:
            self._stage = _Stage.MUXER
            self._select_before = self._select
            self._select = self._selecting(yamux.PROTOCOL)

    def _inside(self, plain: bytes) -> list[Established | yamux.Event]:
        if self._stage is _Stage.OPEN:
            return list(self.mux.receive(plain))
        self._select.receive(plain)
        if self._select.selected is None or self._secure is None or self._secure.peer is None:
            return []
        self._stage = _Stage.OPEN
        return [Established(self._secure.peer), *self.mux.receive(self._select.rest())]

    @property
    def is_open(self) -> bool:
        """Whether streams can be opened."""
        return self._stage is _Stage.OPEN

    def data_to_send(self, target_bytes: int, events: list[yamux.Event]) -> bytes:
        """Return about so many bytes to send now; ``events`` as of :meth:`Yamux.data_to_send`."""
        if self._secure is None or self._stage is _Stage.HANDSHAKE:
            return self._select.data_to_send() + (self._secure.data_to_send() if self._secure else b"")
        out = self._first_of_handshake()
        out += self._secure.data_to_send()
        inside = self._select.data_to_send()
        if self._stage is _Stage.OPEN:
            inside += self.mux.data_to_send(target_bytes, events)
        view = memoryview(inside)
        for start in range(0, len(view), _SEAL_BYTES):
            out += self._secure.seal(view[start : start + _SEAL_BYTES])
        return out

    def _first_of_handshake(self) -> bytes:
        """What was still to be said in the clear when the handshake ended: nothing, but where all came at once."""
        return self._select_before.data_to_send()
