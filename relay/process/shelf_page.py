# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of the shelf: what is on offer, with size, sum and QR code; no scripts, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import io
from html import escape
from typing import TYPE_CHECKING, Final

import segno

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay.process.shelf import Entry

_TEXTS: Final = {
    "en": (
        "Files to take with you",
        "Whoever put up this box offers these files. Compare the SHA-256 with somebody you trust before you install.",
        "being calculated",
        "QR code",
        "None yet.",
    ),
    "fr": (
        "Fichiers à emporter",
        "Qui a installé cette boîte propose ces fichiers. Comparez le SHA-256 avec un proche avant d'installer.",
        "en cours de calcul",
        "Code QR",
        "Rien pour l'instant.",
    ),
    "es": (
        "Archivos para llevar",
        "Quien puso esta caja ofrece estos archivos. Compare el SHA-256 con alguien de confianza antes de instalar.",
        "se está calculando",
        "Código QR",
        "Nada todavía.",
    ),
    "ar": (
        "ملفات لتأخذها معك",
        "من وضع هذا الصندوق يعرض هذه الملفات. قارن قيمة SHA-256 مع من تثق به قبل تثبيت أي منها.",
        "قيد الحساب",
        "رمز QR",
        "لا شيء بعد.",
    ),
}
_STYLE: Final = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:44rem;margin:0 auto;padding:1rem}"
    "code{overflow-wrap:anywhere}li{margin-bottom:1.2rem}svg{background:#fff}nav a{margin-inline-end:1rem}"
)
#: Of the one style sheet that there is.
POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


def choose(accepted: str, asked: str = "") -> str:
    """A language there is: the one ``asked`` for, else the first of an Accept-Language that is known, else English."""
    for word in (asked, *accepted[:200].split(",")):
        tag = word.partition(";")[0].strip().lower().partition("-")[0]
        if tag in _TEXTS:
            return tag
    return "en"


def render(entries: Iterable[Entry], host: str, language: str) -> str:
    """The document; ``host``: how the reader called this box, for the QR codes."""
    title, about, later, code, none = _TEXTS[language]
    rows = "".join(
        f'<li><a href="{entry.path}" download><bdi>{escape(entry.name)}</bdi></a> <bdi>({_size(entry.size)})</bdi><br>'
        f"<small>SHA-256: <code dir=ltr>{entry.sha256 or later}</code></small>"
        f"<details><summary>{code}</summary>{_code(f'http://{host}{entry.path}')}</details></li>"
        for entry in entries
    )
    others = "".join(f'<a href="?lang={tag}" lang="{tag}" hreflang="{tag}">{tag}</a>' for tag in _TEXTS)
    direction = "rtl" if language == "ar" else "ltr"
    return (
        f'<!doctype html><html lang="{language}" dir="{direction}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title>'
        f'<style>{_STYLE}</style></head><body><nav><a href="/?lang={language}">Mesh relay</a>{others}</nav>'
        f"<main><h1>{title}</h1><p>{about}</p>{f'<ul>{rows}</ul>' if rows else f'<p>{none}</p>'}</main></body></html>\n"
    )


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def _code(text: str) -> str:
    drawn = io.BytesIO()
    segno.make(text, error="m", micro=False).save(drawn, kind="svg", scale=4, xmldecl=False, svgns=False, nl=False)
    return drawn.getvalue().decode()
