# SPDX-License-Identifier: GPL-2.0-or-later
"""What a phone meets on an access point or a bridge: names, addresses and a page, by the programs that give them."""

import contextlib
import http.client
import json
import random
import socket
import subprocess
import sys
import time
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from relay.appliance import checks
from relay.appliance.check import check
from relay.appliance.network import draw_segment
from relay.appliance.plan import Facts, make_plan
from tests.netns.dhcp import Clients, numbered
from tests.netns.lab import PROJECT, LabError
from tests.waiting import wait_until

pytestmark = pytest.mark.tools

FACTS = Facts(segment=draw_segment(random.Random(4).randbytes), stand_in="5e" * 32)
ACCESS_POINT = "country = 'DE'\naccess_point = true\nhostname = 'gate'\n"
FIXED = "10.42.70.1"
SEGMENT = str(FACTS.segment.ipv4.ip)
#: Settings, the file of dnsmasq, its interface and the address there.
SITES = {
    "access point": (ACCESS_POINT, "phones.conf", "wifi0", f"{FIXED}/19"),
    "access point with internet": (ACCESS_POINT + "uplink_forwarding = true\n", "phones.conf", "wifi0", f"{FIXED}/19"),
    "cable": ("hostname = 'gate'\n", "segment.conf", "eth0", f"{SEGMENT}/20"),
    "cable with internet": (ACCESS_POINT + "uplink_forwarding = true\n", "segment.conf", "eth0", f"{SEGMENT}/20"),
    "bridge": (ACCESS_POINT + "lan_bridge = true\n", "segment.conf", "br-mesh", f"{SEGMENT}/20"),
}
#: Where dnsmasq is told to look for the internet's name servers.
UPSTREAM = Path("/run/systemd/resolve/resolv.conf")
RESOLVER = """
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(int count, char **names) {
    for (int at = 1; at < count; at++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
        int code = getaddrinfo(names[at], "80", &hints, &found);
        char text[64] = "";
        if (!code) getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        printf("%s %s\\n", names[at], code ? gai_strerror(code) : text);
    }
}
"""
#: Looks all hosts up and visits them, as a system that checks does, and prints what it got.
VISITOR = """
import http.client, json, socket, sys
found = []
for host, path in json.load(sys.stdin):
    address = socket.getaddrinfo(host, 80, socket.AF_INET)[0][4][0]
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    found.append([address, answer.status, dict(answer.getheaders()), answer.read().decode()])
json.dump(found, sys.stdout)
"""
PORTAL = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "relay", "portal"])
"""


class Site:
    """A relay that serves a segment, and a phone on it. ``dnsmasq``: its process."""

    def __init__(self, lab, name):
        settings, file, interface, address = SITES[name]
        self.address = address.partition("/")[0]
        segment = lab.segment()
        self.box = lab.box("relay", has_ipv4=False)
        self.box.plug(segment, interface).address("add", address)
        self.phone = lab.box("phone", segment, has_ipv4=False)
        plan = make_plan(check(f"[appliance]\n{settings}".encode(), Path("relay.toml")), FACTS)
        for made in plan.files:
            (self.box.folder / made.path.name).write_bytes(made.content)
        self.box.run("nft", "-f", str(self.box.folder / "nftables.conf"))
        # As relay-phones@.service and relay-dhcp@.service do.
        self.dnsmasq = self.box.start(
            "dnsmasq", "--keep-in-foreground", f"--conf-file={self.box.folder / file}", f"--interface={interface}",
            "--pid-file=", "--user=", "--log-facility=-",
        )  # fmt: skip
        self._resolver = self.phone.folder / "resolv.conf"
        self._resolver.write_text(f"nameserver {self.address}\n")
        # No multicast DNS and no /etc/hosts: names come from the relay, or not at all.
        (self.phone.folder / "nsswitch.conf").write_text("hosts: dns\n")

    def settle(self):
        """Give the phone an address, and wait until the relay answers about names."""
        network = ip_network(f"{self.address}/19", strict=False)
        self.phone.ports["eth0"].address("add", f"{network[-9]}/{network.prefixlen}")
        wait_until("dnsmasq answers", self._is_answered, 10)

    def _is_answered(self):
        try:
            return "status: NOERROR" in self.dig("relay.local", "A")
        except LabError:
            # Refused: it has not bound the address yet.
            return False

    def dig(self, name, kind):
        return self.phone.run("dig", "+tries=3", "+timeout=2", f"@{self.address}", name, kind)

    def resolving(self, *command):
        """A command whose C library asks the relay for names."""
        here = self.phone.folder
        script = (
            "target=$(readlink -m /etc/resolv.conf); mkdir -p ${target%/*}; [ -e $target ] || touch $target; "
            f"mount --bind {here}/resolv.conf $target; mount --bind {here}/nsswitch.conf /etc/nsswitch.conf; "
            'exec "$@"'
        )
        return ("unshare", "--mount", "sh", "-ec", script, "resolving", *command)

    def open_portal(self):
        """Run `relay portal` on port 80, as systemd does when the first phone asks."""
        listening = self.box.socket(socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("", 80))
        listening.listen(128)
        self.box.python("-c", PORTAL, str(listening.fileno()), pass_fds=(listening.fileno(),))
        listening.close()

    def visit(self, questions):
        """Have the phone ask each host for a path; return address, status, headers and body of each."""
        process = self.phone.start(
            *self.resolving(sys.executable, "-c", VISITOR), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        out, _ = process.communicate(json.dumps(questions), timeout=60)
        assert process.returncode == 0
        return json.loads(out)

    def dropped(self):
        """How many questions for addresses the packet filter dropped, by its reasons."""
        found = json.loads(self.box.run("nft", "-j", "list", "counters"))["nftables"]
        return {row["counter"]["name"]: row["counter"]["packets"] for row in found if "counter" in row}

    def told(self):
        """The same as `relay net` reads it, for the metrics."""
        code = "import asyncio, json, relay.net.refusals as r; print(json.dumps(asyncio.run(r.read_refusals())))"
        process = self.box.python("-c", code, stdout=subprocess.PIPE)
        return json.loads(process.communicate(timeout=20)[0])


@pytest.fixture(scope="module")
def musl(tmp_path_factory):
    """A program that looks names up with musl, as those of Alpine, postmarketOS and many routers do."""
    folder = tmp_path_factory.mktemp("musl")
    (folder / "look.c").write_text(RESOLVER)
    subprocess.run(["musl-gcc", "-static", "-o", folder / "look", folder / "look.c"], check=True)
    return str(folder / "look")


@contextlib.contextmanager
def upstream(lab, site):
    """The internet's name server: it knows nothing, and writes down what it was asked."""
    segment = lab.segment()
    site.box.plug(segment, "wan0").address("add", "192.0.2.2/24")
    server = lab.box("upstream", has_ipv4=False)
    server.plug(segment, "eth0").address("add", "192.0.2.1/24")
    log = server.folder / "log"
    # The answers come back by another interface than those in the rules.
    site.box.run("nft", "insert rule inet relay input iifname wan0 accept")
    server.start(
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--address=/#/",
        "--pid-file=", "--user=", "--log-queries", f"--log-facility={log}",
    )  # fmt: skip
    yield log


