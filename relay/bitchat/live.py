# SPDX-License-Identifier: GPL-2.0-or-later
"""A packet as a live datagram between relays (docs/links.md section 4)."""

from __future__ import annotations

import hashlib
from typing import Final

from relay.core.messages import LIVE_ID_BYTES, LiveDatagram

KIND: Final = 1
"""Of bitchat's datagrams."""
_TTL_AT: Final = 2
"""Each relay that heard the packet may have heard it with another one, which no signature covers."""


def identity_of(data: bytes) -> bytes:
    """Return the 16 bytes that are the same for a packet wherever it was heard."""
    return hashlib.sha256(data[:_TTL_AT] + b"\0" + data[_TTL_AT + 1 :]).digest()[:LIVE_ID_BYTES]


def to_datagram(data: bytes) -> LiveDatagram:
    """Return the datagram for an encoded packet."""
    return LiveDatagram(kind=KIND, identity=identity_of(data), data=data)


def is_true(datagram: LiveDatagram) -> bool:
    """Whether a datagram has the identity of its data: no relay on its way could check that."""
    return datagram.identity == identity_of(datagram.data)
