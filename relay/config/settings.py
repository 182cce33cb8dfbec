# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of single settings: a TOML value in, the program's value out, or a BadValueError that holds the remedy."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from relay.config.passwords import why_trivial
from relay.core.envelope import SIZES
from relay.core.errors import RelayError
from relay.core.noise import KEY_BYTES
from relay.core.secret import SecretError, mesh_secret

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Where relays and clients meet (docs/protocol.md).
DEFAULT_PORT = 4270
#: sun_path holds 108 bytes with the final zero; the socket is bound under a
#: longer, temporary name first (relay.process.unix_sockets).
MAX_SOCKET_PATH_BYTES = 100
#: IFNAMSIZ less the final zero.
MAX_INTERFACE_BYTES = 15
#: Each static peer costs one reconnecting task (some KiB); a mesh is not configured by hand beyond that.
MAX_PEERS = 64
#: In the place of a secret that is in a file of its own (relay.config.credentials).
CREDENTIAL = "credential"
#: Below that a record of 64 KiB, once begun, would hold everything up for longer than
#: others wait for an answer.
LEAST_BYTES_PER_S = 1_000

#: Read in tables and on graphs, where more has no room; a label of a host name (RFC 1123) could have 63.
MAX_LABEL_CHARS = 32
_WATCH_LABEL = re.compile(rf"[a-z0-9]([a-z0-9-]{{0,{MAX_LABEL_CHARS - 2}}}[a-z0-9])?")
#: Of the pages' token. Guesses are bounded (relay.run.access), so 12 characters that nobody knows are enough.
TOKEN_CHARS = range(12, 129)
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_KEY = re.compile(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}")
#: The kernel takes more (dev_valid_name: all but spaces, "/", ":", "." and ".."), also what nft, systemd and
#: hostapd read as a pattern, the end of a string or a remark, and what sysctl means by "all" and "default".
#: No program gives an interface such a name; so they are no names here.
_INTERFACE = re.compile(rf"(?!(all|default)\Z)[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_INTERFACE_BYTES - 1}}}")


class BadValueError(RelayError):
    """A value that its setting cannot have; ``path`` leads from the setting to the entry that is wrong."""

    def __init__(self, remedy: str, *path: str) -> None:
        super().__init__(remedy)
        self.path = path


