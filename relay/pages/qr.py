# SPDX-License-Identifier: GPL-2.0-or-later
"""QR codes as SVG, and what phones understand of them."""

from __future__ import annotations

import io
from typing import Final

#: Around the code, in modules, as ISO/IEC 18004 demands.
_QUIET_MODULES: Final = 4
#: What has a meaning of its own in the text of a Wi-Fi code.
_ESCAPED: Final = str.maketrans({sign: f"\\{sign}" for sign in '\\;,:"'})


def wifi_text(name: str, password: str) -> str:
    """What joins a phone to a Wi-Fi network, as Android and iOS read it (ZXing's format); "" is an open network."""
    kind = "WPA" if password else "nopass"
    # Nothing but digits of base 16 would be read as bytes.
    shown = [f'"{text}"' if _is_hex(text) else text.translate(_ESCAPED) for text in (name, password)]
    secret = f"P:{shown[1]};" if password else ""
    return f"WIFI:T:{kind};S:{shown[0]};{secret};"


def _is_hex(text: str) -> bool:
    return bool(text) and all(sign in "0123456789abcdefABCDEF" for sign in text)


def svg(text: str) -> str:
    """The code as an SVG element, to be made as large as its style says; dark on white in any colour scheme."""
    import segno  # noqa: PLC0415 - only a page that shows one needs it

    drawn = io.BytesIO()
    segno.make(text, error="m", micro=False).save(
        drawn, kind="svg", border=_QUIET_MODULES, dark="#000", light="#fff", xmldecl=False, svgns=False, omitsize=True,
        nl=False, svgclass="qr", lineclass=None,
    )  # fmt: skip
    return drawn.getvalue().decode()
