# SPDX-License-Identifier: GPL-2.0-or-later
"""One session of a client with one relay, over TCP, a Unix socket or Bluetooth (docs/protocol.md sections 4 to 6).

The protocol is relay.core.session; this moves its bytes. Every session has keys of its own, so that a relay
cannot tell by them that two sessions are of one client.
"""

import asyncio
import enum
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol, Self, cast

from relay.config.settings import DEFAULT_PORT
from relay.core import session as s
from relay.core.messages import Ack, Goodbye, Hello, Refused, Role, Subscribe
from relay.core.session import Session, State
from relay.core.stats import HandshakeFailure, Reason, SessionError
from relay.links.address import RelayAddress
from relay.links.errors import ClientError
from relay.process.link_socket import ForeignStream

CONNECT_TIMEOUT_S: Final = 10.0
MAX_UNANSWERED_BYTES: Final = 2 * 1024 * 1024
"""Of envelopes put and not answered: what a relay commits at once on a slow card, and what we hold for it."""
SLOW_UNANSWERED_BYTES: Final = 64 * 1024
"""... over a radio of some kB/s, so that the answers of the last ones are seconds away."""
MAX_HELD_BYTES: Final = 1024 * 1024
"""Of events that nobody has taken yet; beyond it nothing more is read."""
_BUFFER_BYTES: Final = 256 * 1024
_LINGER_S: Final = 2.0
"""Time for the last bytes to leave."""
_OFFER_MEMORY_BYTES: Final = 200
_SMALL_EVENT_BYTES: Final = 64
_REARM_S: Final = 1.0
_LOCAL_INTERFACE: Final = "local"
"""Name under which a relay counts clients on its Unix socket."""

Incoming = s.Envelopes | s.Missing | s.Offers | s.PriceChanged | s.CaughtUp | Ack | Refused


class Failure(enum.Enum):
    """Why there is no session, or no more."""

    UNREACHABLE = "unreachable"
    NOT_A_RELAY = "not_a_relay"
    VERSION = "version"
    SECRET = "secret"  # noqa: S105 - a reason, not a secret
    WRONG_KEY = "wrong_key"
    BUSY = "busy"
    LOST = "lost"
    STALLED = "stalled"
    MISBEHAVED = "misbehaved"


RETRYABLE: Final = frozenset({Failure.UNREACHABLE, Failure.BUSY, Failure.LOST, Failure.STALLED})
"""What can pass by itself."""


class RelayConnectionError(ClientError):
    """A relay that cannot be used (any more); `failure` says why, the text what to do."""

    def __init__(self, failure: Failure, address: RelayAddress, text: str) -> None:
        super().__init__(text)
        self.failure = failure
        self.address = address

    @property
    def is_retryable(self) -> bool:
        """Whether it may work a little later without anybody doing anything."""
        return self.failure in RETRYABLE


class Bearer(Protocol):
    """What brings a stream to a relay where there is no address for it: Bluetooth."""

    async def open(self) -> socket.socket:
        """Return a stream to a relay in reach; RelayConnectionError."""

    def avoid(self) -> None:
        """Note that whoever the last stream led to is no relay that can be used."""


