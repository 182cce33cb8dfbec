# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys under one name: whoever brings many displaces his own, and signatures are checked by a bounded number."""

from relay.bitchat.announce import Announce, Identity
from relay.bitchat.memory import MAX_KEYS_OF_PEER, Memory
from relay.bitchat.packet import PacketType, make_packet

ANA = Identity.from_seeds(b"a" * 32, b"a" * 32)


def announce_under(key, number):
    said = Announce(nickname="ana", noise_key=ANA.noise.public, signing_key=key)
    return make_packet(PacketType.ANNOUNCE, said.encode(), sender=ANA.peer_id, timestamp_ms=number), said


def test_the_oldest_key_goes_of_the_link_that_brought_the_most():
    memory = Memory()
    memory.keep_announce(*announce_under(ANA.signing_public, 1), origin="ana", now=0.0)
    for number in range(100):
        memory.keep_announce(*announce_under(number.to_bytes(32, "big"), number), origin="eve", now=1.0)
    keys = memory.keys_of(ANA.peer_id)
    assert len(keys) == memory.peers == MAX_KEYS_OF_PEER
    assert keys[0] == (99).to_bytes(32, "big")
    assert keys[-1] == ANA.signing_public
    assert memory.keys_of(ANA.peer_id, "ana")[0] == ANA.signing_public


def test_what_is_over_is_forgotten():
    memory = Memory()
    memory.keep_announce(*announce_under(ANA.signing_public, 1), origin="ana", now=0.0)
    message = make_packet(PacketType.MESSAGE, b"x", sender=ANA.peer_id, timestamp_ms=1)
    memory.keep_message(message, origin="ana", now=0.0)
    memory.expire(899.0)
    assert memory.keys_of(ANA.peer_id)
    memory.expire(900.0)
    assert (memory.keys_of(ANA.peer_id), memory.messages) == ((), 1)
    memory.expire(21_600.0)
    assert memory.messages == 0
