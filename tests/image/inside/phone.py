# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: INP001 - a program for a guest, not part of a package
"""What a phone does on a network.

``phone.py INTERFACE join`` asks for an address, for names, and whether there is internet, and prints what it got.
``phone.py INTERFACE survey`` prints all who serve the network: ``dhcp``, ``ra`` and ``name``, and their address.
"""

import fcntl
import http.client
import select
import socket
import struct
import subprocess
import sys
import time

FIXED = "10.42.70.1"
MASK, ROUTER, DNS, KIND, SERVER = 1, 3, 6, 53, 54
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
#: A server that has just been started may miss the first question.
SURVEY_S = 10
ASK_AGAIN_S = 3
TRIES = 5
MDNS = ("224.0.0.251", 5353)


def hardware_address(interface):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, 0x8927, interface.encode().ljust(40, b"\0"))[18:24]


def dhcp_socket(interface):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.bind(("", 68))
    sock.settimeout(5)
    return sock


def ask_dhcp(sock, interface, kind, more=b""):
    """Send a question (RFC 2131); the answer is to be sent to everybody."""
    header = struct.pack(
        "!BBBBIHH16x16s192x4s", 1, 1, 6, 0, 7, 0, 0x8000, hardware_address(interface), b"\x63\x82\x53\x63"
    )
    wanted = bytes((55, 3, 1, ROUTER, DNS))
    sock.sendto(header + bytes((KIND, 1, kind)) + wanted + more + b"\xff", ("255.255.255.255", 67))


def answer_to(sock, interface, kind, wanted, more=b""):
    """Ask, and ask again, as phones do; return the answer of the kind that is wanted."""
    for _ in range(TRIES):
        ask_dhcp(sock, interface, kind, more)
        try:
            while (answer := read_dhcp(sock.recv(2000)))[1][KIND] != bytes((wanted,)):
                pass
        except TimeoutError:
            continue
        return answer
    sys.exit("nobody hands out addresses")


def read_dhcp(answer):
    """The address and the options."""
    options = {}
    at = 240
    while answer[at] != 255:
        options[answer[at]] = answer[at + 2 : at + 2 + answer[at + 1]]
        at += 2 + answer[at + 1]
    return answer[16:20], options


def question(name):
    """A question for an IPv4 address (RFC 1035)."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)


def lookup(name, server):
    """Ask, and ask again, as phones do; return the address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        for _ in range(TRIES):
            sock.sendto(question(name), (server, 53))
            try:
                answer = sock.recv(2000)
            except TimeoutError:
                continue
            return socket.inet_ntoa(answer[-4:]) if answer[3] & 15 == 0 and answer[7] else "unknown"
    sys.exit(f"{server} does not answer about names")


def is_open(address, port):
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return "closed"
    return "open"


def join(interface):
    with dhcp_socket(interface) as sock:
        address, offered = answer_to(sock, interface, DISCOVER, OFFER)
        wanted = bytes((50, 4)) + address + bytes((SERVER, 4)) + offered[SERVER]
        address, options = answer_to(sock, interface, REQUEST, ACK, wanted)
    router, dns = socket.inet_ntoa(options[ROUTER]), socket.inet_ntoa(options[DNS])
    mask = socket.inet_ntoa(options[MASK])
    print("router", router)
    print("dns", dns)
    subprocess.run(["ip", "address", "add", f"{socket.inet_ntoa(address)}/{mask}", "dev", interface], check=True)
    subprocess.run(["ip", "route", "replace", "default", "via", router], check=True)
    for name in ("connectivitycheck.gstatic.com", "relay.local", "example.com"):
        print(name, "is", lookup(name, dns))
    for path in ("/generate_204", "/hotspot-detect.html"):
        connection = http.client.HTTPConnection(router, timeout=20)
        connection.request("GET", path)
        print(path, connection.getresponse().status)
    for port in (4270, 9470, 22):
        print(port, is_open(router, port))
    print("fixed address", is_open(FIXED, 80))


def router_socket(interface):
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    return sock


def name_socket(interface):
    """For multicast DNS, on the port of all who take part (RFC 6762 section 6)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(MDNS)
    here = struct.pack("@4s4si", socket.inet_aton(MDNS[0]), bytes(4), socket.if_nametoindex(interface))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, here)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
    return sock


def survey(interface):
    with dhcp_socket(interface) as dhcp, router_socket(interface) as routers, name_socket(interface) as names:
        ask = time.monotonic()
        end = ask + SURVEY_S
        found = set()
        while (now := time.monotonic()) < end:
            if now >= ask:
                ask = now + ASK_AGAIN_S
                ask_dhcp(dhcp, interface, DISCOVER)
                routers.sendto(bytes((133,)) + bytes(7), ("ff02::2", 0, 0, socket.if_nametoindex(interface)))
                names.sendto(question("relay.local"), MDNS)
            for sock in select.select([dhcp, routers, names], [], [], min(ask, end) - now)[0]:
                data, (sender, *_) = sock.recvfrom(2000)
                if sock is dhcp:
                    found.add(f"dhcp {socket.inet_ntoa(read_dhcp(data)[1][SERVER])}")
                elif sock is routers and data[0] == 134:
                    found.add(f"ra {sender}")
                elif sock is names and data[2] & 0x80 and b"\x05relay\x05local" in data:
                    # Who says so, and about whom.
                    found.add(f"name {sender}" if data[-4:] == socket.inet_aton(sender) else f"liar {sender}")
    print(*sorted(found), sep="\n")


def main(interface, what):
    {"join": join, "survey": survey}[what](interface)


main(*sys.argv[1:])