@dataclass(frozen=True, slots=True)
class Address:
    """Host (name, IPv4, or IPv6 with its scope after `%`) and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """A relay to connect to, and the public key (32 bytes) that it has to show, if any."""

    address: Address
    key: bytes | None = None


def setting(default: T, parse: Callable[[object], T], *, secret: bool = False) -> T:
    """Declare a dataclass field with its check; a ``secret`` is never shown."""
    declared: Any = field(default_factory=lambda: default, metadata={"parse": parse, "secret": secret}, repr=not secret)
    return declared  # type: ignore[no-any-return]  # a field stands for its value, as dataclasses have it


def boolean(value: object) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise BadValueError("write true or false, without quotes")
    return value


def integer(least: int, most: int, *, zero: str = "") -> Callable[[object], int]:
    """A whole number within bounds, both allowed; or 0, if that means something, which ``zero`` says."""

    def parse(value: object) -> int:
        if zero and value == 0 and not isinstance(value, bool):
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            or_zero = f", or 0 for {zero}" if zero else ""
            raise BadValueError(f"write a whole number from {least} to {most}{or_zero}, without quotes")
        return value

    return parse


def number(least: float, most: float) -> Callable[[object], float]:
    """A number within bounds, both allowed."""

    def parse(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise BadValueError(f"write a number from {least:g} to {most:g}, without quotes")
        return float(value)

    return parse


def one_of(*choices: str) -> Callable[[object], str]:
    """One of a few words."""

    def parse(value: object) -> str:
        if value not in choices:
            raise BadValueError("write " + " or ".join(f'"{choice}"' for choice in choices))
        return str(value)

    return parse


def path(value: object) -> Path:
    """An absolute path, or "" for the usual place."""
    if not isinstance(value, str):
        raise BadValueError('write a path in quotes, such as "/var/lib/mesh-relay"')
    if not value:
        return Path()
    if not value.startswith("/") or "\0" in value:
        raise BadValueError('write a path from the root, starting with "/"')
    return Path(value)


def socket_path(value: object) -> Path:
    """Like :func:`path`, short enough for a socket."""
    found = path(value)
    if len(str(found).encode()) > MAX_SOCKET_PATH_BYTES:
        raise BadValueError(f"a socket's path may have {MAX_SOCKET_PATH_BYTES} bytes at most; choose a shorter one")
    return found


def secret(value: object) -> str:
    """The mesh secret: empty, 64 hexadecimal digits, or CREDENTIAL."""
    return CREDENTIAL if value == CREDENTIAL else drawn_secret(value)


def drawn_secret(value: object) -> str:
    """The mesh secret itself: empty, or 64 hexadecimal digits."""
    if not isinstance(value, str):
        raise BadValueError('write the secret in quotes; "" leaves the mesh open')
    try:
        mesh_secret(value)
    except SecretError as error:
        raise BadValueError(f'{error}; "" leaves the mesh open') from error
    return value


def token(value: object) -> str:
    """What whoever may change something types in a browser: "" for nobody, CREDENTIAL, or a token."""
    if not isinstance(value, str) or not (value in {"", CREDENTIAL} or len(value) in TOKEN_CHARS):
        raise BadValueError(
            f"write {TOKEN_CHARS[0]} to {TOKEN_CHARS[-1]} characters in quotes, such as five words drawn at random; "
            '"" lets nobody change anything'
        )
    if value and value != CREDENTIAL and (why := why_trivial(value)):
        raise BadValueError(f'{why}; write another; "" lets nobody change anything')
    return value


def interfaces(value: object) -> tuple[str, ...]:
    """A list of interface names."""
    names = _strings(value, 'write a list such as ["eth0", "mesh0"]; [] means all')
    for name in names:
        _interface(name)
    return names


def peers(default_port: int) -> Callable[[object], tuple[Peer, ...]]:
    """A list of addresses to connect to, each with or without `#key`; ``default_port`` is for those without one."""

    def parse(value: object) -> tuple[Peer, ...]:
        texts = _strings(value, 'write a list such as ["192.0.2.1:4270", "[fe80::1%eth0]:4270"]')
        if len(texts) > MAX_PEERS:
            raise BadValueError(f"at most {MAX_PEERS} peers; let relays find each other with tcp.discovery")
        found = []
        for entry in texts:
            text, mark, digits = entry.partition("#")
            address = _address(text, default_port)
            if address.host.lower().startswith("fe80") and ":" in address.host and "%" not in address.host:
                remedy = f'"{text}" is link-local and needs its interface: "[{address.host}%eth0]:{address.port}"'
                raise BadValueError(remedy)
            if address.port == 0:
                raise BadValueError(f'"{text}" needs a port from 1 to 65535')
            if mark and not _KEY.fullmatch(digits):
                raise BadValueError(
                    f'"{text}": after # stands the key of that relay, {2 * KEY_BYTES} hexadecimal digits; '
                    "`relay key` prints it there"
                )
            found.append(Peer(address, bytes.fromhex(digits) if mark else None))
        return tuple(found)

    return parse


#: Of the pages, where nothing else is said.
PAGE_PORT = 9470


def listen(value: object, usual_port: int = PAGE_PORT) -> Address:
    """The address and port to listen on; the address must be a number, so that it means one thing.

    ``usual_port``: for what is said to who wrote something else.
    """
    remedy = f'write an IP address and a port, such as "127.0.0.1:{usual_port}" or "[::1]:{usual_port}"'
    if not isinstance(value, str):
        raise BadValueError(remedy)
    address = _address(value, None, usual_port)
    try:
        ipaddress.ip_address(address.host)
    except ValueError as error:
        raise BadValueError(remedy) from error
    return address


def host_names(value: object) -> tuple[str, ...]:
    """A list of host names, without ports."""
    names = _strings(value, 'write a list of names such as ["relay.example"]')
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            raise BadValueError(f'"{name}" is no host name; write it without scheme and port')
    return tuple(name.lower() for name in names)


def watch_label(value: object) -> str:
    """The operator's own name for a relay, or "" for none: one label of a host name, in lower case."""
    if not isinstance(value, str) or not (value == "" or _WATCH_LABEL.fullmatch(value.lower())):
        raise BadValueError(
            f'write letters, digits and hyphens, at most {MAX_LABEL_CHARS}, such as "gate-2"; "" is none'
        )
    return value.lower()


