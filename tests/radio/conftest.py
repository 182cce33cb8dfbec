# SPDX-License-Identifier: GPL-2.0-or-later
import itertools
import os
from pathlib import Path

import pytest

from tests.guest.uml import Parts
from tests.radio.scene import load_scene
from tests.radio.stage import Stage

HERE = Path(__file__).parent


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "lasts(seconds): about how long it takes, if that is much; the longest begin first"
    )


def pytest_collection_modifyitems(items):
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.radio)
    others = [item for item in items if HERE not in item.path.parents]
    items[:] = others + _in_order(ours, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _in_order(items, workers):
    """Begin the longest first, lest one of them begins when all others are done."""
    items = sorted(items, key=_seconds, reverse=True)
    # xdist gives each worker two tests at first, and the second one waits for the first: so that is a short one.
    first, rest = items[:workers], items[workers:]
    behind, rest = rest[-workers:], rest[:-workers]
    return [item for pair in itertools.zip_longest(first, behind) for item in pair if item is not None] + rest


def _seconds(item):
    mark = item.get_closest_marker("lasts")
    return mark.args[0] if mark else 0


@pytest.fixture(scope="session")
def parts():
    return Parts.find()


@pytest.fixture
def open_stage(parts):
    """A function that builds a scene by its name; what it returns is a Stage, to be entered."""

    def open_stage(name, **options):
        return Stage(parts, load_scene(name), **options)

    return open_stage
