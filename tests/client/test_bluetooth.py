# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client does differently over Bluetooth; the radio is a socket here (tests/radio has the real one)."""

import asyncio
import contextlib
import random
import socket

import pytest

from relay.ble.gatt import make_beacon
from relay.client.address import AddressError, RelayAddress, parse_address
from relay.client.bluetooth import HeardRelay
from relay.client.client import Client
from relay.client.connection import Failure, RelayConnectionError
from relay.client.finding import ANY_BLUETOOTH, NoRelayError, RelayFinder
from relay.client.met import KEEP_NEWS_S, MAX_NEWS, RelaysMet
from relay.core.messages import Goodbye, Hello, Role, Subscribe
from relay.core.session import Established
from relay.core.stats import SessionError
from tests.client.online import FakeRelay, RelayProcess, User

NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(("text", "adapter"), [("ble", ""), ("ble:hci0", "hci0"), (" ble:hci12 ", "hci12")])
def test_bluetooth_is_an_address(text, adapter):
    address = parse_address(text)
    assert (address, address.is_bluetooth, str(address)) == (RelayAddress(adapter=adapter), True, text.strip())


def test_hosts_and_mistakes_that_look_like_it():
    assert parse_address("ble.example").hosts == (("ble.example", 4270),)
    assert parse_address("ble:4271").hosts == (("ble", 4271),)
    with pytest.raises(AddressError, match="no address"):
        parse_address("ble:hci")


# -- what is remembered of visits ----------------------------------------


def test_news_values_are_kept_for_some_hours_and_no_more_than_so_many(tmp_path):
    met = RelaysMet(tmp_path / "data")
    values = [number.to_bytes(16, "big") for number in range(MAX_NEWS + 3)]
    for number, value in enumerate(values):
        met.note_news(value, NOW_S + number)
    assert met.news(NOW_S + 60) == values[3:]
    assert met.news(NOW_S + KEEP_NEWS_S + 5.5) == values[6:]
    assert met.news(NOW_S + 2 * KEEP_NEWS_S) == []
    # A clock that was set back makes nothing seem read.
    assert met.news(NOW_S - 60) == []
    # Writing anything removes from the disk what is too old.
    met.note_given(ANY_BLUETOOTH, NOW_S + 2 * KEEP_NEWS_S)
    assert values[-1].hex() not in (tmp_path / "data" / "relays.json").read_text()


def test_what_was_kept_before_there_were_news_is_still_read(tmp_path):
    met = RelaysMet(tmp_path / "data")
    met.note_given(ANY_BLUETOOTH, NOW_S)
    path = tmp_path / "data" / "relays.json"
    path.write_text(path.read_text().replace('"news": {}', '"other": {}'))
    assert met.has_been_given(ANY_BLUETOOTH, NOW_S + 60)
    assert met.news(NOW_S) == []


def test_an_advertisement_tells_whether_something_came_since():
    heard = HeardRelay(device=None, beacon=make_beacon(b"n" * 16, b"\x01\x02\x03"), rssi_dbm=-60)
    assert not heard.has_news([b"m" * 16, b"n" * 16])
    assert heard.has_news([b"m" * 16])
    assert heard.has_news([])


# -- visits ----------------------------------------------------------------


class Telling(FakeRelay):
    """Holds nothing, and tells a new news value after each thing that it is asked."""

    hello = Hello(role=Role.RELAY, durable=True, max_puts=64, slow=True)

    def __init__(self, *, is_patient=True):
        super().__init__()
        self.is_patient = is_patient
        self.draw = random.Random(1)
        self.values = []

    def on_event(self, session, event):
        if isinstance(event, Established):
            self.tell(session)
        if isinstance(event, Subscribe):
            if not self.is_patient:
                session.close(Goodbye.SHUTTING_DOWN, SessionError.GOODBYE)
                return
            session.caught_up()
            self.tell(session)

    def tell(self, session):
        self.values.append(self.draw.randbytes(16))
        session.tell_news(self.values[-1])


class Sockets:
    """Takes the place of `relay.client.bluetooth.Bluetooth`: whoever is in range is at a port."""

    def __init__(self, port=None):
        self.port = port
        self.news = None
        self.is_connected = False
        self.opened = 0
        self.asked = []
        self.often_asked = asyncio.Event()

    async def open(self):
        self.opened += 1
        if self.port is None:
            raise RelayConnectionError(Failure.UNREACHABLE, ANY_BLUETOOTH, "no relay is in range")
        sock = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", self.port))
        sock.setblocking(False)
        return sock

    async def has_news(self, known):
        self.asked.append(list(known))
        if len(self.asked) >= 3:
            self.often_asked.set()
        return self.news not in self.asked[-1]

    async def scan(self):
        return [self] if self.port else []

    async def close(self):
        pass


