# SPDX-License-Identifier: GPL-2.0-or-later
"""The spine: a message crosses three relays to someone who was not there when it was sent."""

import io
import random
import time

import pytest

from relay.client.body import file_body, text_body
from relay.client.card import Card
from relay.client.database import Database
from relay.client.identity import Identity
from relay.client.inbox import Inbox
from relay.client.outbox import Outbox
from tests.netns.relays import linked

SEED = 20_2611
TEXT = "Meet at the bridge at six. 🌉"
PHOTO_BYTES = 3_000_001
LARGE_BYTES = 20_000_000


class Person:
    """A client's offline half; what a person carries from one segment to another."""

    def __init__(self, folder):
        self.identity = Identity.generate(random.Random(str(folder)).randbytes)
        self.database = Database(folder)
        self.outbox = Outbox(self.database, self.identity)
        self.inbox = Inbox(self.database, self.identity, lambda _: True)


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_a_text_and_a_photo_reach_someone_two_segments_away_though_a_relay_is_killed_meanwhile(lab):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    photo = b"\xff\xd8\xff\xe0" + rng.randbytes(PHOTO_BYTES - 6) + b"\xff\xd9"
    large = rng.randbytes(LARGE_BYTES)
    here, ab, bc, there = (lab.segment() for _ in range(4))
    a, b, c = lab.box("a", here, ab), lab.box("b", ab, bc), lab.box("c", bc, there)
    relays = [box.relay(start=False) for box in (a, b, c)]
    for relay in relays:
        relay.spawn()
    for relay, neighbours in zip(relays, (1, 2, 1), strict=True):
        relay.wait_linked(neighbours)

    alice, bob = Person(lab.folder / "alice"), Person(lab.folder / "bob")
    now_s = time.time()
    to_bob = [Card.of(bob.identity)]
    for body in (text_body(TEXT), file_body(io.BytesIO(photo), "bridge.jpg"), file_body(io.BytesIO(large), "map.bin")):
        alice.outbox.queue_message(to_bob, body, lifetime_days=1, price=4, now_s=now_s)
    envelopes = [pending.envelope for pending in alice.outbox.pending(now_s)]

    sender = lab.box("sender", here)
    killed_at = 0

    def kill_b_in_the_middle(_):
        nonlocal killed_at
        if not killed_at and (held := relays[1].status()["store"]["envelopes"]) > len(envelopes) // 3:
            relays[1].kill()
            killed_at = held
            relays[1].spawn()

    began = time.monotonic()
    sender.client(a.ports["eth0"].ipv4).put(envelopes, on_progress=kill_b_in_the_middle)
    print(f"{len(envelopes)} envelopes to A in {time.monotonic() - began:.1f} s; B was killed with {killed_at}")
    sender.remove()
    assert killed_at < len(envelopes) - 100
    relays[2].wait_held(len(envelopes), 60)
    print(f"all at C {time.monotonic() - began:.1f} s after the start")
    relays[1].wait("B has them too", lambda status: status["store"]["envelopes"] == len(envelopes), 10)
    assert linked(relays[1].status()) == 2

    recipient = lab.box("recipient", there)
    client = recipient.client(c.ports["eth1"].ipv4)
    opened = [bob.inbox.try_open(envelope) for envelope in client.fetch_all()]
    bob.inbox.accept([one for one in opened if one], now_s)
    received = {message.name: b"".join(bob.inbox.content(message)) for message in bob.inbox.messages()}
    assert received == {"": TEXT.encode(), "bridge.jpg": photo, "map.bin": large}
