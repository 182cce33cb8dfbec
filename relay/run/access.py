# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may see the operator's page, and who may change something: from where, by which token, and how many guesses."""

from __future__ import annotations

import base64
import enum
import hmac
import ipaddress
from typing import TYPE_CHECKING, Final

from relay.core.stats import HttpRefused
from relay.process.addresses import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.links.interfaces import Snapshot

#: Wrong tokens of one address at once, and the seconds until one more is looked at.
GUESSES_PER_ADDRESS: Final = 5
ADDRESS_REFILL_S: Final = 60.0
#: The same of all addresses together, which are free on a LAN: some 8,700 a day. A token has 12 characters or more.
GUESSES_IN_ALL: Final = 30
ALL_REFILL_S: Final = 10.0
#: Addresses whose guesses are remembered, under 200 bytes each. Beyond it the oldest are forgotten, and the bound for
#: all holds alone.
MAX_ADDRESSES: Final = 256
#: Addresses from which the token came: their guesses wait for nobody else's, or whoever guesses without end would keep
#: an operator from setting the clock. The last ones; each had the token.
MAX_KNOWN: Final = 16
#: How old what is known of our interfaces may be. Reading it takes a millisecond.
INTERFACES_AGE_S: Final = 10.0
#: One household has a /64 of IPv6, and so as many addresses as it likes.
_PREFIX: Final = 64


class Access(enum.Enum):
    """What is made of somebody."""

    ADMITTED = enum.auto()
    STRANGER = enum.auto()  # says no token, and needs one
    WRONG = enum.auto()
    TOO_MANY = enum.auto()  # wrong ones came; none is looked at for a while

    @property
    def refusal(self) -> HttpRefused:
        """As what it is counted; KeyError for who is admitted."""
        return {
            Access.STRANGER: HttpRefused.STRANGER,
            Access.WRONG: HttpRefused.TOKEN,
            Access.TOO_MANY: HttpRefused.GUESSES,
        }[self]


class _Bucket:
    def __init__(self, most: int, refill_s: float, now: float) -> None:
        self._most, self._refill_s = most, refill_s
        self._left, self._at = float(most), now

    def left(self, now: float) -> float:
        self._left = min(self._most, self._left + (now - self._at) / self._refill_s)
        self._at = now
        return self._left

    def take(self, now: float) -> None:
        self._left = self.left(now) - 1


class Guesses:
    """Bounds how many wrong tokens are looked at. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._all = _Bucket(GUESSES_IN_ALL, ALL_REFILL_S, now)
        self._by_address: dict[str, _Bucket] = {}
        #: In order of the last right token; a dict for its order.
        self._known: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._by_address)

    def allowed(self, address: str, now: float) -> bool:
        """Whether a token from ``address`` is looked at."""
        own = self._by_address.get(_household(address))
        return (self._is_known(address) or self._all.left(now) >= 1) and (own is None or own.left(now) >= 1)

    def right(self, address: str) -> None:
        """Note that the token came from ``address``."""
        household = _household(address)
        self._known.pop(household, None)
        while len(self._known) >= MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[household] = None

    def _is_known(self, address: str) -> bool:
        # Nobody elsewhere comes from this machine's own address.
        return _household(address) in self._known or ipaddress.ip_address(plain(address)).is_loopback

    def wrong(self, address: str, now: float) -> None:
        """Note a wrong token."""
        household = _household(address)
        own = self._by_address.pop(household, None) or _Bucket(GUESSES_PER_ADDRESS, ADDRESS_REFILL_S, now)
        while len(self._by_address) >= MAX_ADDRESSES:
            self._by_address.pop(next(iter(self._by_address)))
        self._by_address[household] = own
        own.take(now)
        if not self._is_known(address):
            self._all.take(now)


def _household(address: str) -> str:
    parsed = ipaddress.ip_address(plain(address))
    if isinstance(parsed, ipaddress.IPv4Address) or parsed.is_link_local:
        return str(parsed)
    return str(ipaddress.ip_network(f"{parsed}/{_PREFIX}", strict=False))


class Gate:
    """Decides. ``strangers``: interfaces where whoever is there needs ``token``; "" lets nobody in by one."""

    def __init__(
        self,
        *,
        token: str,
        strangers: tuple[str, ...],
        interfaces: Callable[[], Awaitable[Snapshot]],
        clock: Callable[[], float],
    ) -> None:
        self._token = token.encode()
        self._strangers = frozenset(strangers)
        self._interfaces = interfaces
        self._clock = clock
        self._guesses = Guesses(clock())
        self._snapshot: Snapshot | None = None
        self._read_s = 0.0

    @property
    def has_token(self) -> bool:
        """Whether there is a token, so that something can be changed."""
        return bool(self._token)

    async def admits(self, address: str, scope: int, authorization: str) -> Access:
        """Who comes from this machine or an own segment needs nothing, others the token as password (RFC 7617).

        ``scope``: index of the interface of a link-local address, else 0.
        """
        if await self._is_near(address, scope):
            return Access.ADMITTED
        if not authorization or not self._token:
            return Access.STRANGER
        return self.check(address, _password(authorization))

    def check(self, address: str, token: str) -> Access:
        """Whether it is the token; counts a wrong one."""
        now = self._clock()
        if not self._guesses.allowed(address, now):
            return Access.TOO_MANY
        if self._token and hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
            self._guesses.right(address)
            return Access.ADMITTED
        self._guesses.wrong(address, now)
        return Access.WRONG

    async def _is_near(self, address: str, scope: int) -> bool:
        if ipaddress.ip_address(plain(address)).is_loopback:
            return True
        now = self._clock()
        if self._snapshot is None or now - self._read_s >= INTERFACES_AGE_S:
            self._snapshot, self._read_s = await self._interfaces(), now
        names = {
            interface.name
            for interface in self._snapshot.interfaces.values()
            if scope in {0, interface.index} and interface.reaches(address)
        }
        return bool(names) and not names & self._strangers


def _password(authorization: str) -> str:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""
