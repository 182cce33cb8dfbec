# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of strangers in one row."""

from __future__ import annotations

from relay.process.printable import printable, printable_ascii


def test_what_is_not_seen_is_replaced_and_the_rest_is_as_it_was():
    assert printable("Zoë's bash") == "Zoë's bash"
    # An escape sequence, a line end, an override of the direction, and a letter that nobody sees.
    assert printable("a\x1b[2Jb\nc\u202ed\u3164") == "a\ufffd[2Jb\ufffdc\ufffdd\ufffd"
    assert printable_ascii("Zoë\n\U0001f600") == "Zo???"
