# SPDX-License-Identifier: GPL-2.0-or-later
"""Real relays on loopback, people with folders of their own, and relays that misbehave."""

import asyncio
import contextlib
import functools
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time

from relay.client.card import Card
from relay.client.client import Client
from relay.client.contacts import ContactBook
from relay.client.finding import ANY_BLUETOOTH, RelayFinder
from relay.client.identity import Identity
from relay.control.control_client import ControlClient
from relay.core import session as s
from relay.core.envelope import HEADER_BYTES, EnvelopeType, Header, decode_envelope, envelope_id
from relay.core.messages import Hello, MessageType, Offer, Role, Subscribe
from relay.core.session import Session, State
from relay.links.address import RelayAddress, parse_address
from relay.links.client_session import Failure, RelayConnectionError

#: A second on a machine that has nothing else to do.
START_S = 60.0


class RelayProcess:
    """`relay run` in a folder; keeps its port and its store from one start to the next."""

    def __init__(self, folder, **sections):
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = 0
        self.output = ""
        self._sections = {"log": {"level": "info"}, **sections}
        self._errors = (folder / "stderr").open("ab")

    def start(self):
        sections = {
            "store": {"path": str(self.folder / "store")},
            "tcp": {"port": self.port, "discovery": False, "interfaces": ["lo"]},
            "unix": {"enabled": False},
            "http": {"enabled": False},
            "control": {"path": str(self.folder / "control")},
        }
        for name, values in self._sections.items():
            sections[name] = sections.get(name, {}) | values
        lines = []
        for name, values in sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        config = self.folder / "relay.toml"
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o600)
        command = [sys.executable, "-m", "relay", "run", "--config", str(config)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        alarm = threading.Timer(START_S, self._process.kill)
        alarm.start()
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "receive" in line:
                break
        alarm.cancel()
        self.output = "".join(said)
        found = re.search(r"port (\d+)", self.output)
        if not found:
            self._wait()
            self._errors.close()
            raise AssertionError(f"the relay did not start: {self.output!r} {self.errors!r}")
        self.port = int(found[1])
        return self

    @property
    def address(self):
        return f"localhost:{self.port}"

    @property
    def errors(self):
        return (self.folder / "stderr").read_text()

    def totals(self):
        with ControlClient(self.folder / "control") as control:
            return control.status()["totals"]

    def kill(self):
        self._process.kill()
        self._wait()

    def stop(self):
        if self._process.poll() is None:
            self._process.terminate()
            assert self._wait() == 0
        self._errors.close()

    def _wait(self):
        status = self._process.wait(10)
        self._process.stdout.close()
        return status


class User:
    """One user's folders; `client` opens the library on them, `run` is the command line."""

    def __init__(self, folder, name):
        self.name = name
        self.home = folder / name
        self.config = self.home / "config" / "mesh-relay"
        self.data = self.home / "data" / "mesh-relay"
        self.inbox = self.home / "files"
        self.inbox.mkdir(parents=True)
        self.identity = Identity.generate(secrets.token_bytes)
        self.identity.save(self.config)

    @property
    def card(self):
        return Card.of(self.identity)

    def knows(self, *others):
        for other in others:
            ContactBook(self.config).add(other.card, other.name)

    def client(self, *relays, secret=None, clock=time.time, patience_s=10.0, receipts_at_once=False):
        addresses = [relay if isinstance(relay, RelayAddress) else parse_address(relay) for relay in relays]
        finder = RelayFinder(addresses, secret=secret)
        return Client(
            self.config,
            self.data,
            finder,
            clock=clock,
            patience_s=patience_s,
            receipts_at_once=receipts_at_once,
        )

    def environ(self, *relays):
        return os.environ | {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_DATA_HOME": str(self.home / "data"),
            "MESH_RELAY": ",".join(relays),
        }

    def start(self, *arguments, relays=()):
        command = [sys.executable, "-m", "relay", *arguments]
        return subprocess.Popen(
            command, env=self.environ(*relays), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments, relays=(), stdin=""):
        command = [sys.executable, "-m", "relay", *arguments]
        return subprocess.run(
            command, env=self.environ(*relays), input=stdin, capture_output=True, text=True, check=False, timeout=60
        )

    async def texts(self, client):
        return [await client.text(message) for message in await client.messages()]


class FakeRelay:
    """Speaks the session as a relay does, and answers as the methods of a subclass have it.

    `sessions` keeps what each session was, for tests about what a relay gets to know.
    """

    hello = Hello(role=Role.RELAY, durable=True, max_puts=2048)
    static = None

    def __init__(self):
        self.sessions = []
        self.writers = {}
        self.flushing = {}
        """What sends a session's data, for what is not an answer."""
        #: What is to be said once all else is on its way, as small messages overtake large ones.
        self.then = []
        #: Bytes that came in each session.
        self.bytes_in = {}

    def on_event(self, session, event):
        """Answer one event; `session` is a relay.core.session.Session."""

    @contextlib.asynccontextmanager
    async def serving(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader, writer):
        loop = asyncio.get_running_loop()
        session = Session(
            initiator=False,
            hello=self.hello,
            random_bytes=secrets.token_bytes,
            now=loop.time(),
            static=self.static,
        )
        seen = []
        self.sessions.append((session, seen))

        def flush():
            while out := session.data_to_send():
                writer.write(out)
                while self.then and not session.queued_bytes:
                    self.then.pop(0)()

        self.writers[session] = writer
        self.flushing[session] = flush
        while session.state is not State.CLOSED:
            data = await reader.read(65_536)
            self.bytes_in[session] = self.bytes_in.get(session, 0) + len(data)
            events = session.receive_data(data, loop.time()) if data else session.connection_lost()
            for event in events:
                seen.append(event)
                if session.state is State.OPEN:
                    self.on_event(session, event)
            flush()
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def offer_of(envelope):
    header = decode_envelope(envelope)
    return Offer(envelope_id(envelope), header.size_class, header.expiry_hour)


class Holding(FakeRelay):
    """Honest: holds envelopes, offers and gives them."""

    def __init__(self, envelopes=()):
        super().__init__()
        self.held = {envelope_id(envelope): envelope for envelope in envelopes}

    def there(self):
        """What is held, as relays send it: small ones first, of one size the latest first."""
        latest_first = list(self.held.values())[::-1]
        return sorted(latest_first, key=len)

    def offers(self):
        return [offer_of(envelope) for envelope in self.there()]

    def on_event(self, session, event):
        match event:
            case Subscribe(offers_only=True):
                session.offer(self.offers())
                session.caught_up()
            case Subscribe(prefix_bits=bits, prefix=prefix):
                session.send_envelopes([one for one in self.there() if one[8] >> 8 - bits == prefix])
                self.then.append(session.caught_up)
                # So that there is something to send in any case.
                session._push(0, bytes([MessageType.PONG]))
            case s.Fetch(identities):
                for identity in identities:
                    self.give(session, identity)
            case s.Puts(items):
                for number, envelope in items:
                    self.take(session, number, envelope)

    def give(self, session, identity):
        if identity in self.held:
            session.send_envelopes([self.held[identity]])
        else:
            session.send_missing([identity])

    def take(self, session, number, envelope):
        self.held[envelope_id(envelope)] = envelope
        session.acknowledge([number])


class Dripping(Holding):
    """Gives what it has, and for ever a little more that is of no use, and never says that this is all."""

    EVERY_S = 2.0

    def on_event(self, session, event):
        if isinstance(event, Subscribe):
            if event.offers_only:
                session.offer(self.offers())
            else:
                session.send_envelopes(self.there())
            self._drip(session, is_by_offers=event.offers_only)
        else:
            super().on_event(session, event)

    def _drip(self, session, *, is_by_offers):
        if session.state is not State.OPEN:
            return
        expiry_hour = int(time.time() // 3600) + 48
        header = Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=expiry_hour, tag=secrets.token_bytes(16))
        junk = header.encode() + secrets.token_bytes(256 - HEADER_BYTES)
        self.held[envelope_id(junk)] = junk
        if is_by_offers:
            session.offer([offer_of(junk)])
        else:
            session.send_envelopes([junk])
        self.flushing[session]()
        drip = functools.partial(self._drip, session, is_by_offers=is_by_offers)
        asyncio.get_running_loop().call_later(self.EVERY_S, drip)


class Sockets:
    """Takes the place of `relay.client.bluetooth.Bluetooth`: whoever is in range is at a port."""

    def __init__(self, port=None):
        self.port = port
        self.is_due = True
        self.is_connected = False
        self.opened = 0
        self.avoided = 0
        self.asked = 0
        self.read = 0
        self.often_asked = asyncio.Event()

    async def open(self):
        self.opened += 1
        if self.port is None:
            raise RelayConnectionError(Failure.UNREACHABLE, ANY_BLUETOOTH, "no relay is in range")
        sock = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", self.port))
        sock.setblocking(False)
        return sock

    async def is_visit_due(self):
        self.asked += 1
        if self.asked >= 3:
            self.often_asked.set()
        return self.is_due

    def was_read(self):
        self.read += 1

    def avoid(self):
        self.avoided += 1

    async def scan(self):
        return [self] if self.port else []

    async def close(self):
        pass


@contextlib.asynccontextmanager
async def client_of(user, radio, *named, patience_s=5.0, later_s=0):
    finder = RelayFinder([parse_address(name) for name in named])
    finder._radios[""] = radio
    clock = lambda: time.time() + later_s  # noqa: E731
    async with Client(user.config, user.data, finder, clock=clock, patience_s=patience_s) as client:
        yield client
