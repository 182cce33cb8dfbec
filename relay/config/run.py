# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: RUF009 - setting() returns a dataclasses.field, which makes the default anew for each instance
"""The sections of relay.toml that `relay run` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from relay.config import settings
from relay.config.settings import DEFAULT_PORT, Address, Peer, setting
from relay.core.envelope import SIZES

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_LISTEN = Address("127.0.0.1", settings.PAGE_PORT)
#: A path that depends on who runs the relay; relay.config.file fills it in.
AUTOMATIC = Path()
MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """What is kept, and in which folder; bounds of 0 are for the machine to say (relay.run.capacity).

    ``shares``: fraction of the store guaranteed to an interface. ``fallback``: of relay.run.storing; none by default.
    """

    path: Path = setting(AUTOMATIC, settings.path)
    max_bytes: int = setting(0, settings.integer(MIB, 1024 * GIB, zero="what the disk has room for"))
    max_envelopes: int = setting(0, settings.integer(100, 10_000_000, zero="what memory has room for"))
    storage: str = setting("durable", settings.one_of("durable", "volatile"))
    fallback: Path = setting(AUTOMATIC, settings.path)
    residence_hours: int = setting(168, settings.integer(1, 168))
    shares: Mapping[str, float] = setting({}, settings.shares)

    @property
    def durable(self) -> bool:
        """Whether what is acknowledged survives a power cut."""
        return self.storage == "durable"

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.path / "store.sqlite"

    @property
    def key_file(self) -> Path:
        """The relay's lasting key, where ``mesh.static_key`` asks for one."""
        return self.path / "relay.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpConfig:
    """Links over IP; no ``interfaces`` means all of them."""

    enabled: bool = setting(True, settings.boolean)
    port: int = setting(DEFAULT_PORT, settings.integer(0, 65535))
    interfaces: tuple[str, ...] = setting((), settings.interfaces)
    peers: tuple[Peer, ...] = setting((), settings.peers(DEFAULT_PORT))
    discovery: bool = setting(True, settings.boolean)


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketConfig:
    """A socket on this machine, and who may open it."""

    path: Path = setting(AUTOMATIC, settings.socket_path)
    access: str = setting("owner", settings.one_of("owner", "group"))

    @property
    def mode(self) -> int:
        """Permission bits of the socket."""
        return 0o660 if self.access == "group" else 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixConfig(SocketConfig):
    """The socket by which other processes hand in streams."""

    enabled: bool = setting(True, settings.boolean)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """Who may take part and at what price; ``classes`` in bytes per envelope."""

    secret: str = setting("", settings.secret, secret=True)
    static_key: bool = setting(False, settings.boolean)
    open_to_clients: bool = setting(True, settings.boolean)
    min_price: int = setting(0, settings.integer(0, 32))
    classes: tuple[int, ...] = setting(SIZES, settings.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockConfig:
    """Whether the system's clock is to be believed."""

    trust: str = setting("none", settings.one_of("none", "system"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Bounds against peers that take more than their part."""

    max_connections: int = setting(256, settings.integer(2, 4096))
    max_connections_per_address: int = setting(32, settings.integer(1, 4096))
    handshake_timeout_s: float = setting(10.0, settings.number(1, 120))
    bytes_per_s: Mapping[str, float] = setting({}, settings.rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """Metrics and pages; ``hosts``: further names by which browsers may call it.

    ``label``: whoever reads it sees; ``token``: lets in from beyond the own segments and from ``strangers``
    (interfaces), and sets the clock.
    """

    enabled: bool = setting(True, settings.boolean)
    listen: Address = setting(DEFAULT_LISTEN, settings.listen)
    hosts: tuple[str, ...] = setting((), settings.host_names)
    label: str = setting("", settings.watch_label)
    token: str = setting("", settings.token, secret=True)
    strangers: tuple[str, ...] = setting((), settings.interfaces)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig(SocketConfig):
    """The socket of `relay status` and `relay clock set`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatesConfig:
    """Newer software between relays; ``restart``: when the machine may start anew; ``path``: the sockets' folder."""

    relays: bool = setting(False, settings.boolean)
    restart: str = setting("never", settings.one_of("never", "held", "quiet"))
    path: Path = setting(Path("/run/mesh-relay-update"), settings.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """How much is said on standard error."""

    level: str = setting("warning", settings.one_of("warning", "info"))