@pytest.mark.parametrize("name", SITES)
def test_a_name_with_an_address_exists_whatever_is_asked_about_it(lab, musl, name):
    """To AAAA or HTTPS, "no such name" is an answer about the name as a whole (RFC 8020), and musl takes it so."""
    UPSTREAM.parent.mkdir(parents=True, exist_ok=True)
    UPSTREAM.write_text("nameserver 192.0.2.1\n")
    site = Site(lab, name)
    with upstream(lab, site) if "internet" in name else contextlib.nullcontext() as log:
        site.settle()
        names = ["relay.local", "gate.local"]
        if name in {"access point", "bridge"}:
            names.append("connectivitycheck.gstatic.com")
            found = site.dig("dns.msftncsi.com", "AAAA")
            assert "fd3e:4f5a:5b81::1" in found
            assert "131.107.255.255" in site.dig("dns.msftncsi.com", "A")
        for asked in names:
            assert f"{asked}." in site.dig(asked, "A")
            assert site.address in site.dig(asked, "A")
            for kind in ("AAAA", "HTTPS", "MX"):
                found = site.dig(asked, kind)
                assert "status: NOERROR" in found, found
                assert "ANSWER: 0" in found, found
        assert "status: NXDOMAIN" in site.dig("example.com", "A")
        for program in ((musl,), ("getent", "ahosts")):
            for asked in names:
                assert site.address in site.phone.run(*site.resolving(*program, asked)), program
        if log:
            text = log.read_text()
            assert "example.com" in text
            assert not any(asked in text for asked in names)


# Connectivity checks


