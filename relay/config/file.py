# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: a tree of frozen dataclasses read from relay.toml.

Every setting is declared once, with its default and the check of its value; the
commented example (relay.toml beside this file) is proven equal to the defaults.
All problems of a file are reported together, each with its line and remedy.
"""

from __future__ import annotations

import os
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from relay.config import paths, textfile, toml_lines
from relay.config.appliance import ApplianceConfig
from relay.config.bitchat import BitchatConfig
from relay.config.ble import BleConfig
from relay.config.board import BoardConfig
from relay.config.libp2p import Libp2pConfig
from relay.config.net import NetConfig
from relay.config.run import (
    AUTOMATIC,
    ClockConfig,
    ControlConfig,
    HttpConfig,
    LimitsConfig,
    LogConfig,
    MeshConfig,
    StoreConfig,
    TcpConfig,
    UnixConfig,
    UpdatesConfig,
)
from relay.config.settings import BadValueError
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLE = Path(__file__).with_name("relay.toml")
#: Far above any honest file (the example has 5 KiB), and little to hold.
MAX_CONFIG_BYTES = 1024 * 1024

#: Settings that there were once, by section and name, with what to write instead.
REMOVED = {
    ("ble", "airtime_kbytes_per_s"): "it is gone; name the adapter in [limits.bytes_per_s], such as hci0 = 20000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with the file; ``line`` counts from 1, 0 is the file as a whole. ``key``: of which setting."""

    line: int
    message: str
    key: tuple[str, ...] = ()


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
class Config:
    """The whole file; one attribute per section, by the name that it has there."""

    store: StoreConfig = field(default_factory=StoreConfig)
    tcp: TcpConfig = field(default_factory=TcpConfig)
    unix: UnixConfig = field(default_factory=UnixConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    clock: ClockConfig = field(default_factory=ClockConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    updates: UpdatesConfig = field(default_factory=UpdatesConfig)
    log: LogConfig = field(default_factory=LogConfig)
    ble: BleConfig = field(default_factory=BleConfig)
    bitchat: BitchatConfig = field(default_factory=BitchatConfig)
    libp2p: Libp2pConfig = field(default_factory=Libp2pConfig)
    net: NetConfig = field(default_factory=NetConfig)
    board: BoardConfig = field(default_factory=BoardConfig)
    appliance: ApplianceConfig = field(default_factory=ApplianceConfig)


#: Each section's class, by its name.
SECTIONS: dict[str, type[Any]] = {item.name: type(getattr(Config(), item.name)) for item in fields(Config)}


def default_config(environ: Mapping[str, str] | None = None) -> Config:
    """What is so without a file."""
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
        hints = (textfile.quotes_hint, textfile.blanks_hint, textfile.words_hint)
        seen = next((advice for hint in hints if (advice := hint(text, line))), "")
        message += seen or toml_lines.fault_hint(message) or remedy
        # What tomllib says of a value tells no more than the hint does.
        message = message.removeprefix("Invalid value; ") if seen else message
        raise ConfigError(path, [Problem(line=line, message=message)]) from error
    except RecursionError as error:
        raise ConfigError(path, [Problem(line=0, message="nested too deeply; is it a configuration?")]) from error
    if textfile.lacks_end(text):
        remedy = f'copy it anew; if it is whole, write at its end the line "{textfile.END}"'
        raise ConfigError(path, [Problem(line=0, message=f"its end is missing, so it was cut off; {remedy}")])
    if not has_settings(document):
        # What a copy or a plug that was pulled too early leaves of a file. Taken for one that asks for nothing,
        # it would open a mesh, and keep on disk what was to be in memory only.
        remedy = "put back the one that was there; to have every default, remove the file"
        raise ConfigError(path, [Problem(line=0, message=f"there is no setting in it, as if it was cut off; {remedy}")])
    found: list[tuple[tuple[str, ...], str]] = []
    config = _read_document(document, found)
    hidden = [(key, value) for key, value in _texts(document) if any(map(textfile.is_invisible, value))]
    if found or hidden:
        lines = toml_lines.locate(text)
        problems = [Problem(line=toml_lines.line_of(lines, key), message=why, key=key) for key, why in found]
        for key, value in hidden:
            line = toml_lines.line_of(lines, key)
            if why := textfile.hidden_in(value, text, line):
                # What else is said of that line is said of a text that looks right.
                problems = [problem for problem in problems if problem.line != line]
                problems.append(Problem(line=line, message=f"{'.'.join(key)}; {why}", key=key))
        if problems:
            raise ConfigError(path, problems)
    return _with_paths(config, environ)


def has_settings(document: Mapping[str, Any]) -> bool:
    """Whether anything is set in it: headers of sections alone say nothing."""
    return any(not isinstance(value, dict) or has_settings(value) for value in document.values())


def _texts(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text and every name in a document, with the setting that it belongs to."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, path)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield (*path, name), name
            yield from _texts(item, (*path, name))


def _read_document(document: dict[str, Any], found: list[tuple[tuple[str, ...], str]]) -> Config:
    sections: dict[str, Any] = {}
    for name, table in document.items():
        kind = SECTIONS.get(name)
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
            sections[name] = section
    return Config(**sections)


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


def right_settings(document: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Those settings of a section that are right by themselves, as they stand, however wrong the others are."""
    table = document.get(section)
    parsers = {item.name: item.metadata["parse"] for item in fields(SECTIONS[section])}
    found = {}
    for name, value in table.items() if isinstance(table, dict) else ():
        with suppress(BadValueError, KeyError):
            parsers[name](value)
            found[name] = value
    return found


def _unknown(name: str, value: object) -> str:
    if not isinstance(value, dict):
        remedy = _elsewhere(name) or "settings belong below a section such as [store]"
        return f"setting {name} stands before any section; {remedy}"
    remedy = _closest(name, list(SECTIONS)) or f"sections are: {', '.join(SECTIONS)}"
    return f"unknown section [{name}]; {remedy}"


def _closest(word: str, known: list[str]) -> str | None:
    match = get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return f"did you mean {match[0]}?" if match else None


def _elsewhere(key: str) -> str | None:
    """Tell of a setting that is known, in another section."""
    homes = [name for name, kind in SECTIONS.items() if key in (item.name for item in fields(kind))]
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