class Connection:
    """An open session. Made by `open`; an async context manager that says goodbye at the end."""

    def __init__(self, address: RelayAddress, stream: "_Stream", hello: Hello) -> None:
        """Use `Connection.open`."""
        self.address = address
        self.hello = hello
        """The relay's: its limits, whether it is durable, and the price it asks, kept up to date."""
        self.relay_key = stream.session.peer_static
        self._stream = stream
        self._unanswered: dict[int, int] = {}
        self._unanswered_bytes = 0
        # Zero would mean a relay to which nothing can ever be put.
        self._max_puts = min(max(hello.max_puts, 1), s.MAX_PUTS)
        self._max_put_bytes = SLOW_UNANSWERED_BYTES if hello.slow else MAX_UNANSWERED_BYTES

    @classmethod
    async def open(
        cls, address: RelayAddress, *, secret: bytes | None = None, bluetooth: "Bearer | None" = None
    ) -> Self:
        """Connect and shake hands; RelayConnectionError when that fails.

        `secret` (32 bytes) is the mesh's; a relay that does not know it is not talked to. `bluetooth` is for
        addresses of that kind.
        """
        loop = asyncio.get_running_loop()
        # Takes seconds, of which the relay knows nothing.
        radio = await bluetooth.open() if bluetooth is not None else None
        # Relays are not told which clients know how much of this: all client hellos are alike.
        hello = Hello(role=Role.CLIENT, slow=radio is not None)
        session = Session(initiator=True, hello=hello, random_bytes=secrets.token_bytes, now=loop.time(), secret=secret)
        if radio is not None:
            _, stream = await loop.create_connection(lambda: _Stream(session, b""), sock=radio)
        else:
            stream = await _connect(address, session)
        try:
            await stream.wait()
            return cls(address, stream, _established(stream, address, with_secret=secret is not None))
        except RelayConnectionError:
            if bluetooth is not None:
                bluetooth.avoid()
            await stream.close()
            raise
        except BaseException:
            await stream.close()
            raise

    async def __aenter__(self) -> Self:
        """Return the connection itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Say goodbye and close."""
        await self.close()

    async def close(self) -> None:
        """Say goodbye, give the last bytes a moment to leave, and close; may be called again."""
        await self._stream.close()

    @property
    def can_put(self) -> bool:
        """Whether the relay's window and ours have room for another envelope."""
        return len(self._unanswered) < self._max_puts and self._unanswered_bytes < self._max_put_bytes

    def put(self, envelope: bytes) -> int:
        """Send an envelope to be stored and return its number, which its answer will have.

        Only when `can_put`; it is that which bounds the memory.
        """
        number = self._stream.session.put(envelope)
        self._unanswered[number] = len(envelope)
        self._unanswered_bytes += len(envelope)
        self._stream.flush_soon()
        return number

    def subscribe(self, subscription: Subscribe) -> None:
        """Ask for a prefix of buckets; one in a session, since two tell more of the client than one."""
        self._stream.session.subscribe(subscription)
        self._stream.flush_soon()

    def fetch(self, identities: Sequence[bytes]) -> None:
        """Ask for envelopes; how many are asked for at a time is up to the caller."""
        self._stream.session.fetch(identities)
        self._stream.flush_soon()

    async def events(self, timeout_s: float | None = None) -> list[Incoming]:
        """Return everything that has come, at least one event.

        RelayConnectionError when the session is over, or STALLED when nothing comes for `timeout_s`.
        """
        events: list[Incoming] = []
        # One for all that comes: what is none of these events is no answer.
        until = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        while not events:
            try:
                async with asyncio.timeout_at(until):
                    await self._stream.wait()
            except TimeoutError:
                raise self.stalled() from None
            events = [event for event in self._stream.take() if isinstance(event, Incoming)]
            if not events and self._stream.closed is not None:
                raise _failure(self._stream.closed, self.address, is_open=True, with_secret=False)
        for event in events:
            self._note(event)
        return events

    def stalled(self) -> RelayConnectionError:
        """Return the error of a relay that owes an answer for too long."""
        return RelayConnectionError(
            Failure.STALLED, self.address, f"the relay at {self.address} no longer answers; try again, or another relay"
        )

    def misbehaved(self, what: str) -> RelayConnectionError:
        """Return the error of a relay that does what no honest one does."""
        return RelayConnectionError(
            Failure.MISBEHAVED, self.address, f"the relay at {self.address} {what}; use another relay"
        )

    def _note(self, event: Incoming) -> None:
        match event:
            case Ack():
                for number in event.numbers():
                    self._answered(number)
            case s.PriceChanged(price):
                self.hello = replace(self.hello, price=price)
            case Refused():
                for number, _ in event.refusals:
                    self._answered(number)

    def _answered(self, number: int) -> None:
        self._unanswered_bytes -= self._unanswered.pop(number, 0)


