# SPDX-License-Identifier: GPL-2.0-or-later
"""The short handbook as HTML: one file per language, that any browser shows from a card, without a network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from relay.board.light import PATTERNS
from relay.papers.organiser_card import CODES
from relay.papers.texts import LANGUAGES, RIGHT_TO_LEFT, read_texts

if TYPE_CHECKING:
    from relay.board.light import Pattern

#: The longest light that is a short flash.
_SHORT_S: Final = 0.4


def handbook_html(language: str) -> str:
    """The handbook in one of LANGUAGES."""
    environment = Environment(
        loader=PackageLoader("relay.papers", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["typed"] = _typed
    texts = read_texts(language)
    return environment.get_template("handbook.html").render(
        language=language,
        direction="rtl" if language in RIGHT_TO_LEFT else "ltr",
        languages=LANGUAGES,
        texts=texts["handbook"],
        light=texts["light"],
        flashes=[(flashes(PATTERNS[code]), *texts["light"][code.value]) for code in CODES],
    )


def flashes(pattern: Pattern) -> str:
    """A turn of the light in signs: a dash is a long flash, a dot a short one, as they are counted."""
    if sum(pattern) < 1.5:
        # Evenly on and off: there is no pause to count from.
        return "• • • …" if pattern[0] < _SHORT_S else "━ ━ ━ …"
    return " ".join("━" if on > _SHORT_S else "•" for on in pattern[::2])


def _typed(text: str) -> Any:
    """Mark what stands in `these` as code, which goes from left to right in every language."""
    parts = re.split(r"`([^`]+)`", text)
    return Markup("").join(
        Markup('<code dir="ltr">{}</code>').format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )
