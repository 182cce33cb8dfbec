# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a relay is well: the one place that decides it, a table of conditions over the status.

Page, /healthz, `relay status`, relay-status.txt, the light and the metric ``relay_condition``, by which alert rules
go, all show what :func:`with_conditions` found. A condition has a name for machines, and for people what is so and
what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from relay.control.status import ConditionStatus, Severity
from relay.core.stats import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.control.status import ComponentStatus, Status

#: From this part on the store is nearly full ...
NEARLY_FULL: Final = 0.9
#: ... and from this on there is next to nothing left for a newcomer that pays nothing.
FULL: Final = 0.99
#: A card that is well syncs in a tenth of it. One alone may be the card tidying up; so many in ten minutes are not.
SLOW_COMMIT_S: Final = 1.0
SLOW_COMMITS: Final = 3
#: Whoever puts waits for it.
SLOW_WAIT_S: Final = 10.0
#: Beside the store the log of SQLite and the system's files need room; a full store writes on.
LEAST_FREE_BYTES: Final = 16 << 20
#: A neighbour that is switched on again is there within two.
ALONE_S: Final = 600.0
#: One may be a stranger's; who found us by discovery tries three times in ten minutes.
SECRET_FAILURES: Final = 3
#: docs/protocol.md section 10 allows for two.
CLOCK_OFF_HOURS: Final = 2
REFUSED_FOR_HOUR: Final = 3
#: The board slows down from 80 on.
HOT_CELSIUS: Final = 80
#: eMMC tells in tens; the last step is nine to ten tenths.
WORN_PERCENT: Final = 90
LOW_POWER_PERCENT: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """``says`` what is so, ``remedy`` what to do; ``find``: details, some of them "", or nothing if it is not so."""

    name: str
    severity: Severity
    says: str
    remedy: str
    find: Callable[[Status], list[str]]


def _if(holds: Callable[[Status], bool | None]) -> Callable[[Status], list[str]]:
    return lambda status: [""] if holds(status) else []


def _board(status: Status, name: str) -> int | None:
    """What a sensor of the board says; None where there is none."""
    return next((row.gauges.get(name) for row in status.components if row.name == "board"), None)


def _links_down(status: Status) -> list[str]:
    rows: dict[tuple[str, str], list[str]] = {}
    for link in status.links:
        if link.kind not in {"dnssd", "ble"} and (link.state == "down" or link.missed) and not link.passing:
            rows.setdefault((link.kind, link.fault), []).append(link.interface)
    return [f"{kind} on {', '.join(names)}: {fault or _LOOK}" for (kind, fault), names in rows.items()]


_LOOK: Final = "look at its cable, adapter and power"


def _discovery_down(status: Status) -> list[str]:
    faults: dict[str, list[str]] = {}
    for link in status.links:
        if link.kind == "dnssd" and link.state == "down":
            faults.setdefault(link.fault, []).append(link.interface)
    shown = {fault: ", ".join(names) for fault, names in faults.items()}
    return [f"on {names}: {fault}" if fault else f"on {names}" for fault, names in shown.items()]


def _no_link(status: Status) -> list[str]:
    states = {kind: status.link_states.get(kind, "off") for kind in ("tcp", "ble")}
    is_tried = status.ready and "tcp" in status.link_states
    # A kind is down as soon as one of its interfaces is. By the others people still come: that is link_down.
    is_there = any(
        link.up and link.interface != LOOPBACK for link in status.links if states.get(link.kind, "off") != "off"
    )
    return [""] if is_tried and not is_there and set(states.values()) <= {"off", "down", "unplugged"} else []


def _clock_wrong(status: Status) -> list[str]:
    if not status.clock.trusted:
        return []
    offset = status.clock.offset_hours
    if offset is not None and abs(offset) > CLOCK_OFF_HOURS:
        return [
            f"it is {offset} hours ahead of its neighbours'"
            if offset > 0
            else f"it is {-offset} hours behind its neighbours'"
        ]
    refused, accepted = status.recent.get("refused_for_hour", 0), status.recent.get("accepted", 0)
    return (
        ["envelopes were refused for their hour, and none was taken"] if refused >= REFUSED_FOR_HOUR > accepted else []
    )