class _Stream(asyncio.Protocol):
    """Moves bytes between a transport and a session, and keeps what the session says until it is taken."""

    def __init__(self, session: Session, preamble: bytes) -> None:
        self.session = session
        self._preamble = preamble
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.closed: s.Closed | None = None
        self._events: list[s.Event] = []
        self._held_bytes = 0
        self._arrived = asyncio.Event()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._is_writable = True
        self._is_reading = True
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    # -- called by the event loop -----------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        if self._preamble:
            self._transport.write(self._preamble)
        self._flush()
        self._on_timer()

    def data_received(self, data: bytes) -> None:
        self._keep(self.session.receive_data(data, self._loop.time()))
        self._flush()

    def connection_lost(self, _: Exception | None) -> None:
        self._keep(self.session.connection_lost())
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if not self._ended.done():
            self._ended.set_result(None)

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._flush()

    # -- called by the connection -----------------------------------------

    def flush_soon(self) -> None:
        """Write once the caller has said all it has to say, so that much of it shares a record."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    async def wait(self) -> None:
        """Wait until there is an event to take, or the session is over."""
        while not self._events and self.closed is None:
            self._arrived.clear()
            await self._arrived.wait()

    def take(self) -> list[s.Event]:
        """Return the events that are here; what came before the end of the session is among them."""
        events, self._events = self._events, []
        self._held_bytes = 0
        if not self._is_reading:
            self._is_reading = True
            if self._transport is not None:
                self._transport.resume_reading()
        return events

    async def close(self) -> None:
        """End the session and wait until the transport is closed."""
        self._keep(self.session.close(Goodbye.DONE, SessionError.GOODBYE))
        self._flush()
        if self._transport is not None:
            self._transport.close()
            # Unlike wait_for, this leaves the future to the next caller when this one is cancelled.
            await asyncio.wait({self._ended}, timeout=_LINGER_S)
        if self._transport is not None:
            self._transport.abort()

    def _keep(self, events: list[s.Event]) -> None:
        for event in events:
            if isinstance(event, s.Closed):
                self.closed = event
            else:
                self._held_bytes += _memory_bytes(event)
                self._events.append(event)
        if events:
            self._arrived.set()
        if self._is_reading and self._held_bytes >= MAX_HELD_BYTES and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _flush(self) -> None:
        self._flush_scheduled = False
        while self._transport is not None and self._is_writable:
            data = self.session.data_to_send()
            if not data:
                break
            self._transport.write(data)
        if self.session.state is State.CLOSED and self._transport is not None:
            self._transport.close()

    def _on_timer(self) -> None:
        now = self._loop.time()
        # While we do not read, silence says nothing about the relay.
        if self._is_reading:
            self._keep(self.session.handle_timer(now))
            self._flush()
        deadline = self.session.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(max(deadline, now + _REARM_S), self._on_timer)


def _memory_bytes(event: s.Event) -> int:
    match event:
        case s.Envelopes(items):
            return sum(map(len, items))
        case s.Offers(items):
            return _OFFER_MEMORY_BYTES * len(items)
        case _:
            return _SMALL_EVENT_BYTES


async def _connect(address: RelayAddress, session: Session) -> _Stream:
    loop = asyncio.get_running_loop()
    errors: list[str] = []
    if address.path is not None:
        line = ForeignStream(interface=_LOCAL_INTERFACE).preamble()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, stream = await loop.create_unix_connection(lambda: _Stream(session, line), str(address.path))
            return stream
        except OSError as error:
            errors.append(_os_error(error))
    for host, port in address.hosts:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, stream = await loop.create_connection(lambda: _Stream(session, b""), host, port)
            return stream
        except OSError as error:  # a timeout is one, too
            errors.append(_os_error(error))
    raise RelayConnectionError(
        Failure.UNREACHABLE,
        address,
        f"no relay answers at {address} ({'; '.join(dict.fromkeys(errors))}); "
        "check that it runs (relay run) and that this device is on its network",
    )


def _established(stream: _Stream, address: RelayAddress, *, with_secret: bool) -> Hello:
    """Return the hello of the relay that was meant; RelayConnectionError otherwise."""
    if stream.session.peer is None:
        raise _failure(stream.closed, address, is_open=False, with_secret=with_secret)
    if address.pinned is not None and stream.session.peer_static != address.pinned:
        raise RelayConnectionError(
            Failure.WRONG_KEY,
            address,
            f"the relay at {address} is not the one whose key you noted; "
            "if it was set up anew, ask its operator for the new key",
        )
    return stream.session.peer


def _os_error(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {CONNECT_TIMEOUT_S:.0f} s"
    # asyncio writes addresses into strerror; those of a name that is not found are no errno.
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _failure(
    closed: s.Closed | None, address: RelayAddress, *, is_open: bool, with_secret: bool
) -> RelayConnectionError:
    if closed is None:  # pragma: no cover - asked only once the session is over
        raise AssertionError("the session is open")
    failure, text = _FAILURES.get(
        closed.goodbye if closed.goodbye is not None else closed.reason,
        _NOT_UNDERSTOOD,
    )
    if not is_open and closed.goodbye is None and closed.reason is HandshakeFailure.TRUNCATED:
        failure, text = _SECRET_DIFFERS if with_secret else _TURNED_AWAY
    return RelayConnectionError(failure, address, f"the relay at {address} {text}")


_SECRET_DIFFERS: Final = (
    Failure.SECRET,
    "ended the handshake: it does not know the secret in client.toml, or it is no mesh relay; compare the secrets",
)
_TURNED_AWAY: Final = (
    Failure.BUSY,
    (
        "closed the connection without a word. Either it has too many already: try again in a minute. Or its mesh is "
        'closed: ask its operator for the secret and put it into client.toml as: secret = "..." Or it is no mesh relay'
    ),
)
_NOT_A_RELAY: Final = (
    Failure.NOT_A_RELAY,
    f"does not speak the relays' protocol, so it is something else; check host and port (relays have {DEFAULT_PORT})",
)
_NOT_UNDERSTOOD: Final = (
    Failure.MISBEHAVED,
    "and this program do not understand each other; they may be of different versions, update both",
)
_LOST: Final = (Failure.LOST, "broke the connection; try again")
_BUSY: Final = (Failure.BUSY, "is busy; try again in a minute, or another relay")
_OTHER_VERSION: Final = (Failure.VERSION, "speaks another version of the protocol; update this program or the relay")
_FAILURES: Final[dict[Goodbye | Reason, tuple[Failure, str]]] = {
    Goodbye.SHUTTING_DOWN: (Failure.LOST, "is being switched off; try again later, or another relay"),
    Goodbye.BUSY: _BUSY,
    Goodbye.TIMEOUT: _LOST,
    Goodbye.SLOW_READER: (Failure.LOST, "gave up because this device took nothing for too long; try again"),
    Goodbye.DONE: _LOST,
    Goodbye.SECRET_REQUIRED: (
        Failure.SECRET,
        'asks for the mesh secret; ask its operator for it and put it into client.toml as: secret = "..."',
    ),
    Goodbye.VERSION: _OTHER_VERSION,
    Goodbye.LIMIT: (Failure.LOST, "says that this client asks too much at a time; try again, and please report this"),
    HandshakeFailure.TRUNCATED: _LOST,
    HandshakeFailure.OVERSIZED: _NOT_A_RELAY,
    HandshakeFailure.DECRYPT: _NOT_A_RELAY,
    HandshakeFailure.LOW_ORDER_KEY: _NOT_A_RELAY,
    HandshakeFailure.VERSION: _OTHER_VERSION,
    HandshakeFailure.BAD_HELLO: _OTHER_VERSION,
    HandshakeFailure.TIMEOUT: (
        Failure.NOT_A_RELAY,
        "accepted the connection and said nothing; check host and port, and restart it if it is a relay",
    ),
    SessionError.CONNECTION_LOST: _LOST,
    SessionError.TIMEOUT_IDLE: (Failure.STALLED, "no longer answers; try again, or another relay"),
    SessionError.GOODBYE: _LOST,
}
