# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts and measures, told to `relay run` while there is one (docs/links.md section 3)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from relay.links.components import REPORT_INTERVAL_S, REPORT_LEAST_S, Component, Reporter
from relay.service.supervisor import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: relay run may be away for days; a connection to nobody costs nothing.
_MAX_DELAY_S: Final = 20.0


class Reporting:
    """What there is to report."""

    def __init__(self, *, ports: int = 0) -> None:
        """``ports``: how many interfaces the bridge is to have."""
        self._reporter = Reporter(Component.NET)
        self._ports = 0
        self._wanted_ports = ports
        self._radios: dict[str, int | None] = {}
        self._changed = asyncio.Event()

    def count(self, event: str, amount: int = 1) -> None:
        """Count an event."""
        if amount:
            self._reporter.count(event, amount)
            self._changed.set()

    def radio(self, name: str, peers: int | None) -> None:
        """Note a configured radio and how many neighbours it has; None while it has not joined."""
        self._radios[name] = peers
        joined = [count for count in self._radios.values() if count is not None]
        self._reporter.gauge("radios", len(self._radios))
        self._reporter.gauge("radios_up", len(joined))
        self._reporter.gauge("mesh_peers", sum(joined))
        self._weigh()

    def ports(self, count: int) -> None:
        """Note how many interfaces are in the bridge."""
        self._ports = count
        self._reporter.gauge("bridge_ports", count)
        self._weigh()

    def _weigh(self) -> None:
        self._reporter.up = None not in self._radios.values() and self._ports == self._wanted_ports
        self._changed.set()

    @property
    def summary(self) -> str:
        """For `systemctl status`."""
        joined = [count for count in self._radios.values() if count is not None]
        return f"{len(joined)} of {len(self._radios)} radios joined, {sum(joined)} neighbours"

    async def run(self, path: Path, random: Callable[[], float]) -> None:
        """Report for ever to the socket at ``path``, whenever somebody listens there."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(random, max_s=_MAX_DELAY_S)
        while True:
            began = loop.time()
            with contextlib.suppress(OSError):
                await self._connection(path)
            await asyncio.sleep(backoff.next(ran_s=loop.time() - began))

    async def _connection(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_unix_connection(path)
        # Nothing is told to us; an end of file is the end, and wakes whoever waits for something to report.
        ended = asyncio.create_task(reader.read())
        ended.add_done_callback(lambda _: self._changed.set())
        try:
            writer.write(self._reporter.preamble())
            self._reporter.connected()
            while not ended.done():
                self._changed.clear()
                if line := self._reporter.line(loop.time()):
                    writer.write(line)
                    await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REPORT_INTERVAL_S):
                        await self._changed.wait()
                await asyncio.sleep(REPORT_LEAST_S)
        finally:
            ended.cancel()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
