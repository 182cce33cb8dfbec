# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes in by an interface is of that interface, whatever address it was sent to, and leaves the others theirs."""

import random
import socket
from pathlib import Path

import pytest

from relay.appliance.check import check
from relay.appliance.network import draw_segment
from relay.appliance.plan import Facts, make_plan
from tests.netns.lab import wait_until
from tests.netns.rawclient import ClientError, RawClient, make_envelopes
from tests.netns.relays import PORT, linked

#: A store that a test can fill, half of it for each of two interfaces.
STORE = {"max_envelopes": 400, "max_bytes": 1 << 20}
#: As many as the relay has places.
PLACES = 256
APPLIANCE = b"[appliance]\ncountry = 'DE'\naccess_point = true\naccess_point_interface = 'ap0'\nlan_bridge = false\n"


class Crossing:
    """A relay between a cable (eth0), another one (eth1) and its access point (ap0), with somebody on each."""

    def __init__(self, lab, **sections):
        self.box = lab.box("relay")
        self.people = {}
        for interface in ("eth0", "eth1", "ap0"):
            segment = lab.segment()
            self.box.plug(segment, interface)
            self.people[interface] = lab.box(f"at-{interface}", segment)
        self.relay = self.box.relay(**sections)

    def connect(self, where, to):
        """A connection from somebody on one interface to the relay's address on another one."""
        person, address = self.people[where], self.box.ports[to].ipv4
        if where != to:
            # The machine need only be told that it is there: the relay's kernel says so itself.
            person.run("ip", "route", "replace", f"{address}/32", "dev", "eth0")
        return person.connect(address, timeout_s=2)

    def held(self):
        """The interfaces to which what is held is booked."""
        return set(self.relay.status()["store"]["price_bits"])


@pytest.mark.parametrize("enemy", ["eth0", "ap0"])
def test_a_flood_to_the_address_of_another_interface_takes_nothing_of_that_ones_share(lab, enemy):
    scene = Crossing(lab, store=STORE)
    kept = make_envelopes(1, 150, 256)
    with RawClient(scene.connect("eth1", "eth1")) as phone:
        phone.put(kept)
    with RawClient(scene.connect(enemy, "eth1")) as flood, pytest.raises(ClientError, match="FULL"):
        flood.put(make_envelopes(2, 600, 256, price=4))
    assert scene.held() == {"eth1", enemy}
    with RawClient(scene.connect("eth1", "eth1")) as phone:
        assert set(kept) <= set(phone.fetch_all())


def test_the_appliance_does_not_answer_for_an_address_that_is_on_another_interface(lab):
    scene = Crossing(lab)
    plan = make_plan(
        check(APPLIANCE, Path("relay.toml")),
        Facts(segment=draw_segment(random.Random(4).randbytes), stand_in="5e" * 32),
    )
    rules = lab.folder / "nftables.conf"
    rules.write_bytes(next(file.content for file in plan.files if file.path.name == "nftables.conf"))
    scene.connect("ap0", "eth1").close()
    scene.box.run("nft", "-f", str(rules))
    for where in scene.people:
        scene.connect(where, where).close()
        for to in set(scene.people) - {where}:
            with pytest.raises(TimeoutError):
                scene.connect(where, to)


def hold_places(box, host, interface):
    """Take as many places as a relay has, from as many IPv6 addresses of one machine; return the sessions."""
    addresses = [f"fd00::{number:x}" for number in range(1, PLACES + 1)]
    batch = "".join(f"address add {address}/64 dev {interface} nodad\n" for address in addresses)
    (box.folder / "addresses").write_text(batch)
    box.run("ip", "-batch", str(box.folder / "addresses"))
    clients = []
    for address in addresses:
        sock = box.socket(socket.AF_INET6)
        sock.settimeout(10)
        sock.bind((address, 0))
        sock.connect((host, PORT))
        clients.append(RawClient(sock))
    return clients


def test_who_takes_all_places_on_one_interface_turns_away_nobody_on_another_nor_what_we_dial(lab):
    cable, air, far = lab.segment(), lab.segment(), lab.segment()
    box, enemy, phone = lab.box("relay", cable, air, far), lab.box("enemy", cable), lab.box("phone", air)
    friend = lab.box("friend", far)
    peer = friend.relay(start=False, tcp={"discovery": False})
    relay = box.relay(tcp={"discovery": False, "peers": [f"{friend.ports['eth0'].ipv4}:{PORT}"]})
    box.ports["eth0"].address("add", "fd00::ffff/64")
    enemy.ports["eth0"].address("add", "fd00::fffe/64")
    wait_until("its new address is served", lambda: reaches(enemy, "fd00::ffff"), 10)
    clients = hold_places(enemy, "fd00::ffff", "eth0")
    try:
        assert sum(link["clients"] for link in relay.status()["links"]) == PLACES

        phones = [phone.client(box.ports["eth1"].ipv4) for _ in range(20)]
        phones[0].put(make_envelopes(3, 5))
        # The operator's peer comes up only now, when all places are taken.
        peer.spawn()
        relay.wait_linked(1, 40)
        assert linked(relay.status(), "eth2") == 1
        phones[-1].put(make_envelopes(4, 5))
        clients_by_interface = {link["interface"]: link["clients"] for link in relay.status()["links"]}
        assert clients_by_interface["eth1"] == 20
        assert clients_by_interface["eth0"] == PLACES - 20
    finally:
        for client in clients:
            client.sock.close()


def reaches(box, host):
    try:
        box.connect(host, timeout_s=1).close()
    except OSError:
        return False
    return True
