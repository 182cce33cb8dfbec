# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: RUF009 - setting() returns a dataclasses.field, which makes the default anew for each instance
"""The configuration: a tree of frozen dataclasses read from relay.toml.

Every setting is declared once, with its default and the check of its value; the
commented example (relay.toml beside this file) is proven equal to the defaults.
All problems of a file are reported together, each with its line and remedy.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from relay.config import paths, settings, textfile, toml_lines
from relay.config.settings import Address, BadValueError, Peer, setting
from relay.core.envelope import SIZES
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLE = Path(__file__).with_name("relay.toml")
#: Far above any honest file (the example has 5 KiB), and little to hold.
MAX_CONFIG_BYTES = 1024 * 1024
#: Sections of the same file that other processes read, by the dataclass that checks
#: them; a module is imported when a file has its section.
OTHER_SECTIONS = {
    "appliance": "relay.config.appliance:ApplianceConfig",
    "ble": "relay.config.ble:BleConfig",
    "board": "relay.config.board:BoardConfig",
    "net": "relay.config.net:NetConfig",
}

#: Settings that there were once, by section and name, with what to write instead.
REMOVED = {
    ("ble", "airtime_kbytes_per_s"): "it is gone; name the adapter in [limits.bytes_per_s], such as hci0 = 20000",
}

DEFAULT_PORT = 4270
DEFAULT_LISTEN = Address("127.0.0.1", 9470)
#: A path that depends on who runs the relay; :func:`default_config` fills it in.
AUTOMATIC = Path()
MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with the file; ``line`` counts from 1, 0 is the file as a whole."""

    line: int
    message: str


