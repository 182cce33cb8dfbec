# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay.toml that cannot be used still says of the mesh's secret: a mistake must not open a closed mesh."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from relay.config.file import has_settings
from relay.config.textfile import TextError, decode_text, lacks_end
from relay.config.toml_lines import syntax_error
from relay.core.errors import RelayError
from relay.core.secret import SECRET_DIGITS, mesh_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Settings that close a mesh, and what comes near them: whoever mistypes one meant it.
_SECRETS: Final = ("mesh_secret", "secret")
_NEAR: Final = 0.7
_EMPTY: Final = re.compile(r"""\s*[^=]*=\s*(""|'')\s*(#.*)?""")
_DIGITS: Final = re.compile(rf"(?<![#0-9a-fA-F])[0-9a-fA-F]{{{SECRET_DIGITS}}}(?![0-9a-fA-F])")
_APPLIANCE_SECRET: Final = re.compile(rf"\s*mesh_secret\s*=\s*\W?([0-9a-fA-F]{{{SECRET_DIGITS}}})\W?\s*(#.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The mesh was to be closed. ``secret``: as the file has it, "" if it cannot be told; ``clients``: let them in."""

    secret: str
    clients: bool


def closing(raw: bytes) -> Closing | None:
    """Read what can be read of a bad file; None if it says of no secret.

    What is no text, or cut off, may have said anything.
    """
    try:
        text = decode_text(raw)
    except TextError:
        return Closing(secret="", clients=True)
    lines = [line for line in text.split("\n") if _tells_of_a_secret(line)]
    if not lines:
        return Closing(secret="", clients=True) if _is_cut_off(text) else None
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        found = {match[1] for line in lines if (match := _APPLIANCE_SECRET.fullmatch(line))}
        # Whatever the file says of clients cannot be told from it.
        clients = not re.search(r"\bmesh\s*[].=]|client", text)
    else:
        found = {_at(document, "appliance", "mesh_secret"), _at(document, "mesh", "secret")} - {""}
        mesh = document.get("mesh", {})
        clients = isinstance(mesh, dict) and (mesh.get("open_to_clients") is True or not set(mesh) - {"secret"})
    secret = next(iter(found)) if len(found) == 1 else ""
    # Without its secret the relay is alone, and who comes to it gets nothing of the mesh.
    return Closing(secret=secret, clients=clients) if _is_good(secret) else Closing(secret="", clients=True)


def _is_cut_off(text: str) -> bool:
    """Whether nothing is set there, or the mistake is that the last line ends too early."""
    try:
        return not has_settings(tomllib.loads(text)) or lacks_end(text)
    except tomllib.TOMLDecodeError as error:
        line, _ = syntax_error(text, error)
        return "at end of document" in str(error) or (not text.endswith("\n") and line == text.count("\n") + 1)
    except RecursionError:
        return False


def _tells_of_a_secret(line: str) -> bool:
    if line.lstrip().startswith("#") or _EMPTY.fullmatch(line):
        return False
    if "secret" in line.lower() or _DIGITS.search(line):
        return True
    words = re.findall(r"[a-z_]+", line.partition("=")[0].lower())
    return any(get_close_matches(word, _SECRETS, n=1, cutoff=_NEAR) for word in words)


def says_of_secret(document: Mapping[str, Any]) -> bool:
    """Whether a file that was read says whether there is a secret."""
    return "mesh_secret" in document.get("appliance", {}) or "secret" in document.get("mesh", {})


def _at(document: dict[str, Any], section: str, name: str) -> str:
    table = document.get(section)
    value = table.get(name) if isinstance(table, dict) else None
    return value if isinstance(value, str) else ""


def _is_good(secret: str) -> bool:
    try:
        return mesh_secret(secret) is not None
    except RelayError:
        return False
