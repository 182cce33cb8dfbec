# SPDX-License-Identifier: GPL-2.0-or-later
"""The appliance's packet filter and `relay libp2p`: its ports are to be had where relay.toml says, and nowhere else."""

import random
from pathlib import Path

import pytest

from relay.appliance.check import check
from relay.appliance.network import draw_segment
from relay.appliance.plan import Facts, make_plan
from tests.libp2p.nodes import Libp2p
from tests.netns.relays import PORT

LIBP2P_PORT, GATEWAY_PORT = 4271, 4280
APPLIANCE = "[appliance]\ncountry = 'DE'\naccess_point = true\naccess_point_interface = 'ap0'\n[libp2p]\n"


class Site:
    """A relay with a cable (eth0) and an access point (ap0), behind its packet filter, with somebody on each."""

    def __init__(self, lab, text, **settings):
        self.box = lab.box("relay")
        self.people = {}
        for interface in ("eth0", "ap0"):
            segment = lab.segment()
            self.box.plug(segment, interface)
            self.people[interface] = lab.box(f"at-{interface}", segment)
        plan = make_plan(
            check((APPLIANCE + text).encode(), Path("relay.toml")),
            Facts(segment=draw_segment(random.Random(4).randbytes), stand_in="5e" * 32),
        )
        rules = lab.folder / "nftables.conf"
        rules.write_bytes(next(file.content for file in plan.files if file.path.name == "nftables.conf"))
        self.box.run("nft", "-f", str(rules))
        self.relay = self.box.relay(libp2p=settings)
        self.ours = Libp2p(self.relay).start()

    def is_open(self, where, port):
        """Whether somebody there gets a connection; what the filter drops has no answer, and fails by itself."""
        try:
            self.people[where].connect(self.box.ports[where].ipv4, port=port, timeout_s=2).close()
        except TimeoutError:
            return False
        return True


def test_it_is_to_be_had_on_its_interfaces_and_on_no_others(lab):
    text = f"enabled = true\ninterfaces = ['ap0']\ngateway = '0.0.0.0:{GATEWAY_PORT}'\n"
    site = Site(lab, text, enabled=True, interfaces=["ap0"], gateway=f"0.0.0.0:{GATEWAY_PORT}")
    # The relay's own port says that who asks is there, and is let in.
    for where in site.people:
        assert site.is_open(where, PORT)
    for port in (LIBP2P_PORT, GATEWAY_PORT):
        assert site.is_open("ap0", port)
        assert not site.is_open("eth0", port)


@pytest.mark.parametrize("enabled", [False, True])
def test_without_a_list_it_is_everywhere_and_only_where_it_is_on(lab, enabled):
    # What runs is on in both: it is the filter that is asked.
    text = f"enabled = {str(enabled).lower()}\ngateway = '0.0.0.0:{GATEWAY_PORT}'\n"
    site = Site(lab, text, enabled=True, gateway=f"0.0.0.0:{GATEWAY_PORT}")
    for where in site.people:
        assert site.is_open(where, PORT)
        for port in (LIBP2P_PORT, GATEWAY_PORT):
            assert site.is_open(where, port) is enabled


def test_without_a_network_it_says_so_and_works_once_there_is_one(lab):
    box = lab.box("relay")
    relay = box.relay(libp2p={"enabled": True})
    ours = Libp2p(relay).spawn()
    said = "none of its interfaces has an address: plug in a cable"
    relay.wait("it says so", lambda _: any(said in text for text in ours.part().get("troubles", ())), 60)
    box.plug(lab.segment(), "eth0")
    assert ours.wait_up().part()["troubles"] == []
