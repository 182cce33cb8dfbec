# SPDX-License-Identifier: GPL-2.0-or-later
"""The router alone: meshes, gossip, bounds."""

import random
from collections import Counter

from relay.libp2p import gossipsub
from relay.libp2p.gossipsub import D_HIGH, D, Gossipsub, Received, Subscribed
from relay.libp2p.gossipsub_message import Rpc, decode_rpc, sign
from relay.libp2p.identity import Identity

TOPIC = "topic"


def keys(seed):
    return Identity.generate(random.Random(seed).randbytes)


class Router:
    def __init__(self, peers=0):
        self.counts = Counter()
        self.ours = keys(0)
        self.router = Gossipsub(self.ours, draw=random.Random(1).random, count=self._count, seqno=1)
        self.keys = {}
        for number in range(peers):
            self.join(number)

    def _count(self, event, amount=1):
        self.counts[event] += amount

    def join(self, number, *topics):
        one = self.keys[number] = keys(number + 1)
        self.router.opened(one.peer, 0.0)
        self.say(number, Rpc(subscriptions=[(topic, True) for topic in topics or (TOPIC,)]))

    def say(self, number, rpc, now=0.0):
        return self.router.receive(self.keys[number].peer, decode_rpc(rpc.encode()), now)

    def heard(self, number):
        return [decode_rpc(data) for data in self.router.messages_to_send(self.keys[number].peer)]


def test_a_mesh_has_as_many_as_it_should_and_who_asks_too_many_is_pruned():
    one = Router(peers=30)
    one.router.subscribe(TOPIC)
    one.router.heartbeat(1.0)
    grafted = [number for number in one.keys if any(rpc.graft for rpc in one.heard(number))]
    assert len(grafted) == D
    for number in one.keys:
        one.say(number, Rpc(graft=[TOPIC]), 1.0)
    pruned = [number for number in one.keys if any(rpc.prune for rpc in one.heard(number))]
    assert len(pruned) == 30 - D_HIGH
    assert len(one.router._meshes[TOPIC]) == D_HIGH


def test_who_comes_is_in_the_mesh_at_once_as_what_he_writes_first_reaches_nobody_else():
    one = Router(peers=1)
    one.router.subscribe(TOPIC)
    # With the subscription itself: until the next heartbeat he may have written.
    assert [(rpc.subscriptions, rpc.graft) for rpc in one.heard(0)] == [([(TOPIC, True)], []), ([], [TOPIC])]
    one.join(1)
    assert [TOPIC] in [rpc.graft for rpc in one.heard(1)]
    # Who pruned us is left alone, also when he comes anew to the topic.
    one.say(1, Rpc(prune=[(TOPIC, 60)]))
    one.say(1, Rpc(subscriptions=[(TOPIC, False)]))
    one.say(1, Rpc(subscriptions=[(TOPIC, True)]))
    assert [TOPIC] not in [rpc.graft for rpc in one.heard(1)]


def test_who_pruned_us_is_not_asked_again_for_so_long():
    one = Router(peers=1)
    one.router.subscribe(TOPIC)
    one.router.heartbeat(1.0)
    one.heard(0)
    one.say(0, Rpc(prune=[(TOPIC, 30)]), 1.0)
    one.router.heartbeat(20.0)
    assert not any(rpc.graft for rpc in one.heard(0))
    one.router.heartbeat(32.0)
    assert any(rpc.graft for rpc in one.heard(0))


def test_a_message_goes_to_the_mesh_once_and_never_back():
    one = Router(peers=3)
    one.router.subscribe(TOPIC)
    one.router.heartbeat(1.0)
    for number in one.keys:
        one.heard(number)
    message = sign(one.keys[0], seqno=5, topic=TOPIC, data=b"text")
    (event,) = one.say(0, Rpc(published=[message]), 2.0)
    assert event == Received(one.keys[0].peer, message)
    assert one.say(1, Rpc(published=[message]), 2.0) == []
    assert not any(rpc.published for rpc in one.heard(0))
    for number in (1, 2):
        assert [rpc.published for rpc in one.heard(number)] == [[message]]
    assert one.counts["published_known"] == 1


