# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces and addresses that come, go and change; networks without IPv4 and without multicast."""

import contextlib
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.netns.rawclient import make_envelopes
from tests.netns.relays import PORT, linked
from tests.waiting import wait_until

#: From the moment that an address is usable to an open session, on an idle machine 1 to 12 s.
RECONNECT_S = 40
#: As a machine has them on which containers run.
BRIDGES = 30


def starts(relays):
    for relay in relays:
        relay.spawn()
    for relay in relays:
        relay.wait_linked(1)


def carries(one, two, seed):
    """Prove that what is put at one relay comes to the other."""
    held = two.status()["store"]["envelopes"]
    one.box.client().put(make_envelopes(seed, 20))
    two.wait_held(held + 20, 20)


def serves(box, address):
    try:
        box.connect(address, timeout_s=1).close()
    except OSError:
        return False
    return True


def no_ipv6(box):
    box.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")


def test_an_ipv4_address_that_changes_costs_seconds(lab):
    segment = lab.segment()
    relays = []
    for name in "ab":
        box = lab.box(name)
        no_ipv6(box)
        box.plug(segment, "eth0")
        relays.append(box.relay(start=False))
    starts(relays)
    one, two = relays
    port = one.box.ports["eth0"]
    port.address("delete", f"{port.ipv4}/24")
    one.wait("it noticed", lambda status: not linked(status), 10)
    port.address("add", f"10.0.{segment.subnet}.77/24")
    for relay in relays:
        took_s = relay.wait_linked(1, RECONNECT_S)
        print(f"IPv4: linked again {took_s:.1f} s after the new address")
    held = two.status()["store"]["envelopes"]
    one.box.client("127.0.0.1").put(make_envelopes(1, 20))
    two.wait_held(held + 20, 20)


def test_an_ipv6_address_that_changes_costs_seconds(lab):
    segment = lab.segment()
    boxes = [lab.box(name, segment, has_ipv4=False, detects_duplicates=True) for name in "ab"]
    relays = [box.relay(start=False) for box in boxes]
    starts(relays)
    port = boxes[0].ports["eth0"]
    # In the worst order: the new one is there before the old one goes, and both within a moment.
    old = port.link_local()
    port.address("add", "fe80::1234/64")
    port.address("delete", f"{old}/64")
    began = time.monotonic()
    relays[0].wait("it noticed", lambda status: not linked(status), 10)
    for relay in relays:
        relay.wait_linked(1, RECONNECT_S)
        print(f"IPv6: linked again {time.monotonic() - began:.1f} s after the change")
    carries(*relays, seed=2)


