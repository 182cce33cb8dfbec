# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts and measures, told to `relay run` while there is one (docs/links.md section 3)."""

from __future__ import annotations

from relay.process.reports import Component, Reporter


class Reporting:
    """What there is to report."""

    def __init__(self, *, ports: int = 0) -> None:
        """``ports``: how many interfaces the bridge is to have."""
        self.reporter = Reporter(Component.NET)
        self._ports = 0
        self._wanted_ports = ports
        self._radios: dict[str, int | None] = {}

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

    def _weigh(self) -> None:
        self.reporter.up = None not in self._radios.values() and self._ports == self._wanted_ports

    def stopped(self) -> None:
        """Note that the process was told to end."""
        self.reporter.stopped()

    @property
    def summary(self) -> str:
        """For `systemctl status`."""
        joined = [count for count in self._radios.values() if count is not None]
        return f"{len(joined)} of {len(self._radios)} radios joined, {sum(joined)} neighbours"
