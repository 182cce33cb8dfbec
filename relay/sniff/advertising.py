# SPDX-License-Identifier: GPL-2.0-or-later
"""Advertisements of relays, from whichever capture (docs/ble.md section 2; Core Specification 3.C.11)."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from relay.bluetooth.gatt import COMPANY, SERVICE_UUID
from relay.sniff import bitchat
from relay.sniff.att import GAP_NAME
from relay.sniff.counts import Counts, Passed
from relay.sniff.events import Advertised, BitchatAdvertised, Event, escaped
from relay.sniff.layers import RelayNews, dissect
from relay.sniff.linkable import Field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay.sniff.linkable import Linkage

#: Addresses whose last advertisement is remembered, 300 B each.
MAX_ADVERTISERS: Final = 2048
#: AD structures of one advertisement looked at; legacy ones have 31 bytes.
MAX_STRUCTURES: Final = 64
#: First byte of an address here.
PUBLIC, RANDOM = 0, 1
_SERVICE: Final = uuid.UUID(SERVICE_UUID).bytes[::-1]
#: What a relay advertises, each in an advertisement of its own; the same for all.
_KNOWN_SERVICES: Final = frozenset({_SERVICE, bitchat.SERVICE})
#: An identity has 8 bytes; of what else is there so much is shown.
MAX_PEER_BYTES: Final = 8
_FLAGS, _SERVICES, _NAMES, _MANUFACTURER = {0x01}, {0x06, 0x07}, {0x08, 0x09}, 0xFF
#: Data of a service with a long UUID: Androids tell their bitchat identity so.
_SERVICE_DATA: Final = 0x21


class Advertisements:
    """Tells of a relay's advertisement when it says something new."""

    def __init__(self, *, counts: Counts, linkage: Linkage | None) -> None:
        self._counts = counts
        self._linkage = linkage
        self._told: OrderedDict[str, tuple[str, str, str]] = OrderedDict()
        #: By address, the identity that was told with bitchat's service.
        self._bitchat: OrderedDict[str, str] = OrderedDict()

    def address_seen(self, time_s: float, address: bytes) -> None:
        """Somebody uses this address: PUBLIC or RANDOM, and 6 bytes."""
        if self._linkage is not None:
            self._linkage.add(time_s, shown(address), Field.ADDRESS, address)

    def heard(self, time_s: float, address: bytes, structures: list[tuple[int, bytes]]) -> list[Event]:
        """An advertisement or scan response: (type, bytes) of its AD structures."""
        who = shown(address)
        self.address_seen(time_s, address)
        salt = digest = name = b""
        is_ours = False
        for kind, value in structures:
            if kind in _SERVICES and _SERVICE in _parts(value, len(_SERVICE)):
                is_ours = True
            if kind in _NAMES:
                name = value
            elif kind == _MANUFACTURER and (news := _news(value)) is not None:
                salt, digest = news.salt, news.digest
            if self._linkage is not None:
                _observe(self._linkage, time_s, who, kind, value)
        if is_ours and self._linkage is not None:
            self._linkage.own(who)
        with_bitchat = self._heard_bitchat(time_s, who, structures)
        if not is_ours and who not in self._told:
            if not with_bitchat and who not in self._bitchat:
                self._counts.add(Passed.OTHER)
            return with_bitchat
        before = self._told.get(who)
        salt_text, digest_text, name_text = before or ("", "", "")
        now = (salt.hex() or salt_text, digest.hex() or digest_text, escaped(name) or name_text)
        self._told[who] = now
        self._told.move_to_end(who)
        if len(self._told) > MAX_ADVERTISERS:
            self._told.popitem(last=False)
        if now == before:
            return with_bitchat
        return [*with_bitchat, Advertised(time_s=time_s, address=who, salt=now[0], digest=now[1], gap_name=now[2])]

    def _heard_bitchat(self, time_s: float, who: str, structures: list[tuple[int, bytes]]) -> list[Event]:
        """Who advertises bitchat is told once, and again with another identity."""
        size, peer, is_there = len(bitchat.SERVICE), "", False
        for kind, value in structures:
            if kind in _SERVICES and bitchat.SERVICE in _parts(value, size):
                is_there = True
            elif kind == _SERVICE_DATA and value[:size] == bitchat.SERVICE:
                is_there, peer = True, value[size : size + MAX_PEER_BYTES].hex()
        before = self._bitchat.get(who)
        if not is_there or before == (peer := peer or before or ""):
            return []
        self._bitchat[who] = peer
        self._bitchat.move_to_end(who)
        if len(self._bitchat) > MAX_ADVERTISERS:
            self._bitchat.popitem(last=False)
        return [BitchatAdvertised(time_s=time_s, address=who, peer=peer)]


def structures_of(elements: Iterable[Any] | None) -> list[tuple[int, bytes]]:
    """(type, bytes) of each AD structure as it was captured, whatever scapy makes of it."""
    found: list[tuple[int, bytes]] = []
    for element in list(elements or ())[:MAX_STRUCTURES]:
        raw = bytes(element.original)
        if len(raw) >= 2 and raw[0] >= 1:
            found.append((raw[1], raw[2 : 1 + raw[0]]))
    return found


def address_bytes(text: Any) -> bytes:
    """6 bytes, the most significant first; zeros where scapy has none."""
    return bytes.fromhex(str(text).replace(":", "")) if text else bytes(6)


def shown(address: bytes) -> str:
    """The 6 bytes behind the type as text."""
    return address[1:].hex(":")


def _observe(linkage: Linkage, time_s: float, who: str, kind: int, value: bytes) -> None:
    """Hand over whatever is not the same for all relays."""
    if kind in _NAMES:
        if value != GAP_NAME:
            linkage.add(time_s, who, Field.NAME, value)
    elif kind == _MANUFACTURER and (news := _news(value)) is not None:
        linkage.add(time_s, who, Field.SALT, news.salt)
        linkage.add(time_s, who, Field.DIGEST, news.digest)
        linkage.add(time_s, who, Field.NEWS, news.salt + news.digest)
        linkage.add(time_s, who, Field.ADVERTISED, bytes(news.more), is_unexpected=True)
    elif kind not in _FLAGS and not (kind in _SERVICES and value in _KNOWN_SERVICES):
        linkage.add(time_s, who, Field.ADVERTISED, bytes([kind]) + value, is_unexpected=True)


def _news(value: bytes) -> Any:
    """Return the manufacturer specific data as ours; None if it is another company's or too short."""
    news = dissect(RelayNews, value) if len(value) >= 8 else None
    return news if news is not None and news.company == COMPANY else None


def _parts(value: bytes, size: int) -> list[bytes]:
    return [value[start : start + size] for start in range(0, len(value), size)]
