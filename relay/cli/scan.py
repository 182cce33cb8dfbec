# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay scan`: the relays near here, without connecting to any."""

# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction
    from collections.abc import Iterator, Sequence

    from relay.client.bluetooth import HeardRelay
    from relay.links.address import RelayAddress

DEFAULT_S: Final = 6.0


def add_parser(sub: _SubParsersAction[ArgumentParser]) -> None:
    """Add the command; its `func` returns the exit status."""
    from relay.cli.messages import seconds

    scan = sub.add_parser(
        "scan", help="list the relays near here: on Bluetooth by signal strength, and those that this network announces"
    )
    scan.add_argument("--seconds", type=seconds, default=DEFAULT_S, metavar="S", help="how long (default: %(default)g)")
    scan.add_argument("--adapter", default="", metavar="HCI", help="the Bluetooth adapter to use (default: any)")
    scan.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show addresses as well, as --relay takes them (but for those of Bluetooth, which change)",
    )
    scan.set_defaults(func=_scan)


def _scan(arguments: Namespace) -> int:
    heard, found = asyncio.run(_look_around(arguments.adapter, arguments.seconds))
    for line in lines(heard, found, with_addresses=arguments.verbose):
        print(line)
    if not heard and not found:
        print("No relay is near here.", file=sys.stderr)
    return 0 if heard or found else 1


def lines(heard: Sequence[HeardRelay], found: Sequence[RelayAddress], *, with_addresses: bool = False) -> Iterator[str]:
    """What `relay scan` prints: for each way that found any how many, then one a line, the nearest or first first."""
    if heard:
        yield f"Bluetooth: {_relays(len(heard))}, by signal strength (-30 dBm: beside it; -100 dBm: hardly in reach)"
    for relay in sorted(heard, key=lambda relay: -relay.rssi_dbm):
        yield f"  {relay.rssi_dbm} dBm" + (f"  {relay.device.address}" if with_addresses else "")
    if found:
        where = "" if with_addresses else "; --verbose shows addresses, as --relay takes them"
        yield f"This network (multicast DNS): {_relays(len(found))}, one for each interface of a relay{where}"
    if with_addresses:
        yield from (f"  {address}" for address in found)


def _relays(count: int) -> str:
    return f"{count} relay{'s' * (count != 1)}"


async def _look_around(adapter: str, timeout_s: float) -> tuple[list[HeardRelay], list[RelayAddress]]:
    """Listen on Bluetooth and browse the network, both for so long."""
    from relay.client.bluetooth import Bluetooth
    from relay.client.finding import browse
    from relay.links.address import RelayAddress
    from relay.links.errors import ClientError

    browsing = asyncio.ensure_future(browse(timeout_s))
    radio = Bluetooth(RelayAddress(adapter=adapter))
    try:
        heard = await radio.scan(timeout_s=timeout_s, settle_s=timeout_s)
    except ClientError as error:
        print(error, file=sys.stderr)
        heard = []
    finally:
        await radio.close()
    try:
        return heard, await browsing
    except ClientError as error:
        print(error, file=sys.stderr)
        return heard, []
