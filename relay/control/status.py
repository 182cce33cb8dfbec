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
    """``source`` is none, system or operator; ``hour`` counts from the Unix epoch, None while unknown.

    ``wanted``: it is to go by the system's clock, which may be one that cannot be right. ``offset_hours``: our hour
    less that of our neighbours, None where nobody has one.
    """

    trusted: bool = False
    source: str = "none"
    hour: int | None = None
    wanted: bool = False
    offset_hours: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """``admitted`` counts the IDs not taken again, present or gone; ``price_bits`` is by interface label.

    ``envelopes`` and ``bytes`` are those committed. ``unreadable_bodies`` counts what was found damaged when read since
    the start, and what was lost with a part of the log before it; ``log_damaged``: it was, at the start;
    ``read_failures`` how often the medium failed to read. ``free_bytes``: on the file system, None where it
    does not tell; ``fault``: why nothing can be written, if that is known. ``commit_wait_s``: how long what waits for
    the store longest has waited; ``slow_commits``: of the last ten minutes. ``untaken_age_s``: of the oldest that
    nobody took since the start, in steps of ten minutes.
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
    read_failures: int = 0
    free_bytes: int | None = None
    fault: str = ""
    commit_wait_s: float = 0.0
    slow_commits: int = 0
    untaken_age_s: float = 0.0
    price_bits: dict[str, int] = field(default_factory=dict)

    @property
    def part(self) -> float:
        """How full it is: of bytes or envelopes, whichever is nearer to its bound; from 0 to about 1."""
        return max(self.bytes / max(self.max_bytes, 1), self.envelopes / max(self.max_envelopes, 1))


class LinkState(enum.StrEnum):
    """How a link is, on an interface or as a kind; the value is the label in metrics."""

    OFF = "off"  # not configured, or nothing of the kind is there
    DOWN = "down"  # it should work and does not
    UNPLUGGED = "unplugged"  # nothing is plugged in, and nothing was
    LISTENING = "listening"  # it works, and nobody is connected
    DISCOVERING = "discovering"  # it works: relays are found
    UP = "up"  # somebody is connected


class ProcessState(enum.StrEnum):
    """How a process beside `relay run` is; the value is the label in metrics."""

    NEVER_STARTED = "never_started"  # it has not connected since the start of `relay run`
    STOPPED = "stopped"  # it was told to end
    NO_ADAPTER = "no_adapter"  # it runs, and there is no radio for it
    FAILING = "failing"  # it runs, and cannot do its work
    DEAD = "dead"  # it was there, and is gone
    UP = "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """One kind of link on one interface.

    ``fault``: what an operator can do where it is not up, "" if that is not known. ``missed``: it is not there, or
    without a carrier, and had a relay within the last day. ``relays``: each once, however many
    sessions it has here. ``ended``: sessions that ended as all do, and dials in vain; ``errors``: what to look at. Both
    by reason, only those that happened. ``passing``: there is a row only because somebody is there, as on loopback.
    """

    kind: str
    interface: str
    state: LinkState = LinkState.LISTENING
    missed: bool = False
    passing: bool = False
    fault: str = ""
    relays: int = 0
    clients: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    restarts: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        """Whether somebody could come by it."""
        return self.state not in {LinkState.OFF, LinkState.DOWN, LinkState.UNPLUGGED}


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
    """A process beside `relay run`: ble, bitchat, net or board; ``counters`` only of what happened.

    ``idle``: stopped or no_adapter where it does no work although nothing is wrong, else "". ``troubles``: what keeps
    it from its work, in words and with the remedy. ``gauges``: of sensors only those that are there.
    """

    name: str
    connected: bool = False
    up: bool = False
    idle: str = ""
    troubles: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)

    @property
    def state(self) -> ProcessState:
        """How it is, in one word."""
        if self.idle:
            return ProcessState(self.idle)
        if not self.connected:
            return ProcessState.DEAD
        return ProcessState.UP if self.up else ProcessState.FAILING


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeStatus:
    """What another process of an appliance has to say (relay.control.notices); ``serious``: it is a problem."""

    code: str
    text: str
    serious: bool = False


class Severity(enum.StrEnum):
    """How bad it is; the value is the label of the metric."""

    CRITICAL = "critical"  # people's messages are lost or not taken: go there
    WARNING = "warning"  # somebody should look at it, today
    INFO = "info"  # worth knowing; nothing is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionStatus:
    """A condition that holds (relay.control.conditions).

    ``says`` what is so and ``remedy`` what to do ("": the details say it) are the same text each time; ``details``:
    where, or what else is known, of which one may be "".
    """

    name: str
    severity: Severity
    says: str
    remedy: str = ""
    details: list[str] = field(default_factory=list)

    @property
    def is_problem(self) -> bool:
        """Whether somebody should look at it."""
        return self.severity is not Severity.INFO

    @property
    def text(self) -> str:
        """All of it on one line."""
        details = "; ".join(detail for detail in self.details if detail)
        return "; ".join(part for part in (f"{self.says}: {details}" if details else self.says, self.remedy) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything an operator may see; ``totals`` by family and reason.

    ``relays``: how many are connected, each once, by however many links and interfaces; ``alone_s``: for how long there
    was none, None before the first. ``link_states``: by kind; one that is not configured is left out. ``recent``: some
    counts of the last ten minutes. ``memory_bytes``: of `relay run`, None if the system does not tell.
    ``dials_failed``: to relays that did not answer. ``conditions``: those that hold, the worst first.
    """

    schema: int = SCHEMA
    version: str
    uptime_s: float = 0.0
    ready: bool = False
    clock: ClockStatus = field(default_factory=ClockStatus)
    store: StoreStatus = field(default_factory=StoreStatus)
    memory_bytes: int | None = None
    relays: int = 0
    alone_s: float | None = None
    dials_failed: int = 0
    links: list[LinkStatus] = field(default_factory=list)
    link_states: dict[str, str] = field(default_factory=dict)
    recent: dict[str, int] = field(default_factory=dict)
    queues: list[QueueStatus] = field(default_factory=list)
    totals: dict[str, dict[str, int]] = field(default_factory=dict)
    tasks: list[TaskStatus] = field(default_factory=list)
    components: list[ComponentStatus] = field(default_factory=list)
    notices: list[NoticeStatus] = field(default_factory=list)
    conditions: list[ConditionStatus] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What an operator should look at, worst first; empty when all is well."""
        return [condition.text for condition in self.conditions if condition.is_problem]

    def as_dict(self) -> dict[str, Any]:
        """The status as JSON values, with what follows from it."""
        values = asdict(self)
        values["store"]["part"] = round(self.store.part, 4)
        for row, link in zip(values["links"], self.links, strict=True):
            row["up"] = link.up
        for row, component in zip(values["components"], self.components, strict=True):
            row["state"] = component.state
        return values


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
                "links": [
                    LinkStatus(
                        **_known(LinkStatus, link) | {"state": LinkState(link.get("state", LinkState.LISTENING))}
                    )
                    for link in values["links"]
                ],
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
                "conditions": [
                    ConditionStatus(**_known(ConditionStatus, one) | {"severity": Severity(one["severity"])})
                    for one in values.get("conditions", ())
                ],
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
