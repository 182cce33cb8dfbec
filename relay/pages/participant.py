# SPDX-License-Identifier: GPL-2.0-or-later
"""The page for whoever stands near a relay with a phone: what it is, whether it works, how to use it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.pages import qr

if TYPE_CHECKING:
    from relay.pages.language import Language
    from relay.pages.render import Pages


class Works(enum.StrEnum):
    """Whether the relay works, as far as whoever serves the page knows."""

    YES = "yes"
    TROUBLE = "trouble"  # works, and somebody should look after it
    STARTING = "starting"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, *, ready: bool, well: bool) -> Works:
        """What a participant is told of what an operator sees, and no more."""
        if not ready:
            return cls.STARTING
        return cls.YES if well else cls.TROUBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the relay can be reached.

    ``page``: the address of this page; ``relay``: what the program is told to use, "" if it finds the relay by itself;
    ``wifi_name`` and ``wifi_password``: "" where there is none. ``shelf``: path of the files on offer, "" if there are
    none; ``operator``: path of the page for whoever looks after it, "" where it is not served. ``bitchat``: whether
    phones with bitchat find the relay.
    """

    page: str
    relay: str = ""
    wifi_name: str = ""
    wifi_password: str = ""
    shelf: str = ""
    operator: str = ""
    bitchat: bool = False


def render(pages: Pages, language: Language, works: Works, place: Place) -> str:
    """Return the document."""
    wifi = qr.svg(qr.wifi_text(place.wifi_name, place.wifi_password)) if place.wifi_name else ""
    return pages.render(
        "participant.html",
        language,
        {"works": works, "place": place, "wifi_qr": wifi, "page_qr": qr.svg(place.page), "is_live": False},
    )