def _secret_differs(status: Status) -> bool:
    return not status.relays and status.recent.get("secret_failures", 0) >= SECRET_FAILURES


def _clock_disputed(status: Status) -> bool:
    return any(row.name == "bitchat" and row.gauges.get("clock_disputed") for row in status.components)


def _component(name: str) -> Callable[[Status], list[str]]:
    def find(status: Status) -> list[str]:
        return next((_faults(row) for row in status.components if row.name == name), [])

    return find


def _faults(row: ComponentStatus) -> list[str]:
    if row.troubles:
        return list(row.troubles)
    return {
        "failing": [f"relay {row.name} runs and cannot work: start it again; if it stays so, see its log"],
        "dead": [f"relay {row.name} is gone: start it again, and see its log"],
    }.get(row.state, [])


def _full_access_point(status: Status) -> bool:
    gauges: dict[str, int] = next((row.gauges for row in status.components if row.name == "net"), {})
    return 0 < gauges.get("phones_most", 0) <= gauges.get("phones", 0)


def _undervoltage(status: Status) -> list[str]:
    if _board(status, "undervoltage"):
        return ["now"]
    seen = _board(status, "undervoltage_seen") or any(notice.code == "undervoltage" for notice in status.notices)
    return ["since the start"] if seen else []


def _hot(status: Status) -> list[str]:
    celsius = _board(status, "temperature_celsius")
    return [f"{celsius} degrees Celsius"] if celsius is not None and celsius >= HOT_CELSIUS else []


def _worn(status: Status) -> bool:
    return bool(_board(status, "card_worn")) or (_board(status, "card_life_used_percent") or 0) > WORN_PERCENT


def _low_power(status: Status) -> list[str]:
    percent = _board(status, "power_percent")
    is_low = percent is not None and percent <= LOW_POWER_PERCENT and not _board(status, "power_external")
    return [f"{percent} %"] if is_low else []


def _notice(code: str) -> Callable[[Status], list[str]]:
    return lambda status: [notice.text for notice in status.notices if notice.code == code]


def _damage(status: Status) -> bool:
    return bool(status.store.unreadable_bodies or status.store.read_failures)


def _is_slow(status: Status) -> bool:
    return status.store.slow_commits >= SLOW_COMMITS or status.store.commit_wait_s >= SLOW_WAIT_S


def _low_space(status: Status) -> bool:
    return status.store.free_bytes is not None and status.store.free_bytes < LEAST_FREE_BYTES


