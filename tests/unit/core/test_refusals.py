# SPDX-License-Identifier: GPL-2.0-or-later
"""Refusing costs a lookup, however much is stored: nobody keeps a relay busy with what it does not even take."""

import random
import sys
from functools import cache

import pytest

from relay.core.admission import MAX_HOURS_PER_INTERFACE, Policy
from relay.core.envelope import EnvelopeType, Header, decode_header, envelope_id, make_tag
from relay.core.log import AdmittedLog, EntryState
from relay.core.messages import Offer, Refusal
from relay.core.stats import Rejected
from tests.unit.core.memory import BUILD_HOUR, HOUR, MemoryStore, Relay, client, envelope, neighbour

FEW, MANY = 400, 100_000
#: What is stored paid this; nobody in these tests pays as much.
STORED_PRICE = 40
#: Instructions of Python in relay.core to refuse one put, answer included: about 500 today.
MOST_STEPS = 1500
KEY = bytes(32)


def steps_of(call):
    """Count the instructions that ``call`` executes in relay.core."""
    steps = 0

    def trace(frame, event, _):
        nonlocal steps
        if "/relay/core/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return steps


@cache
def stored(number):
    """Rows of as many envelopes, in all hours that an interface may have, and two hundred purges of one tag."""
    rng = random.Random(number)
    rows = []
    for seq in range(1, number + 1):
        purge = seq <= MAX_HOURS_PER_INTERFACE
        header = Header(
            type=EnvelopeType.PURGE if purge else EnvelopeType.MESSAGE,
            size_class=0,
            expiry_hour=HOUR + seq % MAX_HOURS_PER_INTERFACE,
            tag=make_tag(7, KEY) if purge else rng.randbytes(16),
        )
        bits = STORED_PRICE
        identity = (1 << (255 - bits) | rng.getrandbits(255 - bits)).to_bytes(32)
        rows.append((seq, identity, header.encode(), 1, 0, True, False))
    return rows


def several(**how):
    """Five envelopes that pay enough, the same ones at each call."""
    rng = random.Random(1)
    return [envelope(rng, **{"price": 3, **how}) for _ in range(5)]


@cache
def relay_with(number, kind=None):
    """A relay that is full, of its kind; it remembers five that left."""
    store = MemoryStore()
    store.interfaces[1] = "eth1"
    policy = Policy(
        max_bytes=256 * number,
        max_envelopes=number,
        min_price=2,
        classes=0b0111,
        shares={1: 1.0} if kind == "no share" else {},
    )
    relay = Relay(store=store, policy=policy, trusted_hour=HOUR - 1 if kind == "trusted" else None)
    gone = [(number + n, envelope_id(one), one[:24], 1, 0, False, False) for n, one in enumerate(several(), 1)]
    relay.node.log.load([*stored(number), *gone])
    return relay


def costs(relay, wire, envelopes, refusal):
    """Put them one by one; return the steps of each, once it was refused as it should."""
    session = wire.link.session
    said = []
    session.refuse, refuse = (lambda n, why, price: (said.append(why), refuse(n, why, price=price))), session.refuse
    found = [steps_of(lambda put=put: relay.node._puts(wire.link, [put], 1.0)) for put in enumerate(envelopes)]
    assert said == [refusal] * len(envelopes)
    return found