def test_each_system_of_the_table_gets_what_it_wants_and_a_host_of_none_never_a_login_page(lab):
    table = tomllib.loads(checks.TABLE.read_text())["check"]
    questions = [
        (host, path if path != "*" else "/", row) for row in table for host in row["hosts"] for path in row["paths"]
    ]
    site = Site(lab, "access point")
    site.open_portal()
    site.settle()
    found = site.visit([(host, path) for host, path, _ in questions])
    for (host, path, row), (address, status, headers, body) in zip(questions, found, strict=True):
        assert address == FIXED, host
        assert (status, body) == (row.get("status", 200), row.get("body", "")), (host, path)
        assert headers.items() >= row.get("headers", {}).items(), host
        assert row["source"], row["system"]

    # What NetworkManager makes of it, by its rules; by the program itself below.
    for uri, response in DISTRIBUTIONS:
        host, path = uri.removeprefix("http://").split("/", 1)
        ((_, status, headers, body),) = site.visit([(host, f"/{path}")])
        assert network_manager(response, status, headers, body) == "full", uri
        # By the page itself, as other programs read it, where it has one.
        assert status == 204 or network_manager(response, status, {}, body) == "full", uri

    # Hosts of no table: there is no such name, and who asks all the same gets no page to log in.
    for host in ("connectivitycheck.example.com", "example.com", "use-application-dns.net", "mask.icloud.com"):
        assert "status: NXDOMAIN" in site.dig(host, "A")
    for host, path, status in (
        ("check.example.com", "/generate_204_f9", 204),
        ("check.example.com", "/hotspot-detect.html", 200),
        ("check.example.com", "/", 404),
        ("check.example.com", "/nm/status", 404),
        # All that is below a host of the table leads here, too.
        ("www.nmcheck.gnome.org", "/", 200),
    ):
        answer = ask(site, host, path)
        assert answer[0] == status, (host, path)
        assert b"Mesh relay" not in answer[2]
        # The least that any settings of NetworkManager make of it.
        assert network_manager("anything", *answer) == "full"
    for host in (FIXED, "relay.local", "gate.local:80", ""):
        assert b"Mesh relay" in ask(site, host, "/")[2]
    # Nobody waits for a check by HTTPS, which nobody here can answer.
    start = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        site.phone.connect(FIXED, 443)
    assert time.monotonic() - start < 1


#: Settings of [connectivity] as packages bring them: the address, and the answer that is wanted (NetworkManager's own
#: where they name none). Sources: checks.toml.
DEFAULT = "NetworkManager is online"
DISTRIBUTIONS = (
    ("http://nmcheck.gnome.org/check_network_status.txt", DEFAULT),
    ("http://network-test.debian.org/nm", DEFAULT),
    ("http://connectivity-check.ubuntu.com./", DEFAULT),
    ("http://fedoraproject.org/static/hotspot.txt", "OK"),
    ("http://ping.archlinux.org/nm-check.txt", DEFAULT),
    ("http://ping.manjaro.org/check_network_status.txt", DEFAULT),
    ("http://conncheck.opensuse.org/", DEFAULT),
    ("http://networkcheck.kde.org/", "OK"),
    ("http://connectivity-check.ubuntu.com/", ""),
)


def network_manager(response, status, headers, body):
    """What NetworkManager 1.36 makes of an answer (src/core/nm-connectivity.c): its rules, not the program."""
    body = body.encode() if isinstance(body, str) else body
    if headers.get("X-NetworkManager-Status", "").startswith("online"):
        return "full"
    if not response:
        return "full" if status == 204 or (status == 200 and not body) else "portal"
    return "full" if body.startswith(response.encode()) else "portal"


#: A laptop: Debian's NetworkManager on the phone's cable, in a root of its own that is gone afterwards. Without udev,
#: as in a container, it takes the interface at once. Prints a line for each of the settings in [connectivity].
LAPTOP = """
tree=$1 server=$2; shift 2
here=/run/laptop; mkdir -p $here/up $here/work $here/root
mount -t overlay overlay -o lowerdir=$tree,upperdir=$here/up,workdir=$here/work $here/root
cd $here/root
mount -t proc proc proc; mount -t sysfs -o ro sysfs sys; mount --rbind /dev dev; mount -t tmpfs tmpfs run
rm -f etc/resolv.conf; echo "nameserver $server" >etc/resolv.conf; echo "hosts: dns" >etc/nsswitch.conf
rm -rf etc/NetworkManager; mkdir -p run/dbus etc/NetworkManager/conf.d
printf '%s\n' [main] plugins=keyfile dns=none dhcp=internal [keyfile] unmanaged-devices=none \
    [device-all] match-device=* managed=1 >etc/NetworkManager/NetworkManager.conf
settings() { printf '%s\n' [connectivity] "uri=$1" "response=$2" interval=300 >etc/NetworkManager/conf.d/a.conf; }
settings "$1" "$2"
chroot . dbus-daemon --system --fork
chroot . NetworkManager --no-daemon >&2 &
for try in $(seq 100); do
    chroot . nmcli -t -f DEVICE,STATE device 2>&1 | grep -q 'eth0:connected' && break
    sleep 0.2
done
while [ $# -gt 0 ]; do
    settings "$1" "$2"; shift 2
    chroot . nmcli general reload conf
    chroot . nmcli networking connectivity check
done
"""


