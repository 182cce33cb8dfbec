# SPDX-License-Identifier: GPL-2.0-or-later
"""Which relays to use, and sessions with them.

Those the user named; else one on this machine; else one on this segment (DNS-SD); else whichever Bluetooth reaches.
"""

import asyncio
import errno
import ipaddress
from collections.abc import Sequence
from typing import Final

from relay.client.bluetooth import Bluetooth, MissingPackageError
from relay.client.errors import ClientError
from relay.config.settings import DEFAULT_PORT
from relay.links.address import SERVICE_TYPE, RelayAddress
from relay.links.client_session import Connection, Failure, RelayConnectionError
from relay.process.ports import MDNS_PORT, why_not

BROWSE_S: Final = 4.0
"""A relay answers a query within a second; Wi-Fi loses multicast, so the query is repeated."""
SETTLE_S: Final = 0.3
"""After the first relay was found, for others to appear as well."""
MAX_FOUND: Final = 16
"""On one segment; whoever announces more is not looking for clients."""
_NO_NETWORK: Final = frozenset({errno.ENODEV, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""What the kernel says where there is no network to ask on."""
RESOLVE_TIMEOUT_MS: Final = 2000

LOCAL: Final = RelayAddress(hosts=(("localhost", DEFAULT_PORT),))
ANY_BLUETOOTH: Final = RelayAddress(adapter="")


class NoRelayError(ClientError):
    """No relay was named and none was found; the text lists what was tried."""


class MulticastError(ClientError):
    """Nobody can be found on this network, since another program has the port; the text names it."""


class RelayFinder:
    """Tells which relays to use now, and opens sessions with them."""

    def __init__(self, named: Sequence[RelayAddress] = (), *, secret: bytes | None = None) -> None:
        """Use the `named` relays, all of them; with none, look for one each time."""
        self.named = tuple(named)
        self.secret = secret
        self._avoided: set[RelayAddress] = set()
        self._radios: dict[str, Bluetooth] = {}

    async def close(self) -> None:
        """Hang up on Bluetooth."""
        for radio in self._radios.values():
            await radio.close()
        self._radios.clear()

    def bluetooth(self, address: RelayAddress = ANY_BLUETOOTH) -> Bluetooth:
        """Return the Bluetooth of an address of that kind."""
        return self._radios.setdefault(address.adapter or "", Bluetooth(address))

    async def connect(self, address: RelayAddress) -> Connection:
        """Open a session; RelayConnectionError."""
        radio = self.bluetooth(address) if address.is_bluetooth else None
        return await Connection.open(address, secret=self.secret, bluetooth=radio)

    def avoid(self, address: RelayAddress) -> None:
        """Find others before this one, which was of no use, as long as there are others."""
        self._avoided.add(address)

    async def find(self) -> tuple[RelayAddress, ...]:
        """Return the named relays, or one that answers; NoRelayError when none does."""
        if self.named:
            return self.named
        if self.bluetooth().is_connected and ANY_BLUETOOTH not in self._avoided:
            return (ANY_BLUETOOTH,)
        tried: list[str] = []
        if await self._answers(LOCAL, tried):
            return (LOCAL,)
        found: list[RelayAddress] = []
        try:
            found = await browse()
            if not found:
                tried.append("multicast DNS: no relay announces itself on this network")
        except MulticastError as error:
            tried.append(str(error))
        for address in found:
            if await self._answers(address, tried):
                return (address,)
        avoided, self._avoided = self._avoided, set()
        try:
            if ANY_BLUETOOTH not in avoided and await self.bluetooth().scan():
                return (ANY_BLUETOOTH,)
            if ANY_BLUETOOTH not in avoided:
                tried.append("Bluetooth: no relay is in range")
        except (RelayConnectionError, MissingPackageError) as error:
            tried.append(str(error))
        tried += [f"{address}: tried already, and of no use" for address in avoided]
        raise NoRelayError(
            "found no relay. Tried:\n"
            + "".join(f"  - {line}\n" for line in tried)
            + "Start one with `relay run`, or name one with --relay HOST, the variable MESH_RELAY, or client.toml"
        )

    async def _answers(self, address: RelayAddress, tried: list[str]) -> bool:
        if address in self._avoided:
            return False
        try:
            async with await self.connect(address):
                return True
        except RelayConnectionError as error:
            unreachable = error.failure is Failure.UNREACHABLE
            tried.append(f"{address}: nothing answers there" if unreachable else str(error))
            return False


async def browse(timeout_s: float = BROWSE_S) -> list[RelayAddress]:
    """Return the relays that announce themselves on this machine's segments, in the order in which they answer.

    MulticastError when the system does not let us ask, as when another program has the port to itself.
    """
    # Slow to import on a small board, and not needed by those who name their relay.
    from zeroconf import IPVersion, ServiceStateChange, Zeroconf  # noqa: PLC0415
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf  # noqa: PLC0415

    from relay.links.announcement import announcement  # noqa: PLC0415

    names: asyncio.Queue[str] = asyncio.Queue(MAX_FOUND)

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:  # noqa: ARG001 - zeroconf passes by name
        if state_change is ServiceStateChange.Added and not names.full():
            names.put_nowait(name)

    for version in (IPVersion.All, IPVersion.V4Only):
        # Without IPv6 in the kernel the first fails; without any network both do.
        try:
            zeroconf = AsyncZeroconf(ip_version=version)
            break
        except OSError as error:
            failed = error
    else:
        if failed.errno in _NO_NETWORK:
            return []
        cause = await asyncio.to_thread(why_not, failed, MDNS_PORT, "udp")
        remedy = "stop what has it, or name" if failed.errno == errno.EADDRINUSE else "name"
        raise MulticastError(f"multicast DNS: port {MDNS_PORT}: {cause}; {remedy} a relay with --relay HOST")
    found: list[RelayAddress] = []
    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[changed])
    try:
        async with asyncio.timeout(timeout_s) as limit:
            while True:
                info = announcement(await names.get())
                if info is None or not await info.async_request(zeroconf.zeroconf, RESOLVE_TIMEOUT_MS) or not info.port:
                    continue
                hosts = sorted(info.parsed_scoped_addresses(), key=_preference)
                if hosts:
                    found.append(RelayAddress(hosts=tuple((host, info.port) for host in hosts)))
                    limit.reschedule(asyncio.get_running_loop().time() + SETTLE_S)
    except TimeoutError:
        pass
    finally:
        await browser.async_cancel()
        await zeroconf.async_close()
    return found


def _preference(host: str) -> tuple[bool, str]:
    """Link-local IPv6 last: which interface it is on is not always told."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return address.is_link_local and address.version == 6 and "%" not in host, host
