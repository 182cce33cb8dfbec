# SPDX-License-Identifier: GPL-2.0-or-later
"""What the relay's other processes report to `relay run`, and what it tells them (docs/links.md section 3).

Names and codecs of the component connection, for both sides and free of I/O.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from relay.core.errors import DecodeError
from relay.core.news import NEWS_BYTES
from relay.process.printable import printable_ascii

if TYPE_CHECKING:
    from collections.abc import Callable

#: A report of all names with the largest numbers and the longest troubles has under 5 KiB.
MAX_REPORT_BYTES: Final = 6144
#: What an operator should know of a process beside that it does not work: 4 x 300 bytes, and 200 of quotes.
MAX_TROUBLES: Final = 4
MAX_TROUBLE_CHARS: Final = 300
#: Two values for each of 64 neighbours, 35 bytes each, make 4.5 KiB.
MAX_KNOWN: Final = 128
MAX_NEWS_LINE_BYTES: Final = 8192
#: A process that counts much reports no more often ...
REPORT_LEAST_S: Final = 1.0
#: ... one that counts nothing still says that it lives ...
REPORT_INTERVAL_S: Final = 20.0
#: ... and one that is silent for so long hangs.
SILENT_S: Final = 60.0
#: What both JSON and Prometheus hold exactly.
MAX_NUMBER: Final = 1 << 53
_VALUE: Final = re.compile(rf"[0-9a-f]{{{2 * NEWS_BYTES}}}")


#: The gauge that every process has: what its memory takes, in bytes (relay.process.memory).
MEMORY: Final = "memory_bytes"


class Component(enum.Enum):
    """A process of the relay beside `relay run`; the value is the label in metrics and status."""

    BLE = "ble"
    BITCHAT = "bitchat"
    LIBP2P = "libp2p"
    NET = "net"
    BOARD = "board"


class Idle(enum.Enum):
    """Why a process does no work although nothing is wrong; the value is what reports and status say."""

    #: It was told to end, and says so with its last line.
    STOPPED = "stopped"
    #: There is no radio for it, and was none since it began; it takes one as soon as there is.
    NO_ADAPTER = "no_adapter"


#: Why a question for an address was dropped: the packet filter's counters of these names, which `relay net` reads.
DHCP_REFUSALS: Final = ("dhcp_other_hardware", "dhcp_too_often", "dhcp_newcomers", "dhcp_crowd")
#: What became of bitchat's packets (relay.bitchat.mesh), and of which types they were.
PACKET_OUTCOMES: Final = (
    *("announced", "answered", "crowded", "ends_here", "for_us", "forged", "heard_there", "identities"),
    *("incomplete", "keys", "known", "late", "letter_brief", "letter_expired", "letter_known", "letter_lifetime"),
    *("letter_limit", "letter_malformed", "letter_no_clock", "letter_taken", "limited", "lost", "malformed", "media"),
    *(
        "no_clock",
        "no_ttl",
        "not_for_us",
        "not_linked",
        "old",
        "own",
        "refused",
        "relay",
        "sent",
        "stranger",
        "to_relays",
    ),
    *("too_long", "unsigned", "letter_handed_over", "letter_over"),
)
PACKET_TYPES: Final = (
    *("announce", "message", "leave", "courier", "noise_handshake", "noise_encrypted", "fragment", "request_sync"),
    *("file_transfer", "board_post", "prekey_bundle", "group_message", "ping", "pong", "nostr_carrier", "voice_frame"),
    *("announce_v2", "other", "any"),
)
#: Of every program that has an adapter (relay/adapters/).
_ADAPTER_EVENTS: Final = (
    "bluetoothd_lost",
    "bluetoothd_recovered",
    "dbus_errors",
    "adapter_lost",
    "adapter_recovered",
    "adapter_blocked",
    "advertise_failed",
    "gatt_failed",
    "rotations",
)
#: What each counts. A new event is a new name here; metrics, status and page follow.
EVENTS: Final[dict[Component, tuple[str, ...]]] = {
    Component.BLE: (
        *_ADAPTER_EVENTS,
        "connections",
        "idle_ended",
        "clients_accepted",
        "refused_busy",
        "gave_way",
        "refused_extra_channel",
        "channel_failed",
        "channel_lost",
        "slots_given",
        "slot_unused",
        "slot_timeout",
        "slot_retransmits",
        "slot_protocol",
        "frames_dropped_no_slot",
        "frames_dropped_malformed",
        "frames_dropped_out_of_order",
        "frames_dropped_beyond_window",
        "slow_reader",
        "relay_unreachable",
        "dials",
        "dial_failed",
        "dial_timeout",
        "dial_busy",
        "neighbour_lost",
        "neighbour_duplicate",
        "neighbour_gave_way",
        "heard_full",
    ),
    Component.BITCHAT: (
        *_ADAPTER_EVENTS,
        "identities",
        "connections",
        "idle_ended",
        "refused_busy",
        "gave_way",
        "clients_accepted",
        "clients_orphaned",
        "dials",
        "dial_failed",
        "dialled_relay",
        "live_sent",
        "live_lost",
        "live_received",
        "live_untrue",
        "letters_kept",
        "letters_refused",
        "letters_lost",
        "letters_relay_lost",
        "relay_unreachable",
        *(f"packets_{outcome}" for outcome in PACKET_OUTCOMES),
        *(f"type_{kind}" for kind in PACKET_TYPES),
    ),
    Component.LIBP2P: (
        "peers_met",
        "peers_renewed",
        "peer_dials",
        "peer_dials_failed",
        "connections_dropped",
        "handshakes_failed",
        "protocol_errors",
        "protocols_refused",
        "messages_malformed",
        "peers_silent",
        "streams_refused",
        "streams_stalled",
        "streams_crowded_out",
        "discovery_failed",
        "announcements_refused",
        "announcements_malformed",
        "relay_unreachable",
        "envelopes_busy",
        "blocks_sent",
        "blocks_received",
        "blocks_unwanted",
        "wants_missed",
        "wants_refused",
        "answers_lost",
        "fetches_refused",
        "topics_refused",
        "published_taken",
        "published_known",
        "published_own",
        "published_untrue",
        "published_elsewhere",
        "published_too_long",
        "published_limited",
        "published_lost",
        "control_limited",
        "records_taken",
        "records_displaced",
        "questions_limited",
        "seals_taken",
        "seals_kept",
        "seals_known",
        "seals_elsewhere",
        "seals_malformed",
        "seals_limited",
        "seals_given",
        "seals_not_taken",
        "seals_published",
        "offers_refused",
        "blocks_kept",
        "blocks_foreign",
        "blocks_not_found",
        "blocks_not_queued",
        "blocks_limited",
        "live_sent",
        "live_lost",
        "live_limited",
        "live_too_long",
        "live_received",
        "live_known",
        "live_elsewhere",
        "live_untrue",
        "live_refused",
        "kept_refused",
        "kept_malformed",
        "kept_relay_lost",
        "http_served",
        "http_unchanged",
        "http_missing",
        "http_malformed",
        "http_elsewhere",
        "http_unavailable",
        "http_places",
    ),
    Component.NET: (
        "radio_lost",
        "radio_recovered",
        "joined",
        "rejoined",
        "join_failed",
        "left",
        "regulatory_blocked",
        "rfkill_blocked",
        "unsupported",
        "wpa_started",
        "wpa_restarted",
        "batman_restored",
        "bridge_restored",
        "bridge_ports_lost",
        "access_point_up",
        "access_point_lost",
        "access_point_full",
        *DHCP_REFUSALS,
        "netlink_errors",
        "not_deaf",
        "netlink_overruns",
        "restored",
    ),
    Component.BOARD: ("button_pressed", "panics", "config_refused", "verbs_refused", "undervoltage"),
}
#: What each measures; of what is among SENSORS only where it is there.
GAUGES: Final[dict[Component, tuple[str, ...]]] = {
    Component.BLE: ("adapters", "adapters_up", "clients", "neighbours", "slots_used", "relays_heard", MEMORY),
    Component.BITCHAT: (
        "adapters",
        "adapters_up",
        "clients",
        "clock_trusted",
        "clock_learned",
        "clock_disputed",
        "letters_brief",
        MEMORY,
    ),
    Component.LIBP2P: ("peers", "topics", "blocks", MEMORY),
    Component.NET: (
        "radios",
        "radios_up",
        "mesh_peers",
        "bridge_ports",
        "access_points",
        "access_points_up",
        "phones",
        "phones_most",
        MEMORY,
    ),
    Component.BOARD: (
        "temperature_celsius",
        "undervoltage",
        "undervoltage_seen",
        "card_life_used_percent",
        "card_worn",
        "power_percent",
        "power_external",
        MEMORY,
    ),
}
#: A machine may have none of these, and then its value is not 0 but not there.
SENSORS: Final = frozenset({*GAUGES[Component.BOARD], MEMORY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a process says of itself; ``counters`` are totals since its start, names left out are as before.

    ``idle``: why it is not ``up``, where that is no fault; ``troubles``: what is, in words and with the remedy.
    """

    up: bool
    counters: dict[str, int]
    gauges: dict[str, int]
    idle: Idle | None = None
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewsForBle:
    """Our own value, and those by which neighbours with an open session are recognised (16 bytes each)."""

    news: bytes
    known: tuple[bytes, ...] = ()


