# SPDX-License-Identifier: GPL-2.0-or-later
"""Two booted images on one cable."""

import pytest

from tests.image.card import Card
from tests.image.lan import Lan

pytestmark = [pytest.mark.image, pytest.mark.timeout(400)]

PERSON = {"HOME": "/run/person", "PATH": "/usr/bin:/usr/sbin"}


def test_two_relays_exchange_an_envelope(image, tools, tmp_path, boot):
    cards = [Card(image, tmp_path / f"{name}.img", tools=tools) for name in "ab"]
    with Lan("pair0") as lan:
        ana, ben = (boot(card, f"relay-{cpu}", network=lan.port(), cpu=cpu) for cpu, card in enumerate(cards))
        for relay in (ana, ben):
            assert relay.wait_booted() == "running", relay.explain()
        shown = ben.run("relay", "identity", env=PERSON).stdout
        uri = next(word for word in shown.split() if word.startswith("mesh-relay:"))
        ana.run("relay", "contact", "add", uri, "--name", "ben", env=PERSON)
        ana.run("relay", "send", "ben", "over the cable", "--relay", "127.0.0.1", env=PERSON, timeout_s=60)
        following = ben.start_process("relay", "receive", "--follow", "--relay", "127.0.0.1", env=PERSON)
        following.wait_output("over the cable", 90)
        # Before the cable goes, so that nothing of theirs complains.
        ana.kill()
        ben.kill()
