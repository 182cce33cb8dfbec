# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that knows nothing of relays: offers a file by multicast DNS, or finds such an offer and fetches it.

app.py offer NAME SEED BYTES   for ever
app.py fetch NAME              prints one line of JSON: found_s, seconds, bytes, sha256

Any of a thousand programs would do; this one speaks plain TCP over link-local IPv6, on eth0.
"""

import hashlib
import json
import queue
import random
import socket
import sys
import tempfile
import time
from pathlib import Path

from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

TYPE = "_files-to-go._tcp.local."
INTERFACE = "eth0"
PIECE_BYTES = 1 << 20
PATIENCE_S = 200


def open_zeroconf():
    return Zeroconf(interfaces=[socket.if_nametoindex(INTERFACE)], ip_version=IPVersion.V6Only)


def own_address():
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, _, _, scope, _, name = line.split()
        if name == INTERFACE and scope == "20":
            return bytes.fromhex(digits)
    raise SystemExit(f"{INTERFACE} has no link-local address")


def offer(name, seed, size):
    source = random.Random(seed)
    with (
        tempfile.TemporaryFile() as file,
        socket.create_server(("::", 0), family=socket.AF_INET6) as server,
        open_zeroconf() as zeroconf,
    ):
        for start in range(0, size, PIECE_BYTES):
            file.write(source.randbytes(min(PIECE_BYTES, size - start)))
        file.flush()
        info = ServiceInfo(
            TYPE,
            f"{name}.{TYPE}",
            port=server.getsockname()[1],
            addresses=[own_address()],
            server=f"{name}.local.",
        )
        zeroconf.register_service(info)
        print("offered", flush=True)
        while True:
            stream, _ = server.accept()
            with stream:
                stream.sendfile(file)


def fetch(name):
    began = time.monotonic()
    found = queue.Queue()

    def changed(*, zeroconf, service_type, name, state_change):  # noqa: ARG001 - zeroconf names them
        if state_change is ServiceStateChange.Added:
            found.put(name)

    with open_zeroconf() as zeroconf:
        browser = ServiceBrowser(zeroconf, TYPE, handlers=[changed])
        while (seen := found.get(timeout=PATIENCE_S)) != f"{name}.{TYPE}":
            pass
        info = zeroconf.get_service_info(TYPE, seen, PATIENCE_S * 1000)
        browser.cancel()
        (address,) = info.parsed_addresses()
        found_s = time.monotonic() - began
    digest = hashlib.sha256()
    received = 0
    piece = memoryview(bytearray(PIECE_BYTES))
    began = time.monotonic()
    with socket.create_connection((f"{address}%{INTERFACE}", info.port), PATIENCE_S) as stream:
        while size := stream.recv_into(piece):
            digest.update(piece[:size])
            received += size
    seconds = time.monotonic() - began
    print(json.dumps({"found_s": found_s, "seconds": seconds, "bytes": received, "sha256": digest.hexdigest()}))


if sys.argv[1] == "offer":
    offer(sys.argv[2], *map(int, sys.argv[3:]))
else:
    fetch(sys.argv[2])
