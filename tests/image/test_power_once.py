# SPDX-License-Identifier: GPL-2.0-or-later
"""The power fails while something happens that happens seldom: the first start, a panic, a word written to the card.

Each is done once, with a log of all that reached the card; of that, cards are made as power cuts leave them, and
started (tests/power/guests.py).
"""

import hashlib
import json
import random
import re

import pytest

from image.layout import SECTOR_BYTES
from relay.board.card import MARK, MARK_SECTORS
from relay.board.slots import TRIES
from tests.image.card import Card
from tests.image.conftest import SURVIVAL
from tests.image.lan import Lan
from tests.image.seizure import Planted, marks_in, plant, those_in
from tests.image.test_storage import ERASED_S, LUKS, hour, started, unlock, wait_open
from tests.power import cut
from tests.power.guests import ENVIRONMENT, PASSPHRASE, Light

pytestmark = [pytest.mark.image, pytest.mark.timeout(7200)]

FIRST_CUTS = 12 if SURVIVAL else 2
STATUS_CUTS = 40 if SURVIVAL else 10
#: Seconds into a panic at which the plug is pulled.
PANIC_CUTS_S = (0.2, 0.5, 1.0, 2.0, 5.0) if SURVIVAL else (0.5, 2.0)
#: The other one has no keys on the card.
PANICS = ("durable", "plain") if SURVIVAL else ("durable",)
SECRET = hashlib.sha256(b"a mesh").hexdigest()
_WRITE_STATUS = (
    "from relay.board.machine import Machine; from pathlib import Path; import sys;"
    "print(Machine(boot_device=Path('/dev/relay/card')).write_status(sys.argv[1].encode() * 200))"
)


@pytest.fixture
def lan():
    """Named before what starts guests: what is plugged in ends before it."""
    with Lan() as cable:
        yield cable


@pytest.fixture
def chance():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return random.Random(seed)


def settings(card, storage):
    text = f'[appliance]\nstorage = "{storage}"\nmesh_secret = "{SECRET}"\n'
    card.write("MESH-RELAY", "relay.toml", text.encode())
    return text.encode()


def copy_of(card, path, tools):
    path.unlink(missing_ok=True)
    return Card(card.path, path, tools=tools)


def comes_up(guest, storage):
    """Whether the relay has the card to keep things on that it is to have, after a start."""
    state = json.loads(guest.prepare())
    if storage == "durable":
        assert state["trouble"] in {"unmade", "locked"}, f"{state} {guest.sh('cat /run/mesh-relay-config/*')}"
        said = guest.unlock().strip().splitlines()[-1]
        assert json.loads(said) == "", f"{state}: {said}"
    else:
        assert not state["trouble"], state
    guest.sh("echo kept >/var/lib/private/mesh-relay/mark && sync")
    assert SECRET in guest.sh("cat /run/mesh-relay-config/*"), "what somebody wrote in relay.toml holds"


@pytest.mark.parametrize("storage", ["amnesic", "plain", "durable"])
def test_the_power_may_fail_anywhere_in_the_first_start(
    kernel, card, library, tools, tmp_path, chance, measured, storage
):
    settings(card, storage)
    with Light(kernel, "first", card, library, log=tmp_path / "log") as guest:
        comes_up(guest, storage)
    lost = 0
    with cut.Log(tmp_path / "log") as log:
        for number in range(FIRST_CUTS):
            begun = copy_of(card, tmp_path / "begun.img", tools)
            index = chance.randrange(len(log.records) + 1)
            lost += log.cut(begun.path, index, chance)
            print(number, index, len(log.records), flush=True)
            with Light(kernel, f"cut-{number}", begun, library) as guest:
                comes_up(guest, storage)
    measured[f"first_start_cuts_{storage}"] = FIRST_CUTS
    assert lost