def put_each(number, refusal):
    """What it takes to refuse five different puts for one reason."""
    rng = random.Random(3)
    kind, interface = None, "eth1"
    match refusal:
        case Refusal.MALFORMED:
            puts = [bytes([1, 7]) + rng.randbytes(254) for _ in range(5)]
        case Refusal.WRONG_SIZE:
            puts = [bytes([1]) + bytes(253) + rng.randbytes(1) for _ in range(5)]
        case Refusal.VERSION:
            puts = [bytes([2]) + bytes(254) + rng.randbytes(1) for _ in range(5)]
        case Refusal.EXPIRED:
            kind = "trusted"
            puts = several(expiry_hour=HOUR - 2)
        case Refusal.FAR_FUTURE:
            kind = "trusted"
            puts = several(expiry_hour=HOUR + 1000)
        case Refusal.BELOW_FLOOR:
            puts = several(expiry_hour=BUILD_HOUR - 1)
        case Refusal.CLASS:
            puts = several(size_class=3)
        case Refusal.UNDERPAID:
            puts = [one for one in (envelope(rng) for _ in range(100)) if envelope_id(one)[0] >= 64][:5]
        case Refusal.HOURS:
            puts = [envelope(rng, price=3, expiry_hour=HOUR + 1000 + n) for n in range(5)]
        case Refusal.PURGED:
            puts = several(tag=make_tag(7, KEY))
        case Refusal.GONE:
            puts = several()
        case Refusal.FULL | Refusal.STORAGE:
            puts = several(size_class=2)
        case "no share":
            kind, interface = "no share", "wlan0"
            puts = several(size_class=1)
    relay = relay_with(number, kind)
    _, wire = client(relay, interface=interface)
    relay.node.intake._stale = refusal is Refusal.STORAGE
    return costs(relay, wire, puts, Refusal.FULL if refusal == "no share" else refusal)


@pytest.mark.parametrize("refusal", [*Refusal, "no share"], ids=str)
def test_refusing_a_put_costs_a_lookup_however_much_is_stored(refusal):
    few, many = put_each(FEW, refusal), put_each(MANY, refusal)
    print(few, many)
    assert max(few + many) <= MOST_STEPS
    assert sum(many) <= 1.2 * sum(few), "it grows with what is stored"


@pytest.mark.parametrize("refusal", [Refusal.HOURS, Refusal.FULL, "no share"], ids=str)
def test_refusing_an_offer_costs_a_lookup_however_much_is_stored(refusal):
    rng = random.Random(2)
    unshared = refusal == "no share"

    def steps(number):
        relay = relay_with(number, refusal if unshared else None)
        relay.node.intake._stale = False
        _, wire = neighbour(relay, interface="wlan0" if unshared else "eth1")
        found = []
        for n in range(5):
            paid = (1 << 250 | rng.getrandbits(250)).to_bytes(32)
            offer = Offer(paid, 0, HOUR + (1000 + n if refusal is Refusal.HOURS else 0))
            found.append(steps_of(lambda offer=offer: relay.node._requests.offered(wire.link.exchange, [offer], 1.0)))
        assert relay.node.wanted() == 0
        return found

    few, many = steps(FEW), steps(MANY)
    print(few, many)
    assert max(few + many) <= MOST_STEPS
    assert sum(many) <= 1.2 * sum(few), "it grows with what is stored"


def test_what_neighbours_offer_again_and_again_is_counted_once():
    relay = relay_with(FEW)
    relay.node.intake._stale = False
    rng, before = random.Random(4), relay.count(Rejected.FULL)
    offers = [Offer((1 << 250 | rng.getrandbits(250)).to_bytes(32), 0, HOUR) for _ in range(5)]
    for _ in range(3):  # neighbours, each in two sessions
        for _ in range(2):
            _, wire = neighbour(relay, interface="eth1")
            assert relay.node._requests.offered(wire.link.exchange, offers, 1.0)
    assert relay.count(Rejected.FULL) - before == len(offers)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_finding_where_a_window_begins_costs_a_lookup_however_much_has_returned(is_loaded):
    """One walk over what had been displaced and came back took 36 ms, and 120 SUBSCRIBE fit in a turn."""

    def steps(number):
        log = AdmittedLog()
        rows = stored(number)
        if is_loaded:
            # Noted with their first arrival, above one that came later.
            log.load([(*row[:4], 0 if row[0] > 1 else 1000, True, False) for row in rows])
        else:
            for row in rows:
                header = decode_header(row[2])
                log.append(
                    identity=row[1],
                    header=header,
                    price=0,
                    interface=1,
                    arrived_s=1000.0,
                    state=EntryState.PENDING,
                    first_arrived_s=0.0,
                )
        log.seq_arrived_since(2000.0)  # the first question after puts moves the last of them into their columns
        found = []
        spent = steps_of(lambda: found.append(log.seq_arrived_since(2000.0)))
        assert found == [1 if is_loaded else number + 1]
        return spent

    assert steps(4000) <= steps(FEW) <= MOST_STEPS
