# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers to dial."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A peer to stay connected to.

    ``addresses``: (host, port) in order of preference; a host may carry a scope
    (``fe80::1%eth0``). ``interface``: where it was found, and by which alone it is dialled;
    empty for what the operator named, which competes for a place with nobody.
    ``pinned``: the 32-byte static key that it must show.
    """

    addresses: tuple[tuple[str, int], ...]
    interface: str = ""
    pinned: bytes | None = None
