# SPDX-License-Identifier: GPL-2.0-or-later
"""Text that strangers chose, made safe for file systems and terminals."""

import unicodedata
from typing import Final

MAX_SAFE_NAME_BYTES: Final = 200
"""Under the 255 of Linux file systems, with room for what is appended when the name is taken."""

_UNSAFE: Final = frozenset('<>:"|?*')
_KEPT_CONTROLS: Final = frozenset("\n\t")


def safe_file_name(name: str) -> str:
    """Return a name that stays in the folder it is put in, and shows itself to listings as it is.

    Only what follows the last separator of either kind counts; nothing invisible, nothing that hides the
    file, and nothing that a command could take for an option.
    """
    last = unicodedata.normalize("NFC", name.replace("\\", "/")).rpartition("/")[2]
    clean = "".join("_" if character in _UNSAFE or not character.isprintable() else character for character in last)
    clean = cut(clean.strip(" "), MAX_SAFE_NAME_BYTES).rstrip(" .")
    if clean.startswith((".", "-", "~")):
        clean = "_" + clean[1:]
    return clean or "file"


def safe_text(text: str) -> str:
    """Return a text that a terminal shows and does not obey.

    Only control characters go (escape sequences begin with one): joiners and direction marks are part of
    how many languages are written.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in _KEPT_CONTROLS
        else character
        for character in text.replace("\r\n", "\n")
    )


def cut(text: str, max_bytes: int) -> str:
    """Return the longest beginning of `text` that fits in UTF-8; lone surrogates become question marks."""
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")
