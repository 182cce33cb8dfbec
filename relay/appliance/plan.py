# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that a relay.toml means for the machine, as files to be written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from relay.appliance.check import safe
from relay.appliance.closed import Closing, closing
from relay.appliance.constants import FORGET, NETWORKD, OUTPUT, STICKS
from relay.appliance.effective import LEAST_BYTES, effective, fitting_bytes
from relay.appliance.firewall import firewall
from relay.appliance.network import networkd_files
from relay.appliance.phones import hostapd, phones_dnsmasq, segment_dnsmasq
from relay.config.credentials import HTTP_TOKEN, MESH_SECRET, WIFI_SECRET
from relay.config.settings import CREDENTIAL
from relay.config.toml_write import write_toml
from relay.control.notices import NOTICES, Notice, NoticeCode, encode_notices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relay.appliance.check import Checked
    from relay.appliance.network import Segment
    from relay.config.file import ConfigError, Problem

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
    """What is to be there, and nothing else of ours; ``notices`` are in the files as well.

    ``closed``: whether relay.toml closes the mesh, to be remembered; None where it could not be read.
    """

    files: tuple[File, ...]
    hostname: str
    notices: tuple[Notice, ...]
    closed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the machine brings along: what was drawn for this start, and the partition for the store.

    ``stand_in``: a secret that nobody else has, for a mesh that is to stay closed though its own cannot be read.
    ``data_bytes``: size of the partition, 0 if it should be there and is not, None where the store is not on one.
    ``was_closed``: the last relay.toml that could be read closed the mesh.
    ``erasure``: what resisted an erase that was interrupted and with which this start went on; None: there was none.
    """

    segment: Segment
    stand_in: str = field(repr=False)
    data_bytes: int | None = None
    was_closed: bool = False
    erasure: tuple[str, ...] | None = None


def make_plan(checked: Checked, facts: Facts, notices: tuple[Notice, ...] = ()) -> Plan:
    """The plan for a file that was read; ``notices`` of its reading come first."""
    if not checked.appliance.country:
        no_country = Notice(
            code=NoticeCode.NO_COUNTRY,
            text='Wi-Fi is off, because no country is set; in relay.toml, below [appliance], write country = "DE" '
            "with the letters of yours.",
        )
        notices += (*_notices(facts), no_country)
    else:
        notices += tuple(_notices(facts))
    closed = bool(checked.config.mesh.secret or checked.appliance.mesh_secret)
    return _plan(checked, facts, notices, closed=closed, forgets=_keeps_nothing(checked))


def safe_plan(error: ConfigError, facts: Facts, notices: tuple[Notice, ...] = (), *, raw: bytes | None) -> Plan:
    """The plan for a file that cannot be used; ``raw``: its bytes, None where they cannot be had."""
    told = [mistake(problem) for problem in error.problems]
    # What cannot be read at all may have had a secret.
    found = Closing(secret="", clients=True) if raw is None else closing(raw)
    if found is None and facts.was_closed:
        found = Closing(secret="", clients=True)
    if found is None:
        mesh = ""
    elif found.secret:
        mesh = " The mesh stays closed, by the secret that stands there."
    else:
        mesh = (
            " There is, was, or may be a mesh secret that cannot be read: "
            "so this relay keeps all others out until that is mended."
        )
    first = Notice(
        code=NoticeCode.CONFIG,
        text=f"{error.path.name} has a mistake and is not used: Bluetooth and Ethernet work, Wi-Fi is off, "
        f"messages are kept in memory only.{mesh} Correct it on a computer and start again.",
    )
    secret = "" if found is None else found.secret or facts.stand_in
    checked = safe(secret, clients=found is None or found.clients, raw=raw)
    return _plan(checked, facts, (first, *told, *notices, *_notices(facts)), closed=None, forgets=False)


def _keeps_nothing(checked: Checked) -> bool:
    """Whether the operator wrote that nothing is to be kept."""
    return bool(checked.document.get("store", {}).get("storage", checked.appliance.storage) == "volatile")


def mistake(problem: Problem) -> Notice:
    """What a person with the card reads of something wrong in relay.toml."""
    is_secret = problem.key in {("appliance", "mesh_secret"), ("mesh", "secret")}
    text = f"line {problem.line}: {problem.message}" if problem.line else problem.message
    return Notice(code=NoticeCode.SECRET if is_secret else NoticeCode.CONFIG, text=text)


def _plan(checked: Checked, facts: Facts, notices: tuple[Notice, ...], *, closed: bool | None, forgets: bool) -> Plan:
    # A mistake, and a card without room, lead to a store in memory, too, and must not erase the one that was kept.
    forget = (File(path=FORGET, content=b""),) if forgets else ()
    return Plan(
        files=(*_files(checked, facts, notices), *forget),
        hostname=checked.appliance.hostname,
        notices=notices,
        closed=closed,
    )


def _notices(facts: Facts) -> Iterator[Notice]:
    if facts.erasure:
        yield Notice(
            code=NoticeCode.STORAGE,
            text=f"An erase (panic) was interrupted, and this start could not finish it: {' and '.join(facts.erasure)} "
            "cannot be written over. Nothing of it is used, and each start tries again. Destroy the card.",
        )
        return
    if facts.erasure is not None:
        yield Notice(
            code=NoticeCode.HINT,
            text="An erase (panic) was interrupted, and this start finished it: this is a new relay. A card's own "
            "controller may keep copies that no program reaches: what nobody may find, destroy with the card.",
        )
    if facts.data_bytes is not None and fitting_bytes(facts.data_bytes) < LEAST_BYTES:
        yield Notice(
            code=NoticeCode.STORAGE,
            text="The card has no room for messages: they are kept in memory only, and lost with the power. "
            "Use a larger card, or write this one anew.",
        )


def _files(checked: Checked, facts: Facts, notices: tuple[Notice, ...]) -> Iterator[File]:
    appliance = checked.appliance
    segment = facts.segment
    document = effective(checked, data_bytes=facts.data_bytes)
    # First: what says that there is a secret comes after it.
    yield from _secrets(checked, document)
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
        yield _text("hostapd-unprotected.conf", hostapd(appliance, protected=False), _PRIVATE)
        yield _text(f"access-point-{appliance.access_point_interface}", "")
        if not appliance.lan_bridge:
            yield _text("phones.conf", phones_dnsmasq(appliance))
    if appliance.serves_phones or (appliance.lan_bridge and appliance.hands_out):
        # Who stands there may show it to others; nobody but the portal is given it.
        phones: dict[str, Any] = {"bitchat": checked.config.bitchat.enabled}
        if appliance.serves_phones:
            phones |= {"name": appliance.access_point_name, "password": appliance.access_point_password}
        yield _text("portal", json.dumps(phones), _PRIVATE)
    if appliance.sticks:
        # The unit's condition looks for it.
        yield _text(STICKS.name, "".join(f"{use}\n" for use in appliance.sticks))
    if appliance.ssh_keys:
        yield _text("authorized_keys", "".join(f"{key}\n" for key in appliance.ssh_keys))


def _secrets(checked: Checked, document: dict[str, Any]) -> Iterator[File]:
    """Move the secrets out of the document, which all processes read, to files that one of them each is given."""
    mesh = document.get("mesh", {})
    if mesh.get("secret"):
        yield _text(MESH_SECRET, f"{mesh['secret']}\n", _PRIVATE)
        mesh["secret"] = CREDENTIAL
    http = document.get("http", {})
    if http.get("token"):
        yield _text(HTTP_TOKEN, f"{http['token']}\n", _PRIVATE)
        http["token"] = CREDENTIAL
    # A secret that the operator gave a radio of his own stays with it.
    radios = document["net"].get("radios", {})
    if checked.appliance.mesh_secret and radios and "radios" not in checked.document.get("net", {}):
        (radio,) = radios.values()
        yield _text(WIFI_SECRET, f"{radio['secret']}\n", _PRIVATE)
        radio["secret"] = CREDENTIAL


def _text(name: str, content: str, mode: int = _PUBLIC) -> File:
    return File(path=OUTPUT / name, content=content.encode(), mode=mode)
