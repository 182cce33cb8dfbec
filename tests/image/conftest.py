# SPDX-License-Identifier: GPL-2.0-or-later
import json
import time

import pytest

from tests.guest.uml import ROOT
from tests.image.appliance import Appliance
from tests.image.card import Card, tools_tree
from tests.image.lan import Lan
from tests.image.parts import find_kernel

#: Where `make test-image` builds, and where it builds once more.
FIRST, SECOND = (ROOT / "build" / "image" / name for name in ("first", "second"))
#: Where tests/image writes what it measured.
REPORT = ROOT / "build" / "image.json"


@pytest.fixture(scope="session")
def image():
    """The image, as it is on a card after flashing."""
    return only(FIRST.glob("*.img"))


@pytest.fixture(scope="session")
def second_image():
    return only(SECOND.glob("*.img"))


@pytest.fixture(scope="session")
def tools():
    return tools_tree()


@pytest.fixture(scope="session")
def kernel():
    return find_kernel()


@pytest.fixture(scope="session")
def measured():
    """What goes to build/image.json, at the end of the session, beside what other sessions of the same run found."""
    found = {}
    yield found
    if REPORT.exists():
        found = json.loads(REPORT.read_text()) | found
    REPORT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


@pytest.fixture
def card(image, tools, tmp_path):
    return Card(image, tmp_path / "card.img", tools=tools)


@pytest.fixture
def boot(kernel):
    """Boot a card; the plug is pulled after the test."""
    running = []

    def start(card, name="relay", **options):
        appliance = Appliance(kernel, name, card, **options)
        appliance.__enter__()
        running.append(appliance)
        return appliance

    yield start
    for appliance in running:
        appliance.close()


@pytest.fixture(scope="module")
def booted(image, kernel, tools, tmp_path_factory, measured):
    """A relay that tests only look at, with a cable to the tests."""
    card = Card(image, tmp_path_factory.mktemp("card") / "card.img", tools=tools, times=2)
    with Lan("lan0") as lan:
        started = time.monotonic()
        with Appliance(kernel, "relay", card, network=lan.port()) as appliance:
            assert appliance.wait_booted() == "running", appliance.explain()
            measured["boot_s"] = round(time.monotonic() - started, 1)
            yield appliance


def only(paths):
    """The only one of them; `make test-image` makes it."""
    found = list(paths)
    assert len(found) == 1, f"{len(found)} images; run `make test-image`"
    return found[0]
