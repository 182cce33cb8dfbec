# SPDX-License-Identifier: GPL-2.0-or-later
"""The texts, one file per language; all have the same keys (tests/unit/papers)."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).with_name("texts")
#: By their tags of BCP 47, with their own names; the first is what the others are translated from.
LANGUAGES: Final = {"en": "English", "fr": "Français", "es": "Español", "ar": "العربية"}
RIGHT_TO_LEFT: Final = frozenset({"ar"})


@functools.cache
def read_texts(language: str) -> dict[str, Any]:
    """The texts of one of LANGUAGES."""
    return tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
