# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether bluetoothd is told to change the address on the air; it does not say so on the bus."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Final

MAIN_CONF: Final = Path("/etc/bluetooth/main.conf")
#: What src/main.c of BlueZ takes for no.
_OFF: Final = frozenset({"", "off", "false"})


def has_private_addresses(text: str) -> bool:
    """Whether the text of main.conf asks for resolvable private addresses; they are off by default."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    try:
        parser.read_string(text)
        return parser.get("General", "Privacy", fallback="").strip().lower() not in _OFF
    except configparser.Error:
        return False


def warning(path: Path = MAIN_CONF) -> str | None:
    """Return what to say to the operator, if anything."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if has_private_addresses(text):
        return None
    return (
        f"everybody in range can recognise this relay for ever by its Bluetooth address: "
        f"write Privacy = device below [General] in {path}, and restart bluetooth.service"
    )
