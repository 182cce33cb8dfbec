# SPDX-License-Identifier: GPL-2.0-or-later
import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.guest.uml import ROOT
from tests.image.appliance import Appliance
from tests.image.card import Card, tools_tree
from tests.image.lan import Lan
from tests.image.parts import find_kernel
from tests.power import cut

#: Where `make test-image` builds, and where it builds once more.
FIRST, SECOND = (ROOT / "build" / "image" / name for name in ("first", "second"))
#: The key that the first one is signed with.
KEY = ROOT / "build" / "image" / "test.key"
#: Where tests/image writes what it measured.
REPORT = Path(os.environ.get("SURVIVAL_REPORT", ROOT / "build" / "image.json"))
#: Whether it is `make test-image-survival`: what there is a short form of is run as a whole.
SURVIVAL = "SURVIVAL" in os.environ


def pytest_collection_modifyitems(items):
    """What takes longest comes first: at the end, all would wait for it."""
    items.sort(key=lambda item: item.path.name != "test_site.py")


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
def library(tmp_path_factory):
    """What is preloaded into whoever uses a card whose power fails."""
    return cut.build(tmp_path_factory.mktemp("power"))


@pytest.fixture(scope="session")
def measured():
    """What goes to build/image.json, at the end of the session, beside what other sessions of the same run found."""
    found = {}
    yield found
    with REPORT.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        found = json.loads(file.read() or "{}") | found
        file.truncate(0)
        file.write(json.dumps(found, indent=1, sort_keys=True) + "\n")


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
    said = [appliance.console_text() for appliance in running]
    for appliance in running:
        appliance.close()
    # Nothing is killed for want of memory, whatever the test was about.
    assert not any("ut of memory" in text for text in said), said


@pytest.fixture(scope="session")
def cable():
    """What `booted` is plugged into; the tests are at its other end."""
    with Lan() as lan:
        yield lan


@pytest.fixture(scope="session")
def booted(image, kernel, tools, cable, tmp_path_factory):
    """A relay that tests only look at. Those of them that are in the group `booted` share one."""
    card = Card(image, tmp_path_factory.mktemp("card") / "card.img", tools=tools, times=2)
    with Appliance(kernel, "relay", card, network=cable.port()) as appliance:
        assert appliance.wait_booted() == "running", appliance.explain()
        yield appliance


def only(paths):
    """The only one of them; `make test-image` makes it."""
    found = list(paths)
    assert len(found) == 1, f"{len(found)} images; run `make test-image`"
    return found[0]