def test_relays_find_each_other_with_ipv6_link_local_addresses_and_no_ipv4_anywhere(lab):
    segment = lab.segment()
    boxes = [lab.box(name, segment, has_ipv4=False, detects_duplicates=True) for name in "ab"]
    for box in boxes:
        box.run("ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
        assert "inet " not in box.run("ip", "address")
    relays = [box.relay(start=False, http={"listen": "[::1]:9470"}) for box in boxes]
    began = time.monotonic()
    starts(relays)
    print(f"linked {time.monotonic() - began:.1f} s after the start")
    carries(*relays, seed=3)
    # A client finds its relay on that segment just so.
    address = boxes[0].ports["eth0"].link_local()
    phone = lab.box("phone", segment, has_ipv4=False)
    assert len(phone.client(address, interface="eth0").fetch_all()) == 20


@pytest.mark.parametrize("first", ["with the peer's address", "with nobody's address"])
def test_where_multicast_is_blocked_a_static_peer_is_found_in_either_order_of_boot(lab, first):
    segment = lab.segment()
    caller, called = lab.box("caller", segment), lab.box("called", segment)
    for box in (caller, called):
        rule = "table inet lab { chain input { type filter hook input priority 0; udp dport 5353 drop; }; }"
        box.run("nft", rule)
        box.run("nft", "add chain inet lab output { type filter hook output priority 0; }")
        box.run("nft", "add rule inet lab output udp dport 5353 drop")
    peer = f"{called.ports['eth0'].ipv4}:{PORT}"
    relays = [caller.relay(start=False, tcp={"peers": [peer]}), called.relay(start=False)]
    if first == "with nobody's address":
        relays[1].start()
        relays[0].spawn()
    else:
        relays[0].start()
        relays[0].wait(
            "it tried in vain",
            lambda status: status["dials_failed"] >= 2,
            20,
        )
        relays[1].spawn()
    began = time.monotonic()
    for relay in relays:
        relay.wait_linked(1, RECONNECT_S)
    print(f"linked {time.monotonic() - began:.1f} s after the second one was started")
    carries(*relays, seed=4)
    # ... and an operator is told that nobody else will be found.
    fault = discovery_fault(relays[0].wait("discovery is down", discovery_fault, 20))
    assert re.fullmatch(r"multicast does not get through.*5353/udp.*discovery = false.*", fault)
    assert "relays are not found by themselves: on eth0: multicast" in relays[0].cli("status")
    if first == "with the peer's address":  # once is enough: it is noticed at the next announcement
        caller.run("nft", "delete table inet lab")
        relays[0].wait("discovery is up", lambda status: discovery_fault(status) == "", 40)


def test_a_program_that_has_the_port_of_discovery_is_named_and_waited_for(lab):
    boxes = [lab.box(name, segment) for segment in [lab.segment()] for name in "ab"]
    has_port = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 5353)); print(flush=True); input()"
    )
    other = boxes[0].python("-c", has_port, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    relays = [box.relay() for box in boxes]
    name = Path(f"/proc/{other.pid}/comm").read_text().strip()
    fault = discovery_fault(relays[0].wait("discovery is down", discovery_fault, 20))
    assert fault.startswith(f"port 5353: Address already in use by {name} (process {other.pid}); stop what has it, or")
    assert f"relays are not found by themselves: on eth0: {fault}" in relays[0].cli("status")
    scan = boxes[0].python("-m", "relay", "scan", "--seconds", "1", stderr=subprocess.PIPE, text=True)
    assert f"port 5353: Address already in use by {name} (process {other.pid}); stop" in scan.communicate()[1]
    other.kill()
    relays[0].wait("discovery is up", lambda status: discovery_fault(status) == "", RECONNECT_S)
    relays[0].wait_linked(1)


def discovery_fault(status):
    """What is wrong with discovery on any interface; "" if it works, None if nothing is known of it yet."""
    faults = [link["fault"] for link in status["links"] if link["kind"] == "dnssd"]
    return next(filter(None, faults), "") if faults else None


def add_bridges(box):
    """With an address each, and nobody on them."""
    lines = r"link add docker& type bridge\naddress add 172.&.0.1/16 dev docker&\nlink set docker& up"
    box.run("sh", "-ec", f"seq 16 {15 + BRIDGES} | sed 's|.*|{lines}|' | ip -batch -")


def found_on(status):
    """On how many interfaces relays are looked for."""
    return sum(link["kind"] == "dnssd" and link["up"] for link in status["links"])


def test_interfaces_come_and_go_and_change_their_names_while_relays_run(lab):
    first, second = lab.segment(), lab.segment()
    relays = [lab.box(name, first).relay(start=False) for name in "ab"]
    starts(relays)
    one, two = relays
    # Containers are started: thirty bridges, of which the relay knows nothing.
    add_bridges(one.box)
    one.wait("discovery is up on each", lambda status: found_on(status) == BRIDGES + 1, RECONNECT_S)
    assert one.cli("status").splitlines()[1].endswith("all well")

    # A second segment appears on both: a second session, on it.
    for relay in relays:
        relay.box.plug(second, "usb0")
    for relay in relays:
        relay.wait("linked on both", lambda status: linked(status, "eth0") and linked(status, "usb0"), RECONNECT_S)
    carries(one, two, seed=5)

    # The first goes, and what is sent takes the second.
    one.box.ports["eth0"].delete()
    one.wait("eth0 is empty", lambda status: not linked(status, "eth0"), 10)
    carries(one, two, seed=6)

    # It comes back: another adapter, with another address, in the same socket.
    port = one.box.plug(first, "eth0")
    one.wait("linked on eth0 again", lambda status: linked(status, "eth0"), RECONNECT_S)

    # Renamed, as udev does, and the other one unplugged for good.
    port.set("down")
    port.set("name", "lan0")
    port.interface = "lan0"
    port.set("up")
    one.wait("linked on lan0", lambda status: linked(status, "lan0"), RECONNECT_S)
    one.box.ports["usb0"].delete()
    one.wait("usb0 is empty", lambda status: not linked(status, "usb0"), 10)
    carries(two, one, seed=7)
    assert one.status()["links"][0]["restarts"] == 0


#: Prints all that DNS-SD tells on a segment; several queries, since the first is answered differently.
BROWSE = """
import asyncio
from relay.client.finding import browse

async def main():
    for _ in range(3):
        for relay in await browse():
            print(*(host for host, _ in relay.hosts))

asyncio.run(main())
"""


def test_nothing_of_one_segment_is_told_on_another(lab):
    first, second = lab.segment(), lab.segment()
    both, guest, friend = lab.box("both", first, second), lab.box("guest", first), lab.box("friend", second)
    both.relay()
    friend.relay().wait_linked(1, RECONNECT_S)
    browsing = guest.python("-c", BROWSE, stdout=subprocess.PIPE)
    told = browsing.communicate(timeout=30)[0].decode()
    assert both.ports["eth0"].ipv4 in told
    for port in (both.ports["eth1"], *friend.ports.values()):
        assert port.ipv4 not in told
        assert port.link_local() not in told


def test_only_the_interfaces_named_are_served_also_those_that_come_later(lab):
    inside, outside = lab.segment(), lab.segment()
    box = lab.box("relay", outside)
    box.relay(tcp={"interfaces": ["mesh0"]})
    guest, member = lab.box("guest", outside), lab.box("member", inside)
    stranger = guest.relay()

    mesh = box.plug(inside, "mesh0")
    port = box.ports["eth0"]
    friend = member.relay()
    friend.wait_linked(1, RECONNECT_S)
    assert len(member.client(mesh.ipv4).fetch_all()) == 0
    with pytest.raises(ConnectionRefusedError):
        guest.connect(port.ipv4)
    with pytest.raises(ConnectionRefusedError):
        guest.connect(port.link_local(), interface="eth0")

    # Deleted and there again under the same name, within a moment.
    mesh.delete()
    mesh = box.plug(inside, "mesh0")
    wait_until("mesh0 is served again", lambda: serves(member, mesh.ipv4), 10)
    member.client(mesh.ipv4).put(make_envelopes(8, 5))
    friend.wait_held(5, RECONNECT_S)
    with pytest.raises(ConnectionRefusedError):
        guest.connect(port.ipv4)
    assert linked(stranger.status()) == 0


#: `relay segment` but for the units that hand out addresses.
ANSWERS = """
import asyncio, sys
from ipaddress import IPv4Address
from relay.appliance.segment import Segment
from relay.process.notify import Notifier
class Nobody:
    async def start(self): ...
    async def stop(self): ...
name, serves_from = sys.argv[1:]
segment = Segment(interface="eth0", address=IPv4Address(serves_from), number=bytes(8), server=Nobody(), name=name)
asyncio.run(segment.run(Notifier({})))
"""
ASKS = """
import asyncio, sys
from zeroconf import AddressResolver, IPVersion
from zeroconf.asyncio import AsyncZeroconf
async def main():
    zeroconf = AsyncZeroconf(interfaces=[sys.argv[1]], ip_version=IPVersion.V4Only)
    for name in sys.argv[2:]:
        resolver = AddressResolver(f"{name}.local.")
        await resolver.async_request(zeroconf.zeroconf, 4000)
        print(name, *resolver.parsed_addresses())
asyncio.run(main())
"""


def test_each_relay_on_a_cable_is_found_by_the_name_that_it_was_given(lab):
    segment = lab.segment()
    boxes = {name: lab.box(name, segment) for name in ("gate", "stage", "relay")}
    ours = {name: box.ports["eth0"].ipv4 for name, box in boxes.items()}
    for name, box in boxes.items():
        # Nobody serves here with the address that he would serve from: it is not on the interface.
        box.python("-c", ANSWERS, name, "10.222.0.1")
    asking = lab.box("phone", segment)
    own = asking.ports["eth0"].ipv4
    air = asking.socket(socket.AF_INET, socket.SOCK_DGRAM)
    air.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    air.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    air.bind(("224.0.0.251", 5353))
    air.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton(own))

    def found():
        process = asking.python("-c", ASKS, own, "gate", "stage", "nobody", stdout=subprocess.PIPE)
        answer = process.communicate(timeout=60)[0].decode()
        return dict(line.split(" ", 1) if " " in line else (line, "") for line in answer.splitlines())

    wanted = {"gate": ours["gate"], "stage": ours["stage"], "nobody": ""}
    last = {}

    def look():
        last.clear()
        last.update(found())
        return last == wanted

    wait_until(lambda: f"{wanted} are found: {last}", look, 60)
    # Nobody was told a name before somebody asked for it.
    air.setblocking(False)
    heard = []
    with contextlib.suppress(BlockingIOError), air:
        while True:
            packet, sender = air.recvfrom(2048)
            heard.append((sender[0], packet))
    assert [next(who for who, packet in heard if name in packet) for name in (b"gate", b"stage")] == [own, own]
    assert {who for who, packet in heard if b"gate" in packet} == {own, ours["gate"]}
