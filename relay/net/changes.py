# SPDX-License-Identifier: GPL-2.0-or-later
"""When something about interfaces, radios or regulatory domains changed, told to whoever waits for it."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, Final

from pyroute2 import AsyncIPRoute

from relay.net.errors import KernelRefusedError
from relay.net.generic import Family
from relay.net.nl80211 import FAMILY, GROUPS
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.net.net_report import Reporting

logger = logging.getLogger(__name__)

#: RTMGRP_LINK
_LINKS: Final = 0x1
#: Changes come in bursts, and each is looked at as a whole; so a storm of them costs four looks a second.
SETTLE_S: Final = 0.25
#: After the kernel dropped notifications (ENOBUFS), or netlink failed.
_REOPEN_S: Final = 1.0
#: A driver that brings the kernel's wireless half with it is noticed so late at most.
_ABSENT_S: Final = 5.0


class Changes:
    """A counter of changes that can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def note(self) -> None:
        """Something changed."""
        self.count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def after(self, count: int, timeout_s: float) -> bool:
        """Wait until more than ``count`` changes were noted, or for ``timeout_s``; return whether they were."""
        if self.count == count:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._event.wait()
            except TimeoutError:
                return False
        await asyncio.sleep(SETTLE_S)
        return True


async def watch(changes: Changes, reporting: Reporting) -> None:
    """Note changes for ever; a socket that overflows is opened anew."""
    async with TaskGroup() as group:
        group.create_task(_forever(_watch_links, changes, reporting))
        group.create_task(_forever(_watch_radios, changes, reporting))


async def _forever(work: Callable[[Changes], Awaitable[None]], changes: Changes, reporting: Reporting) -> None:
    while True:
        try:
            await work(changes)
        except (OSError, KernelRefusedError) as error:
            if isinstance(error, KernelRefusedError) and error.code == errno.ENOENT:
                # No radio yet, and so no nl80211.
                await asyncio.sleep(_ABSENT_S)
                continue
            logger.info("netlink notifications ended (%s), listening again", type(error).__name__)
            reporting.count("netlink_overruns")
        # Whatever was missed counts as a change.
        changes.note()
        await asyncio.sleep(_REOPEN_S)


async def _watch_links(changes: Changes) -> None:
    async with AsyncIPRoute() as route:
        await route.bind(groups=_LINKS)
        while True:
            # Ends after every datagram, and without a message once the socket is closed.
            if not [message async for message in route.get()]:
                raise ConnectionError("netlink closed")
            changes.note()


async def _watch_radios(changes: Changes) -> None:
    async with Family(FAMILY) as family:
        family.subscribe(*GROUPS)
        while True:
            await family.hear()
            changes.note()
