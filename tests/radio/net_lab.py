# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays as network namespaces of one guest, with simulated Wi-Fi radios that hear each other."""

import difflib
import json
import re
import time

from tests.waiting import wait_until

#: Joining takes one to three seconds alone, several with two cores full of other guests.
PATIENCE_S = 45.0
#: Duplicate address detection takes one or two seconds.
SETTLE_S = 5.0
SECRET = 'correct "horse" battery'
_NEXT = "-- next --"
_LOOK = f"; echo; echo '{_NEXT}'; ".join(
    [
        "ip -d -j link",
        "ip -d -j addr",
        "ip -d -j -4 route show table all",
        "ip -d -j -6 route show table all",
        "tc -j qdisc",
        "iw dev | grep -E 'phy|Interface|ifindex|addr|ssid|type|channel' || true",
        "iw reg get | grep -A1 global",
        "grep -s . /proc/sys/net/ipv[46]/conf/*/accept_* /proc/sys/net/ipv6/conf/*/autoconf",
    ]
)


class Box:
    """One relay: a namespace ``name``, in which radios are plugged as wl0, wl1 ..."""

    def __init__(self, guest, name):
        self.guest = guest
        self.name = name
        self.runtime = f"/run/{name}"
        self.net = None
        guest.sh(f"ip netns add {name}; ip -n {name} link set lo up; mkdir -p {self.runtime}")

    def sh(self, script, **options):
        return self.guest.sh(script, netns=self.name, **options)

    def plug(self, interface="wl0", kinds=()):
        """Put in a radio whose interface has that name."""
        radio = f"{self.name}{interface}"
        # Made in the first namespace: radios hear only those that were made in the same one.
        made = self.guest.sh(f"python3 /src/tests/radio/hwsim.py new {radio} {' '.join(kinds)}").strip()
        self.guest.sh(
            f"ip link set {made} name {interface}; iw phy {radio} set netns name {self.name}; "
            # Once up and down again, as on any machine that has run for a while: before that it has no queue at all.
            f"ip -n {self.name} link set {interface} up; ip -n {self.name} link set {interface} down"
        )

    def unplug(self):
        """Pull all its radios out."""
        self.sh('[ -z "$(ls /sys/class/ieee80211)" ] || python3 /src/tests/radio/hwsim.py del')

    def ethernet(self, interface, peer_of):
        """An Ethernet whose other end is another box's."""
        self.guest.sh(
            f"ip link add {interface} netns {self.name} type veth peer name {interface} netns {peer_of.name}; "
            f"ip -n {self.name} link set {interface} up; ip -n {peer_of.name} link set {interface} up"
        )

    def start(self, config, *, wait=True):
        """Run `relay net` with this text as its section [net]."""
        path = f"/root/{self.name}.toml"
        self.guest.write(path, f'[log]\nlevel = "info"\n[net]\n{config}')
        self.net = self.guest.python(
            "-W", "error", "-m", "relay", "net", "--config", path, netns=self.name, env=self._environment()
        )
        if wait:
            self.net.wait_output("has joined", PATIENCE_S)
        return self.net

    def relay(self, *arguments):
        """Run another command of the relay here to its end; return what it printed."""
        argv = ("-W", "error", "-m", "relay", *arguments)
        process = self.guest.python(*argv, netns=self.name, env=self._environment())
        assert process.wait(PATIENCE_S) == 0, process.output
        return process.output

    def _environment(self):
        return {"XDG_RUNTIME_DIR": self.runtime}

    def stop(self):
        """SIGTERM; fail unless it ends well and soon."""
        assert self.net.stop(timeout_s=PATIENCE_S) == 0, self.net.output

    def reset(self):
        """Have the network as it was, however a test ended."""
        if self.net is not None and self.net.poll() is None:
            try:
                self.stop()
            finally:
                if self.net.poll() is None:
                    # It did not stop, which fails this test, and must not fail the next one.
                    self.net.kill()
                    self.relay("net", "undo")
        self.guest.sh("iw reg set 00")

    def close(self):
        if self.net is not None:
            self.net.kill()
        # Else they would go to the first namespace, under the names they have here.
        self.unplug()
        self.guest.sh(f"ip netns pids {self.name} | xargs -r kill -9; ip netns del {self.name}; rm -rf {self.runtime}")

    # -- looking ------------------------------------------------------------

    def address(self, interface):
        """The IPv6 link-local address of an interface, once it is usable."""

        def look():
            output = self.sh(f"ip -j -6 addr show dev {interface} scope link || true")
            links = json.loads(output) if output.startswith("[") else []
            entries = [entry for link in links for entry in link.get("addr_info", ()) if entry]
            usable = [entry["local"] for entry in entries if not entry.get("tentative")]
            return usable[0] if usable else None

        return until(look, f"{interface} of {self.name} has an address")

    def reaches(self, address, interface):
        """Whether one ping is answered."""
        return self.guest.run("ping", "-c1", "-W1", f"{address}%{interface}", netns=self.name, check=False).code == 0

    def pings(self, other, interface, its_interface=None):
        """Wait until ``other`` answers; return after how many seconds."""
        address = other.address(its_interface or interface)
        began = time.monotonic()
        until(lambda: self.reaches(address, interface), f"{self.name} hears {other.name}")
        return time.monotonic() - began

    def wireless(self, interface="wl0"):
        return self.sh(f"iw dev {interface} info || true")

    def snapshot(self):
        """Everything that `relay net` could have changed, less what changes by itself."""
        until(lambda: "tentative" not in self.sh("ip addr"), "addresses are settled")
        # At once: each command of its own would take longer to begin than to look.
        shown = self.sh(_LOOK).split(_NEXT)
        links, addresses, routes, routes6, queues, wireless, country, believed = (text.strip() for text in shown)
        addresses = json.loads(addresses)
        for link in addresses:
            for entry in link.get("addr_info", ()):
                for lifetime in ("valid_life_time", "preferred_life_time"):
                    # Counting down, where it does.
                    entry[lifetime] = entry.get(lifetime) == 0xFFFFFFFF
        return {
            "links": json.loads(links),
            "addresses": addresses,
            "routes": [json.loads(lines) for lines in (routes, routes6) if lines],
            "queues": re.sub(r'"refcnt":\d+', "", queues),
            "wireless": wireless,
            "country": country,
            "believed": believed,
        }

    def is_as(self, before):
        """Whether the snapshot is that one again, or becomes it once the kernel has done with its addresses."""

        def difference():
            lines = [json.dumps(state, indent=1).splitlines() for state in (before, self.snapshot())]
            return "\n".join(difflib.unified_diff(*lines, "before", "after", lineterm=""))

        return wait_until(difference, lambda: self.snapshot() == before, SETTLE_S, pause_s=0.5)


def until(condition, what, *, patience_s=PATIENCE_S, pause_s=0.25):
    """Wait for a true value and return it."""
    return wait_until(what, condition, patience_s, pause_s=pause_s)
