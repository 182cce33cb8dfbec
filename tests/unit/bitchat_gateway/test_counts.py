# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that the mesh counts has a name in the reports, or the process would end at the first of its kind."""

import re
from pathlib import Path

from relay.bitchat import mesh
from relay.bitchat.couriers import Outcome
from relay.bitchat.packet import PacketType
from relay.bitchat_gateway.gateway import _event
from relay.process.reports import EVENTS, PACKET_TYPES, Component

SOURCE = Path(mesh.__file__).read_text(encoding="utf-8")
#: Each word that is a reason: counted as it is, or returned by what says why not.
WORDS = {
    *re.findall(r'_count\([a-z]+, "([a-z_]+)"\)', SOURCE),
    *re.findall(r'counts\["[a-z]+", "([a-z_]+)"\]', SOURCE),
    *re.findall(r'return (?:None if [^\n]* else )?"([a-z_]+)"', SOURCE),
}


def test_each_outcome_of_a_packet_is_an_event():
    assert len(WORDS) > 20
    outcomes = WORDS | {f"letter_{outcome}" for outcome in Outcome} | {"refused_skew"}
    assert {_event(outcome) for outcome in outcomes} <= set(EVENTS[Component.BITCHAT])


def test_each_type_is_an_event():
    assert {kind.name.lower() for kind in PacketType} | {"any", "other"} == set(PACKET_TYPES)
