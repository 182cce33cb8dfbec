# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that a relay.toml means for the machine, as files to be written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from relay.appliance.check import KEEPS_NOTHING, is_written, safe
from relay.appliance.closed import Closing, closing
from relay.appliance.constants import NETWORKD, OUTPUT, STICKS, STORE_WHEN_OPEN, UPDATE_KEYS
from relay.appliance.data_state import DataState, Trouble
from relay.appliance.effective import LEAST_BYTES, effective, fitting_bytes, store_on
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
PUBLIC = 0o644
#: Holds secrets.
PRIVATE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to write; ``mode``: its permission bits."""

    path: Path
    content: bytes
    mode: int = PUBLIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be there, and nothing else of ours; ``notices`` are in the files as well.

    ``closed``: whether relay.toml closes the mesh, to be remembered; None where it could not be read.
    ``storage``: how messages are to be kept; None where it could not be read. ``forgets``: that none are to be kept is
    what somebody wrote, and no default.
    """

    files: tuple[File, ...]
    hostname: str
    notices: tuple[Notice, ...]
    closed: bool | None
    storage: str | None
    forgets: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the machine brings along: what was drawn for this start, and the partition for the store.

    ``stand_in``: a secret that nobody else has, for a mesh that is to stay closed though its own cannot be read.
    ``data``: what became of the partition for data; None where the store is not on one.
    ``erasure``: what resisted an erase that was interrupted and with which this start went on; None: there was none.
    """

    segment: Segment
    stand_in: str = field(repr=False)
    data: DataState | None = None
    erasure: tuple[str, ...] | None = None

    @property
    def was_closed(self) -> bool:
        """Whether the last relay.toml that could be read closed the mesh."""
        return self.data is not None and self.data.was_closed


def make_plan(checked: Checked, facts: Facts, notices: tuple[Notice, ...] = ()) -> Plan:
    """The plan for a file that was read; ``notices`` of its reading come first."""
    if not checked.appliance.country:
        no_country = Notice(
            code=NoticeCode.NO_COUNTRY,
            text='Wi-Fi is off, because no country is set; in relay.toml, below [appliance], write country = "DE" '
            "with the letters of yours.",
        )
        notices += (*_notices(facts, checked.storage), no_country)
    else:
        notices += tuple(_notices(facts, checked.storage))
    closed = bool(checked.config.mesh.secret or checked.appliance.mesh_secret)
    return _plan(checked, facts, notices, closed=closed, storage=checked.storage)


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
    return _plan(checked, facts, (first, *told, *notices, *_notices(facts, None)), closed=None, storage=None)


def mistake(problem: Problem) -> Notice:
    """What a person with the card reads of something wrong in relay.toml."""
    is_secret = problem.key in {("appliance", "mesh_secret"), ("mesh", "secret")}
    text = f"line {problem.line}: {problem.message}" if problem.line else problem.message
    return Notice(code=NoticeCode.SECRET if is_secret else NoticeCode.CONFIG, text=text)


def _plan(
    checked: Checked, facts: Facts, notices: tuple[Notice, ...], *, closed: bool | None, storage: str | None
) -> Plan:
    return Plan(
        files=tuple(_files(checked, facts, notices)),
        hostname=checked.appliance.hostname,
        notices=notices,
        closed=closed,
        storage=storage,
        forgets=storage in KEEPS_NOTHING and is_written(checked.document),
    )


#: What relay.toml does not use is not erased, where it does not say that nothing is to be kept.
_ERASING = 'To have them erased, write storage = "amnesic" below [appliance]; or hold the button (panic).'
_TROUBLE = {
    Trouble.UNUSABLE: "The card has no room for messages: they are kept in memory only, and lost with the power. "
    "Use a larger card, or write this one anew.",
    Trouble.PLAIN_KEPT: "The card still holds messages from before, not encrypted, that are neither used nor erased: "
    f'new ones are in memory only. With storage = "plain" they are used again. {_ERASING}',
    Trouble.DURABLE_KEPT: "The card still holds messages from before, encrypted with a passphrase, that are "
    "neither used nor erased: new ones are in memory only. "
    f'With storage = "durable" they are used again. {_ERASING}',
    Trouble.FOREIGN: "Where the card keeps messages is something that no relay wrote, and it is neither used nor "
    f"erased: messages are in memory only. {_ERASING}",
    Trouble.RESISTS: "The card still holds messages from before storage was set to keep none, and they cannot be "
    "erased: it is tried again at each start. To be sure, destroy the card.",
    Trouble.LOCKED: "What is kept on the card is encrypted, and not open yet: messages are in memory only. Log in and "
    "type `relay appliance unlock`, or plug in the stick with its key.",
    Trouble.UNMADE: "Nothing is kept on the card yet, as it has no passphrase: messages are in memory only. Log in and "
    "type `relay appliance unlock` to choose one, or plug in a stick with one.",
}
#: What is over once the partition is open.
WAITING = frozenset({_TROUBLE[Trouble.LOCKED], _TROUBLE[Trouble.UNMADE]})


def _notices(facts: Facts, storage: str | None) -> Iterator[Notice]:
    """``storage``: as of Plan."""
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
    if facts.data is None:
        return
    if facts.data.forgot:
        yield Notice(
            code=NoticeCode.HINT,
            text="What an earlier relay.toml had kept on the card was erased at this start. A card's own controller "
            "may keep copies that no program reaches: what nobody may find, destroy with the card.",
        )
    trouble = facts.data.trouble
    if not trouble and storage not in {None, "volatile"} and fitting_bytes(facts.data.size_bytes) < LEAST_BYTES:
        trouble = Trouble.UNUSABLE
    # Without a partition, that there is none is of no matter to who keeps nothing there.
    if trouble and not (trouble is Trouble.UNUSABLE and storage in {None, "volatile"}):
        yield Notice(code=NoticeCode.STORAGE, text=_TROUBLE[trouble])


def _files(checked: Checked, facts: Facts, notices: tuple[Notice, ...]) -> Iterator[File]:
    appliance = checked.appliance
    segment = facts.segment
    document = effective(checked, facts.data)
    # First: what says that there is a secret comes after it.
    yield from _secrets(checked, document)
    yield _text("relay.toml", write_toml(document), PRIVATE)
    if facts.data is not None and facts.data.trouble in {Trouble.LOCKED, Trouble.UNMADE}:
        yield _text(STORE_WHEN_OPEN.name, json.dumps(store_on(checked, None)))
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
        yield _text("hostapd.conf", hostapd(appliance), PRIVATE)
        yield _text("hostapd-unprotected.conf", hostapd(appliance, protected=False), PRIVATE)
        yield _text(f"access-point-{appliance.access_point_interface}", "")
        if not appliance.lan_bridge:
            yield _text("phones.conf", phones_dnsmasq(appliance))
    if appliance.serves_phones or (appliance.lan_bridge and appliance.hands_out):
        # Who stands there may show it to others; nobody but the portal is given it.
        phones: dict[str, Any] = {"bitchat": checked.config.bitchat.enabled}
        if appliance.serves_phones:
            phones |= {"name": appliance.access_point_name, "password": appliance.access_point_password}
        yield _text("portal", json.dumps(phones), PRIVATE)
    if appliance.sticks:
        # The unit's condition looks for it.
        yield _text(STICKS.name, "".join(f"{use}\n" for use in appliance.sticks))
    if appliance.update_keys:
        yield _text(UPDATE_KEYS.name, "".join(f"{key}\n" for key in appliance.update_keys))
    if appliance.ssh_keys:
        yield _text("authorized_keys", "".join(f"{key}\n" for key in appliance.ssh_keys))


def _secrets(checked: Checked, document: dict[str, Any]) -> Iterator[File]:
    """Move the secrets out of the document, which all processes read, to files that one of them each is given."""
    mesh = document.get("mesh", {})
    if mesh.get("secret"):
        yield _text(MESH_SECRET, f"{mesh['secret']}\n", PRIVATE)
        mesh["secret"] = CREDENTIAL
    http = document.get("http", {})
    if http.get("token"):
        yield _text(HTTP_TOKEN, f"{http['token']}\n", PRIVATE)
        http["token"] = CREDENTIAL
    # A secret that the operator gave a radio of his own stays with it.
    radios = document["net"].get("radios", {})
    if checked.appliance.mesh_secret and radios and "radios" not in checked.document.get("net", {}):
        (radio,) = radios.values()
        yield _text(WIFI_SECRET, f"{radio['secret']}\n", PRIVATE)
        radio["secret"] = CREDENTIAL


def _text(name: str, content: str, mode: int = PUBLIC) -> File:
    return File(path=OUTPUT / name, content=content.encode(), mode=mode)
