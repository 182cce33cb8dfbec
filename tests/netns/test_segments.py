# SPDX-License-Identifier: GPL-2.0-or-later
"""Segments that break and heal, neighbours with two of them, and what all of that costs in bytes."""

import time

import pytest

from tests.netns.rawclient import make_envelopes
from tests.netns.relays import linked
from tests.waiting import wait_until

COUNT = 5000
SIZE = 1024


def total(status, name):
    return status["totals"]["total"][name]


def relay_pair(lab, *segments):
    a, b = (lab.box(name, *segments) for name in "ab")
    one, two = a.relay(start=False), b.relay(start=False)
    for relay in (one, two):
        relay.spawn()
    for relay in (one, two):
        relay.wait_linked(len(segments))
    return one, two


def put_here(relay, envelopes):
    """Put by the loopback of the relay's own machine, so that the segments carry only what relays say."""
    relay.box.client().put(envelopes)


def wait_quiet(ports, quiet_s=1.0, timeout_s=60.0):
    """Wait until no frame crossed these cables for a while."""
    since, last = time.monotonic(), -1

    def quiet():
        nonlocal since, last
        now = sum(port.bytes() for port in ports)
        if now != last:
            since, last = time.monotonic(), now
        return time.monotonic() - since > quiet_s

    wait_until("the segments are quiet", quiet, timeout_s)


def interrupt_link(port):
    """`ip link set down`: addresses go, and come back."""
    port.set("down")
    return lambda: port.set("up")


def interrupt_silently(port):
    """A switch further away loses power: nobody is told."""
    port.cut()
    return port.heal


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [interrupt_link, interrupt_silently])
def test_a_segment_cut_with_5000_new_envelopes_on_each_side_heals(lab, interrupt):
    one, two = relay_pair(lab, lab.segment())
    port = one.box.ports["eth0"]
    heal = interrupt(port)
    before = port.bytes()
    for seed, relay in enumerate((one, two)):
        put_here(relay, make_envelopes(seed, COUNT, SIZE))
    heal()
    began = time.monotonic()
    for relay in (one, two):
        relay.wait_held(2 * COUNT, 60)
    took_s = time.monotonic() - began
    wait_quiet([port])
    ratio = (port.bytes() - before) / (2 * COUNT * SIZE)
    print(f"healed after {took_s:.1f} s; {ratio:.3f} bytes on the wire for each byte of envelope")
    assert ratio < 1.15


@pytest.mark.slow
def test_an_unchanged_pair_comes_to_rest(lab):
    one, two = relay_pair(lab, lab.segment())
    port = one.box.ports["eth0"]
    put_here(one, make_envelopes(1, COUNT, SIZE))
    two.wait_held(COUNT)
    wait_quiet([port])

    # Meeting again: recognise that nothing is different.
    reconciled = total(one.status(), "reconciled")
    before = port.bytes()
    heal = interrupt_link(port)
    one.wait("it noticed the cut", lambda status: not linked(status), 10)
    heal()
    one.wait("they have reconciled again", lambda status: total(status, "reconciled") > reconciled, 30)
    wait_quiet([port], quiet_s=3)
    met_again = port.bytes() - before
    sessions = sum(link["bytes_in"] + link["bytes_out"] for link in one.status()["links"])

    # Staying connected.
    before = port.bytes()
    time.sleep(60)
    idle = port.bytes() - before
    said = sum(link["bytes_in"] + link["bytes_out"] for link in one.status()["links"]) - sessions
    print(f"met again: {met_again} bytes with DNS-SD; idle for 60 s: {idle} bytes, {said} of them in the session")
    assert linked(one.status()) == linked(two.status()) == 1
    assert met_again < 24_000
    assert said < 500
    assert idle < 6_000


def loads(ports):
    return [port.bytes() for port in ports]


@pytest.mark.slow
def test_two_segments_between_two_relays_carry_a_body_once_and_replace_each_other(lab):
    one, two = relay_pair(lab, lab.segment(), lab.segment())
    assert [relay.status()["relays"] for relay in (one, two)] == [1, 1]
    ports = list(one.box.ports.values())
    wait_quiet(ports)
    size = 16384
    count = 1000

    start = loads(ports)
    put_here(one, make_envelopes(1, count, size))
    two.wait_held(count)
    carried = [after - before for before, after in zip(start, loads(ports), strict=True)]
    print(f"both: {sum(carried) / (count * size):.3f} of one transfer, {carried}")
    assert sum(carried) < 1.1 * count * size

    primary = ports[carried.index(max(carried))]
    start = loads(ports)
    cut_at = 0

    def cut_in_the_middle(acknowledged):
        nonlocal cut_at
        if not cut_at and acknowledged > count // 2:
            primary.cut()
            cut_at = time.monotonic()

    one.box.client().put(make_envelopes(2, count, size), on_progress=cut_in_the_middle)
    held = two.status()["store"]["envelopes"] - count
    assert 0 < held < count
    two.wait_held(2 * count, 60)
    carried = [after - before for before, after in zip(start, loads(ports), strict=True)]
    print(f"cut with {held} of {count} over, all there {time.monotonic() - cut_at:.1f} s later, {carried}")
    assert sum(carried) < 1.25 * count * size
