# SPDX-License-Identifier: GPL-2.0-or-later
import re

import pytest

from relay.config.appliance import EXAMPLE, ApplianceConfig
from relay.config.passwords import LEAST_PASSPHRASE_CHARS, why_no_passphrase, why_trivial
from relay.config.settings import BadValueError

TRIED = [
    *("aaaaaaaa", "aaaaaaaaaaaa", "aaaaaaabcde", "12345678", "87654321", "abcdefgh", "zyxwvutsrq", "abcabcabc"),
    *("passpass", "aabbaabbc", "password", "Passw0rd!", "p@ssword1", "qwertyuiop", "azertyuiop", "mot de passe"),
    *("Mesh relay", "relay-2026"),
]


@pytest.mark.parametrize("text", ["12 characters or more", "8 to 63 characters", "8 to 63 letters, digits and signs"])
def test_what_an_example_says_is_no_password(text):
    assert "example" in why_trivial(text)
    assert "example" in why_trivial(text.upper())


def test_nor_is_what_the_card_s_own_file_prints_of_a_password():
    told = re.findall(r"\d+ to \d+ characters[\w ]*", re.sub(r"\n#? *", " ", EXAMPLE.read_text()))
    assert told
    assert all(map(why_trivial, told))


@pytest.mark.parametrize("text", TRIED)
def test_passwords_that_anybody_tries_are_known(text):
    assert "tries" in why_trivial(text)
    parse = ApplianceConfig.__dataclass_fields__["access_point_password"].metadata["parse"]
    with pytest.raises(BadValueError, match="write another"):
        parse(text if len(text) >= 8 else text * 2)


@pytest.mark.parametrize(
    "text", ["correct horse", "mbvcxz12", "Grüße am Tor", "relay of the river", "12 tired goats", "k7" * 2 + "x9qw"]
)
def test_others_are_not(text):
    assert not why_trivial(text)


def test_nobody_encrypts_a_card_with_what_anybody_would_guess():
    assert why_no_passphrase("soup goats river under 12") == ""
    assert "characters or more" in why_no_passphrase("soup goats river under 12"[: LEAST_PASSPHRASE_CHARS - 1])
    assert "characters or more" in why_no_passphrase("")
    assert "tries" in why_no_passphrase("passwordpassword")
