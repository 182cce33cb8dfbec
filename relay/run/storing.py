# SPDX-License-Identifier: GPL-2.0-or-later
"""The store that a relay begins with: the one at its path, mended if need be; where that cannot be, one in memory.

Only where ``store.fallback`` names a place in memory, as on an appliance: nobody is there who reads an error, mends a
card or starts something again, and a relay without what it kept is worth more than none. Elsewhere the error ends the
relay, as before, and changes nothing.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from relay.config.run import AUTOMATIC, MIB
from relay.store.database import Store, log_files
from relay.store.errors import (
    StoreDamagedError,
    StoreError,
    StoreForeignError,
    StoreIoError,
    StoreLockedError,
)
from relay.store.replay import LogDamage
from relay.store.salvage import salvage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relay.config.run import StoreConfig

logger = logging.getLogger(__name__)

#: Of a store in memory, at most: a board with 512 MiB has that beside everything else (relay.appliance.effective).
FALLBACK_BYTES: Final = 64 * MIB
FALLBACK_ENVELOPES: Final = 20_000
#: A store that takes nothing for so long, for a reason that does not pass by itself, is given up: the relay ends, and
#: begins in memory. A card that is busy with itself is back within seconds.
GIVEN_UP_S: Final = 60.0
#: What does not pass by itself; that there is no room does.
LASTING: Final = frozenset({"io", "read only"})
FELL_BACK: Final = (
    "The card does not take messages: new ones are kept in memory only, and lost with the power. What is on it is left "
    "as it is. Use another card soon."
)
_MENDABLE: Final = (StoreDamagedError, StoreForeignError, StoreIoError)

_Node = TypeVar("_Node")


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun(Generic[_Node]):
    """``config``: as it holds for this store; ``fell_back``: it is in memory, as the one at its path cannot be used."""

    store: Store
    node: _Node
    config: StoreConfig
    fell_back: bool = False


def begin(
    config: StoreConfig, make_node: Callable[[StoreConfig, Store], _Node], on_mending: Callable[[], None]
) -> Begun[_Node]:
    """Open the store and read what it says; raise StoreError where there is nothing to fall back to.

    :param make_node: reads the store, and raises StoreError where it cannot
    :param on_mending: called before something that takes minutes
    """
    if config.fallback == AUTOMATIC:
        return _begin(config, make_node)
    try:
        return _begin_or_mend(config, make_node, on_mending)
    except StoreLockedError:
        raise
    except StoreError as error:
        logger.error("the store cannot be used (%s): messages are kept in memory", type(error).__name__)  # noqa: TRY400 - its text holds a path
    memory = replace(
        config,
        path=config.fallback,
        storage="volatile",
        max_bytes=min(config.max_bytes or FALLBACK_BYTES, FALLBACK_BYTES),
        max_envelopes=min(config.max_envelopes or FALLBACK_ENVELOPES, FALLBACK_ENVELOPES),
    )
    _carry_over(config.database, memory.database)
    return replace(_begin(memory, make_node), fell_back=True)


def _begin(config: StoreConfig, make_node: Callable[[StoreConfig, Store], _Node]) -> Begun[_Node]:
    store = Store.open(config.database, durable=config.durable)
    try:
        return Begun(store=store, node=make_node(config, store), config=config)
    except BaseException:
        store.close()
        raise


def _begin_or_mend(
    config: StoreConfig, make_node: Callable[[StoreConfig, Store], _Node], on_mending: Callable[[], None]
) -> Begun[_Node]:
    path = config.database
    salvaged = path.with_name(path.name + ".salvaged")
    try:
        with_salvaged = salvaged.exists()
    except OSError as error:
        raise StoreIoError(path, error.strerror or "cannot be looked at") from error
    if with_salvaged:
        # Cut off in putting it where the damaged one was.
        _put(salvaged, path)
    try:
        return _begin(config, make_node)
    except _MENDABLE as error:
        logger.warning("the store is damaged (%s), and is mended", type(error).__name__)
        on_mending()
        report = salvage(path, salvaged)
        if not report.admitted:
            # Whatever it is, nothing of it is ours: it stays.
            salvaged.unlink()
            raise
    _put(salvaged, path)
    begun = _begin(config, make_node)
    lost = report.lost + report.altered
    begun.store.log_damage = LogDamage(saved=report.bodies, lost=lost)
    logger.warning("the store was damaged: %d envelopes are saved, %d are lost; replace the card", report.bodies, lost)
    return begun


def _put(salvaged: Path, path: Path) -> None:
    """Use what was saved in place of what was damaged; whatever it is cut off in, it can be done again."""
    try:
        for log in log_files(path):
            log.unlink(missing_ok=True)
        salvaged.replace(path)
    except OSError as error:
        raise StoreIoError(path, error.strerror or "cannot be put in its place") from error


def _carry_over(path: Path, memory: Path) -> None:
    """Read into memory what the store at ``path`` has, if that fits, and this start did not do so before."""
    with suppress(OSError):
        if memory.exists() or path.stat().st_size > FALLBACK_BYTES:
            return
    try:
        report = salvage(path, memory)
    except (StoreError, OSError) as error:
        logger.warning("nothing of it can be read (%s)", type(error).__name__)
        for left in memory.parent.glob(f"{memory.name}.partial*"):
            left.unlink(missing_ok=True)
        return
    logger.warning("%d envelopes were read from it", report.bodies)
