# SPDX-License-Identifier: GPL-2.0-or-later
"""What each interface is guaranteed of a thing that all of them use: the store, places, memory.

docs/protocol.md sections 9.1 and 11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

_Name = TypeVar("_Name", int, str)


def shares(known: AbstractSet[_Name], named: Mapping[_Name, float], whole: float) -> Callable[[_Name], float]:
    """Return the share of ``whole`` of each of the ``known`` interfaces.

    ``named``: the fractions that the operator gave to some; the others divide the rest evenly.
    """
    rest = max(0.0, 1.0 - sum(named.values())) * whole / max(1, len(known - named.keys()))
    return lambda interface: named[interface] * whole if interface in named else rest


def furthest_above(used: Mapping[_Name, float], named: Mapping[_Name, float], whole: float) -> _Name:
    """Return the interface that uses most beyond its share."""
    share = shares(used.keys(), named, whole)
    return max(used, key=lambda name: (used[name] - share(name), name))
