# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operator's side (control socket, metrics, status page) asks of the running relay.

The classes of the status are its schema: `relay status --json` prints exactly
these fields. Fields may be added; SCHEMA rises when one changes its meaning or
goes away. Nothing here names a peer, an address, an envelope, a tag or a key.
"""

from __future__ import annotations

import enum
import re
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from relay.core.errors import RelayError
from relay.process.progress import TaskStatus

if TYPE_CHECKING:
    from relay.core.stats import Stats

SCHEMA = 1

#: Names that udev makes from a hardware address (`wlx001122334455`), and whatever else looks like one.
_HARDWARE_ADDRESS = re.compile(r"[0-9a-f]{12}", re.IGNORECASE)


class ClockRefusedError(RelayError):
    """The operator named a time that the relay cannot take; the message says why."""


def interface_label(name: str) -> str:
    """An interface's name without the hardware address that udev may have put in (`wlx*`)."""
    return _HARDWARE_ADDRESS.sub("*", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockStatus:
    """``source`` is none, system or operator; ``hour`` counts from the Unix epoch, None while unknown."""

    trusted: bool = False
    source: str = "none"
    hour: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """``admitted`` counts the IDs not taken again, present or gone; ``price_bits`` is by interface label.

    ``unreadable_bodies`` counts bodies found damaged when read since the start, and those lost with a part of the log
    before it; ``log_damaged``: it was, at the start.
    """

    envelopes: int = 0
    bytes: int = 0
    max_envelopes: int = 0
    max_bytes: int = 0
    oldest_age_s: float = 0.0
    admitted: int = 0
    durable: bool = True
    writable: bool = True
    unreadable_bodies: int = 0
    log_damaged: bool = False
    price_bits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """One kind of link on one interface.

    ``fault``: what an operator can do where it is not up, "" if that is not known. ``relays``: each once, however many
    sessions it has here. ``ended``: sessions that ended as all do; ``errors``: what to look at. Both by reason, only
    those that happened.
    """

    kind: str
    interface: str
    up: bool = True
    fault: str = ""
    relays: int = 0
    clients: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    restarts: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


class QueueName(enum.StrEnum):
    """The bounded queues that report their length; sums over all sessions."""

    COMMIT = "commit"  # puts that wait for the store
    REQUESTS = "requests"  # bodies asked for and not here yet


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """``length`` and ``capacity`` in items."""

    name: QueueName
    length: int = 0
    capacity: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentStatus:
    """A process beside `relay run`: ble, net or board; ``counters`` only of what happened.

    ``idle``: stopped or no_adapter where it does no work although nothing is wrong, else "". ``troubles``: what keeps
    it from its work, in words and with the remedy.
    """

    name: str
    connected: bool = False
    up: bool = False
    idle: str = ""
    troubles: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """What an operator should look at: what it says itself, where it does."""
        found = list(self.troubles)
        if not found and not self.up and not self.idle:
            found.append(f"relay {self.name} {'does not work' if self.connected else 'is gone'}; see its log")
        if 0 < self.gauges.get("phones_most", 0) <= self.gauges.get("phones", 0):
            found.append(
                f"the access point has {self.gauges['phones']} phones, which is as many as its radio holds: the next "
                "one cannot join until somebody leaves; put up another relay, or make a USB radio the access point"
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeStatus:
    """What another process of an appliance has to say (relay.control.notices); ``serious``: it is a problem."""

    code: str
    text: str
    serious: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything an operator may see; ``totals`` by family and reason.

    ``relays``: how many are connected, each once, by however many links and interfaces.
    """

    schema: int = SCHEMA
    version: str
    uptime_s: float = 0.0
    ready: bool = False
    clock: ClockStatus = field(default_factory=ClockStatus)
    store: StoreStatus = field(default_factory=StoreStatus)
    relays: int = 0
    links: list[LinkStatus] = field(default_factory=list)
    queues: list[QueueStatus] = field(default_factory=list)
    totals: dict[str, dict[str, int]] = field(default_factory=dict)
    tasks: list[TaskStatus] = field(default_factory=list)
    components: list[ComponentStatus] = field(default_factory=list)
    notices: list[NoticeStatus] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What an operator should look at, worst first; empty when all is well."""
        found = []
        if not self.ready:
            found.append("still starting")
        if not self.store.writable:
            found.append("the store cannot be written: nothing new is accepted; free space on its disk or replace it")
        if self.store.unreadable_bodies:
            found.append("the store is damaged: some envelopes cannot be read; replace the card or disk")
        elif self.store.log_damaged:
            found.append("the store was damaged, and what could be seen of it is mended; replace the card or disk")
        found += [f"task {task.name} makes no progress" for task in self.tasks if task.stalled]
        components = {component.name for component in self.components}
        down: dict[tuple[str, str], list[str]] = {}
        for link in self.links:
            if not link.up and link.kind not in components:
                down.setdefault((link.kind, link.fault), []).append(link.interface)
        found += [
            f"link {kind} on {', '.join(interfaces)} is down" + (f": {fault}" if fault else "")
            for (kind, fault), interfaces in down.items()
        ]
        found += [problem for component in self.components for problem in component.problems()]
        found += [notice.text for notice in self.notices if notice.serious]
        return found

    def as_dict(self) -> dict[str, Any]:
        """The status as JSON values."""
        return asdict(self)


def read_status(values: dict[str, Any]) -> Status:
    """Build a status from JSON values; fields of a newer relay are left out. Raise ValueError on another schema."""
    if values.get("schema") != SCHEMA:
        raise ValueError("another schema")
    try:
        return Status(
            **_known(Status, values)
            | {
                "clock": ClockStatus(**_known(ClockStatus, values["clock"])),
                "store": StoreStatus(**_known(StoreStatus, values["store"])),
                "links": [LinkStatus(**_known(LinkStatus, link)) for link in values["links"]],
                "queues": [
                    QueueStatus(**_known(QueueStatus, queue) | {"name": QueueName(queue["name"])})
                    for queue in values["queues"]
                    if queue["name"] in list(QueueName)
                ],
                "tasks": [TaskStatus(**_known(TaskStatus, task)) for task in values["tasks"]],
                "components": [
                    ComponentStatus(**_known(ComponentStatus, component)) for component in values.get("components", ())
                ],
                "notices": [NoticeStatus(**_known(NoticeStatus, notice)) for notice in values.get("notices", ())],
            }
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("fields are missing") from error


def _known(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


class Engine(Protocol):
    """The running relay, as far as its operator's side needs it."""

    @property
    def stats(self) -> Stats:
        """The counts since start."""

    def status(self) -> Status:
        """A fresh picture; cheap, called at most once per request or scrape."""

    def set_clock(self, unix_s: int) -> None:
        """Take the operator's word for the time; raise ClockRefusedError when that cannot be true."""
