# SPDX-License-Identifier: GPL-2.0-or-later
"""A contact URI as a QR code on a terminal."""

import io

import segno


def terminal_qr(text: str) -> str:
    """Return a QR code in half blocks, light on dark, which is how readers expect it on a dark terminal."""
    out = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(out, compact=True)
    return out.getvalue()
