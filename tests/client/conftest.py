# SPDX-License-Identifier: GPL-2.0-or-later
"""Two people who know each other."""

import pytest

from tests.client.online import User


@pytest.fixture
def alice(tmp_path):
    return User(tmp_path, "alice")


@pytest.fixture
def bob(tmp_path, alice):
    person = User(tmp_path, "bob")
    person.knows(alice)
    alice.knows(person)
    return person