def decode_report(component: Component, line: bytes) -> Report:
    """Decode a report, without its line feed; raise DecodeError with what is wrong."""
    values = _decode_object(line, MAX_REPORT_BYTES)
    if values.keys() - {"idle", "troubles"} != {"up", "counters", "gauges"}:
        raise DecodeError("a report must have exactly the keys up, counters, gauges, and may have idle and troubles")
    if type(values["up"]) is not bool:
        raise DecodeError("up must be true or false")
    return Report(
        up=values["up"],
        idle=_idle(values["idle"], up=values["up"]) if "idle" in values else None,
        counters=_numbers("counters", values["counters"], EVENTS[component]),
        gauges=_numbers("gauges", values["gauges"], GAUGES[component]),
        troubles=_texts(values.get("troubles", [])),
    )


def encode_news(news: NewsForBle) -> bytes:
    """Return the line, its line feed included; what is beyond MAX_KNOWN is left out."""
    known = [value.hex() for value in news.known[:MAX_KNOWN]]
    return _encode({"news": news.news.hex(), "known": known})


def decode_news(line: bytes) -> NewsForBle:
    """Decode a line of `relay run`, without its line feed; raise DecodeError with what is wrong."""
    values = _decode_object(line, MAX_NEWS_LINE_BYTES)
    if values.keys() != {"news", "known"} or type(values["known"]) is not list or len(values["known"]) > MAX_KNOWN:
        raise DecodeError("must have exactly the keys news, known")
    return NewsForBle(news=_value(values["news"]), known=tuple(_value(text) for text in values["known"]))


