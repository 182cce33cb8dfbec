# SPDX-License-Identifier: GPL-2.0-or-later
"""Generic netlink by pyroute2: requests to a family of the kernel as bytes, answers as bytes."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any, Final

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket
from pyroute2.netlink.marshal import Marshal

from relay.net.errors import KernelRefusedError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_HEADER: Final = struct.Struct("=IHHII")
_COMMAND: Final = struct.Struct("=BBH")


class RawMessage(nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """A netlink message whose content is left alone: key ``body``, bytes."""

    def decode(self) -> None:
        super().decode()
        begin = self.offset + _HEADER.size
        self["body"] = bytes(self.data[begin : max(begin, self.offset + self.length)])

    def encode(self) -> None:
        header, body = self["header"], self["body"]
        header["length"] = self.length = _HEADER.size + len(body)
        values = (header[name] for name in ("length", "type", "flags", "sequence_number", "pid"))
        self.data = bytearray(_HEADER.pack(*values) + body)


class _RawMarshal(Marshal):  # type: ignore[misc]
    default_message_class = RawMessage


class _Socket(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    marshal_class = _RawMarshal
    # That a family is missing is for whoever asked to say, with the remedy.
    module_err_level = "debug"


class Family:
    """One family, such as nl80211. Use as a context manager."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._socket: Any = _Socket()

    async def __aenter__(self) -> Self:
        """Look the family up; raise KernelRefusedError (ENOENT: the kernel has none of it)."""
        try:
            await self._socket.bind(self._name, RawMessage)
        except NetlinkError as error:
            self._socket.close()
            raise KernelRefusedError(f"use {self._name}", abs(error.code)) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def subscribe(self, *groups: str) -> None:
        """Hear these multicast groups; those that the kernel does not have are left out."""
        for group in groups:
            if group in self._socket.mcast_groups:
                self._socket.add_membership(group)

    async def hear(self) -> None:
        """Return when something was heard; raise ConnectionError once the socket is closed."""
        async for _ in self._socket.get():
            return
        raise ConnectionError("netlink closed")

    async def request(self, what: str, command: int, body: bytes = b"", *, dump: bool = False) -> list[bytes]:
        """Send a command with its attributes and return those of the answers.

        ``what`` completes "could not ..." in the KernelRefusedError raised otherwise.
        """
        message = RawMessage()
        message["body"] = _COMMAND.pack(command, 1, 0) + body
        flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else NLM_F_ACK)
        try:
            answers = await self._socket.nlm_request(message, msg_type=self._socket.prid, msg_flags=flags)
            return [answer["body"][_COMMAND.size :] async for answer in answers if "body" in answer]
        except NetlinkError as error:
            raise KernelRefusedError(what, abs(error.code)) from None
        except OSError as error:
            raise KernelRefusedError(what, error.errno or errno.EIO) from None
