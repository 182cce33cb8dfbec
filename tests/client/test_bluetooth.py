# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client does differently over Bluetooth; the radio is a socket here (tests/radio has the real one)."""

import asyncio
import contextlib
import random

import pytest

from relay.bluetooth.bluez import Adapter, Device
from relay.bluetooth.dial import DialError, DialFailure
from relay.bluetooth.gatt import make_beacon
from relay.client.bluetooth import Bluetooth, HeardRelay
from relay.client.finding import ANY_BLUETOOTH, LOCAL, NoRelayError, RelayFinder
from relay.client.met import KEEP_NEWS_S, MAX_NEWS, RelaysMet
from relay.core.messages import Goodbye, Hello, Role, Subscribe, Window
from relay.core.session import Established
from relay.core.stats import SessionError
from relay.links.address import AddressError, RelayAddress, parse_address
from relay.links.client_session import Failure, RelayConnectionError
from tests.client.online import FakeRelay, RelayProcess, Sockets, User, client_of

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
    met.note_read_all(LOCAL, NOW_S + 2 * KEEP_NEWS_S)
    assert values[-1].hex() not in (tmp_path / "data" / "relays.json").read_text()


def test_what_was_kept_before_there_were_news_is_still_read(tmp_path):
    met = RelaysMet(tmp_path / "data")
    met.note_read_all(LOCAL, NOW_S)
    path = tmp_path / "data" / "relays.json"
    path.write_text(path.read_text().replace('"news": {}', '"other": {}'))
    assert met.window(LOCAL, NOW_S + 60) is Window.DAY
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


# -- whom to dial ----------------------------------------------------------


class Crowd:
    """What advertises near here, in place of `relay.bluetooth.dial`; only `honest` lets anybody connect."""

    def __init__(self, *names, honest):
        self.heard = [
            HeardRelay(
                device=Device(path=f"/{name}", address="C0:00:00:00:00:01", address_type="random"),
                beacon=make_beacon(b"n" * 16, b"\x01\x02\x03"),
                rssi_dbm=-60,
            )
            for name in names
        ]
        self.honest = honest
        self.hanging = set()
        self.dialled = []
        self.left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def dial(self, _bluez, _adapter, _own, device):
        name = device.path[1:]
        self.dialled.append(name)
        if name in self.hanging:
            await asyncio.Event().wait()
        if name != self.honest:
            raise DialError(DialFailure.FAILED, "nobody there")
        yield self
        self.left.set()

    @contextlib.asynccontextmanager
    async def stream(self):
        yield self

    async def receive(self):
        return b""

    async def send(self, data):
        pass

    async def finish(self):
        pass

    def close(self):
        pass


class Radio(Bluetooth):
    """Hears a crowd whenever it listens."""

    def __init__(self, crowd):
        super().__init__(ANY_BLUETOOTH)
        self._crowd = crowd

    async def _open(self):
        return None, Adapter(path="/hci0", address="00:00:00:00:00:02", address_type="public", is_powered=True)

    async def _scan(self, timeout_s, settle_s):  # noqa: ARG002
        self._heard, self._heard_at = list(self._crowd.heard), asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def in_crowd(crowd, monkeypatch):
    monkeypatch.setattr("relay.bluetooth.dial.dial", crowd.dial)
    monkeypatch.setattr("relay.client.bluetooth.LINGER_S", 0.1)
    radio = Radio(crowd)
    yield radio
    await radio.close()


def test_all_that_were_heard_are_dialled_and_those_first_that_never_failed(monkeypatch):
    async def visits():
        crowd = Crowd("a", "b", "c", "d", "relay", honest="relay")
        async with in_crowd(crowd, monkeypatch) as radio:

            async def visit(*, is_bad=False):
                crowd.dialled = []
                sock = await radio.open()
                if is_bad:
                    radio.avoid()
                sock.close()
                await crowd.left.wait()
                crowd.left.clear()
                return crowd.dialled

            dialled = [await visit(), await visit(is_bad=True)]
            crowd.heard += Crowd("new", honest="").heard
            crowd.honest = "new"
            return [*dialled, await visit()]

    everybody, again, other = asyncio.run(asyncio.wait_for(visits(), 20))
    assert everybody == ["a", "b", "c", "d", "relay"]
    assert again == ["relay"]
    # The one before let itself be dialled, and was no relay after all.
    assert other == ["new"]


def test_those_that_do_not_answer_take_no_more_than_their_share_of_the_time(monkeypatch):
    monkeypatch.setattr("relay.client.bluetooth.DIALLING_S", 0.4)
    monkeypatch.setattr("relay.client.bluetooth.DIAL_S", 0.1)

    async def visit(fakes):
        crowd = Crowd(*fakes, "relay", honest="relay")
        crowd.hanging = set(fakes)
        async with in_crowd(crowd, monkeypatch) as radio:
            try:
                (await radio.open()).close()
            except RelayConnectionError as error:
                return crowd.dialled, error.failure
            return crowd.dialled, None

    dialled, failure = asyncio.run(asyncio.wait_for(visit("abc"), 20))
    assert (dialled, failure) == (["a", "b", "c", "relay"], None)
    # However many there are, it ends.
    dialled, failure = asyncio.run(asyncio.wait_for(visit([f"x{number}" for number in range(50)]), 20))
    assert failure is Failure.UNREACHABLE
    assert 3 < len(dialled) < 10


def test_who_lets_one_connect_and_is_no_relay_is_left_for_the_next(bob):
    async def visit():
        class Fickle(Sockets):
            """First something that hangs up at once, then a relay, as each is avoided."""

            async def open(self):
                self.port = ports[min(self.avoided, 1)]
                return await super().open()

        async def hang_up(_, writer):
            writer.close()

        fake = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with fake, Telling().serving() as address, client_of(bob, radio := Fickle(), "ble") as client:
            ports = [fake.sockets[0].getsockname()[1], int(address.rpartition(":")[2])]
            (outcome,) = await client.collect()
            return outcome, radio

    outcome, radio = asyncio.run(asyncio.wait_for(visit(), 20))
    assert (outcome.error, radio.avoided) == (None, 1)
