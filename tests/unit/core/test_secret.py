# SPDX-License-Identifier: GPL-2.0-or-later
import random

import pytest

from relay.core.secret import SecretError, mesh_secret


@pytest.mark.parametrize(
    "text",
    [
        "aaaaaaaaaaaa",
        "12 characters or more",
        "correct horse battery staple",
        "a" * 64,
        "0123456789abcdef" * 4,
        "00112233445566778899aabbccddeeff" * 2,
        "0123456789" * 6 + "0123",
        "3f9a" * 16,
        " " + "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90",
        "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "٣" * 64,
    ],
)
def test_what_was_not_drawn_at_random_is_no_secret(text):
    with pytest.raises(SecretError, match="openssl rand") as caught:
        mesh_secret(text)
    assert text not in str(caught.value)


def test_what_was_is_the_key_itself():
    draw = random.Random(5)
    for _ in range(2000):
        key = draw.randbytes(32)
        assert mesh_secret(key.hex()) == mesh_secret(key.hex().upper()) == key
    assert mesh_secret("") is None
