# SPDX-License-Identifier: GPL-2.0-or-later
"""What Berty's members send, for the tests: entries and seals as the facts say."""

import hashlib

from relay.libp2p.wire import bytes_field


def head(major, number):
    for size, value in ((0, None), (1, 24), (2, 25), (4, 26), (8, 27)):
        if value is None:
            if number < 24:
                return bytes([major << 5 | number])
        elif number < 1 << 8 * size:
            return bytes([major << 5 | value]) + number.to_bytes(size)
    raise ValueError(number)


def text(value):
    return head(3, len(value.encode())) + value.encode()


def link(cid):
    data = b"\0" + cid.encode()
    return head(6, 42) + head(2, len(data)) + data


def entry(log, links=(), payload=b"sealed"):
    """An entry of a log, as go-ipfs-log writes it: among other fields its log's address and the entries before it."""
    return (
        head(5, 4)
        + (text("v") + head(0, 2))
        + (text("id") + text(log))
        + (text("next") + head(4, len(links)) + b"".join(link(each) for each in links))
        + (text("payload") + head(2, len(payload)) + payload)
    )


def digest(block):
    return hashlib.sha256(block).digest()


def seal(rotation, box=b"box"):
    return bytes_field(2, box) + bytes_field(3, rotation)
