# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of connectivity checks (checks.toml, which explains itself): who asks whom, and what he wants to hear."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TABLE: Final = Path(__file__).with_name("checks.toml")
#: Stands for any path of a host.
ANY_PATH: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a check wants; ``headers`` beside those of any answer."""

    status: int = 200
    type: str = "text/plain"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The check of one system: each of ``hosts`` is asked for one or all of ``paths``."""

    system: str
    hosts: tuple[str, ...]
    paths: tuple[str, ...]
    answer: Answer
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name that is looked up and not visited."""

    host: str
    addresses: tuple[IPv4Address | IPv6Address, ...]


class Checks:
    """The whole table. ``hosts``: names that are to lead to the page for phones."""

    def __init__(self, checks: tuple[Check, ...], names: tuple[Name, ...]) -> None:
        self.checks = checks
        self.names = names
        self._answers = {(host, path): check.answer for host, path, check in self.questions()}
        self.hosts = tuple(dict.fromkeys(host for host, _, _ in self.questions()))
        #: Of a path that several ask for, the answer that stands first; "/" belongs to people.
        self._by_path: dict[str, Answer] = {}
        for _, path, check in self.questions():
            if path not in {ANY_PATH, "/"}:
                self._by_path.setdefault(path, check.answer)

    def questions(self) -> Iterator[tuple[str, str, Check]]:
        """Each host with each of its paths."""
        for check in self.checks:
            for host in check.hosts:
                for path in check.paths:
                    yield host, path, check

    def find(self, host: str, path: str) -> Answer | None:
        """What somebody wants who asks ``host`` (lower case, "" if he named none) for ``path``.

        The rule for hosts that are in no table: a path that others ask for has their answer, and one that speaks of
        204, as most do, is answered with that.
        """
        for name in _and_above(host):
            if found := self._answers.get((name, path)) or self._answers.get((name, ANY_PATH)):
                return found
        return self._by_path.get(path) or (Answer(status=204) if "204" in path else None)


def _and_above(host: str) -> Iterator[str]:
    """The host and each name above it: the name server answers for all that is below a name of the table."""
    while host:
        yield host
        host = host.partition(".")[2]


def read_checks(path: Path = TABLE) -> Checks:
    """Read the table; it is part of the program, and a mistake in it is one of ours (KeyError, ValueError)."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return Checks(
        tuple(
            Check(
                system=row["system"],
                hosts=tuple(row["hosts"]),
                paths=tuple(row["paths"]),
                answer=Answer(
                    status=row.get("status", 200),
                    type=row.get("type", "text/plain"),
                    body=row.get("body", "").encode(),
                    headers=row.get("headers", {}),
                ),
                source=row["source"],
            )
            for row in document["check"]
        ),
        tuple(Name(host=row["host"], addresses=tuple(map(ip_address, row["addresses"]))) for row in document["name"]),
    )
