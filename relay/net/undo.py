# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting the machine's network back as it was found; the same code after SIGTERM and after a crash."""

from __future__ import annotations

import contextlib
import errno
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from relay.net import deaf, supplicant
from relay.net.errors import KernelRefusedError
from relay.net.found import WIRED, FoundLink
from relay.net.nl80211 import Nl80211
from relay.net.rtnetlink import Links, address_key
from relay.net.wiphy import InterfaceType

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from relay.net.found import Record
    from relay.net.rtnetlink import Link

#: What these codes say is that there is nothing to put back to.
_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT})


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How it went. ``problems``: what could not be put back, and why."""

    restored: int = 0
    problems: list[str] = field(default_factory=list)


async def undo(record: Record, runtime: Path) -> Outcome:
    """Put back what ``record`` holds, in the reverse order; what fails stays in the record."""
    await supplicant.end_left_over(runtime)
    outcome = Outcome()
    found = record.found
    if found.is_empty:
        return outcome
    async with AsyncExitStack() as stack:
        links = await stack.enter_async_context(Links())
        radios = await stack.enter_async_context(Nl80211())
        # First what was made: it frees what is in it.
        for made in reversed(found.made):
            there = await links.find(made.name)
            if there is None or there.index != made.index or await _done(links.delete(made.index), outcome, made.name):
                found = replace(found, made=tuple(other for other in found.made if other != made))
        for link in found.links:
            # Another device may have come in its place, or nothing.
            there = next((now for now in (await links.all()).values() if now.index == link.index), None)
            if there is None or await _done(_restore(links, radios, there, link), outcome, link.name):
                found = replace(found, links=tuple(other for other in found.links if other != link))
        if found.country and await _done(_restore_country(radios, found.country), outcome, "country"):
            found = replace(found, country="")
    record.keep(found)
    return outcome


async def _done(work: Awaitable[None], outcome: Outcome, what: str) -> bool:
    """Await ``work``; whether it is done with, which it is also when its object has gone."""
    try:
        await work
    except KernelRefusedError as error:
        if error.code not in _GONE:
            outcome.problems.append(f"{what}: {error}")
            return False
    else:
        outcome.restored += 1
    return True


async def _restore_country(radios: Nl80211, country: str) -> None:
    if await radios.country() != country:
        await radios.ask_for_country(country)


async def _restore(links: Links, radios: Nl80211, there: Link, was: FoundLink) -> None:
    await links.uncap_rate(was.index)
    if there.master != was.master:
        await links.set_master(was.index, was.master)
    if was.kind != WIRED:
        await _restore_kind(links, radios, was)
    if there.mtu != was.mtu:
        await links.change(was.index, "set the largest packet", mtu=was.mtu)
    # A wpa_supplicant that was killed leaves the interface waiting for it.
    await links.set_link_mode(was.index, was.link_mode)
    await links.set_address_mode(was.index, was.address_mode)
    deaf.write(there.name, was.believes)
    # Addresses that came since; those of before are given back whether they are there or not.
    before = {address_key(bytes.fromhex(address)) for address in was.addresses}
    for address in await links.addresses(was.index):
        if address_key(address) not in before:
            await links.delete_address(address, was.index)
    if was.up:
        await links.set_up(was.index)
    else:
        await links.set_down(was.index)
    for text in was.addresses:
        await links.add_address(bytes.fromhex(text), was.index)
    for text in was.routes:
        with contextlib.suppress(KernelRefusedError):
            # One through a neighbour that is out of reach while the cable is; whoever made it makes it again.
            await links.add_route(bytes.fromhex(text), was.index)


async def _restore_kind(links: Links, radios: Nl80211, was: FoundLink) -> None:
    now = {interface.index: interface for interface in await radios.interfaces()}.get(was.index)
    if now is None or (now.kind == was.kind and not now.mhz):
        return
    await links.set_down(was.index)
    if now.kind != was.kind:
        four_address = was.four_address and was.kind == InterfaceType.STATION
        await radios.set_kind(was.index, was.kind, four_address=four_address)


async def look(links: Links, link: Link, *, kind: int = WIRED, four_address: bool = False) -> FoundLink:
    """Describe an interface as it is now, for the record."""
    return FoundLink(
        name=link.name,
        index=link.index,
        up=link.up,
        mtu=link.mtu,
        master=link.master,
        address_mode=link.address_mode or 0,
        link_mode=link.link_mode,
        kind=kind,
        four_address=four_address,
        addresses=tuple(address.hex() for address in await links.addresses(link.index)),
        routes=tuple(route.hex() for route in await links.routes(link.index)),
        believes=deaf.read(link.name),
    )
