# SPDX-License-Identifier: GPL-2.0-or-later
"""Updates: which are taken, which are refused and why, and what is left of one that is cut off."""

import os
import socket
import struct
import threading
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image import minisign
from image.slot import signed
from relay.board import slots
from relay.board.card import Card
from relay.board.card_slots import PARTITIONS, CardSlots
from relay.board.device import Device, Part
from relay.board.manifest import HEAD_BYTES, PIECE_BYTES, REASONS, Head, Manifest, Own, RefusedError, accept
from relay.board.manifest import Part as Described
from relay.board.slot_app import Slots, own_faults, read_own, unit_faults
from relay.control.notices import decode_notices
from relay.control.status import ConditionStatus, LinkState, LinkStatus, Status
from relay.core.errors import DecodeError
from relay.process import update_request
from relay.process.update_request import UpdateError, hand_in
from tests.unit.board.conftest import PowerCutError
from tests.unit.board.test_card_slots import PARTS

MIB = 1 << 20
KEY = minisign.SecretKey(number=b"12345678", seed=b"s" * 32)
OTHER = minisign.SecretKey(number=b"87654321", seed=b"o" * 32)
#: With the number of the one that is trusted.
FORGER = minisign.SecretKey(number=b"12345678", seed=b"f" * 32)
OWN = Own(board="test", version="1.0", built=1000, keys=(KEY.public(),))
BOOT, ROOT = os.urandom(MIB + 4096), os.urandom(MIB + 8192)
SIZES = (3 * MIB, 5 * MIB - HEAD_BYTES)


def content(card, slot):
    boot, root = (card.parts[number] for number in PARTITIONS[slot])
    with Device(boot) as one, Device(root) as two:
        return one.read(0, len(BOOT)), two.read(0, len(ROOT))


def part(data):
    return Described.of(data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))


def head(boot=BOOT, root=ROOT, key=KEY, **changes):
    values = {"board": "test", "version": "1.1", "built": 2000, "boot": part(boot), "root": part(root)} | changes
    made = Head(manifest=Manifest(**values))
    return made if key is None else signed(made, key)


def update(**options):
    made = head(**options)
    return made.encode() + BOOT + ROOT


def reason(made, **options):
    values = {"sizes": SIZES, "held": "", "failed": "", "older": False} | options
    try:
        accept(made.encode(), OWN, **values)
    except RefusedError as error:
        return error.reason
    return ""


def test_a_newer_one_that_is_signed_is_taken():
    assert reason(head()) == ""


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (head(key=None), "unsigned"),
        (head(key=OTHER), "wrong_key"),
        (head(key=FORGER), "bad_signature"),
        (replace(head(), manifest=head(built=9999).manifest), "bad_signature"),
        (replace(head(), signature="nonsense"), "bad_signature"),
        (replace(head(), signature=head().signature.replace("comment: mesh-relay", "comment: m")), "bad_signature"),
        (head(board="other"), "other_board"),
        (head(built=999), "older"),
        (head(built=1000), "older"),
        (head(root=ROOT * 5), "too_large"),
        (head(boot=BOOT * 3), "too_large"),
    ],
)  # fmt: skip
def test_any_other_is_refused_for_a_reason_that_tells_what_to_do(made, why):
    assert reason(made) == why
    assert len(REASONS[why]) > 10


def test_what_turned_back_is_not_tried_again_and_a_person_may_want_it_all_the_same():
    name = head().manifest.name()
    assert reason(head(), failed=name) == "failed"
    assert reason(head(), failed="another") == ""
    assert reason(head(), failed=name, older=True) == ""
    assert reason(head(built=999), older=True) == ""


def test_what_runs_already_is_not_written_once_more_and_a_rebuild_of_its_source_is_a_persons_to_want():
    name = head(built=1000).manifest.name()
    assert reason(head(built=1000), held=name) == "same"
    assert reason(head(built=1000), held=name, older=True) == "same"
    assert reason(head(built=1000), held="another") == "older"
    assert reason(head(built=1000), held="another", older=True) == ""


def test_the_signature_comes_before_all_else():
    assert reason(head(key=OTHER, board="other", built=1)) == "wrong_key"