def classes(value: object) -> tuple[int, ...]:
    """The envelope sizes carried, ascending."""
    remedy = f"write a list of some of {', '.join(map(str, SIZES))}"
    if not isinstance(value, list) or not value or not all(size in SIZES for size in value):
        raise BadValueError(remedy)
    return tuple(sorted({int(size) for size in value}))


def shares(value: object) -> MappingProxyType[str, float]:
    """Fractions of the store by interface; together at most the whole."""
    if not isinstance(value, dict):
        raise BadValueError("write [store.shares] on a line of its own, and lines such as eth0 = 0.25 below")
    fraction = number(0.0, 1.0)
    found = {}
    for name, part in value.items():
        _interface(name)
        try:
            found[name] = fraction(part)
        except BadValueError as error:
            raise BadValueError(f"{name}: {error}", name) from error
    # Tenths do not add up exactly in binary; a millionth of the store is nobody's share.
    if sum(found.values()) > 1.0 + 1e-6:
        raise BadValueError("the shares add up to more than 1; lower some")
    return MappingProxyType(found)


def rates(value: object) -> MappingProxyType[str, float]:
    """Bytes a second by interface."""
    if not isinstance(value, dict):
        raise BadValueError("write [limits.bytes_per_s] on a line of its own, and lines such as hci0 = 20000 below")
    rate = integer(LEAST_BYTES_PER_S, 1_000_000_000)
    found = {}
    for name, per_s in value.items():
        _interface(name)
        try:
            found[name] = float(rate(per_s))
        except BadValueError as error:
            raise BadValueError(f"{name}: {error}", name) from error
    return MappingProxyType(found)


def _strings(value: object, remedy: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadValueError(remedy)
    return tuple(value)


def _interface(name: str) -> None:
    if not _INTERFACE.fullmatch(name):
        raise BadValueError(
            f'"{name}" is no interface name: up to {MAX_INTERFACE_BYTES} letters, digits, "_", "-" and "."; '
            "`ip link` lists them",
            name,
        )


def _address(text: str, default_port: int | None, usual_port: int = PAGE_PORT) -> Address:
    """Split `host:port`, `[v6%scope]:port` or, with a default port, either without one."""
    bracketed = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?", text)
    plain = re.fullmatch(r"([^:\[\]]+)(?::(\d{1,5}))?", text)
    match = bracketed or plain
    if not match:
        hint = f'write an IPv6 address in brackets: "[{text}]:port"' if text.count(":") > 1 else 'write "host:port"'
        raise BadValueError(f'"{text}" is no address; {hint}')
    host = match[1]
    if match[2] is None and default_port is None:
        raise BadValueError(f'"{text}" lacks the port; write "{text}:{usual_port}"')
    port = int(match[2]) if match[2] else default_port or 0
    if port > 65535:
        raise BadValueError(f'"{text}": a port goes up to 65535')
    if bracketed:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise BadValueError(f'"{host}" is no IPv6 address') from error
    elif re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:
            raise BadValueError(f'"{host}" is no IPv4 address') from error
    elif not _HOST_NAME.fullmatch(host):
        raise BadValueError(f'"{host}" is no host name')
    return Address(host, port)
