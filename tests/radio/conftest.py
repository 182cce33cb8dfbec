# SPDX-License-Identifier: GPL-2.0-or-later
from pathlib import Path

import pytest

from tests.guest.uml import Parts
from tests.radio.scene import load_scene
from tests.radio.stage import Stage

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.radio)
    # The longest first, lest one of them begins when all others are done: their marks and time limits tell.
    items.sort(key=_length, reverse=True)


def _length(item):
    limit = item.get_closest_marker("timeout")
    return (item.get_closest_marker("slow") is not None, limit.args[0] if limit else 0)


@pytest.fixture(scope="session")
def parts():
    return Parts.find()


@pytest.fixture
def open_stage(parts):
    """A function that builds a scene by its name; what it returns is a Stage, to be entered."""

    def open_stage(name, **options):
        return Stage(parts, load_scene(name), **options)

    return open_stage
