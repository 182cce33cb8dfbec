# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the relay keeps things when its configuration does not say: systemd's folders, else the user's."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "mesh-relay"
SYSTEM_CONFIG = Path("/etc") / NAME / "relay.toml"
SYSTEM_STATE = Path("/var/lib") / NAME
SYSTEM_RUNTIME = Path("/run") / NAME
#: Sockets within a runtime folder.
CONTROL_SOCKET = "control.sock"
LINK_SOCKET = "link.sock"
#: What Debian gives to users without a home.
NO_HOME = Path("/nonexistent")


def home(environ: Mapping[str, str]) -> Path:
    """The user's own folder: HOME, or where that is none (empty, relative), what the system says of the user."""
    named = Path(environ.get("HOME", ""))
    if named.is_absolute():
        return named
    try:
        # Not Path.home(), for which an empty HOME is the root of the file system.
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        # A dynamic user of systemd, on a system that cannot look its name up.
        return NO_HOME


def _from_systemd(environ: Mapping[str, str], variable: str) -> Path | None:
    """The first folder of a systemd.exec(5) variable, which may list several."""
    first = environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None


def state_directory(environ: Mapping[str, str]) -> Path:
    """What survives a restart."""
    base = environ.get("XDG_STATE_HOME")
    user = Path(base) if base else home(environ) / ".local" / "state"
    return _from_systemd(environ, "STATE_DIRECTORY") or user / NAME


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """Sockets. Without a session's runtime folder (ssh into root, cron) they lie beside the store."""
    base = environ.get("XDG_RUNTIME_DIR")
    user = Path(base) / NAME if base else state_directory(environ)
    return _from_systemd(environ, "RUNTIME_DIRECTORY") or user


def config_candidates(environ: Mapping[str, str]) -> list[Path]:
    """Where a configuration is looked for, in order."""
    base = environ.get("XDG_CONFIG_HOME")
    user = Path(base) if base else home(environ) / ".config"
    credentials = _from_systemd(environ, "CREDENTIALS_DIRECTORY")
    found = [credentials / "relay.toml"] if credentials else []
    return [*found, user / NAME / "relay.toml", SYSTEM_CONFIG]


def find_config(environ: Mapping[str, str]) -> Path | None:
    """The first configuration there is, or None, which means every default."""
    return next((path for path in config_candidates(environ) if _is_there(path)), None)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        # Whoever reads it next is told so; as good as absent it is not.
        return True
