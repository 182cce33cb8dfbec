# SPDX-License-Identifier: GPL-2.0-or-later
"""Passwords that anybody tries first, told before a network is given one.

Five looks, each at the whole text in small letters: whether it is what an example or a
message of ours says ("12 characters or more"); whether its letters tell apart too little
(fewer than MIN_DIFFERENT_CHARS, or below LEAST_BITS of entropy by their own frequencies);
whether it repeats itself; whether it goes along the alphabet, the digits or a row of
keys; whether it is, but for digits and signs at its ends, one of a few words.

It finds what nobody should have written, and does not measure the rest: a text that
passes is not good for that. Mesh secrets are drawn, never thought of (relay.core.secret).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise
from typing import Final

#: Of a password that is tried one guess at a time.
MIN_DIFFERENT_CHARS: Final = 5
#: Of a passphrase by which a card is encrypted, which is tried at home.
LEAST_PASSPHRASE_CHARS: Final = 12
#: Eight different letters have 24 bits, "aaaaaabcde" has 18.
LEAST_BITS: Final = 20.0
#: A length in words: what examples and messages put in a password's place, ours and those of others.
_PLACEHOLDER: Final = re.compile(
    r"(at least |minimum )?\d+( to | ?- ?)?\d*\+? (or more )?(characters?|chars?|letters?|digits?|signs?)\b.*"
)
#: Rows of keys of the layouts in use where the pages' languages are.
_ROWS: Final = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiop",
    "qwertzuiop",
    "azertyuiop",
    "asdfghjklzxcvbnm",
)
#: What people write in the place of a letter.
_AS_LETTERS: Final = str.maketrans("@013457$", "aoieasts")
#: In front in every list of leaked passwords, or what this box and its files are called.
_WORDS_TEXT: Final = """
password passwort passwd passphrase motdepasse contrasena contraseña secret geheim changeme changeit default admin
administrator welcome willkommen bienvenue letmein iloveyou internet wifi wlan wireless freewifi hotspot network relay
meshrelay mesh raspberry raspberrypi yourpassword mypassword test testtest example beispiel qwerty qwertz azerty
football dragon monkey sunshine princess superman trustno
"""
_WORDS: Final = frozenset(_WORDS_TEXT.split())


def why_trivial(text: str) -> str:
    """Why ``text`` is no password, as the beginning of a sentence; "" if none of the looks finds anything."""
    folded = text.casefold().strip()
    if _PLACEHOLDER.fullmatch(folded):
        return "that is what an example says, not a password"
    if _tells_little(text) or _goes_along(folded) or _is_a_word(folded):
        return "that is among the first that anybody tries"
    return ""


def why_no_passphrase(text: str) -> str:
    """Why nobody should encrypt with it, as a sentence without its full stop; "" if nothing is wrong with it.

    Whoever has the card tries at home, as long as he likes.
    """
    if len(text) < LEAST_PASSPHRASE_CHARS:
        return f"a passphrase has {LEAST_PASSPHRASE_CHARS} characters or more"
    if why := why_trivial(text):
        return f"{why}; take four or five words that nobody ever wrote together"
    return ""


def _tells_little(text: str) -> bool:
    counts = Counter(text)
    bits = sum(count * math.log2(len(text) / count) for count in counts.values())
    # What repeats itself is found in the middle of itself written twice.
    return len(counts) < MIN_DIFFERENT_CHARS or bits < LEAST_BITS or text in (2 * text)[1:-1]


def _goes_along(folded: str) -> bool:
    if {ord(after) - ord(before) for before, after in pairwise(folded)} in ({1}, {-1}):
        return True
    return any(folded in row or folded[::-1] in row for row in _ROWS)


def _is_a_word(folded: str) -> bool:
    bare = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", folded)
    words = (re.sub(r"[\W_]", "", part.translate(table)) for part in (bare, folded) for table in ({}, _AS_LETTERS))
    return any(word in _WORDS for word in words)
