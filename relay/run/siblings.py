# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections of the relay's other processes: `relay ble`, `bitchat`, `net`, `board` (docs/links.md section 3)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, cast

from relay.control.status import ComponentStatus
from relay.core.errors import DecodeError
from relay.process.lines import Lines
from relay.process.reports import (
    MAX_REPORT_BYTES,
    SILENT_S,
    Component,
    ComponentState,
    NewsForBle,
    decode_report,
    encode_news,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: Reports that are taken in at once: who sends on change, and a pause of the loop, give a few. More are no report.
MAX_REPORTS: Final = 16


class Components:
    """All of them; each has at most one connection, the newest."""

    def __init__(self, *, on_state: Callable[[Component, bool], None], on_refused: Callable[[], None]) -> None:
        """``on_state`` hears whether a component works, ``on_refused`` of a line that is wrong."""
        self._on_state = on_state
        self._on_refused = on_refused
        self._states = {component: ComponentState(component) for component in Component}
        self._connections: dict[Component, _Connection] = {}
        self._news: bytes | None = None

    def connection(self, component: Component) -> asyncio.Protocol:
        """Return a protocol for a connection whose first line was read."""
        return _Connection(self, component)

    @property
    def wants_news(self) -> bool:
        """Whether :meth:`tell` has anybody to tell."""
        return Component.BLE in self._connections

    def tell(self, news: NewsForBle) -> None:
        """Tell `relay ble` what to advertise and whom it need not dial, unless that is as it was."""
        line = encode_news(news)
        if line != self._news:
            self._news = line
            self._connections[Component.BLE].tell(line)

    def statuses(self) -> list[ComponentStatus]:
        """Return those that ever connected."""
        return [
            ComponentStatus(
                name=state.component.value,
                connected=state.connected,
                up=state.up,
                idle=state.idle.value if state.idle else "",
                troubles=list(state.troubles),
                counters={name: count for name, count in state.counters.items() if count},
                gauges=dict(state.gauges),
            )
            for state in self._states.values()
            if state.seen
        ]

    def abort(self) -> None:
        """End all connections."""
        for connection in list(self._connections.values()):
            connection.abort()

    # -- called by connections --------------------------------------------

    def opened(self, connection: _Connection) -> None:
        """Note a connection, in place of an older one: that one's process is gone, or lost it."""
        older = self._connections.get(connection.component)
        if older is not None:
            older.abort()
        self._connections[connection.component] = connection
        self._states[connection.component].opened()
        if connection.component is Component.BLE:
            self._news = None

    def received(self, connection: _Connection, line: bytes) -> None:
        """Take in a report; raise DecodeError when it is none."""
        state = self._states[connection.component]
        was_up = state.up
        try:
            state.reported(decode_report(connection.component, line))
        except DecodeError:
            self._on_refused()
            raise
        if state.up is not was_up:
            self._on_state(connection.component, state.up)

    def require_few(self, reports: int) -> None:
        """Raise DecodeError, which is counted, for more reports at once than any process has to make."""
        if reports > MAX_REPORTS:
            self._on_refused()
            raise DecodeError(f"more than {MAX_REPORTS} reports at once")

    def closed(self, connection: _Connection) -> None:
        """Note that a connection ended, unless another one has taken its place."""
        component = connection.component
        if self._connections.get(component) is connection:
            del self._connections[component]
            self._states[component].closed()
            self._on_state(component, False)


class _Connection(asyncio.Protocol):
    """One process. It is told only the latest, however slowly it reads."""

    def __init__(self, components: Components, component: Component) -> None:
        self.component = component
        self._components = components
        self._transport: asyncio.Transport | None = None
        self._lines = Lines()
        self._unsent: bytes | None = None
        self._is_writable = True
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        self._components.opened(self)
        self._wait()

    def connection_lost(self, _: Exception | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._components.closed(self)

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        line, self._unsent = self._unsent, None
        if line is not None:
            self.tell(line)

    def data_received(self, data: bytes) -> None:
        lines = self._lines.receive(data)
        try:
            self._components.require_few(len(lines))
            for line in lines:
                self._components.received(self, line)
            if len(self._lines.rest) >= MAX_REPORT_BYTES:
                self._components.received(self, self._lines.rest)
        except DecodeError as error:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(json.dumps({"error": str(error)}).encode() + b"\n")
                self._transport.close()
            return
        if lines:
            self._wait()

    def tell(self, line: bytes) -> None:
        """Send a line as soon as the process reads; one that waits makes way for a later one."""
        if self._transport is None or not self._is_writable:
            self._unsent = line
            return
        self._transport.write(line)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _wait(self) -> None:
        """Give it time until its next report; one that hangs counts as down."""
        if self._silence is not None:
            self._silence.cancel()
        self._silence = asyncio.get_running_loop().call_later(SILENT_S, self.abort)
