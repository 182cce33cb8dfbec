# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs beside a relay, by TCP on loopback: a stream of envelopes into it, and what it holds.

stream.py put    puts envelopes one after the other, for ever; a relay that is gone is waited for, and what it did
                 not acknowledge is put again. Prints the ID of each that it acknowledged.
stream.py held   prints the ID of each that the relay holds.
"""

import itertools
import socket
import sys
import time

from tests.netns.rawclient import RawClient, identity, make_envelopes

#: So many to a put, and a pause: some twenty a second, which is more than a chat and less than a file.
BATCH = 5
PAUSE_S = 0.1


def connect():
    return RawClient(socket.create_connection(("127.0.0.1", 4270)))


def put():
    client = None
    for number in itertools.count():
        envelopes = make_envelopes(number, BATCH)
        while True:
            try:
                if client is None:
                    client = connect()
                client.put(envelopes)
            except (OSError, AssertionError):
                # Killed, or just being started.
                if client is not None:
                    client.sock.close()
                    client = None
                time.sleep(PAUSE_S)
            else:
                break
        print(*(identity(envelope).hex() for envelope in envelopes), sep="\n", flush=True)
        time.sleep(PAUSE_S)


def held():
    with connect() as client:
        print(*(identity(envelope).hex() for envelope in client.fetch_all()), sep="\n")


if __name__ == "__main__":
    {"put": put, "held": held}[sys.argv[1]]()
