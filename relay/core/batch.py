# SPDX-License-Identifier: GPL-2.0-or-later
"""What the core asks the store to do, all of it or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Batch:
    """One atomic change of the store.

    ``inserts``: (seq, id, header, interface number, arrived_s, envelope or None);
    None records an identity whose body is not kept. ``drop_bodies``, ``displace`` (they
    leave as well, and may return) and ``forget`` are sequence numbers, ``state`` named
    values to keep, ``interfaces`` new numbers and their names.
    """

    inserts: list[tuple[int, bytes, bytes, int, int, bytes | None]] = field(default_factory=list)
    drop_bodies: list[int] = field(default_factory=list)
    displace: list[int] = field(default_factory=list)
    forget: list[int] = field(default_factory=list)
    state: dict[str, int] = field(default_factory=dict)
    interfaces: dict[int, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(
            (self.inserts, self.drop_bodies, self.displace, self.forget, self.state, self.interfaces),
        )
