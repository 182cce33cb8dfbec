# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay, an enemy and an honest phone on one segment, and what has to hold whatever the enemy does."""

import time

from tests.netns.rawclient import RawClient, make_envelopes

#: Python's allocator keeps what a burst took; a leak of what 1,000 connections sent would be more.
GROWTH_MIB = 24


class Scene:
    """A relay, an enemy and an honest phone on one segment."""

    def __init__(self, lab, **sections):
        segment = lab.segment()
        self.box, self.enemy, self.phone = (lab.box(name, segment) for name in ("relay", "enemy", "phone"))
        self.relay = self.box.relay(**sections)
        self.address = self.box.ports["eth0"].ipv4
        self._seed = 100
        self.serves()
        self.note_memory()

    def note_memory(self):
        """From now on growth counts."""
        self._memory_mib = self.relay.memory_mib()[0]

    def serves(self, timeout_s=5.0):
        """Prove that the honest phone can put and fetch."""
        self._seed += 1
        began = time.monotonic()
        with RawClient(self.phone.connect(self.address)) as client:
            client.put(make_envelopes(self._seed, 3), timeout_s)
        took_s = time.monotonic() - began
        assert took_s < timeout_s, f"served after {took_s:.1f} s"

    def failures(self, reason):
        return self.relay.status()["totals"]["handshake_failures"][reason]

    def assert_memory_is_bounded(self):
        now, most = self.relay.memory_mib()
        print(f"memory: {self._memory_mib:.1f} MiB before, {now:.1f} MiB now, {most:.1f} MiB at most")
        assert most < self._memory_mib + GROWTH_MIB
