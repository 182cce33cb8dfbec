# SPDX-License-Identifier: GPL-2.0-or-later
"""How `relay run` reads what it gives to neighbours, and hands in what it has of them: two sockets of the appliance.

give.sock belongs to `relay slot --give`, which reads (relay/board/giving.py); spread.sock to `relay slot`, which
decides and writes (relay.process.update_request). `relay run` gets neither the card nor the keys.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.core.update_wire import Offer, decode_update
from relay.process.update_request import MAX_LINE_BYTES, VERSION, Said, decode_line, decode_range, encode_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

GIVE_SOCKET: Final = "give.sock"
SPREAD_SOCKET: Final = "spread.sock"
#: A process that has to start first, on a board that is slow and busy.
START_S: Final = 120.0
#: A card that is slow, and read by others as well.
READ_S: Final = 60.0
#: Until `relay slot` asks for the next piece, or says what came of it: it reads all that is in a slot, more than once,
#: and waits until its own software has proved itself.
NEXT_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What runs here. ``offer``: what can be given of it; ``is_waiting``: newer software waits for a start."""

    board: str
    built: int
    is_waiting: bool
    offer: Offer | None

    @classmethod
    def decode(cls, line: bytes) -> Own:
        """Raise DecodeError."""
        values = decode_line(line)
        board, built, waiting = values.get("board"), values.get("built"), values.get("waiting")
        if (
            values.get("v") != VERSION
            or not isinstance(board, str)
            or type(built) is not int
            or not isinstance(waiting, bool)
        ):
            raise DecodeError("a description of another version")
        offered = values.get("offer")
        offer = None if offered is None else _offer(offered, board)
        return cls(board=board, built=built, is_waiting=waiting, offer=offer)


def _offer(values: object, board: str) -> Offer:
    try:
        digest, size, built, version = (values[name] for name in ("digest", "size", "built", "version"))  # type: ignore[index]
        # What others would not take is not offered to them.
        message = (
            bytes(1)
            + Offer(digest=bytes.fromhex(digest), size=size, built=built, board=board, version=version).encode()
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DecodeError("an offer of another version") from error
    offer = decode_update(message)
    if not isinstance(offer, Offer):  # pragma: no cover - it was encoded as one
        raise DecodeError("no offer")
    return offer


class GiveClient:
    """One connection to who reads the slot; made by :meth:`connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, own: Own) -> None:
        self._reader = reader
        self._writer = writer
        self.own = own

    @classmethod
    async def connect(cls, folder: Path) -> GiveClient:
        """Raise OSError (TimeoutError is one), DecodeError."""
        async with asyncio.timeout(START_S):
            reader, writer = await _connect(folder / GIVE_SOCKET)
            try:
                return cls(reader, writer, Own.decode(await _readline(reader)))
            except BaseException:
                writer.close()
                raise

    async def read(self, offset: int, length: int) -> bytes:
        """So many bytes; raise OSError."""
        async with asyncio.timeout(READ_S):
            self._writer.write(encode_line({"read": [offset, length]}))
            try:
                return await self._reader.readexactly(length)
            except asyncio.IncompleteReadError as error:
                raise OSError("nobody reads any more") from error

    def close(self) -> None:
        """End it."""
        self._writer.close()


async def hand_in(folder: Path, read: Callable[[int, int, str], Awaitable[bytes]]) -> Said:
    """Answer what is asked for of an update, by ``read``, until it is said what came of it.

    Raise OSError, DecodeError, and what ``read`` raises, which gets offset, length, and the SHA-256 or "".
    """
    reader, writer = await _connect(folder / SPREAD_SOCKET)
    try:
        writer.write(encode_line({"v": VERSION, "older": False}))
        while line := await _next_line(reader):
            asked = decode_line(line)
            if "said" in asked:
                return Said(text=str(asked["said"]), reason=str(asked.get("reason", "")))
            offset, length = decode_range(asked)
            expected = asked.get("sha256", "")
            writer.write(await read(offset, length, expected if isinstance(expected, str) else ""))
            await writer.drain()
    finally:
        writer.close()
    raise OSError("the update was cut off")


async def ask_for_restart(folder: Path) -> Said:
    """Have the machine start anew with what was handed in; raise OSError, DecodeError."""
    async with asyncio.timeout(START_S):
        reader, writer = await _connect(folder / SPREAD_SOCKET)
        try:
            writer.write(encode_line({"v": VERSION, "older": False, "restart": True}))
            said = decode_line(await _readline(reader))
        finally:
            writer.close()
    return Said(text=str(said.get("said", "")), reason=str(said.get("reason", "")))


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(path, limit=MAX_LINE_BYTES)


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(NEXT_S):
        return await _readline(reader)


async def _readline(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:  # longer than the limit
        raise DecodeError("a line that is too long") from error
