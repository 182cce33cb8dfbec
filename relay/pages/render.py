# SPDX-License-Identifier: GPL-2.0-or-later
"""Templates to HTML, and the policy that lets a browser run and fetch nothing else.

Jinja2 is imported, and a template read, when the first page is asked for: a relay that nobody looks at has no room
to give to it.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from relay.pages.language import LANGUAGES, Tongue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Environment

    from relay.pages.language import Language

_FOLDER: Final = Path(__file__).parent
TEMPLATES: Final = _FOLDER / "templates"
#: Half a minute: soon enough to watch, rare enough for a battery.
REFRESH_S: Final = 30


@cache
def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Pages:
    """Renders templates in any of the languages."""

    @cached_property
    def content_security_policy(self) -> str:
        """The header's value: our own style and script by their digests, and requests to where the page is from."""
        return (
            f"default-src 'none'; style-src {_digest(_read('style.css'))}; script-src {_digest(_read('live.js'))}; "
            "connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    @cached_property
    def _environment(self) -> Environment:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - see above

        return Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            extensions=["jinja2.ext.i18n"],
            trim_blocks=True,
            lstrip_blocks=True,
            # The file of an installed package does not change.
            auto_reload=False,
        )

    def render(self, template: str, language: Language, values: Mapping[str, Any]) -> str:
        """Return the document; raise jinja2.TemplateError where ``values`` lack something."""
        tongue = Tongue(language)
        return self._environment.get_template(template).render(
            values,
            gettext=tongue.text,
            ngettext=tongue.texts,
            tongue=tongue,
            language=language,
            languages=LANGUAGES,
            style=_read("style.css"),
            script=_read("live.js"),
            refresh_s=REFRESH_S,
        )
