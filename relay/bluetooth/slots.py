# SPDX-License-Identifier: GPL-2.0-or-later
"""A reliable stream over GATT writes and notifications (docs/ble.md section 5), without I/O.

Frames come in by :meth:`Slot.receive`; :meth:`Slot.frames` gives those to send now,
and :attr:`Slot.deadline` says when to ask again. Neither side of the stack tells
what it lost, so both directions have a window, acknowledgements and retransmission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.bluetooth.directions import FIRST_TIMEOUT_S, MAX_TIMEOUT_S, MAX_TIMEOUTS, WINDOW, Receiver, Sender
from relay.bluetooth.slot_frames import HEADER, CloseReason, Frame, Kind, decode_frame, encode_close, encode_open
from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable


class Slot:
    """One stream of one slot, at either end.

    The central begins with :meth:`open`; the relay's side is made when an OPEN came,
    and receives it. ``ended`` tells that the stream is over, and why; what arrived
    before can still be read.
    """

    __slots__ = (
        "_answer_due",
        "_close_after",
        "_farewell",
        "_is_central",
        "_is_open",
        "_nonce",
        "_open_due",
        "_opens",
        "_receiver",
        "_sender",
        "ended",
        "frame_bytes",
    )

    def __init__(
        self, *, is_central: bool, nonce: int, frame_bytes: int, count: Callable[[str], None] = lambda _: None
    ) -> None:
        """Make a stream that is not open yet.

        ``nonce``: 0 to 255, of the OPEN, drawn by the central; ``frame_bytes``:
        largest attribute value; ``count`` is told of events by the names of
        relay.process.reports.
        """
        self._is_central = is_central
        self._nonce = nonce
        self._is_open = False
        self._open_due: float | None = None
        self._opens = 0
        self._answer_due = False
        self._close_after = False
        self._farewell: CloseReason | None = None
        self._sender = Sender(count)
        self._receiver = Receiver(count)
        self.frame_bytes = frame_bytes
        self.ended: CloseReason | None = None

    # -- the stream ---------------------------------------------------------

    def open(self, now: float) -> None:
        """Begin, as the central."""
        self._open_due = now

    @property
    def has_data(self) -> bool:
        """Whether :meth:`read` would give something."""
        return self._receiver.has_data

    def read(self, now: float) -> bytes:
        """Take what has arrived, which lets the other side send more; b"" for nothing."""
        return self._receiver.take(now)

    @property
    def room(self) -> int:
        """How many bytes :meth:`write` should be given."""
        return 0 if self._close_after or self.ended is not None else self._sender.room

    def write(self, data: bytes) -> None:
        """Send ``data`` when the window allows."""
        if not self._close_after and self.ended is None:
            self._sender.write(data)

    def close(self) -> None:
        """End the stream once all that was written has been acknowledged."""
        self._close_after = True

    def abort(self, reason: CloseReason) -> None:
        """End the stream now."""
        if self.ended is None:
            self.ended = reason
            self._farewell = reason

    # -- frames -------------------------------------------------------------

    def receive(self, value: bytes, now: float) -> bool:
        """Take in an attribute value; False if it is no frame, or none of this stream."""
        try:
            frame = decode_frame(value)
        except DecodeError:
            return False
        if frame.kind is Kind.OPEN:
            return self._receive_open(frame)
        if frame.kind is Kind.CLOSE:
            if frame.sequence == self._nonce and self.ended is None:
                self.ended = frame.reason
            return frame.sequence == self._nonce
        if self.ended is not None:
            # It goes on, so it does not know: our CLOSE was lost.
            self._farewell = self.ended
            return True
        if not self._is_open:
            return False
        self._sender.timeouts = 0
        self._sender.acknowledged(frame.acknowledged, now, is_bare=frame.kind is Kind.ACK)
        if frame.kind is Kind.DATA:
            self._receiver.receive(frame, now)
        return True

    def _receive_open(self, frame: Frame) -> bool:
        if self._is_central:
            if frame.acknowledged != self._nonce:
                return False  # answers a stream before this one
            self._open_due = None
        else:
            if frame.sequence != self._nonce:
                return False  # opens another stream: for whoever holds this one
            if self.ended is not None:
                self._farewell = self.ended
                return True
            self._answer_due = True
        if not self._is_open:
            self._is_open = True
            self._sender.open(frame.window)
        return True

    def frames(self, now: float) -> list[bytes]:
        """Return the attribute values to send now, in order."""
        if self.ended is not None:
            return self._last_words()
        frames: list[bytes] = []
        if self._open_due is not None and now >= self._open_due:
            self._opens += 1
            if self._opens > MAX_TIMEOUTS:
                self.abort(CloseReason.TIMEOUT)
                return self._last_words()
            self._open_due = now + min(FIRST_TIMEOUT_S * 2 ** (self._opens - 1), MAX_TIMEOUT_S)
            frames.append(encode_open(self._nonce, 0, WINDOW))
        if self._answer_due:
            self._answer_due = False
            frames.append(encode_open(0, self._nonce, WINDOW))
        if not self._is_open:
            if self._close_after and self._sender.is_drained:
                self.abort(CloseReason.END)
                return self._last_words()
            return frames
        sender, receiver = self._sender, self._receiver
        if sender.expires is not None and now >= sender.expires:
            if sender.timeouts + 1 >= MAX_TIMEOUTS:
                self.abort(CloseReason.TIMEOUT)
                return self._last_words()
            sender.expired(now)
        if receiver.has_gap:
            frames += self._acknowledgements(now)
        data = [
            Frame(kind=Kind.DATA, sequence=sequence, acknowledged=receiver.acknowledged, payload=payload).encode()
            for sequence, payload in sender.frames(now, self.frame_bytes - HEADER.size)
        ]
        if data:
            receiver.said()
        frames += data
        frames += self._acknowledgements(now)
        if self._close_after and sender.is_drained:
            self.abort(CloseReason.END)
            frames += self._last_words()
        return frames

    def _acknowledgements(self, now: float) -> list[bytes]:
        acknowledged = self._receiver.acknowledged
        ack = Frame(kind=Kind.ACK, sequence=self._sender.next, acknowledged=acknowledged).encode()
        return [ack] * self._receiver.bare_acknowledgements(now)

    def _last_words(self) -> list[bytes]:
        if self._farewell is None:
            return []
        reason, self._farewell = self._farewell, None
        return [encode_close(self._nonce, reason)]

    @property
    def deadline(self) -> float | None:
        """When :meth:`frames` has to be called at the latest; None while nothing is due."""
        if self.ended is not None:
            return None
        times = (self._open_due, self._sender.expires if self._is_open else None, self._receiver.due)
        return min((time for time in times if time is not None), default=None)