#: Name, how bad, when, what it says, what to do.
_CRITICAL: Final = (
    (
        "store_unwritable",
        lambda s: [] if s.store.writable else [s.store.fault],
        "the store cannot be written: nothing new is accepted",
        "free space on its disk or replace it",
    ),
    (
        "store_damaged",
        _if(_damage),
        "the store is damaged: some envelopes cannot be read",
        "replace the card or disk",
    ),
    (
        "task_stalled",
        lambda s: [task.name for task in s.tasks if task.stalled],
        "a part of the relay makes no progress",
        "start it again; if that happens again, replace the card or disk",
    ),
    (
        "no_link",
        _no_link,
        "nobody can reach this relay",
        "plug a cable in, or switch Wi-Fi or Bluetooth on",
    ),
)
_WARNING: Final = (
    ("starting", _if(lambda s: not s.ready), "still starting", ""),
    (
        "card_slow",
        _if(_is_slow),
        "the card is slow: whoever sends something waits for seconds",
        "use another card, of class A1 or better, or a disk",
    ),
    (
        "store_mended",
        _if(lambda s: s.store.log_damaged),
        "the store was damaged, and what could be seen of it is mended",
        "replace the card or disk",
    ),
    (
        "disk_full",
        _if(_low_space),
        "the disk that the store is on has hardly any room left",
        "free space on it, or lower max_bytes in [store]",
    ),
    (
        "store_nearly_full",
        _if(lambda s: s.store.part >= NEARLY_FULL),
        "the store is nearly full",
        "raise max_bytes and max_envelopes in [store] if the disk has room, or put up another relay",
    ),
    (
        "store_evicting",
        _if(lambda s: s.recent.get("evicted", 0) > 0),
        "messages had to leave before their time to make room for others",
        "raise max_bytes and max_envelopes in [store] if the disk has room, or put up another relay",
    ),
    (
        "store_refusing",
        _if(lambda s: s.recent.get("refused_full", 0) > 0),
        "messages were refused as there is no room for them",
        "raise max_bytes and max_envelopes in [store] if the disk has room, or put up another relay",
    ),
    (
        "link_down",
        _links_down,
        "a link is down",
        "",
    ),
    (
        "discovery_down",
        _discovery_down,
        "relays are not found by themselves",
        "",
    ),
    (
        "alone",
        _if(lambda s: s.alone_s is not None and s.alone_s >= ALONE_S),
        "there were other relays in reach, and for ten minutes there is none",
        "look whether they are switched on, and whether cables or antennas are where they were",
    ),
    (
        "secret_differs",
        _if(_secret_differs),
        "other relays do not know the secret of this one, or it does not know theirs",
        "write the same secret into relay.toml of all relays that are to work together",
    ),
    (
        "clock_refused",
        _if(lambda s: s.clock.wanted and not s.clock.trusted),
        "this machine's clock cannot be right, so the relay does not go by it",
        "set it, or give the relay the time: relay clock set",
    ),
    (
        "clock_wrong",
        _clock_wrong,
        "the clock is probably wrong",
        "look which one is right, and set it: relay clock set",
    ),
    (
        "clock_disputed",
        _if(_clock_disputed),
        "phones with bitchat say another time than the clock that this relay goes by, so that iPhones ignore it",
        "look which one is right; if the relay's is not, set it: relay clock set",
    ),
    ("ble_down", _component("ble"), "Bluetooth does not work", ""),
    ("bitchat_down", _component("bitchat"), "bitchat does not work", ""),
    ("libp2p_down", _component("libp2p"), "libp2p does not work", ""),
    ("net_down", _component("net"), "Wi-Fi, mesh or bridge do not work", ""),
    ("board_down", _component("board"), "light and button do not work", ""),
    (
        "access_point_full",
        _if(_full_access_point),
        "the access point has as many phones as its radio holds: the next one cannot join until somebody leaves",
        "put up another relay, or make a USB radio the access point",
    ),
    (
        "undervoltage",
        _undervoltage,
        "the voltage is or was too low, which damages cards",
        "use another power supply, or a shorter, thicker cable",
    ),
    ("hot", _hot, "the board is too hot, and slows down", "put it into the shade, and let air in"),
    ("card_worn", _if(_worn), "the card says that it is worn out", "replace it soon"),
    ("power_low", _low_power, "the battery is nearly empty", "charge or change it"),
    ("config_mistake", _notice("config"), "relay.toml has a mistake", "correct it as it says"),
    ("secret_mistake", _notice("secret"), "the secret in relay.toml is none", "write one that was drawn"),
    (
        "turned_back",
        _notice("slot"),
        "newer software did not come up well, and the one before it runs again",
        "tell whoever gave you the update",
    ),
    ("card_trouble", _notice("storage"), "the card does not keep what it should", ""),
    ("board_trouble", _notice("board"), "something of the board does not work", ""),
    ("network_trouble", _notice("network"), "access point, mesh or bridge do not come up", ""),
)
_INFO: Final = (
    (
        "clock_untrusted",
        _if(lambda s: not s.clock.trusted and not s.clock.wanted),
        "there is no clock to go by: messages leave after a bounded stay",
        "that is how it is meant to be, unless you want it otherwise: relay clock set",
    ),
)

#: The worst first.
TABLE: Final[tuple[Condition, ...]] = tuple(
    Condition(name=name, severity=severity, says=says, remedy=remedy, find=find)
    for severity, rows in ((Severity.CRITICAL, _CRITICAL), (Severity.WARNING, _WARNING), (Severity.INFO, _INFO))
    for name, find, says, remedy in rows
)


def with_conditions(status: Status) -> Status:
    """Return the status with the conditions that hold, the worst first."""
    holding = [
        ConditionStatus(
            name=condition.name,
            severity=condition.severity,
            says=condition.says,
            remedy=condition.remedy,
            details=details,
        )
        for condition in TABLE
        if (details := condition.find(status))
    ]
    return replace(status, conditions=holding)