class ConfigError(RelayError):
    """A configuration that cannot be used; ``str()`` has one line per problem: file, line, remedy."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self.problems = sorted(problems, key=lambda problem: problem.line)
        where = [f"{path}:{problem.line}" if problem.line else f"{path}" for problem in self.problems]
        super().__init__(
            "\n".join(f"{at}: {problem.message}" for at, problem in zip(where, self.problems, strict=True))
        )


@runtime_checkable
class HasProblems(Protocol):
    """A section whose settings may each be right and yet not go together."""

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """Where each problem stands (section, setting, ...), and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """What is kept, and in which folder. ``shares``: fraction of the store guaranteed to an interface."""

    path: Path = setting(AUTOMATIC, settings.path)
    max_bytes: int = setting(GIB, settings.integer(MIB, 1024 * GIB))
    max_envelopes: int = setting(100_000, settings.integer(100, 10_000_000))
    storage: str = setting("durable", settings.one_of("durable", "volatile"))
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
    """Metrics and status page; ``hosts``: further names by which browsers may call it."""

    enabled: bool = setting(True, settings.boolean)
    listen: Address = setting(DEFAULT_LISTEN, settings.listen)
    hosts: tuple[str, ...] = setting((), settings.host_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig(SocketConfig):
    """The socket of `relay status` and `relay clock set`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """How much is said on standard error."""

    level: str = setting("warning", settings.one_of("warning", "info"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that `relay run` reads; one attribute per section."""

    store: StoreConfig = field(default_factory=StoreConfig)
    tcp: TcpConfig = field(default_factory=TcpConfig)
    unix: UnixConfig = field(default_factory=UnixConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    clock: ClockConfig = field(default_factory=ClockConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    log: LogConfig = field(default_factory=LogConfig)
    #: What OTHER_SECTIONS of the file say, by name; those that it does not have are not in it.
    others: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


_SECTIONS: dict[str, type[Any]] = {
    "store": StoreConfig,
    "tcp": TcpConfig,
    "unix": UnixConfig,
    "mesh": MeshConfig,
    "clock": ClockConfig,
    "limits": LimitsConfig,
    "http": HttpConfig,
    "control": ControlConfig,
    "log": LogConfig,
}


def default_config(environ: Mapping[str, str] | None = None) -> Config:
    """What an empty file means."""
    return _with_paths(Config(), os.environ if environ is None else environ)


def load_config(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """Read ``path``, or without one the first of the usual places, or the defaults; raise ConfigError."""
    environ = os.environ if environ is None else environ
    path = path or paths.find_config(environ)
    if path is None:
        return default_config(environ)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; name another file with --config, or none for the defaults"
        raise ConfigError(path, [Problem(line=0, message=problem)]) from error
    return parse_config(raw, path, environ)


def parse_config(raw: bytes, path: Path, environ: Mapping[str, str]) -> Config:
    """Read the bytes of a file; ``path`` is for messages. Raise ConfigError with every problem found."""
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(path, [Problem(line=0, message="larger than 1 MiB; is it a configuration?")])
    try:
        text = textfile.decode_text(raw)
    except textfile.TextError as error:
        raise ConfigError(path, [Problem(line=error.line, message=str(error))]) from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, message = toml_lines.syntax_error(text, error)
        remedy = "; a setting is written `name = value`, text in quotes, a section `[name]`"
        message += textfile.quotes_hint(text, line) or remedy
        raise ConfigError(path, [Problem(line=line, message=message)]) from error
    except RecursionError as error:
        raise ConfigError(path, [Problem(line=0, message="nested too deeply; is it a configuration?")]) from error
    found: list[tuple[tuple[str, ...], str]] = []
    config = _read_document(document, found)
    if found:
        lines = toml_lines.locate(text)
        raise ConfigError(path, [Problem(line=toml_lines.line_of(lines, key), message=text) for key, text in found])
    return _with_paths(config, environ)


def _read_document(document: dict[str, Any], found: list[tuple[tuple[str, ...], str]]) -> Config:
    sections: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, table in document.items():
        kind = _SECTIONS.get(name) or _other_section(name)
        if kind is None:
            found.append(((name,), _unknown(name, table)))
        elif not isinstance(table, dict):
            found.append(((name,), f"{name} is a section; write [{name}] on a line of its own, its settings below"))
        else:
            problems: list[tuple[tuple[str, ...], str]] = []
            section = kind(**dict(_read_section(name, kind, table, problems)))
            if not problems and isinstance(section, HasProblems):
                problems += section.problems()
            found += problems
            into = sections if name in _SECTIONS else others
            into[name] = section
    return Config(**sections, others=MappingProxyType(others))


def _other_section(name: str) -> type[Any] | None:
    module, _, kind = OTHER_SECTIONS.get(name, "").partition(":")
    found: type[Any] | None = getattr(import_module(module), kind) if module else None
    return found


def _read_section(
    section: str, kind: type[Any], table: dict[str, Any], found: list[tuple[tuple[str, ...], str]]
) -> Iterator[tuple[str, Any]]:
    known = {item.name: item for item in fields(kind)}
    for key, value in table.items():
        item = known.get(key)
        if item is None:
            remedy = (
                REMOVED.get((section, key))
                or _closest(key, list(known))
                or _elsewhere(key)
                or f"[{section}] has: {', '.join(known)}"
            )
            found.append(((section, key), f"unknown setting {key} in [{section}]; {remedy}"))
            continue
        try:
            yield key, item.metadata["parse"](value)
        except BadValueError as error:
            shown = "" if item.metadata["secret"] else f" is {_shown(value)}"
            found.append(((section, key, *error.path), f"{section}.{key}{shown}; {error}"))


def _unknown(name: str, value: object) -> str:
    if not isinstance(value, dict):
        remedy = _elsewhere(name) or "settings belong below a section such as [store]"
        return f"setting {name} stands before any section; {remedy}"
    remedy = _closest(name, [*_SECTIONS, *OTHER_SECTIONS]) or f"sections are: {', '.join(_SECTIONS)}"
    return f"unknown section [{name}]; {remedy}"


def _closest(word: str, known: list[str]) -> str | None:
    match = get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return f"did you mean {match[0]}?" if match else None


def _elsewhere(key: str) -> str | None:
    """Tell of a setting that is known, in another section."""
    homes = [name for name, kind in _SECTIONS.items() if key in (item.name for item in fields(kind))]
    return f"it belongs in [{'] or ['.join(homes)}]" if homes else None


def _shown(value: object) -> str:
    """A value as its writer wrote it, near enough to recognise."""
    text = {True: "true", False: "false"}.get(value, "") if isinstance(value, bool) else ""
    text = text or (f'"{value}"' if isinstance(value, str) else str(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _with_paths(config: Config, environ: Mapping[str, str]) -> Config:
    """Fill in the places that depend on who runs the relay."""
    store = config.store
    unix = config.unix
    control = config.control
    runtime = paths.runtime_directory(environ)
    if store.path == AUTOMATIC:
        store = replace(store, path=paths.state_directory(environ))
    if unix.path == AUTOMATIC:
        unix = replace(unix, path=runtime / paths.LINK_SOCKET)
    if control.path == AUTOMATIC:
        control = replace(control, path=runtime / paths.CONTROL_SOCKET)
    return replace(config, store=store, unix=unix, control=control)