def test_the_power_may_fail_while_the_card_is_told_how_the_relay_is(
    kernel, card, library, tools, tmp_path, chance, measured
):
    wanted = settings(card, "volatile")
    own = set(card.names("MESH-RELAY"))
    with Light(kernel, "writes", card, library, log=tmp_path / "log") as guest:
        comes = guest.prepare()
        assert not json.loads(comes)["trouble"]
        for word in ("first", "second, which is longer"):
            told = guest.run("python3", "-I", "-c", _with_program(guest) + _WRITE_STATUS, word, env=ENVIRONMENT)
            assert told.stdout == "True\n"
    with cut.Log(tmp_path / "log") as log:
        writes = [at for at, one in enumerate(log.records) if one.op == ord("W")]
        for number in range(STATUS_CUTS):
            begun = copy_of(card, tmp_path / "begun.img", tools)
            log.cut(begun.path, chance.randrange(writes[0], len(log.records) + 1), chance)
            assert begun.read("MESH-RELAY", "relay.toml") == wanted
            names = set(begun.names("MESH-RELAY"))
            assert names >= own
            extra = {name.removeprefix("::/") for name in names - own}
            assert extra <= {"relay-status.txt", "relay-status.txt.new"}
            # A start reads the settings, and goes on writing; of these some, as the ones before cost little.
            if number * 5 < STATUS_CUTS:
                with Light(kernel, f"told-{number}", begun, library) as guest:
                    guest.prepare()
                    assert SECRET in guest.sh("cat /run/mesh-relay-config/*")
                    program = _with_program(guest) + _WRITE_STATUS
                    assert guest.run("python3", "-I", "-c", program, "after", env=ENVIRONMENT).stdout == "True\n"
                assert begun.read("MESH-RELAY", "relay-status.txt") == b"after" * 200
    measured["status_file_cuts"] = STATUS_CUTS


def _with_program(guest):
    """Python that finds the image's relay."""
    place = re.search(r"insert\(0, '([^']+)'\)", guest.sh("cat /usr/bin/relay"))[1]
    return f"import sys; sys.path.insert(0, {place!r});"


@pytest.mark.parametrize("storage", PANICS)
def test_the_power_may_fail_anywhere_in_a_panic(
    kernel, card, lan, boot, library, tools, tmp_path, chance, measured, storage
):
    """The next start finishes it, before anything else, and nothing is left."""
    settings(card, storage)
    # Nobody fills the second slot meanwhile: that is in test_slots.py, and would be most of the log.
    card.remember(card.record().with_tries("B", TRIES))
    words = cut.preloaded(library, card.path, log=tmp_path / "log")
    relay = started(boot, card, lan, storage, before=words)
    if storage == "durable":
        assert unlock(relay, PASSPHRASE, times=2).code == 0
        wait_open(relay)
    planted = Planted(5, hour())
    assert plant(relay, lan, planted) is True
    assert those_in(card.path, [SECRET.encode()])
    relay.start_process("relay", "board", "panic", "--sure")
    assert relay.wait_dead(ERASED_S), relay.console_text()
    assert remains(card) == set()

    with cut.Log(tmp_path / "log") as log:
        began = next(at for at, one in enumerate(log.records) if is_mark(log, one))
        unfinished = 0
        for after_s in PANIC_CUTS_S:
            begun = copy_of(card, tmp_path / "begun.img", tools)
            until = log.records[began].time_s + after_s
            log.cut(begun.path, sum(one.time_s <= until for one in log.records), chance)
            left = remains(begun)
            print(after_s, "s:", sorted(left), flush=True)
            unfinished += bool(those_in(begun.path, [MARK]))
            with Light(kernel, f"goes-on-{after_s:g}", begun, library) as guest:
                state = json.loads(guest.prepare())
                assert not those_in(begun.path, [MARK]), "it is over"
                assert remains(begun) == set(), f"{after_s} s: {state}"
                assert SECRET not in guest.sh("cat /run/mesh-relay-config/*")
    assert unfinished, "the plug was pulled before its end"
    measured[f"panic_cuts_{storage}"] = len(PANIC_CUTS_S)


def is_mark(log, record):
    """Whether it is the write by which the card says that an erase began; a whole block, of which that is a sector."""
    at = MARK_SECTORS[0] * SECTOR_BYTES - record.offset
    return record.op == ord("W") and 0 <= at < record.length and log.after(record)[at : at + len(MARK)] == MARK


def remains(card):
    """What anybody finds who has the card; IDs, which take minutes to look for, test_storage.py looks for."""
    found = {"messages"} if marks_in(card.path) else set()
    kinds = {SECRET.encode(): "secret", **dict.fromkeys(LUKS, "keys")}
    return found | {kinds[one] for one in those_in(card.path, kinds)}
