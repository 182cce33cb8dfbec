# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether bluetoothd is told to keep addresses and names off the air; it does not say so on the bus."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Final

MAIN_CONF: Final = Path("/etc/bluetooth/main.conf")
#: What src/main.c of BlueZ takes for no.
_OFF: Final = frozenset({"", "off", "false"})


#: Settings below [General], and what the air tells without them.
_WANTED: Final = {
    "Privacy = device": "everybody in range can recognise this relay for ever by its Bluetooth address",
    "ReverseServiceDiscovery = false": "every phone that comes is asked for its name, in the clear",
}


def missing(text: str) -> list[str]:
    """Return the lines that the text of main.conf lacks; both settings are the other way by default."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    try:
        parser.read_string(text)
        has_private_address = _is_on(parser, "Privacy", "off")
        asks_visitors = _is_on(parser, "ReverseServiceDiscovery", "true")
    except configparser.Error:
        has_private_address, asks_visitors = False, True
    return [
        line for line, is_there in zip(_WANTED, (has_private_address, not asks_visitors), strict=True) if not is_there
    ]


def _is_on(parser: configparser.ConfigParser, name: str, default: str) -> bool:
    return parser.get("General", name, fallback=default).strip().lower() not in _OFF


def warnings(path: Path = MAIN_CONF) -> list[str]:
    """Return what to say to the operator, if anything."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return [
        f"{_WANTED[line]}: write {line} below [General] in {path}, and restart bluetooth.service"
        for line in missing(text)
    ]
