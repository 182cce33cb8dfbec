# SPDX-License-Identifier: GPL-2.0-or-later
"""Who hears whom, how well and how fast: advertisements, connection requests, and connections with their queues."""

from __future__ import annotations

import asyncio
import logging
import random

from tests.radio.air import capture

#: What a data packet of the LE 1M PHY carries around its payload, with the other side's acknowledgement and the two
#: pauses, in bytes of 8 microseconds (Core Specification, volume 6, part B, section 4.1).
OVERHEAD_BYTES = 10 + 10 + 2 * 19
#: Sleeping costs more than this precision gains.
GRAIN_S = 0.002
#: The host asks for other values; before that, a connection interval (in units of 1.25 ms) as phones choose it.
INTERVAL_UNIT_S = 0.00125
TIMEOUT_UNIT_S = 0.01


class Medium:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.capture = capture.Capture()
        self.radios = {}
        #: Share of packets that arrive spoilt. Advertisements are then missed, data is sent again.
        self.loss = 0.0
        #: From the end of a packet until the host gets it.
        self.latency_s = 0.0
        #: Bytes a second of all connections together; None for no limit.
        self.bytes_per_s = None
        # (speaker, listener); None: everybody hears everybody.
        self._heard = None
        self._connections = set()
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    # -- who hears whom ---------------------------------------------------

    def set_heard(self, pairs):
        """(speaker, listener) names that are in range; None for all."""
        self._heard = None if pairs is None else {tuple(pair) for pair in pairs}
        self.range_changed()

    def range_changed(self):
        """Have the connections look whether their ends still hear each other."""
        for connection in list(self._connections):
            connection.range_changed()

    def hears(self, speaker, listener):
        in_range = self._heard is None or (speaker.name, listener.name) in self._heard
        return in_range and speaker.plugged and listener.plugged

    def receives(self, speaker, listener):
        """Whether one packet arrives."""
        return self.hears(speaker, listener) and self.rng.random() >= self.loss

    # -- advertising ------------------------------------------------------

    def advertise(self, speaker, advertiser):
        """One advertisement, the scan requests and the connection request that answer it."""
        if not speaker.plugged:
            return
        self.capture.advertisement(advertiser.kind, advertiser.address, advertiser.data)
        listeners = [radio for radio in self.radios.values() if radio is not speaker and self.receives(speaker, radio)]
        # Of several that want to connect the first one wins; let it be another each time.
        self.rng.shuffle(listeners)
        for listener in listeners:
            listener.heard(advertiser)
            if not advertiser.scannable or not listener.scans_actively(advertiser.address):
                continue
            self.capture.scan_request(listener.scan_address, advertiser.address)
            if self.receives(listener, speaker):
                self.capture.advertisement(capture.SCAN_RSP, advertiser.address, advertiser.scan_response)
                if self.receives(speaker, listener):
                    listener.heard_response(advertiser)
        for listener in listeners:
            if advertiser.connectable and listener.initiates_to(advertiser.address):
                request = listener.initiation()
                address = self.rng.getrandbits(32)
                self.capture.connect_indication(
                    request.own_address,
                    advertiser.address,
                    access_address=address,
                    interval=request.interval,
                    latency=request.latency,
                    timeout=request.timeout,
                )
                # If it is lost the initiator goes on and takes a later advertisement.
                # Nor has it two connections with one address, though it be under two of its own.
                has_room = speaker.has_room and listener.has_room and not speaker.is_connected_to(request.own_address)
                if self.receives(listener, speaker) and has_room:
                    self._connect(listener, speaker, advertiser, request, address)
                break

    def _connect(self, central, peripheral, advertiser, request, access_address):
        connection = Connection(self, access_address, request.interval, request.timeout)
        self._connections.add(connection)
        # The advertiser's address, before the host may give it another one.
        advertised = advertiser.address
        peripheral.connected_as_peripheral(connection, advertiser, request)
        central.connected_as_central(connection, advertised, request)

    def closed(self, connection):
        self._connections.discard(connection)

    # -- airtime ----------------------------------------------------------

    async def transmit(self, size_bytes):
        """Take the air for one packet; in turn, so no connection gets more of it than another."""
        if self.bytes_per_s is None:
            await asyncio.sleep(0)
            return
        async with self._turn:
            if (bytes_per_s := self.bytes_per_s) is None:
                # The limit was lifted while this one waited.
                return
            now = asyncio.get_running_loop().time()
            self._free_at = max(self._free_at, now) + (size_bytes + OVERHEAD_BYTES) / bytes_per_s
            if self._free_at - now > GRAIN_S:
                await asyncio.sleep(self._free_at - now)
            else:
                await asyncio.sleep(0)


