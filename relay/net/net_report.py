# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts and measures, told to `relay run` while there is one (docs/links.md section 3)."""

from __future__ import annotations

import asyncio
from typing import Final

from relay.process.reports import Component, Reporter

#: What lasts no longer is how it always is at a start, and when a radio is plugged in.
GRACE_S: Final = 30.0


class Reporting:
    """What there is to report."""

    def __init__(self, *, ports: int = 0) -> None:
        """``ports``: how many interfaces the bridge is to have."""
        self.reporter = Reporter(Component.NET)
        self._ports = 0
        self._wanted_ports = ports
        self._radios: dict[str, int | None] = {}
        #: Whether the access point is on the air; None where there is to be none.
        self._access_point: bool | None = None
        self._phones = 0
        #: What is wrong, and who is told of it once it has lasted.
        self._troubles: dict[str, str] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._lasting: set[str] = set()

    def count(self, event: str, amount: int = 1) -> None:
        """Count an event."""
        if amount:
            self.reporter.count(event, amount)

    def radio(self, name: str, peers: int | None) -> None:
        """Note a configured radio and how many neighbours it has; None while it has not joined."""
        self._radios[name] = peers
        joined = [count for count in self._radios.values() if count is not None]
        self.reporter.gauge("radios", len(self._radios))
        self.reporter.gauge("radios_up", len(joined))
        self.reporter.gauge("mesh_peers", sum(joined))
        self._weigh()

    def ports(self, count: int) -> None:
        """Note how many interfaces are in the bridge."""
        self._ports = count
        self.reporter.gauge("bridge_ports", count)
        self._weigh()

    def access_point(self, *, up: bool, phones: int = 0, most: int = 0) -> None:
        """Note whether the access point is on the air, how many phones are on it and how many it holds."""
        if up is not self._access_point and self._access_point is not None:
            self.count("access_point_up" if up else "access_point_lost")
        if 0 < most <= phones and not most <= self._phones:
            self.count("access_point_full")
        self._access_point, self._phones = up, phones
        self.reporter.gauge("access_points", 1)
        self.reporter.gauge("access_points_up", int(up))
        self.reporter.gauge("phones", phones)
        self.reporter.gauge("phones_most", most)
        self._weigh()

    def trouble(self, what: str, text: str = "") -> None:
        """Note what keeps ``what`` from working, "" when it works; an operator is told once it has lasted."""
        if not text:
            self._troubles.pop(what, None)
            self._lasting.discard(what)
            if (timer := self._timers.pop(what, None)) is not None:
                timer.cancel()
        elif what in self._troubles:
            self._troubles[what] = text
        else:
            self._troubles[what] = text
            self._timers[what] = asyncio.get_running_loop().call_later(GRACE_S, self._lasts, what)
        self._tell()

    def _lasts(self, what: str) -> None:
        self._lasting.add(what)
        self._tell()

    def _tell(self) -> None:
        self.reporter.troubles = tuple(text for what, text in self._troubles.items() if what in self._lasting)

    def _weigh(self) -> None:
        is_up = None not in self._radios.values() and self._ports == self._wanted_ports
        self.reporter.up = is_up and self._access_point is not False

    def stopped(self) -> None:
        """Note that the process was told to end."""
        self.reporter.stopped()

    @property
    def summary(self) -> str:
        """For `systemctl status`."""
        joined = [count for count in self._radios.values() if count is not None]
        summary = f"{len(joined)} of {len(self._radios)} radios joined, {sum(joined)} neighbours"
        if self._access_point is not None:
            summary += f", access point {'with ' + str(self._phones) + ' phones' if self._access_point else 'off'}"
        return summary
