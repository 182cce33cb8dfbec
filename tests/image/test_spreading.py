# SPDX-License-Identifier: GPL-2.0-or-later
"""Two booted images on one cable, of which one updates the other, which loses nothing by it."""

import base64
import json
import random

import pytest

from image import minisign
from image.layout import SECTOR_BYTES, layout
from image.slot import signed
from relay.board.manifest import HEAD_BYTES
from relay.board.slots import TRIES
from tests.image.appliance import FILLED_S
from tests.image.card import Card
from tests.image.conftest import KEY
from tests.image.lan import Lan
from tests.image.test_pair import PERSON
from tests.image.test_slots import describe
from tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(2400)]

SEED = 16
#: What of the newer one goes over the cable; the rest is in the older one's slot as well.
ADDED_BYTES = 2 << 20


#: User-Mode Linux would start once more with the same slot, without U-Boot between: here the plug is pulled instead.
ENDING = base64.b64encode(b"[Service]\nExecStart=\nExecStart=/usr/bin/systemctl poweroff\n").decode()
ARGUMENTS = (f"systemd.set_credential_binary=systemd.unit-dropin.relay-restart.service:{ENDING}",)


def status(relay):
    return json.loads(relay.run("relay", "status", "--json").stdout)


def updates(relay):
    totals = status(relay)["totals"]
    return totals["updates"] | totals["updates_refused"]


def explain(*relays):
    journals = "journalctl --no-pager -o cat -u relay-slot -u relay-give -u mesh-relay -u relay-restart"
    return "\n".join(f"{relay.name}: {updates(relay)}\n{relay.sh(journals)}\n{relay.explain()}" for relay in relays)


def make_newer(card):
    """Have a card as if it had taken an update from a stick; return what is in its slot."""
    boot, root, head = card.content("A")
    root += random.Random(SEED).randbytes(ADDED_BYTES)
    newer = signed(describe(boot, root, head), minisign.load(KEY))
    place = layout()["ROOT_A"]
    with card.path.open("r+b") as file:
        file.seek(place.start * SECTOR_BYTES)
        file.write(root)
        file.seek((place.start + place.size) * SECTOR_BYTES - HEAD_BYTES)
        file.write(newer.encode())
    return boot, root, newer


def test_one_relay_updates_another_which_starts_anew_once_its_neighbour_holds_all(image, tools, tmp_path, boot):
    newer, older = (Card(image, tmp_path / f"{name}.img", tools=tools) for name in ("newer", "older"))
    wanted = make_newer(newer)
    with Lan() as lan:
        ana, ben = (
            boot(card, name, network=lan.port(), cpu=cpu, arguments=ARGUMENTS)
            for cpu, (name, card) in enumerate({"ana": newer, "ben": older}.items())
        )
        for relay in (ana, ben):
            assert relay.wait_booted() == "running", relay.explain()
        # Something that is on the older one alone, at first.
        shown = ben.run("relay", "identity", env=PERSON).stdout
        uri = next(word for word in shown.split() if word.startswith("mesh-relay:"))
        ben.run("relay", "contact", "add", uri, "--name", "me", env=PERSON)
        ben.run("relay", "send", "me", "kept", "--relay", "127.0.0.1", env=PERSON, timeout_s=60)
        wait_until(lambda: explain(ana, ben), lambda: updates(ben)["written"] == 1, FILLED_S, pause_s=2)
        ben.sh("sync")
        assert older.content("B") == wanted
        record = older.record()
        assert (record.first, record.trial, record.tries("B")) == ("B", "B", TRIES)
        assert ben.wait_dead(FILLED_S), explain(ana, ben)
        assert status(ana)["store"]["envelopes"] == 1
        assert updates(ana)["stayed"] >= 1

        # It has what it had, and proves itself.
        ben = boot(older, "again", network=lan.port(), cpu=1)
        assert ben.slot == "B"
        ben.wait_slots()
        wait_until(lambda: explain(ana, ben), lambda: status(ben)["store"]["envelopes"] == 1, FILLED_S, pause_s=2)
        record = older.record()
        assert (record.first, record.trial, record.left, record.failed) == ("B", "", (TRIES, TRIES), "")
        assert ben.failed_units() == ana.failed_units() == []
        assert ana.slot == "A"
        assert newer.record().trial == ""
        # Before the cable goes, so that nothing of theirs complains.
        ana.kill()
        ben.kill()
