# SPDX-License-Identifier: GPL-2.0-or-later
"""link.sock of `relay run`: the first line of a connection there (docs/links.md sections 2 to 4), both ends of it.

It says what follows: a stream between two sessions, reports of another process of the relay, or a gateway's datagrams.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from relay.core.errors import DecodeError
from relay.core.stats import LinkKind
from relay.process.reports import Component

if TYPE_CHECKING:
    from pathlib import Path

VERSION: Final = 1
MAX_PREAMBLE_BYTES: Final = 512
#: `relay run` accepts at once, if it runs.
CONNECT_TIMEOUT_S: Final = 5.0
_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,14}")
_STREAM_KEYS: Final = {"version": int, "interface": str, "initiator": bool, "slow": bool}
#: A gateway is for one foreign network, which has a few kinds of datagrams.
MAX_GATEWAY_KINDS: Final = 8
_MAX_KIND: Final = 0xFF
#: What the optional key `link` may say.
_LINKS: Final = {str(kind): kind for kind in (LinkKind.UNIX, LinkKind.BLE)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignStream:
    """A stream that another process brings. ``initiator``: that process dialled, so `relay run` speaks first."""

    interface: str
    initiator: bool = False
    slow: bool = False
    link: LinkKind = LinkKind.UNIX

    def preamble(self) -> bytes:
        """Return the first line."""
        values: dict[str, object] = {
            "version": VERSION,
            "interface": self.interface,
            "initiator": self.initiator,
            "slow": self.slow,
        }
        return _encode(values | ({"link": str(self.link)} if self.link is not LinkKind.UNIX else {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A process that joins a foreign network to ours. ``kinds``: of which live datagrams it wants those of others."""

    name: str
    kinds: frozenset[int]

    def preamble(self) -> bytes:
        """Return the first line."""
        return _encode({"version": VERSION, "gateway": self.name, "kinds": sorted(self.kinds)})


def component_preamble(component: Component) -> bytes:
    """Return the first line of the connection on which a process reports."""
    return _encode({"version": VERSION, "component": component.value})


def _encode(values: dict[str, object]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def decode_preamble(line: bytes) -> ForeignStream | Component | Gateway:
    """Decode the first line, without its line feed; raise DecodeError with what is wrong."""
    if len(line) > MAX_PREAMBLE_BYTES:
        raise DecodeError(f"the first line has more than {MAX_PREAMBLE_BYTES} bytes")
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DecodeError("the first line is not JSON") from error
    if isinstance(values, dict) and "component" in values:
        return _component(values)
    if isinstance(values, dict) and "gateway" in values:
        return _gateway(values)
    if not isinstance(values, dict) or values.keys() - {"link"} != _STREAM_KEYS.keys():
        raise DecodeError(f"the first line must have exactly the keys {', '.join(_STREAM_KEYS)}")
    for key, kind in _STREAM_KEYS.items():
        if type(values[key]) is not kind:
            raise DecodeError(f"{key} must be of type {kind.__name__}")
    if values["version"] != VERSION:
        raise DecodeError(f"preamble version {values['version']}, expected {VERSION}")
    if not _INTERFACE.fullmatch(values["interface"]):
        raise DecodeError("interface must be a short name such as hci0")
    link = values.get("link", "unix")
    if not isinstance(link, str) or link not in _LINKS:
        raise DecodeError(f"link must be one of {', '.join(_LINKS)}")
    return ForeignStream(
        interface=values["interface"], initiator=values["initiator"], slow=values["slow"], link=_LINKS[link]
    )


def _require_version(values: dict[str, Any]) -> None:
    if type(values["version"]) is not int or values["version"] != VERSION:
        raise DecodeError(f"the version must be {VERSION}")


def _component(values: dict[str, Any]) -> Component:
    if values.keys() != {"version", "component"}:
        raise DecodeError("the first line of a component must have exactly the keys version, component")
    _require_version(values)
    try:
        return Component(values["component"])
    except ValueError as error:
        raise DecodeError(f"the component must be one of {', '.join(item.value for item in Component)}") from error


def _gateway(values: dict[str, Any]) -> Gateway:
    if values.keys() != {"version", "gateway", "kinds"}:
        raise DecodeError("the first line of a gateway must have exactly the keys version, gateway, kinds")
    _require_version(values)
    name, kinds = values["gateway"], values["kinds"]
    if not isinstance(name, str) or not _INTERFACE.fullmatch(name):
        raise DecodeError("gateway must be a short name such as bitchat")
    if (
        type(kinds) is not list
        or not 0 < len(kinds) <= MAX_GATEWAY_KINDS
        or not all(type(kind) is int and 0 <= kind <= _MAX_KIND for kind in kinds)
    ):
        raise DecodeError(f"kinds must be 1 to {MAX_GATEWAY_KINDS} numbers from 0 to {_MAX_KIND}")
    return Gateway(name=name, kinds=frozenset(kinds))


async def connect(path: Path, stream: ForeignStream, *, ahead_bytes: int) -> socket.socket:
    """Connect to `relay run` and write the first line; return a non-blocking socket. Raise OSError.

    ``ahead_bytes``: of what may wait for `relay run` to read it. Linux doubles that.
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ahead_bytes)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await loop.sock_connect(sock, str(path))
            await loop.sock_sendall(sock, stream.preamble())
    except BaseException:
        sock.close()
        raise
    return sock
