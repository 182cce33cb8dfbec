# SPDX-License-Identifier: GPL-2.0-or-later
"""A bound on what is sent on an interface; how it is kept over time is in tests/sim/test_slow_links.py."""

import random

from relay.core.messages import Hello, Role, Subscribe
from relay.core.node import NodeConfig
from tests.unit.core.memory import Relay, client, envelope, put_all


def test_a_bounded_interface_that_cannot_take_what_it_may_have_costs_no_turns() -> None:
    """A link waits for its budget, gets it, and its transport is full: no timer is due again for it."""
    relay = Relay(config=NodeConfig(durable=True, bytes_per_s={"hci0": 2000.0}))
    put_all(relay, [envelope(random.Random(n), size_class=2) for n in range(10)])
    peer, wire = client(relay, interface="hci0", hello=Hello(role=Role.CLIENT, slow=True))
    peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0))
    relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
    while relay.node.data_to_send(wire.link, 0.0):
        pass
    assert not relay.node.has_output(wire.link)
    list(relay.node.take_ready())
    due = relay.node.next_deadline()
    assert 0 < due < 2
    relay.node.handle_timer(due)
    assert list(relay.node.take_ready()) == [wire.link]
    assert relay.node.next_deadline() > due + 10
    assert relay.node.data_to_send(wire.link, due)


def test_what_is_used_of_a_bounded_interface_is_counted_both_ways_and_of_another_nothing() -> None:
    relay = Relay(config=NodeConfig(durable=True, bytes_per_s={"hci0": 2000.0}))
    put_all(relay, [envelope(random.Random(n)) for n in range(3)])
    for interface in ("hci0", "eth0"):
        peer, wire = client(relay, interface=interface, hello=Hello(role=Role.CLIENT, slow=True))
        before_s = wire.link.kind_stats.airtime_s or 0.0
        peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0))
        said = peer.session.data_to_send()
        relay.node.receive(wire.link, said, 10.0)
        answered = b"".join(iter(lambda link=wire.link: relay.node.data_to_send(link, 10.0), b""))
        assert answered
        used_s = wire.link.kind_stats.airtime_s
        if interface == "eth0":
            # Absent, not zero: there is no share of what has no bound.
            assert used_s is None
        else:
            assert used_s is not None
            assert abs(used_s - before_s - (len(said) + len(answered)) / 2000) < 1e-9