def test_networkmanager_is_content_with_what_each_distribution_asks(lab):
    """And of a host that is in no table it says "limited", which opens no login window, not "portal"."""
    tree = subprocess.run([PROJECT / ".ci/guest-tree"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    site = Site(lab, "access point")
    site.open_portal()
    asked = [*DISTRIBUTIONS, ("http://check.example.com/", DEFAULT)]
    alone = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
    found = subprocess.run(
        ["ip", "netns", "exec", site.phone.namespace, *alone, "sh", "-ec", LAPTOP, "laptop", tree, FIXED,
         *(word for settings in asked for word in settings)],
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-4000:]
    assert found.stdout.split() == ["full"] * len(DISTRIBUTIONS) + ["limited"], found.stderr[-4000:]


def ask(site, host, path):
    connection = http.client.HTTPConnection(FIXED)
    connection.sock = site.phone.connect(FIXED, 80)
    connection.putrequest("GET", path, skip_host=True)
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


# Addresses


@pytest.mark.parametrize("name", ["access point", "bridge"])
def test_a_crowd_that_comes_at_once_gets_its_addresses_in_seconds(lab, name):
    """It took 19 s, in which nobody else was served, and the 241st got nothing for half an hour."""
    site = Site(lab, name)
    site.settle()
    with Clients(site.phone) as clients:
        start = time.monotonic()
        leases = clients.ask([numbered(number) for number in range(190)], 10)
        took_s = time.monotonic() - start
        assert len(leases) == 190
        assert len({lease.address for lease in leases.values()}) == 190
        for lease in leases.values():
            assert (lease.router, lease.seconds) == (site.address, 600)
            assert ip_address(lease.address) in ip_network(f"{site.address}/{lease.mask}", strict=False)
        print(f"{name}: 190 addresses in {took_s:.1f} s")
        # Whoever has one keeps it, however many come.
        (client, lease), *_ = leases.items()
        assert clients.ask([client], 5)[client].address == lease.address


def test_nobody_takes_all_addresses_by_making_up_clients_or_changing_his_own(lab):
    site = Site(lab, "access point")
    site.settle()
    with Clients(site.phone) as clients:
        # A thousand clients behind one hardware address: an access point lets no frame pass from any other.
        liar = numbered(1 << 20)
        made_up = clients.ask([numbered(number) for number in range(1000)], 4, frame=liar)
        assert len(made_up) <= 5
        # Who has an address and so a connection to the server gets no further by it, nor by odd hardware.
        other = numbered(1 << 22)
        (lease,) = clients.ask([other], 5).values()
        before = site.dropped()
        for number in range(2000, 2100):
            clients.renew(other, lease, FIXED)
            clients.renew(numbered(number), lease, FIXED, frame=other)
            clients.send(1, numbered(1), frame=other, length=7 + number % 9)
        wait_until("they are dropped", lambda: site.dropped()["dhcp_other_hardware"] >= 100, 5)
        assert site.dropped()["dhcp_too_often"] >= before["dhcp_too_often"] + 100
        # A laptop that takes another hardware address for each question; a radio takes longer for each than a cable.
        start = time.monotonic()
        changing = clients.ask([numbered(number) for number in range(10_000, 14_000)], 6, again=False)
        took_s = time.monotonic() - start
        assert len(changing) <= 200 + 3 * (took_s + 1)
        dropped = site.dropped()
        assert site.told() == dropped
        assert all(dropped[f"dhcp_{reason}"] for reason in ("too_often", "newcomers", "crowd")), dropped
        # A phone asks again, as all do, and has its address.
        phone = numbered(1 << 21)
        start = time.monotonic()
        assert phone in clients.ask([phone], 20)
        print(f"after {len(changing)} of 4,000: a phone has its address {time.monotonic() - start:.1f} s later")
