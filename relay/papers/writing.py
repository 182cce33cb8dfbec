# SPDX-License-Identifier: GPL-2.0-or-later
"""The papers that are alike everywhere, as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.papers.handbook import handbook_html
from relay.papers.organiser_card import card_svg
from relay.papers.poster import poster
from relay.papers.texts import LANGUAGES

if TYPE_CHECKING:
    from pathlib import Path


def papers() -> dict[str, bytes]:
    """Their contents by name: handbook and card in each language, and a poster with a line for the Wi-Fi's name."""
    blank = poster(None)
    found = {"poster.svg": blank.svg().encode(), "poster.pdf": blank.pdf()}
    for language in LANGUAGES:
        found[f"handbook-{language}.html"] = handbook_html(language).encode()
        found[f"card-{language}.svg"] = card_svg(language).encode()
    return found


def write_papers(folder: Path) -> None:
    """Write them into ``folder``, which is made if it is not there; raise OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in papers().items():
        (folder / name).write_bytes(content)
