# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a relay is: as a user writes it and as a socket takes it."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.config.settings import DEFAULT_PORT
from relay.links.errors import ClientError

UNIX_PREFIX: Final = "unix:"
BLUETOOTH: Final = "ble"
MAX_PORT: Final = 65_535
SERVICE_TYPE: Final = "_mesh-relay._tcp.local."
"""Of relays in DNS-SD (RFC 6763, docs/protocol.md)."""

_BRACKETED: Final = re.compile(r"\[([^\[\]]+)\](?::(\d{1,5}))?")
_PLAIN: Final = re.compile(r"([^\s:\[\]/%]+)(?::(\d{1,5}))?")
_BLUETOOTH: Final = re.compile(rf"{BLUETOOTH}(?::(hci\d{{1,3}}))?")


class AddressError(ClientError):
    """A text that is no address of a relay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddress:
    """One relay: (host, port) pairs to try in turn, or the path of its Unix socket; or any that Bluetooth reaches.

    `adapter` is for the last: which to use, "" for any. An IPv6 link-local host carries its scope
    (`fe80::1%eth0`). `pinned` is the static key (32 bytes) that the relay has to show.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: Path | None = None
    adapter: str | None = None
    pinned: bytes | None = None

    @property
    def is_bluetooth(self) -> bool:
        """Whether it is any relay in range of Bluetooth, rather than a certain one."""
        return self.adapter is not None

    def __str__(self) -> str:
        """Write it as `parse_address` reads it: the first host, or the path, or the adapter."""
        if self.adapter is not None:
            return f"{BLUETOOTH}:{self.adapter}" if self.adapter else BLUETOOTH
        if self.path is not None:
            return f"{UNIX_PREFIX}{self.path}"
        host, port = self.hosts[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> RelayAddress:
    """Return the address of `HOST[:PORT]`, `[IPV6%INTERFACE]:PORT`, a bare IPv6 address, `unix:PATH` or `ble[:hciN]`.

    AddressError with the remedy for anything else.
    """
    text = text.strip()
    if text.startswith(UNIX_PREFIX):
        path = Path(text.removeprefix(UNIX_PREFIX))
        if not path.is_absolute():
            raise AddressError(f"{text!r}: write the socket's path from the root: {UNIX_PREFIX}/run/...")
        return RelayAddress(path=path)
    if match := _BLUETOOTH.fullmatch(text):
        return RelayAddress(adapter=match[1] or "")
    host, port = _split(text)
    if not 0 < port <= MAX_PORT:
        raise AddressError(f"{text!r}: a port is from 1 to {MAX_PORT}")
    if ":" in host:
        _require_ipv6(host)
    return RelayAddress(hosts=((host, port),))


def _split(text: str) -> tuple[str, int]:
    if text.count(":") > 1 and "://" not in text and not text.startswith("["):
        return text, DEFAULT_PORT
    match = _BRACKETED.fullmatch(text) or _PLAIN.fullmatch(text)
    if "://" in text:
        raise AddressError(
            f"{text!r} is the address of a page; write the HOST in it alone, as relays have another port"
        )
    if match is None:
        raise AddressError(f"{text!r} is no address; write HOST, HOST:PORT or [IPV6%INTERFACE]:PORT")
    return match[1], DEFAULT_PORT if match[2] is None else int(match[2])


def _require_ipv6(host: str) -> None:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise AddressError(f"{host!r} is no IPv6 address; write HOST, HOST:PORT or [IPV6%INTERFACE]:PORT") from None
    if address.is_link_local and address.scope_id is None:
        raise AddressError(f"{host!r} is link-local and needs its interface, such as {host}%eth0; see: ip link")