@given(st.binary(max_size=300))
def test_of_what_nobody_trusted_signed_not_even_the_manifest_is_read(noise):
    signature = minisign.sign_bytes(noise, OTHER, "update", "").encode()
    raw = b"mesh-relay update 1 %d %d\n" % (len(noise), len(signature)) + noise + signature
    with pytest.raises(RefusedError, match="does not trust"):
        accept(raw.ljust(HEAD_BYTES, b"\0"), OWN, sizes=SIZES, held="", failed="", older=False)


def test_a_new_key_comes_with_a_release_that_the_old_one_signed():
    both = replace(OWN, keys=(OTHER.public(), KEY.public()))
    for key in (KEY, OTHER):
        assert accept(head(key=key).encode(), both, sizes=SIZES, held="", failed="", older=False) == head(key=key)


def test_no_clock_is_asked(monkeypatch):
    monkeypatch.setattr("time.time", lambda: pytest.fail("asked"))
    assert reason(head()) == ""


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_a_head_that_was_changed_is_none(noise, at):
    raw = head().encode()
    changed = (raw[:at] + noise + raw[at + len(noise) :])[:HEAD_BYTES]
    try:
        found = Head.decode(changed)
    except DecodeError:
        return
    assert found.encode() == changed
    # Of a signature the first line is a comment that nobody signed.
    assert found.manifest == head().manifest or reason(found) != ""


@given(st.binary(max_size=200))
def test_any_manifest_is_decoded_or_refused(noise):
    raw = b"mesh-relay update 1 %d 0\n" % len(noise) + noise
    with pytest.raises(DecodeError):
        Head.decode(raw.ljust(HEAD_BYTES, b"\0"))


def test_a_head_comes_back_as_it_was():
    assert Head.decode(head().encode()) == head()


@pytest.fixture
def box(tmp_path):
    """A card with two slots of which A runs, and `relay slot` for it, with a socket."""
    path = tmp_path / "card"
    path.write_bytes(b"")
    os.truncate(path, 18 * MIB)
    parts = {number: Part(path=path, start=at * MIB, size=size * MIB) for number, (at, size) in PARTS.items()}
    card = Card(disk=path, boot=parts[1], data=None, parts=MappingProxyType(parts), root=5)
    found = CardSlots(card)
    # What runs is another version of the same size.
    boot, root = os.urandom(len(BOOT)), os.urandom(len(ROOT))
    running = head(boot=boot, root=root, key=None, version="1.0", built=1000)
    found["A"].write(running, lambda offset, length: (boot + root)[offset : offset + length], lambda: True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "update.sock"))
    listener.listen()
    app = Slots(
        found, tmp_path / "no-relay", notices=tmp_path / "notices", settled=tmp_path / "settled",
        listener=listener, own=OWN,
    )  # fmt: skip
    yield card, app, tmp_path / "update.sock"
    listener.close()


def give(box, raw, *, older=False):
    """Hand in an update as `relay stick` does; return what is said."""
    _, app, path = box
    serving = threading.Thread(target=app._serve, args=(10,))
    try:
        with update_request.connect(path) as taker:
            serving.start()
            return hand_in(
                taker, lambda offset, length: raw[offset : offset + length], older=older, is_there=lambda: True
            )
    finally:
        serving.join()


def test_an_update_is_written_beside_what_runs_and_starts_next_on_trial(box):
    card, _, _ = box
    before = content(card, "A")
    said = give(box, update())
    assert said.reason == ""
    assert "1.1" in said.text
    found = CardSlots(card)
    assert content(card, "A") == before
    assert content(card, "B") == (BOOT, ROOT)
    # Byte for byte what was handed in.
    assert found["B"].head().encode() + b"".join(content(card, "B")) == update()
    assert found.record().trial == "B"
    assert slots.choose(found.record()).slots == ("B",)
    # Nobody asks the relay of this test: nothing can be held against the new one.
    assert found.record().known == slots.OWN_FAULTS


