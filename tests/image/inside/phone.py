# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: INP001 - a program for a guest, not part of a package
"""What a phone does when it has joined a network: asks for an address, names, and whether there is internet."""

import fcntl
import http.client
import socket
import struct
import subprocess

INTERFACE = "wlan1"
FIXED = "10.42.70.1"
ROUTER, DNS, KIND = 3, 6, 53


def hardware_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, 0x8927, INTERFACE.encode().ljust(40, b"\0"))[18:24]


def dhcp(kind, requested=b""):
    """One question and its answer (RFC 2131): the address and the options."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, INTERFACE.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind(("", 68))
        sock.settimeout(10)
        header = struct.pack("!BBBBIHH16x16s192x4s", 1, 1, 6, 0, 7, 0, 0x8000, hardware_address(), b"\x63\x82\x53\x63")
        wanted = bytes((55, 3, 1, ROUTER, DNS))
        sock.sendto(header + bytes((KIND, 1, kind)) + wanted + requested + b"\xff", ("255.255.255.255", 67))
        answer = sock.recv(2000)
    options = {}
    at = 240
    while answer[at] != 255:
        options[answer[at]] = answer[at + 2 : at + 2 + answer[at + 1]]
        at += 2 + answer[at + 1]
    return answer[16:20], options


def lookup(name):
    """The address that the relay's name server gives (RFC 1035)."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1), (FIXED, 53))
        answer = sock.recv(2000)
    return socket.inet_ntoa(answer[-4:]) if answer[3] & 15 == 0 and answer[7] else "unknown"


def main():
    address, offered = dhcp(1)
    own = socket.inet_ntoa(address)
    print("router", socket.inet_ntoa(offered[ROUTER]))
    print("dns", socket.inet_ntoa(offered[DNS]))
    address, options = dhcp(3, bytes((50, 4)) + address + bytes((54, 4)) + offered[54])
    assert options[KIND] == b"\x05", "not acknowledged"
    subprocess.run(["ip", "address", "add", f"{own}/24", "dev", INTERFACE], check=True)
    subprocess.run(["ip", "route", "add", "default", "via", FIXED], check=True)
    for name in ("connectivitycheck.gstatic.com", "relay.local", "example.com"):
        print(name, "is", lookup(name))
    for path in ("/generate_204", "/hotspot-detect.html"):
        connection = http.client.HTTPConnection(FIXED, timeout=20)
        connection.request("GET", path)
        print(path, connection.getresponse().status)
    for port in (4270, 9470, 22):
        try:
            socket.create_connection((FIXED, port), timeout=3).close()
            print(port, "open")
        except OSError:
            print(port, "closed")


main()
