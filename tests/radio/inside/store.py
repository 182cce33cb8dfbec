# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs beside a relay: puts envelopes into it, or says what it holds, by TCP on loopback.

``put HOUR SEED COUNT SIZE`` puts, to expire in that hour since 1970. ``check HOUR SEED COUNT SIZE...`` (three numbers
for each lot) fetches everything and compares every byte with what was put; prints ``all COUNT`` and how many others
there are: ``others COUNT``.
"""

import socket
import sys

from tests.netns.rawclient import RawClient, make_envelopes


def main(verb, hour, *numbers):
    lots = [make_envelopes(*lot, expiry_hour=int(hour)) for lot in zip(*[iter(map(int, numbers))] * 3, strict=True)]
    with RawClient(socket.create_connection(("127.0.0.1", 4270))) as client:
        if verb == "put":
            for lot in lots:
                client.put(lot)
            return
        held = client.fetch_all()
        assert len(held) == len(set(held)), "twice the same"
        wanted = {envelope for lot in lots for envelope in lot}
        print(f"all {len(wanted & set(held))} others {len(set(held) - wanted)}")


main(*sys.argv[1:])