def test_the_same_once_more_changes_nothing(box):
    give(box, update())
    before = box[0].disk.read_bytes()
    assert give(box, update()).reason == ""
    assert box[0].disk.read_bytes() == before


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "read"),
        (b"no update at all".ljust(HEAD_BYTES, b"."), "damaged"),
        (update()[: HEAD_BYTES - 1], "read"),
        (update(key=None), "unsigned"),
        (update(key=OTHER), "wrong_key"),
        (update(built=1), "older"),
        (update(board="arm64"), "other_board"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_written(box, raw, why):
    before = box[0].disk.read_bytes()
    assert_refused(lambda: give(box, raw), why)
    assert box[0].disk.read_bytes() == before


def assert_refused(act, why):
    """Whoever hands in less than is asked for has gone for the other side: he hears nothing more, or why."""
    if why == "read":
        with pytest.raises(UpdateError):
            act()
        return
    said = act()
    assert said.reason == why
    assert said.text == REASONS[why]


@pytest.mark.parametrize("at", [HEAD_BYTES, HEAD_BYTES + len(BOOT) + 5, HEAD_BYTES + len(BOOT) + len(ROOT) - 1])
def test_of_a_damaged_one_no_piece_is_written_that_is_not_the_signed_one(box, at):
    card, _, _ = box
    raw = bytearray(update())
    raw[at] ^= 1
    before = content(card, "A")
    assert give(box, bytes(raw)).reason == "damaged"
    found = CardSlots(card)
    assert content(card, "A") == before
    assert found.record().tries("B") == 0
    assert slots.choose(found.record()).slots == ("A",)
    # The whole one goes on with it.
    assert give(box, update()).reason == ""
    assert content(card, "B") == (BOOT, ROOT)


def test_cut_off_at_any_write_what_runs_starts_and_the_update_goes_on(box, cut):
    card, app, _ = box
    raw = update()
    asked = []

    def read(offset, length):
        asked.append(length)
        return raw[offset : offset + length]

    before = content(card, "A")
    for writes in range(20):
        cut(writes)
        try:
            app.take(read, older=False)
            done = True
        except PowerCutError:
            done = False
        cut(1 << 30)
        assert content(card, "A") == before
        if done:
            break
        record = CardSlots(card).record()
        assert slots.choose(record).slots == ("A",)
        assert record.trial == ""
    assert done
    assert content(card, "B") == (BOOT, ROOT)
    assert slots.choose(CardSlots(card).record()).slots == ("B",)
    # Each piece was asked for once more at most than it was written.
    assert sum(asked) < len(raw) * 4


def test_one_that_was_cut_off_is_waited_for_before_what_there_is_of_it_is_written_over(box):
    _, app, _ = box
    with pytest.raises(UpdateError):
        give(box, update()[: HEAD_BYTES + len(BOOT)])
    assert app._is_cut_off
    assert give(box, update(built=1)).reason == "older"
    assert not app._is_cut_off


def test_while_one_is_on_trial_what_it_would_turn_back_to_is_not_written_over(box):
    card = box[0]
    found = CardSlots(card)
    found.remember(slots.updated(found.record(), "A", ()))
    before = card.disk.read_bytes()
    assert give(box, update()).reason == "on_trial"
    assert card.disk.read_bytes() == before


def test_who_says_that_it_may_be_older_is_a_person(box):
    assert give(box, update(built=1), older=True).reason == ""


def test_who_hands_in_something_and_says_nothing_holds_nobody_for_ever(box, monkeypatch):
    _, app, path = box
    monkeypatch.setattr("relay.board.slot_app.READ_TIMEOUT_S", 0.1)
    with update_request.connect(path):
        assert app._serve(10)
    assert not app._serve(0)


def test_what_asks_for_more_than_a_piece_gets_nothing():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'{"read": [0, %d]}\n' % (PIECE_BYTES + 1))
        with pytest.raises(UpdateError):
            hand_in(ours, lambda *_: pytest.fail("read"), older=False, is_there=lambda: True)


def test_the_operators_own_keys_stand_beside_those_of_the_releases(tmp_path):
    release, keys = tmp_path / "release", tmp_path / "keys"
    assert read_own(release, keys) is None
    release.write_text(OWN.encode())
    assert read_own(release, keys) == OWN
    keys.write_text(f"{OTHER.public()}\n")
    assert read_own(release, keys).keys == (KEY.public(), OTHER.public())


@pytest.mark.parametrize(
    ("names", "states", "found"),
    [
        (["link_down"], [LinkState.UP, LinkState.UNPLUGGED], set()),
        (["link_down"], [LinkState.UNPLUGGED, LinkState.DOWN], {"link_down"}),
        (["alone", "no_link", "clock_wrong", "undervoltage", "card_worn"], [LinkState.UNPLUGGED], set()),
        (["alone", "net_down", "ble_down"], [LinkState.UP], {"net_down", "ble_down"}),
    ],
)
def test_a_cable_that_somebody_takes_out_is_no_fault_of_the_relays(names, states, found):
    status = Status(
        version="1",
        ready=True,
        conditions=[ConditionStatus(name=name, severity="warning", says=name, remedy="") for name in names],
        links=[LinkStatus(kind="tcp", interface=f"eth{at}", state=state) for at, state in enumerate(states)],
    )
    assert own_faults(status) == found


