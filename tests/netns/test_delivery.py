# SPDX-License-Identifier: GPL-2.0-or-later
"""The spine: messages cross three relays to someone who was not there when they were sent."""

import random
import time

import pytest

from tests.netns.relays import linked
from tests.waiting import wait_until

SEED = 202_611
TEXT = "Meet at the bridge at six. 🌉"
PHOTO_BYTES = 3_000_001
LARGE_BYTES = 20_000_000


def held(relay):
    return relay.status()["store"]["envelopes"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_text_and_a_photo_reach_someone_two_segments_away_though_a_relay_is_killed_meanwhile(lab):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    contents = {
        "bridge.jpg": b"\xff\xd8\xff\xe0" + rng.randbytes(PHOTO_BYTES - 6) + b"\xff\xd9",
        "map.bin": rng.randbytes(LARGE_BYTES),
    }
    here, ab, bc, there = (lab.segment() for _ in range(4))
    boxes = [lab.box("a", here, ab), lab.box("b", ab, bc), lab.box("c", bc, there)]
    a, b, c = relays = [box.relay(start=False) for box in boxes]
    for relay in relays:
        relay.spawn()

    # Bob shows his card, and is nowhere near a network when Alice sends.
    bob, alice = lab.box("bob"), lab.box("alice", here)
    alice.cli("contact", "add", bob.cli("identity").split()[0], "--name", "Bob")
    for relay, neighbours in zip(relays, (1, 2, 1), strict=True):
        relay.wait_linked(neighbours)
    alice.cli("send", "Bob", TEXT)
    for name, content in contents.items():
        (alice.folder / name).write_bytes(content)
    alice.cli("send", "Bob", "--file", "bridge.jpg")
    before = held(a)
    wait_until("what was sent so far is at C", lambda: held(c) == before, 30)

    # kill -9 while the large file crosses B.
    began = time.monotonic()
    sending = alice.start_cli("send", "Bob", "--file", "map.bin")
    pieces = LARGE_BYTES // 16384
    wait_until("a quarter of the file is at B", lambda: held(b) > before + pieces // 4, 60)
    b.kill()
    at_c = held(c) - before
    b.spawn()
    alice.finish_cli(sending, 60)
    print(f"sent in {time.monotonic() - began:.1f} s; B was killed when C had {at_c} of over {pieces} pieces")
    assert at_c < pieces
    alice.remove()
    everything = held(a)
    c.wait_held(everything, 60)
    print(f"all at C {time.monotonic() - began:.1f} s after the start")
    b.wait_held(everything, 10)
    assert linked(b.status()) >= 2

    # Only now Bob comes by, on the other side.
    bob.plug(there, "eth0")
    shown = bob.cli("receive")
    assert TEXT in shown
    received = {path.name: path.read_bytes() for path in bob.folder.iterdir() if path.is_file()}
    assert received == contents
