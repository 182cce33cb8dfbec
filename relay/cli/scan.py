# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay scan`: the relays near here, without connecting to any."""

# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

    from relay.client.bluetooth import HeardRelay
    from relay.links.address import RelayAddress

DEFAULT_S: Final = 6.0


def add_parser(sub: _SubParsersAction[ArgumentParser]) -> None:
    """Add the command; its `func` returns the exit status."""
    from relay.cli.messages import seconds

    scan = sub.add_parser("scan", help="list the relays near here, on Bluetooth and on this network")
    scan.add_argument("--seconds", type=seconds, default=DEFAULT_S, metavar="S", help="how long (default: %(default)g)")
    scan.add_argument("--adapter", default="", metavar="HCI", help="the Bluetooth adapter to use (default: any)")
    scan.add_argument("-v", "--verbose", action="store_true", help="show addresses as well")
    scan.set_defaults(func=_scan)


def _scan(arguments: Namespace) -> int:
    heard, found = asyncio.run(_look_around(arguments.adapter, arguments.seconds))
    for relay in heard:
        address = f"  {relay.device.address}" if arguments.verbose else ""
        print(f"Bluetooth  {relay.rssi_dbm:4d} dBm{address}")
    for one in found:
        address = f"  {one}" if arguments.verbose else ""
        print(f"network    by DNS-SD{address}")
    if not heard and not found:
        print("No relay is near here.", file=sys.stderr)
    return 0 if heard or found else 1


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
