# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of the partition for data at this start: left by `relay appliance data`, read by what comes after it.

A file of JSON, an object with the fields of :class:`DataState`.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: In a folder of its own, that `relay appliance unlock` may write to later.
DATA_STATE: Final = Path("/run/mesh-relay-data/state.json")


class Trouble(enum.StrEnum):
    """Why messages are in memory, though the card is there for them."""

    NONE = ""
    #: There is no room, no card that is ours, or it does not take a file system.
    UNUSABLE = "unusable"
    #: Something is kept there that relay.toml gives no leave to use, nor to erase.
    PLAIN_KEPT = "plain_kept"
    DURABLE_KEPT = "durable_kept"
    #: What is there no relay wrote.
    FOREIGN = "foreign"
    #: It was to be erased, and resists.
    RESISTS = "resists"
    #: Encrypted, and not opened yet; or not made yet.
    LOCKED = "locked"
    UNMADE = "unmade"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataState:
    """``size_bytes``: of the file system for the store, 0 where there is none.

    ``was_closed``: the last relay.toml that could be read closed the mesh, or the one before it, at this start.
    ``forgot``: at this start was erased what had been kept before.
    """

    size_bytes: int = 0
    trouble: Trouble = Trouble.NONE
    was_closed: bool = False
    forgot: bool = False


def write_state(state: DataState, path: Path = DATA_STATE) -> None:
    """Leave it, whole or not at all."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(state)))
    fresh.chmod(0o644)
    fresh.replace(path)


def read_state(path: Path = DATA_STATE) -> DataState:
    """What was left; of a start that left nothing, that there is no partition to use."""
    try:
        found: Mapping[str, Any] = json.loads(path.read_text())
        return DataState(
            size_bytes=int(found["size_bytes"]),
            trouble=Trouble(found["trouble"]),
            was_closed=bool(found["was_closed"]),
            forgot=bool(found["forgot"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return DataState(trouble=Trouble.UNUSABLE)