@contextlib.asynccontextmanager
async def client_of(user, radio, *named, patience_s=5.0):
    finder = RelayFinder([parse_address(name) for name in named])
    finder._radios[""] = radio
    async with Client(user.config, user.data, finder, patience_s=patience_s) as client:
        yield client


@pytest.fixture
def bob(tmp_path):
    return User(tmp_path, "bob")


def test_a_relay_that_has_nothing_new_since_the_visit_is_not_connected_to(bob):
    async def visits():
        relay = Telling()
        async with relay.serving() as address, client_of(bob, radio := Sockets(), "ble") as client:
            radio.port = int(address.rpartition(":")[2])
            (first,) = await client.collect()
            connected, told = radio.opened, list(relay.values)
            # It advertises what it told us before we asked.
            radio.news = told[0]
            (second,) = await client.collect()
            same = radio.opened
            # Something came while we were there, or later.
            radio.news = told[1]
            (third,) = await client.collect()
            return first, second, third, radio, connected, same, relay

    first, second, third, radio, connected, same, relay = asyncio.run(visits())
    assert (first.error, second.error, third.error) == (None, None, None)
    assert second.collected.envelopes == 0
    assert connected >= 1
    assert same == connected
    assert radio.opened > same
    assert all(session.peer.slow for session, _ in relay.sessions)


def test_after_a_visit_that_broke_off_one_comes_back(bob):
    async def visits():
        async with (
            Telling(is_patient=False).serving() as address,
            client_of(bob, radio := Sockets(), "ble", patience_s=0.5) as client,
        ):
            radio.port = int(address.rpartition(":")[2])
            (outcome,) = await client.collect()
            await client.collect()
            return outcome, radio.asked

    outcome, asked = asyncio.run(visits())
    assert outcome.error is not None
    assert asked[1] == []


def test_without_a_relay_in_range_the_text_says_what_to_do(bob):
    async def visit():
        async with client_of(bob, Sockets(), "ble") as client:
            return await client.collect()

    (outcome,) = asyncio.run(visit())
    assert outcome.error.failure is Failure.UNREACHABLE
    assert "in range" in str(outcome.error)


def test_bluetooth_is_taken_when_no_network_has_a_relay(monkeypatch):
    async def none_found():
        return []

    async def find(radio):
        finder = RelayFinder()
        finder._radios[""] = radio
        return await finder.find()

    monkeypatch.setattr("relay.client.finding.browse", none_found)
    monkeypatch.setattr("relay.client.finding.LOCAL", parse_address("unix:/nonexistent"))
    assert asyncio.run(find(Sockets(port=1))) == (ANY_BLUETOOTH,)
    with pytest.raises(NoRelayError, match="Bluetooth: no relay is in range"):
        asyncio.run(find(Sockets()))


def test_a_message_goes_by_bluetooth_and_comes_by_bluetooth(tmp_path, bob):
    alice = User(tmp_path, "alice")
    alice.knows(bob)
    bob.knows(alice)
    relay = RelayProcess(tmp_path / "relay").start()

    async def both():
        radio = Sockets(relay.port)
        async with client_of(alice, radio, "ble") as sender:
            await sender.send_text(["bob"], "by radio")
            (sent,) = await sender.deliver()
        async with client_of(bob, radio, "ble") as receiver:
            (got,) = await receiver.collect()
            return sent, got, await bob.texts(receiver)

    try:
        sent, got, texts = asyncio.run(both())
    finally:
        relay.stop()
    assert (sent.error, got.error, texts) == (None, None, ["by radio"])
    assert sent.delivered.durable == 1


def test_a_follower_visits_again_and_again_rather_than_stay(bob, monkeypatch):
    monkeypatch.setattr("relay.client.client.VISIT_EVERY_S", 0.1)

    async def follow():
        relay = Telling()
        async with relay.serving() as address, client_of(bob, radio := Sockets(), "ble") as client:
            radio.port = int(address.rpartition(":")[2])
            following = asyncio.ensure_future(client.follow())
            await radio.often_asked.wait()
            following.cancel()
            await asyncio.wait({following})
            return relay

    relay = asyncio.run(asyncio.wait_for(follow(), 20))
    assert not any(event.follow for _, events in relay.sessions for event in events if isinstance(event, Subscribe))
