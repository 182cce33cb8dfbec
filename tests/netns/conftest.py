# SPDX-License-Identifier: GPL-2.0-or-later
from pathlib import Path

import pytest

from tests.netns.lab import Lab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture
def lab():
    with Lab() as made:
        yield made
