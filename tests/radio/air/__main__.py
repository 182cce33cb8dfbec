# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tests.radio.air FD SEED``: runs until the other end of the socket FD closes.

FD is a SOCK_SEQPACKET Unix socket. Each packet is an order, a JSON object with ``do`` and its arguments; each is
answered by one packet, ``{}`` or ``{"error": text}``.

==========  ========================================================================================================
add         a controller ``name`` with public ``address`` and at most ``links`` connections; its serial line comes
            along as a file descriptor (SCM_RIGHTS)
unplug      ``name`` falls silent; its connections break when they are missed
plug        ``name`` is there again, with ``address``
remove      ``name`` and its line
heard       ``pairs`` of [speaker, listener] that are in range; null: all. Breaks connections after their timeout
conditions  ``loss`` (0 to 1), ``latency_s``, ``bytes_per_s`` (null: no limit)
record      what is on the air goes to the pcap file ``path`` from now on; null: no more
flush       the file holds all there was
==========  ========================================================================================================
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import traceback

from tests.radio.air.medium import Medium
from tests.radio.air.radio import DEFAULT_LINKS, Radio

#: An order with all pairs of thirty radios fits.
ORDER_BYTES = 65536


class Orders:
    def __init__(self, medium):
        self._medium = medium

    async def obey(self, order, fds):
        do = order.pop("do")
        await getattr(self, f"do_{do}")(*fds, **order)

    async def do_add(self, fd, *, name, address, links=DEFAULT_LINKS):
        radio = Radio(self._medium, name, address, links=links)
        await asyncio.get_running_loop().create_connection(lambda: radio, sock=socket.socket(fileno=fd))
        self._medium.radios[name] = radio

    async def do_unplug(self, *, name):
        self._medium.radios[name].unplug()

    async def do_plug(self, *, name, address):
        self._medium.radios[name].plug(address)

    async def do_remove(self, *, name):
        self._medium.radios.pop(name).close()

    async def do_heard(self, *, pairs):
        self._medium.set_heard(pairs)

    async def do_conditions(self, *, loss, latency_s, bytes_per_s):
        self._medium.loss = loss
        self._medium.latency_s = latency_s
        self._medium.bytes_per_s = bytes_per_s

    async def do_record(self, *, path):
        if path is None:
            self._medium.capture.close()
        else:
            self._medium.capture.open(path)

    async def do_flush(self):
        self._medium.capture.flush()


async def main(fd, seed):
    logging.basicConfig(level=logging.WARNING)
    medium = Medium(seed)
    orders = Orders(medium)
    control = socket.socket(fileno=fd)
    control.setblocking(False)
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(control, readable.set)
    while True:
        await readable.wait()
        readable.clear()
        try:
            data, fds, _flags, _address = socket.recv_fds(control, ORDER_BYTES, 1)
        except BlockingIOError:
            # Was told twice about the last one.
            continue
        if not data:
            break
        try:
            await orders.obey(json.loads(data), fds)
            answer = {}
        except Exception:  # noqa: BLE001 - the test shall see it
            answer = {"error": traceback.format_exc()}
        await loop.sock_sendall(control, json.dumps(answer).encode())
    medium.capture.close()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