class Connection:
    """Two ends that send packets to each other, in order and without loss, until one has not been heard too long."""

    def __init__(self, medium, access_address, interval, timeout):
        self._medium = medium
        self.access_address = access_address
        self.ends = []
        self._directions = []
        self._in_range = asyncio.Event()
        self._in_range.set()
        self._timer = None
        self._abandoned = False
        self.update(interval, timeout)

    def update(self, interval, timeout):
        """New parameters, in the units of HCI: 1.25 ms and 10 ms."""
        self.interval_s = interval * INTERVAL_UNIT_S
        self.timeout_s = timeout * TIMEOUT_UNIT_S

    def add_end(self, end):
        """The peripheral first. An end has ``radio``, ``receive(packet)`` and ``lost()``."""
        self.ends.append(end)
        if len(self.ends) == 2:
            peripheral, central = self.ends
            self._directions = [
                Direction(self._medium, self, peripheral, central, from_central=False),
                Direction(self._medium, self, central, peripheral, from_central=True),
            ]
            self.range_changed()

    def send(self, end, packet, size_bytes, sent):
        """Queue a packet; ``sent()`` is called when the other side has it."""
        self._directions[self.ends.index(end)].put(packet, size_bytes, sent)

    def leave(self, end):
        """One end is gone, without a word: a controller was reset or unplugged."""
        end.gone = True
        self._abandoned = True
        self.range_changed()

    def closed(self, end):
        """One end is closed, and said so in its last packet."""
        end.gone = True
        if all(other.gone for other in self.ends):
            self._close()

    async def wait_in_range(self):
        await self._in_range.wait()

    def range_changed(self):
        first, second = (end.radio for end in self.ends)
        if not self._abandoned and self._medium.hears(first, second) and self._medium.hears(second, first):
            self._in_range.set()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        else:
            self._in_range.clear()
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self.timeout_s, self._lost)

    def _lost(self):
        self._close()
        for end in self.ends:
            if not end.gone:
                end.gone = True
                end.lost()

    def _close(self):
        self._abandoned = True
        if self._timer is not None:
            self._timer.cancel()
        for direction in self._directions:
            direction.cancel()
        self._medium.closed(self)


class Direction:
    """One side's packets to the other."""

    def __init__(self, medium, connection, sender, receiver, *, from_central):
        self._medium = medium
        self._from_central = from_central
        self._connection = connection
        self._sender = sender
        self._receiver = receiver
        self._queue = asyncio.Queue()
        self._arriving = asyncio.Queue()
        self._tasks = [asyncio.ensure_future(self._transmit()), asyncio.ensure_future(self._deliver())]
        for task in self._tasks:
            task.add_done_callback(_report)

    def put(self, packet, size_bytes, sent):
        self._queue.put_nowait((packet, size_bytes, sent))

    def cancel(self):
        # The one that is delivering the last packet, which ends the connection, cancels itself at its next wait.
        for task in self._tasks:
            task.cancel()

    async def _transmit(self):
        loop = asyncio.get_running_loop()
        while True:
            packet, size_bytes, sent = await self._queue.get()
            while True:
                await self._connection.wait_in_range()
                await self._medium.transmit(size_bytes)
                packet.record(self._medium.capture, self._connection.access_address, from_central=self._from_central)
                if self._medium.receives(self._sender.radio, self._receiver.radio):
                    break
                # Not acknowledged: the same again at the next meeting.
                await asyncio.sleep(self._connection.interval_s)
            # A host that does not read its packets has its controller refuse more.
            await self._receiver.radio.wait_writable()
            sent()
            if self._medium.latency_s or not self._arriving.empty():
                self._arriving.put_nowait((loop.time() + self._medium.latency_s, packet))
            else:
                self._receiver.receive(packet)

    async def _deliver(self):
        loop = asyncio.get_running_loop()
        while True:
            due, packet = await self._arriving.get()
            await asyncio.sleep(due - loop.time())
            self._receiver.receive(packet)


def _report(task):
    """Have a mistake of ours fail the test (lab.Air.close), and not just stop a connection."""
    if not task.cancelled() and task.exception() is not None:
        logging.getLogger(__name__).error("a connection's task failed", exc_info=task.exception())
