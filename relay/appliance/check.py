# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole relay.toml, checked as `relay check-config` does, and what it means on an appliance."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from relay.config.appliance import ApplianceConfig
from relay.config.file import MAX_CONFIG_BYTES, Config, ConfigError, Problem, parse_config, right_settings
from relay.config.settings import CREDENTIAL
from relay.config.textfile import TextError, decode_text
from relay.config.toml_lines import line_of, locate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Settings of [appliance] that decide others: both may say it, not differently.
_SAME = {"mesh_secret": ("mesh", "secret"), "country": ("net", "country")}
#: What acknowledgements say (protocol 6.4) for each way to keep messages.
ACKNOWLEDGED: Final = {"amnesic": "volatile", "durable": "durable", "plain": "durable", "volatile": "volatile"}
#: Those that leave nothing for the next start.
KEEPS_NOTHING: Final = ("amnesic", "volatile")
#: The section's lines, up to the next one.
_BOARD: Final = re.compile(r"^\s*\[board\][^\n]*\n(.*?)(?=^\s*\[|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A file without mistakes: its sections, and the document as it stands."""

    config: Config = field(default_factory=Config)
    appliance: ApplianceConfig = field(default_factory=ApplianceConfig)
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def storage(self) -> str:
        """How messages are kept; who wrote of them in [store] only wants none kept (:func:`check`)."""
        only_there = "storage" not in self.document.get("appliance", {}) and is_written(self.document)
        return "volatile" if only_there else self.appliance.storage


def is_written(document: Mapping[str, Any]) -> bool:
    """Whether the file says how messages are kept."""
    return any("storage" in document.get(section, {}) for section in ("appliance", "store"))


def safe(secret: str, *, clients: bool, raw: bytes | None) -> Checked:
    """Return what a relay is whose file has a mistake; ``secret`` and ``clients`` as of relay.appliance.closed.

    No radio that a law binds, nothing kept on the card, and no stick read, since the file may have asked for that. Of
    ``raw``, the file's bytes, what is right in [board] goes on: a button that was switched off does not come back, and
    a box that nobody is to see stays dark.
    """
    document: dict[str, Any] = {} if clients else {"mesh": {"open_to_clients": False}}
    with suppress(TextError, tomllib.TOMLDecodeError, RecursionError):
        if raw is not None and len(raw) <= MAX_CONFIG_BYTES and (board := _board(raw)):
            document["board"] = board
    return Checked(
        appliance=ApplianceConfig(storage="volatile", mesh_secret=secret, sticks=(), update_relays="off"),
        document=document,
    )


def _board(raw: bytes) -> dict[str, Any]:
    """What is right in [board]; where the file is no TOML, the lines of that section that are, each by itself."""
    text = decode_text(raw)
    try:
        return right_settings(tomllib.loads(text), "board")
    except tomllib.TOMLDecodeError:
        lines = _BOARD.search(text)
    found: dict[str, Any] = {}
    for line in lines[1].split("\n") if lines else ():
        with suppress(tomllib.TOMLDecodeError):
            found |= right_settings({"board": tomllib.loads(line)}, "board")
    return found


def check(raw: bytes, path: Path) -> Checked:
    """Read the bytes of a relay.toml; ``path`` is for messages. Raise ConfigError with every problem found."""
    config = parse_config(raw, path, {"HOME": "/"})
    text = decode_text(raw)
    document = tomllib.loads(text)
    if config.mesh.secret == CREDENTIAL:
        key = ("mesh", "secret")
        message = f'mesh.secret; "{CREDENTIAL}" is for other machines: here write the secret itself'
        raise ConfigError(path, [Problem(line=line_of(locate(text), key), message=message, key=key)])
    _check_storage(document, text, path)
    appliance = config.appliance
    if not appliance.country:
        # One country is enough, wherever it stands.
        appliance = replace(appliance, country=config.net.country)
    mine = document.get("appliance", {})
    twice = [
        (ours, theirs)
        for ours, theirs in _SAME.items()
        if ours in mine and theirs[1] in document.get(theirs[0], {}) and mine[ours] != document[theirs[0]][theirs[1]]
    ]
    if twice:
        lines = locate(text)
        raise ConfigError(
            path,
            [
                Problem(
                    line=line_of(lines, ("appliance", ours)),
                    message=f"appliance.{ours} and {theirs[1]} in [{theirs[0]}] differ; remove one of them",
                )
                for ours, theirs in twice
            ],
        )
    return Checked(config=config, appliance=appliance, document=document)


def _check_storage(document: Mapping[str, Any], text: str, path: Path) -> None:
    """Raise ConfigError where [store] has messages acknowledged as what they are not."""
    said = document.get("store", {}).get("storage")
    mine = document.get("appliance", {}).get("storage", "volatile")
    if said is None or said == ACKNOWLEDGED[mine]:
        return
    message = (
        'store.storage; here write how messages are kept below [appliance], and remove this line: storage = "durable" '
        'there encrypts them with your passphrase, "plain" does not, "amnesic" and "volatile" lose them with the power'
    )
    key = ("store", "storage")
    raise ConfigError(path, [Problem(line=line_of(locate(text), key), message=message, key=key)])
