# SPDX-License-Identifier: GPL-2.0-or-later
"""The page for people on port 80 of the access point (relay.pages.participant), as an answer of the portal.

The portal hears strangers, so it is not let into the relay's sockets: `relay board` leaves a word in a file about how
the relay is, and the service manager gives it the network's name and password, which all who see the page have.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from relay.appliance.checks import Answer
from relay.appliance.constants import ACCESS_POINT_ADDRESS, WORKS
from relay.appliance.portal import respond
from relay.pages.language import choose
from relay.pages.participant import Place, Works, render
from relay.pages.render import Pages
from relay.process import shelf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.appliance.portal import PageRequest

#: The credential with the access point's name and password.
CREDENTIAL_NAME: Final = "portal"
#: `relay board` looks every 15 s. What is older says nothing of now.
MAX_AGE_S: Final = 120.0
_MAX_BYTES: Final = 4096


class PortalPage:
    """Makes the page; of each language and state once."""

    def __init__(
        self,
        wifi_name: str = "",
        wifi_password: str = "",
        *,
        bitchat: bool = False,
        works: Path = WORKS,
        listing: Path = shelf.LIST,
    ) -> None:
        """``works``: the word that `relay board` leaves; ``listing``: of the files on the shelf.

        ``bitchat``: whether relay.toml switches it on.
        """
        self._wifi_name = wifi_name
        self._wifi_password = wifi_password
        self._bitchat = bitchat
        self._works_file = works
        self._listing = listing
        self.pages = Pages()
        #: At most one for each language and state, 32 KiB each, where there is an access point.
        self._made: dict[tuple[str, Works, str, bool], bytes] = {}

    def answer(self, request: PageRequest) -> bytes:
        """The whole answer; blocking, for a thread: the first takes a Raspberry Pi a second."""
        language = choose(request.language, request.accept_language)
        works = self._works()
        # The fixed address is on every access point; in a bridge, what was typed is what works.
        host = str(ACCESS_POINT_ADDRESS.ip) if self._wifi_name else request.host
        has_files = bool(shelf.read_list(self._listing))
        key = (language.code, works, host, has_files)
        if key not in self._made:
            place = Place(
                page=f"http://{host}/",
                relay=host,
                wifi_name=self._wifi_name,
                wifi_password=self._wifi_password,
                shelf=shelf.PATH if has_files else "",
                bitchat=self._bitchat,
            )
            if len(self._made) >= _MAX_PAGES:
                self._made.clear()
            self._made[key] = render(self.pages, language, works, place).encode()
        headers = {
            "Content-Language": language.code,
            "Content-Security-Policy": self.pages.content_security_policy,
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }
        found = Answer(type="text/html; charset=utf-8", body=self._made[key], headers=headers)
        return respond(found, head=request.head)

    def _works(self) -> Works:
        try:
            age_s = time.time() - self._works_file.stat().st_mtime
            word = self._works_file.read_text(encoding="ascii").strip()
            return Works(word) if -MAX_AGE_S < age_s < MAX_AGE_S else Works.UNKNOWN
        except (OSError, ValueError):
            return Works.UNKNOWN


#: 4 languages in 4 states and two names by which it is called: 1 MiB.
_MAX_PAGES: Final = 32


def read_portal_page(environ: Mapping[str, str]) -> PortalPage:
    """The page for the access point that relay.toml sets up; without one it names none."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    try:
        with (Path(folder) / CREDENTIAL_NAME).open("rb") as file:
            found: Any = json.loads(file.read(_MAX_BYTES))
        return PortalPage(
            str(found.get("name", "")), str(found.get("password", "")), bitchat=found.get("bitchat") is True
        )
    except (OSError, ValueError, AttributeError):
        return PortalPage()