def test_what_made_room_is_tried_once_more_if_it_is_whole_and_had_proved_itself(box):
    card, app, _ = box
    assert give(box, update()).reason == ""
    found = CardSlots(card)
    found.remember(slots.proved(found.record(), "B"))
    # B did not come up three times, and A runs.
    found.remember(slots.came_up(found.record().with_tries("B", 0), "A", found["B"].name()))
    assert slots.is_to_be_tried_again(found.record(), "B")
    # Whoever hands something in meanwhile comes first.
    asked = iter([True, True, False])
    app.fill(lambda: next(asked))
    assert found.record().tries("B") == 0
    app.fill(lambda: True)
    record = found.record()
    assert (record.first, record.trial, record.left[1]) == ("B", "B", slots.TRIES)
    assert record.failed == found["B"].name()
    assert content(card, "B") == (BOOT, ROOT)
    # Once more in vain: now what runs is copied over it.
    found.remember(slots.came_up(record.with_tries("B", 0), "A", found["B"].name()))
    app.fill(lambda: True)
    assert found["B"].head() == found["A"].head()
    assert content(card, "B") == content(card, "A")
    assert (found.record().first, found.record().trial) == ("A", "")


def test_what_made_room_and_is_damaged_is_not_tried_again(box):
    card, app, _ = box
    give(box, update())
    found = CardSlots(card)
    found.remember(slots.proved(found.record(), "B"))
    found.remember(slots.came_up(found.record().with_tries("B", 0), "A", found["B"].name()))
    with Device(card.parts[6]) as device:
        device.write(len(ROOT) - 4096, bytes(4096))
    app.fill(lambda: True)
    assert found["B"].head() == found["A"].head()
    assert (found.record().first, found.record().trial, found.record().left[1]) == ("A", "", slots.TRIES)


def test_a_unit_that_is_started_again_and_again_does_not_work():
    def shown(state, restarts):
        other = "Id=relay-stick.path\nActiveState=active\n"
        return f"Id=relay-ble.service\nActiveState={state}\nNRestarts={restarts}\n\n{other}"

    restarts = {}
    assert unit_faults(shown("active", 1), restarts) == set()
    assert unit_faults(shown("active", 2), restarts) == {"relay-ble.service"}
    assert unit_faults(shown("active", 2), restarts) == set()
    for state in ("activating", "failed", "deactivating"):
        assert unit_faults(shown(state, 2), restarts) == {"relay-ble.service"}
    assert unit_faults(shown("inactive", 2), restarts) == set()


def test_the_largest_slot_has_a_head():
    assert struct.calcsize("64s") * 639 + 639 * 3 + 1000 < HEAD_BYTES


def test_what_the_slot_that_runs_has_as_well_is_not_asked_for(box):
    card, app, _ = box
    boot, root = content(card, "A")
    raw = head(boot=boot, root=root[:MIB] + b"new" * 100).encode() + boot + root[:MIB] + b"new" * 100
    asked = []

    def read(offset, length):
        asked.append(offset)
        return raw[offset : offset + length]

    app.take(read, older=False)
    assert asked == [0, HEAD_BYTES + len(boot) + MIB]
    assert CardSlots(card)["B"].head().manifest.version == "1.1"
    # And what is said to be there, and is not, is asked for.
    CardSlots(card).remember(slots.emptied(CardSlots(card).record(), "B"))
    with Device(card.parts[PARTITIONS["A"][1]]) as device:
        device.write(77, b"worn")
    with Device(card.parts[PARTITIONS["B"][1]]) as device:
        device.write(77, b"worn")
    asked.clear()
    app.take(read, older=False)
    assert asked == [0, HEAD_BYTES + len(boot)]


def test_it_is_told_that_newer_software_waits_for_a_start(box):
    _, app, _ = box
    raw = update()
    app.take(lambda offset, length: raw[offset : offset + length], older=False)
    (notice,) = decode_notices(app._notices.read_bytes())
    assert notice.text.endswith("is used from the next start.")
    assert not notice.code.serious
