# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes as blocks: stock kubo finds the relay by multicast DNS, and gets them by bitswap and by HTTP."""

import json
import shutil
import subprocess

import pytest

from relay.core.envelope import SIZES, cid, envelope_id
from relay.libp2p.identity import from_base58
from tests.libp2p.nodes import Kubo, Libp2p, in_files
from tests.netns.rawclient import make_envelopes
from tests.waiting import wait_until

pytestmark = [pytest.mark.libp2p, pytest.mark.timeout(300)]
GATEWAY_PORT = 4280


def envelopes():
    return [envelope for size in SIZES for envelope in make_envelopes(size, 2, size)]


def test_kubo_without_configuration_gets_each_envelope_by_bitswap(lab, folder):
    segment = lab.segment()
    box, other = lab.box("relay", segment), lab.box("reader", segment)
    relay = box.relay(libp2p={"enabled": True, "envelopes": True})
    ours = Libp2p(relay).start()
    held = envelopes()
    box.client().put(held)
    relay.wait_held(len(held))
    kubo = Kubo(other, folder)
    wait_until(lambda: f"kubo found the relay: {kubo.peers()}", kubo.peers, 60)
    # One that has just started may be dialled anew meanwhile, and asks for it again then.
    for envelope in held:
        assert kubo.get(cid(envelope_id(envelope))) == envelope, f"{ours.part()['counters']} {kubo.peers()}"
    # Of what the relay does not hold nothing comes.
    (absent,) = make_envelopes(99, 1)
    assert kubo.get(cid(envelope_id(absent)), timeout_s=5) is None
    # It reports every few seconds.
    wait_until("it counts them", lambda: ours.part()["counters"].get("blocks_sent", 0) >= len(held), 60)
    assert ours.part()["counters"].get("protocol_errors", 0) == 0
    assert ours.pss_mib() < 40
    # Who came and what he asked for stands nowhere.
    address = other.ports["eth0"].ipv4
    asked = {cid(envelope_id(envelope)).encode() for envelope in [*held, absent]}
    markers = asked | {kubo.peer().encode(), from_base58(kubo.peer()), str(address).encode()}
    assert in_files(relay.folder, markers) == set()
    (relay.folder / "planted").write_bytes(b"somebody asked: " + b", ".join(markers))
    assert {marker for marker, _ in in_files(relay.folder, markers)} == markers
    print(f"PSS with one peer: {ours.pss_mib():.1f} MiB")


def test_kubo_gets_nothing_where_envelopes_are_not_switched_on(lab, folder):
    segment = lab.segment()
    box, other = lab.box("relay", segment), lab.box("reader", segment)
    relay = box.relay(libp2p={"enabled": True})
    Libp2p(relay).start()
    (envelope,) = make_envelopes(1, 1)
    box.client().put([envelope])
    relay.wait_held(1)
    kubo = Kubo(other, folder)
    wait_until("kubo found the relay", kubo.peers, 60)
    assert kubo.get(cid(envelope_id(envelope)), timeout_s=8) is None


def test_kubo_gets_envelopes_by_http_from_the_gateway_that_its_router_names(lab, folder):
    segment = lab.segment()
    box, other = lab.box("relay", segment), lab.box("reader", segment)
    address = box.ports["eth0"].ipv4
    relay = box.relay(libp2p={"enabled": True, "gateway": f"{address}:{GATEWAY_PORT}"})
    ours = Libp2p(relay).start()
    held = envelopes()
    box.client().put(held)
    relay.wait_held(len(held))
    router = {
        "Type": "custom",
        "Routers": {"relay": {"Type": "http", "Parameters": {"Endpoint": f"http://{address}:{GATEWAY_PORT}"}}},
        "Methods": {
            name: {"RouterName": "relay"}
            for name in ("provide", "find-providers", "find-peers", "get-ipns", "put-ipns")
        },
    }
    kubo = Kubo(
        other,
        folder,
        config=[
            ("Routing", json.dumps(router)),
            ("HTTPRetrieval", json.dumps({"Enabled": True, "TLSInsecureSkipVerify": True})),
            ("Discovery.MDNS.Enabled", "false"),
        ],
    )
    for envelope in held:
        assert kubo.get(cid(envelope_id(envelope))) == envelope, f"{ours.part()['counters']} {kubo.peers()}"
    # It reports every few seconds.
    wait_until("it counts them", lambda: ours.part()["counters"].get("http_served", 0) >= len(held), 60)
    assert ours.part()["counters"].get("blocks_sent", 0) == 0


@pytest.mark.parametrize("how", ["routing", "gateway"])
def test_helia_gets_envelopes_by_http_whether_it_is_told_of_a_router_or_of_a_gateway(lab, helia, how):
    segment = lab.segment()
    box, other = lab.box("relay", segment), lab.box("reader", segment)
    address = box.ports["eth0"].ipv4
    relay = box.relay(libp2p={"enabled": True, "gateway": f"{address}:{GATEWAY_PORT}"})
    Libp2p(relay).start()
    held = envelopes()
    box.client().put(held)
    relay.wait_held(len(held))
    (absent,) = make_envelopes(99, 1)
    reading = other.start(
        shutil.which("node"),
        str(helia / "get.mjs"),
        how,
        f"http://{address}:{GATEWAY_PORT}",
        *(cid(envelope_id(envelope)) for envelope in [*held, absent]),
        stdout=subprocess.PIPE,
        text=True,
    )
    said = [json.loads(line) for line in reading.communicate(timeout=60)[0].splitlines()]
    assert [bytes.fromhex(each["data"]) for each in said[:-1]] == held
    assert "nobody has it" in said[-1]["error"]