def _encode(values: dict[str, object]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _decode_object(line: bytes, most_bytes: int) -> dict[str, Any]:
    if len(line) >= most_bytes:
        raise DecodeError(f"the line has more than {most_bytes} bytes")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DecodeError("the line is not JSON") from error
    if not isinstance(values, dict):
        raise DecodeError("the line is no JSON object")
    return values


def _idle(text: object, *, up: bool) -> Idle:
    try:
        idle = Idle(text)
    except ValueError as error:
        raise DecodeError(f"idle must be one of {', '.join(item.value for item in Idle)}") from error
    if up:
        raise DecodeError("what is up is not idle")
    return idle


def _numbers(what: str, values: object, names: tuple[str, ...]) -> dict[str, int]:
    if not isinstance(values, dict) or not values.keys() <= set(names):
        raise DecodeError(f"{what} has unknown names")
    if not all(type(number) is int and 0 <= number <= MAX_NUMBER for number in values.values()):
        raise DecodeError(f"{what} must be whole numbers of at most {MAX_NUMBER}")
    return values


def _texts(values: object) -> tuple[str, ...]:
    if (
        type(values) is not list
        or len(values) > MAX_TROUBLES
        or not all(type(text) is str and len(text) <= MAX_TROUBLE_CHARS and text.isprintable() for text in values)
    ):
        raise DecodeError(f"troubles must be at most {MAX_TROUBLES} texts of {MAX_TROUBLE_CHARS} characters")
    return tuple(values)


def _value(text: object) -> bytes:
    if not isinstance(text, str) or not _VALUE.fullmatch(text):
        raise DecodeError(f"a value must have {2 * NEWS_BYTES} hexadecimal digits")
    return bytes.fromhex(text)


def _zeros(component: Component) -> dict[str, int]:
    return {name: 0 for name in GAUGES[component] if name not in SENSORS}


def _nothing() -> None:
    """Tell nobody."""


class Reporter:
    """The counts of a process, and when to report them."""

    def __init__(self, component: Component) -> None:
        self.component = component
        #: Called at each change that makes a report due.
        self.on_change: Callable[[], None] = _nothing
        self._is_stopped = False
        self._up = False
        self._idle: Idle | None = None
        self._troubles: tuple[str, ...] = ()
        self._counters = dict.fromkeys(EVENTS[component], 0)
        self._gauges = _zeros(component)
        self._is_changed = True
        self._reported_s: float | None = None

    def stopped(self) -> None:
        """Note that the process was told to end: no fault, then, that its connection does."""
        self._is_stopped = True

    @property
    def up(self) -> bool:
        """Whether the process can do its work."""
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        if up is not self._up:
            self._up = up
            self._changed()

    @property
    def idle(self) -> Idle | None:
        """Why it is not ``up``, where that is no fault."""
        return self._idle

    @idle.setter
    def idle(self, idle: Idle | None) -> None:
        if idle is not self._idle:
            self._idle = idle
            self._changed()

    @property
    def troubles(self) -> tuple[str, ...]:
        """What an operator should know, in words; what is beyond the bounds is cut."""
        return self._troubles

    @troubles.setter
    def troubles(self, texts: tuple[str, ...]) -> None:
        # In ASCII, in which a character is a byte of JSON.
        told = tuple(printable_ascii(text)[:MAX_TROUBLE_CHARS] for text in texts[:MAX_TROUBLES])
        if told != self._troubles:
            self._troubles = told
            self._changed()

    def count(self, event: str, amount: int = 1) -> None:
        """Count an event of :data:`EVENTS`; KeyError on any other."""
        self._counters[event] += amount
        self._changed()

    def gauge(self, name: str, value: int) -> None:
        """Note a value of :data:`GAUGES`; KeyError on any other."""
        if name not in GAUGES[self.component]:
            raise KeyError(name)
        if self._gauges.get(name) != value:
            self._gauges[name] = value
            self._changed()

    def measured(self, name: str, value: int | None) -> None:
        """Note what one of :data:`SENSORS` says, None if it is not there: told with the next report, and no sooner."""
        if name not in GAUGES[self.component] or name not in SENSORS:
            raise KeyError(name)
        if value is None:
            self._gauges.pop(name, None)
        else:
            self._gauges[name] = max(value, 0)

    def _changed(self) -> None:
        self._is_changed = True
        self.on_change()

    def connected(self) -> None:
        """Note a new connection: a report is due at once."""
        self._reported_s = None

    def next_s(self) -> float | None:
        """When a report is due, in the seconds of :meth:`line`; None for at once."""
        if self._reported_s is None:
            return None
        return self._reported_s + (REPORT_LEAST_S if self._is_changed else REPORT_INTERVAL_S)

    def is_due(self, now: float) -> bool:
        """Whether :meth:`line` has something to say now (monotonic seconds)."""
        due = self.next_s()
        return due is None or now >= due

    def line(self, now: float) -> bytes | None:
        """Return the report to send now (monotonic seconds), None while none is due."""
        if not self.is_due(now):
            return None
        self._reported_s = now
        self._is_changed = False
        return self._report(up=self._up, idle=self._idle)

    def last_line(self) -> bytes | None:
        """Return the report for the end of the connection, if there is anything to say about it."""
        return self._report(up=False, idle=Idle.STOPPED) if self._is_stopped else None

    def _report(self, *, up: bool, idle: Idle | None) -> bytes:
        report: dict[str, object] = {"up": up, "counters": self._counters, "gauges": self._gauges}
        if idle and not up:
            report["idle"] = idle.value
        if self._troubles and idle is not Idle.STOPPED:
            report["troubles"] = self._troubles
        return _encode(report)


class ComponentState:
    """What `relay run` knows of one component: sums that never go back, over all lives of its process."""

    def __init__(self, component: Component) -> None:
        self.component = component
        #: Whether it ever connected, whether it is connected, and whether it says that it works.
        self.seen = False
        self.connected = False
        self.up = False
        self.idle: Idle | None = None
        self.troubles: tuple[str, ...] = ()
        self.counters = dict.fromkeys(EVENTS[component], 0)
        self.gauges = _zeros(component)
        self._totals = dict.fromkeys(EVENTS[component], 0)

    def opened(self) -> None:
        """Note a connection."""
        self.seen = self.connected = True
        self.idle = None

    def reported(self, report: Report) -> None:
        """Take in a report."""
        self.up = report.up
        self.idle = report.idle
        self.troubles = report.troubles
        kept = {name: value for name, value in self.gauges.items() if name not in SENSORS}
        self.gauges = kept | report.gauges
        # One total that went back shows that the process began anew, with all of them at zero.
        if any(total < self._totals[name] for name, total in report.counters.items()):
            self._totals = dict.fromkeys(self._totals, 0)
        for name, total in report.counters.items():
            self.counters[name] += total - self._totals[name]
            self._totals[name] = total

    def closed(self) -> None:
        """Note that the connection ended: whatever it measured is over. Unless it said why, something is wrong."""
        self.connected = self.up = False
        if self.idle is not Idle.STOPPED:
            self.idle = None
        self.troubles = ()
        self.gauges = _zeros(self.component)
