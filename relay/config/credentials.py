# SPDX-License-Identifier: GPL-2.0-or-later
"""Secrets in files of their own (systemd.exec(5), LoadCredential=), each for the one process that needs it.

All processes of the relay read relay.toml. Where it says CREDENTIAL in a secret's place,
the secret is in a file that the service manager gives to one of them only. That the word
is there makes a lost file an error, and not an open mesh.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.config.file import ConfigError, Problem
from relay.config.settings import CREDENTIAL

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

#: The secret of the mesh and the token of the pages, for `relay run`; the secret of the Wi-Fi, for `relay net`.
MESH_SECRET: Final = "mesh-secret"  # noqa: S105 - a file's name
WIFI_SECRET: Final = "wifi-secret"  # noqa: S105 - a file's name
HTTP_TOKEN: Final = "http-token"  # noqa: S105 - a file's name
_MAX_BYTES: Final = 1024


def resolve(secret: str, name: str, environ: Mapping[str, str]) -> str:
    """Return what a setting says, or the credential ``name`` where it says CREDENTIAL; raise ConfigError."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "/run/credentials")
    if secret != CREDENTIAL:
        if secret and "CREDENTIALS_DIRECTORY" in environ:
            logger.warning(
                "a secret stands in relay.toml, which all processes of the relay read: "
                'write "%s" there, and the secret to /etc/mesh-relay/%s',
                CREDENTIAL,
                name,
            )
        return secret
    path = Path(folder) / name
    try:
        with path.open("rb") as file:
            found = file.read(_MAX_BYTES).decode().strip()
    except (OSError, ValueError):
        found = ""
    if not found:
        remedy = f'the secret is not there; write it to the file that the unit loads as {name}, or not "{CREDENTIAL}"'
        raise ConfigError(path, [Problem(line=0, message=remedy)])
    return found
