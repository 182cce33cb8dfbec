# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole relay.toml, checked as `relay check-config` does, and what it means on an appliance."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from relay.config.appliance import ApplianceConfig
from relay.config.file import Config, ConfigError, Problem, parse_config
from relay.config.settings import CREDENTIAL
from relay.config.textfile import decode_text
from relay.config.toml_lines import line_of, locate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Settings of [appliance] that decide others: both may say it, not differently.
_SAME = {"storage": ("store", "storage"), "mesh_secret": ("mesh", "secret"), "country": ("net", "country")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A file without mistakes: its sections, and the document as it stands."""

    config: Config = field(default_factory=Config)
    appliance: ApplianceConfig = field(default_factory=ApplianceConfig)
    document: Mapping[str, Any] = field(default_factory=dict)


def safe(secret: str, *, clients: bool) -> Checked:
    """Return what a relay is whose file has a mistake; ``secret`` and ``clients`` as of relay.appliance.closed.

    No radio that a law binds, and nothing kept on the card, since the file may have asked for that.
    """
    return Checked(
        appliance=ApplianceConfig(storage="volatile", mesh_secret=secret),
        document={} if clients else {"mesh": {"open_to_clients": False}},
    )


def check(raw: bytes, path: Path) -> Checked:
    """Read the bytes of a relay.toml; ``path`` is for messages. Raise ConfigError with every problem found."""
    config = parse_config(raw, path, {"HOME": "/"})
    text = decode_text(raw)
    document = tomllib.loads(text)
    if config.mesh.secret == CREDENTIAL:
        key = ("mesh", "secret")
        message = f'mesh.secret; "{CREDENTIAL}" is for other machines: here write the secret itself'
        raise ConfigError(path, [Problem(line=line_of(locate(text), key), message=message, key=key)])
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
