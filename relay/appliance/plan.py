# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that a relay.toml means for the machine, as files to be written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.appliance.check import SAFE
from relay.appliance.effective import LEAST_BYTES, effective, fitting_bytes
from relay.appliance.firewall import firewall
from relay.appliance.names import NETWORKD, OUTPUT
from relay.appliance.network import networkd_files
from relay.appliance.phones import hostapd, phones_dnsmasq, segment_dnsmasq
from relay.config.toml_write import write_toml
from relay.control.notices import NOTICES, Notice, NoticeCode, encode_notices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relay.appliance.check import Checked
    from relay.appliance.network import Segment
    from relay.config.file import ConfigError

#: Read by users other than root.
_PUBLIC = 0o644
#: Holds secrets.
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to write; ``mode``: its permission bits."""

    path: Path
    content: bytes
    mode: int = _PUBLIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be there, and nothing else of ours; ``notices`` are in the files as well."""

    files: tuple[File, ...]
    hostname: str
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the machine brings along: addresses drawn for this start, and the partition for the store.

    ``data_bytes``: its size, 0 if it should be there and is not, None where the store is not on one.
    """

    segment: Segment
    data_bytes: int | None = None


def make_plan(checked: Checked, facts: Facts, notices: tuple[Notice, ...] = ()) -> Plan:
    """The plan for a file that was read; ``notices`` of its reading come first."""
    notices += tuple(_notices(checked, facts))
    return Plan(
        files=tuple(_files(checked, facts, notices)),
        hostname=checked.appliance.hostname,
        notices=notices,
    )


def safe_plan(error: ConfigError, facts: Facts, notices: tuple[Notice, ...] = ()) -> Plan:
    """The plan for a file that cannot be used."""
    told = [_mistake(problem.line, problem.message) for problem in error.problems]
    first = Notice(
        code=NoticeCode.CONFIG,
        text=f"{error.path.name} has a mistake and is not used: Bluetooth and Ethernet work, Wi-Fi is off, "
        "messages are kept in memory only. Correct it on a computer and start again.",
    )
    return make_plan(SAFE, facts, (first, *told, *notices))


def _mistake(line: int, message: str) -> Notice:
    return Notice(code=NoticeCode.CONFIG, text=f"line {line}: {message}" if line else message)


def _notices(checked: Checked, facts: Facts) -> Iterator[Notice]:
    if facts.data_bytes is not None and fitting_bytes(facts.data_bytes) < LEAST_BYTES:
        yield Notice(
            code=NoticeCode.STORAGE,
            text="The card has no room for messages: they are kept in memory only, and lost with the power. "
            "Use a larger card, or write this one anew.",
        )
    if not checked.appliance.country:
        yield Notice(
            code=NoticeCode.NO_COUNTRY,
            text='Wi-Fi is off, because no country is set; in relay.toml, below [appliance], write country = "DE" '
            "with the letters of yours.",
        )


def _files(checked: Checked, facts: Facts, notices: tuple[Notice, ...]) -> Iterator[File]:
    appliance = checked.appliance
    segment = facts.segment
    document = effective(checked, data_bytes=facts.data_bytes)
    yield _text("relay.toml", write_toml(document), _PRIVATE)
    yield File(path=NOTICES[0], content=encode_notices(notices))
    yield _text("nftables.conf", firewall(appliance, checked.config))
    for name, content in networkd_files(appliance, segment).items():
        yield File(path=NETWORKD / name, content=content.encode())
    if appliance.hands_out:
        yield _text("segment.conf", segment_dnsmasq(appliance, segment))
        # The units' conditions look for it, `relay segment` reads it.
        settings = {"address": str(segment.ipv4.ip), "election": segment.election.hex()}
        yield _text("segment-bridge" if appliance.lan_bridge else "segment-cable", json.dumps(settings))
    if appliance.serves_phones:
        yield _text("hostapd.conf", hostapd(appliance), _PRIVATE)
        yield _text(f"access-point-{appliance.access_point_interface}", "")
        if not appliance.lan_bridge:
            yield _text("phones.conf", phones_dnsmasq(appliance))
    if appliance.serves_phones or (appliance.lan_bridge and appliance.hands_out):
        yield _text("portal", "")
    if appliance.ssh_keys:
        yield _text("authorized_keys", "".join(f"{key}\n" for key in appliance.ssh_keys))


def _text(name: str, content: str, mode: int = _PUBLIC) -> File:
    return File(path=OUTPUT / name, content=content.encode(), mode=mode)
