# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/vectors/reconcile.json: what another implementation checks itself against.

`python -m tests.unit.core.test_reconcile_vectors` writes the file anew; a change of
it is a change of the protocol.
"""

import json
from array import array
from hashlib import sha256
from pathlib import Path

import pytest
from nacl.bindings import crypto_shorthash_siphash24

from relay.core.reconcile import Reconciler
from relay.core.reconcile_wire import Kind, root
from relay.core.riblt import SHORT_ID_MASK, ScalarEncoder, indices, mix
from tests.property.reconciling import (
    KEY,
    SCALAR,
    SCENARIOS,
    VECTOR,
    WHOLE,
    columns,
    converse,
    entries,
    initiator,
    offers,
    responder,
    tell,
)

PATH = Path(__file__).parents[2] / "vectors" / "reconcile.json"

#: The others are the same, only longer.
CONVERSATIONS = {name: each for name, each in SCENARIOS.items() if name != "long lists"}


def span(numbers):
    return [numbers.start, numbers.stop, numbers.step]


def make():
    """The content of the file."""
    members = array("Q", [mix(n) & SHORT_ID_MASK for n in range(50)])
    encoder = ScalarEncoder(members)
    list(encoder.extend(40))
    hours = {480_000: (2**64 - 1, 3), 480_002: (0, 1)}
    return {
        "about": (
            "Entry n has ID SHA-256(n as u32 big-endian) and expires in hour first_hour + n mod hours. initiator and "
            "responder are [start, stop, step] of their n. Messages alternate as sender says; offers are the n that "
            "each side then knows the other lacks. Which batch sizes a responder asks for is its own choice; all else "
            "is exact. prf is the eight output bytes of SipHash-2-4, read little-endian; all other numbers in hex have "
            "their most significant digit first, and in messages integers are big-endian."
        ),
        "key": KEY.hex(),
        "first_hour": WHOLE.first_hour,
        "last_hour": WHOLE.last_hour,
        "siphash": [
            {"id": row.identity.hex(), "prf": crypto_shorthash_siphash24(row.identity, KEY).hex()}
            for row in entries(range(4))
        ],
        "mapping": [
            {"short_id": f"{x:012x}", "mix": f"{mix(x):016x}", "indices_below_1000000": indices(x, 1_000_000)}
            for x in (0, 1, SHORT_ID_MASK, 0x0123_4567_89AB, *members[:8])
        ],
        "symbols": {
            "short_ids": [f"{x:012x}" for x in members],
            "first_40": encoder.symbols.encode(0, 40).hex(),
        },
        "root": {
            "hours": [[hour, f"{total:016x}", count] for hour, (total, count) in hours.items()],
            "root": root(KEY, hours).hex(),
        },
        "conversations": [conversation(name) for name in CONVERSATIONS],
    }


def conversation(name):
    left, right, hours = CONVERSATIONS[name]
    a, b = initiator(entries(left, hours=hours)), responder(entries(right, hours=hours))
    talk = converse(a, b)
    return {
        "name": name,
        "hours": hours,
        "initiator": span(left),
        "responder": span(right),
        "messages": [
            {"sender": "initiator" if sender else "responder", "kind": Kind(message[0]).name, "message": message.hex()}
            for sender, message in talk.messages
        ],
        "initiator_offers": sorted(offers(a)),
        "responder_offers": sorted(offers(b)),
    }


@pytest.fixture(scope="module")
def vectors():
    return json.loads(PATH.read_text(encoding="utf-8"))


def test_the_file_is_what_this_implementation_says(vectors):
    assert make() == vectors


def test_the_prf_and_the_root_follow_from_their_definition(vectors):
    key = bytes.fromhex(vectors["key"])
    for n, item in enumerate(vectors["siphash"]):
        assert sha256(n.to_bytes(4, "big")).hexdigest() == item["id"]
        assert crypto_shorthash_siphash24(bytes.fromhex(item["id"]), key).hex() == item["prf"]
    digest = sha256(b"mesh-relay/1 reconcile root" + key)
    for hour, total, count in vectors["root"]["hours"]:
        digest.update(hour.to_bytes(4, "big") + bytes.fromhex(total) + count.to_bytes(4, "big"))
    assert digest.hexdigest()[:32] == vectors["root"]["root"]


def test_symbols_follow_from_the_mapping(vectors):
    """Each symbol worked out from the definition, entry by entry."""
    short_ids = [int(text, 16) for text in vectors["symbols"]["short_ids"]]
    data = bytes.fromhex(vectors["symbols"]["first_40"])
    for i in range(40):
        members = [x for x in short_ids if i in indices(x, 40)]
        expected = [0, 0, len(members) % 256]
        for x in members:
            expected[0] ^= x
            expected[1] ^= mix(x) >> 40
        symbol = data[10 * i : 10 * i + 10]
        assert [int.from_bytes(part, "big") for part in (symbol[:6], symbol[6:9], symbol[9:])] == expected


@pytest.mark.parametrize("scalar_entries", [SCALAR, VECTOR])
@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_either_side_speaks_with_the_recorded_other_one(vectors, name, role, scalar_entries):
    (recorded,) = (item for item in vectors["conversations"] if item["name"] == name)
    numbers = range(*recorded[role])
    side = Reconciler(
        initiator=role == "initiator",
        key=bytes.fromhex(vectors["key"]),
        columns=columns(entries(numbers, hours=recorded["hours"])),
        scope=WHOLE,
        scalar_entries=scalar_entries,
    )
    if role == "initiator":
        side.start()
        while side.step():
            pass
    sent = side.messages_to_send()
    for item in recorded["messages"]:
        message = bytes.fromhex(item["message"])
        if item["sender"] == role:
            assert sent.pop(0) == message
        else:
            tell(side, message)
            sent += side.messages_to_send()
    assert not sent
    assert sorted(offers(side)) == recorded[f"{role}_offers"]


if __name__ == "__main__":
    PATH.write_text(json.dumps(make(), indent=1) + "\n", encoding="utf-8")