def test_who_is_not_in_the_mesh_hears_of_it_and_may_ask():
    one = Router(peers=D + 3)
    one.router.subscribe(TOPIC)
    one.router.heartbeat(1.0)
    outside = [number for number in one.keys if not any(rpc.graft for rpc in one.heard(number))]
    message = sign(one.keys[0], seqno=5, topic=TOPIC, data=b"text")
    one.say(0, Rpc(published=[message]), 1.5)
    one.router.heartbeat(2.0)
    told = [number for number in outside if any(rpc.have for rpc in one.heard(number))]
    assert set(told) >= set(outside) - {0}
    one.say(told[0], Rpc(want=[message.identity]), 2.0)
    assert [rpc.published for rpc in one.heard(told[0])] == [[message]]
    # And what we have not seen we ask for.
    one.say(told[0], Rpc(have=[(TOPIC, [b"unknown", message.identity])]), 2.0)
    assert [rpc.want for rpc in one.heard(told[0])] == [[b"unknown"]]


def test_what_nobody_signed_goes_nowhere():
    one = Router(peers=2)
    one.router.subscribe(TOPIC)
    one.router.heartbeat(1.0)
    message = sign(one.keys[0], seqno=5, topic=TOPIC, data=b"text")
    forged = decode_rpc(Rpc(published=[message]).encode().replace(b"text", b"tExt"))
    assert one.router.receive(one.keys[1].peer, forged, 1.0) == []
    assert one.counts["published_untrue"] == 1
    assert not any(rpc.published for rpc in one.heard(0))


def test_topics_are_bounded_for_one_and_for_all_and_are_forgotten_with_their_peers():
    one = Router()
    for number in range(5):
        one.join(number, "first")
        for start in range(0, 2000, 500):
            one.say(number, Rpc(subscriptions=[(f"{number}/{start + at}", True) for at in range(500)]))
        assert len(list(one.router.topics_of(one.keys[number].peer))) <= gossipsub.MAX_TOPICS_OF_PEER
    assert one.router.topic_count <= gossipsub.MAX_TOPICS
    assert one.counts["topics_refused"] > 5000
    events = [event for number in one.keys for event in one.router.closed(one.keys[number].peer)]
    assert all(isinstance(event, Subscribed) and not event.joined for event in events)
    assert one.router.topic_count == 0


def test_a_flood_of_one_is_bounded_and_the_other_is_heard():
    one = Router(peers=2)
    one.router.subscribe(TOPIC)
    for seqno in range(2000):
        one.say(0, Rpc(published=[sign(one.keys[0], seqno=seqno, topic=TOPIC, data=bytes(1000))]), 1.0)
    assert one.counts["published_limited"] >= 1500
    assert len(one.say(1, Rpc(published=[sign(one.keys[1], seqno=1, topic=TOPIC, data=b"text")]), 1.0)) == 1
    found = one.router._peers[one.keys[1].peer]
    assert found.out_bytes <= gossipsub.MAX_WAITING_BYTES
    assert one.router._cached_bytes <= gossipsub.MAX_CACHED_BYTES


def test_control_without_end_is_not_answered_without_end():
    one = Router(peers=1)
    one.router.subscribe(TOPIC)
    for _ in range(3000):
        one.say(0, Rpc(graft=[TOPIC, TOPIC]), 1.0)
    assert one.counts["control_limited"] > 1000
    for _ in range(100):
        one.say(0, Rpc(have=[(TOPIC, [bytes([at % 256, at // 256]) for at in range(300)])]), 100.0)
    asked = sum(len(rpc.want) for rpc in one.heard(0))
    assert asked <= 500


def test_memory_of_what_was_seen_ends():
    one = Router(peers=1)
    one.router.subscribe(TOPIC)
    message = sign(one.keys[0], seqno=5, topic=TOPIC, data=b"text")
    one.say(0, Rpc(published=[message]), 1.0)
    for beat in range(10):
        one.router.heartbeat(2.0 + beat)
    assert not one.router._cache
    one.router.heartbeat(1.0 + gossipsub.SEEN_S + 1)
    assert not one.router._seen


def test_who_prunes_and_comes_anew_leaves_nothing_behind():
    one = Router()
    one.router.subscribe(TOPIC)
    for number in range(50):
        one.join(number)
        one.say(number, Rpc(prune=[(TOPIC, 3600), ("another", 3600)]))
        assert len(one.router._backoff) == 1
        one.router.closed(one.keys[number].peer)
    assert not one.router._backoff
