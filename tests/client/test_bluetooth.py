# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client does differently over Bluetooth; the radio is a socket here (tests/radio has the real one)."""

import asyncio
import contextlib
import dataclasses
import random

import pytest

from relay.bluetooth.bluez import DEVICE, Adapter, Device
from relay.bluetooth.dial import DialError, DialFailure
from relay.bluetooth.gatt import COMPANY, SERVICE_UUID, make_beacon
from relay.client.bluetooth import ABSENT_S, MAX_READ, MOST_AT_ONCE, READ_S, SIFTS, Bluetooth, HeardRelay
from relay.client.finding import ANY_BLUETOOTH, NoRelayError, RelayFinder
from relay.core.messages import Goodbye, Hello, Role, Subscribe
from relay.core.stats import SessionError
from relay.links.address import AddressError, RelayAddress, parse_address
from relay.links.client_session import Failure, RelayConnectionError
from tests.client.online import FakeRelay, RelayProcess, Sockets, User, client_of
from tests.unit.jumping import run

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


# -- visits ----------------------------------------------------------------


class Empty(FakeRelay):
    """Holds nothing."""

    hello = Hello(role=Role.RELAY, durable=True, max_puts=64, slow=True)

    def __init__(self, *, is_patient=True):
        super().__init__()
        self.is_patient = is_patient

    def on_event(self, session, event):
        if isinstance(event, Subscribe):
            if self.is_patient:
                session.caught_up()
            else:
                session.close(Goodbye.SHUTTING_DOWN, SessionError.GOODBYE)


@pytest.fixture
def bob(tmp_path):
    return User(tmp_path, "bob")


def test_whoever_asks_once_is_never_told_from_afar_that_there_is_nothing(bob):
    """Else a copy of a relay's advertisement would tell by that who was there."""

    async def visits():
        async with Empty().serving() as address, client_of(bob, radio := Sockets(), "ble") as client:
            radio.port = int(address.rpartition(":")[2])
            radio.is_due = False
            opened = []
            for _ in range(3):
                (outcome,) = await client.collect()
                assert outcome.error is None
                opened.append(radio.opened)
            return opened, radio.asked

    opened, asked = asyncio.run(visits())
    assert 0 < opened[0] < opened[1] < opened[2]
    assert asked == 0


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_follower_notes_a_visit_only_when_all_was_read(bob, monkeypatch, is_patient):
    monkeypatch.setattr("relay.client.client.VISIT_EVERY_S", 0.05)
    monkeypatch.setattr("relay.client.client.retry_delay_s", lambda *_: 0.05)

    async def follow():
        async with (
            Empty(is_patient=is_patient).serving() as address,
            client_of(bob, radio := Sockets(), "ble", patience_s=0.2) as client,
        ):
            radio.port = int(address.rpartition(":")[2])
            following = asyncio.ensure_future(client.follow())
            await radio.often_asked.wait()
            radio.is_due = False
            opened = radio.opened
            await asyncio.sleep(0.6)
            following.cancel()
            await asyncio.wait({following})
            return radio.read, opened, radio.opened

    read, before, after = asyncio.run(asyncio.wait_for(follow(), 30))
    assert (read >= 2) is is_patient
    assert before > 0
    # At most the visit that was under way.
    assert after <= before + 9


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
        relay = Empty()
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

    def __init__(self, *names, honest, sightings=1):
        self.heard = [
            HeardRelay(
                device=Device(path=f"/{name}", address=f"address of {name}", address_type="random"),
                beacon=make_beacon(b"n" * 16, b"\x01\x02\x03"),
                rssi_dbm=-60,
                sightings=sightings,
            )
            for name in names
        ]
        self.honest = honest
        self.hanging = set()
        self.dialled = []
        self.cancelled = []
        self.left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def dial(self, _bluez, _adapter, _own, device):
        name = device.path[1:]
        self.dialled.append(name)
        if name in self.hanging:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.append(name)
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

        self._draw = lambda: 0.5

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


async def visit_in(crowd, monkeypatch):
    """Return whom it dialled, and how that failed."""
    async with in_crowd(crowd, monkeypatch) as radio:
        try:
            (await radio.open()).close()
        except RelayConnectionError as error:
            return crowd.dialled, error.failure
        return crowd.dialled, None


def test_those_that_do_not_answer_keep_nobody_from_the_others(monkeypatch):
    """Ten false relays a second kept a phone from each of 16 visits."""
    monkeypatch.setattr("relay.client.bluetooth.HEAD_START_S", 0.1)
    monkeypatch.setattr("relay.client.bluetooth.DIAL_S", 0.4)
    monkeypatch.setattr("relay.client.bluetooth.DIALLING_S", 3.0)
    crowd = Crowd("a", "b", "c", "relay", honest="relay")
    crowd.hanging = set("abc")
    dialled, failure = asyncio.run(asyncio.wait_for(visit_in(crowd, monkeypatch), 20))
    # One beside the other, and all given up when one answers.
    assert (dialled, failure) == (["a", "b", "c", "relay"], None)
    assert sorted(crowd.cancelled) == ["a", "b", "c"]
    # However many there are, it ends.
    crowd = Crowd(*(f"x{number}" for number in range(50)), honest="relay")
    crowd.hanging = {one.device.path[1:] for one in crowd.heard}
    dialled, failure = asyncio.run(asyncio.wait_for(visit_in(crowd, monkeypatch), 20))
    assert failure is Failure.UNREACHABLE
    assert MOST_AT_ONCE * 3 < len(dialled) < MOST_AT_ONCE * 10
    assert sorted(crowd.cancelled) == sorted(dialled)


@pytest.mark.parametrize("rssi_dbm", [-80, -60, -40])
def test_who_was_heard_again_is_dialled_before_those_that_were_heard_once(monkeypatch, rssi_dbm):
    crowd = Crowd(*(f"x{number}" for number in range(40)), honest="relay")
    crowd.hanging = {one.device.path[1:] for one in crowd.heard}
    crowd.heard += [dataclasses.replace(one, rssi_dbm=rssi_dbm) for one in Crowd("relay", honest="", sightings=3).heard]
    dialled, failure = asyncio.run(asyncio.wait_for(visit_in(crowd, monkeypatch), 20))
    assert (dialled, failure) == (["relay"], None)


def test_what_ten_cost_that_go_on_for_ever_they_cost_their_kind(monkeypatch):
    """They are heard again and again as well, and nearer; but each dial of one of them counts against all of them."""
    monkeypatch.setattr("relay.client.bluetooth.HEAD_START_S", 0.05)
    crowd = Crowd(*(f"x{number}" for number in range(10)), honest="relay", sightings=3)
    crowd.heard = [dataclasses.replace(one, rssi_dbm=-30) for one in crowd.heard]
    crowd.hanging = {one.device.path[1:] for one in crowd.heard}
    crowd.heard += Crowd("relay", honest="", sightings=3).heard
    dialled, failure = asyncio.run(asyncio.wait_for(visit_in(crowd, monkeypatch), 20))
    assert failure is None
    assert len(dialled) <= 2


class Bus:
    """BlueZ, which hears a relay and others, of which there are new ones with each discovery."""

    def __init__(self, others):
        self.others = others
        self.discoveries = 0

    async def start_discovery(self, _, uuid):
        assert uuid == SERVICE_UUID
        self.discoveries += 1

    async def stop_discovery(self, _):
        pass

    async def objects(self):
        names = ["relay", *(f"x{self.discoveries}_{number}" for number in range(self.others))]
        beacon = make_beacon(b"n" * 16, b"\x01\x02\x03").encode()
        heard = {"UUIDs": [SERVICE_UUID], "RSSI": -60, "ManufacturerData": {COMPANY: beacon}, "AddressType": "random"}
        return {f"/hci0/{name}": {DEVICE: {"Address": name, **heard}} for name in names}


@pytest.mark.parametrize(("others", "discoveries"), [(0, 1), (MOST_AT_ONCE - 1, 1), (10, 1 + SIFTS)])
def test_only_where_many_pass_for_relays_one_listens_for_long(others, discoveries):
    async def scenario():
        radio = Bluetooth(ANY_BLUETOOTH)
        radio._bluez = bus = Bus(others)
        adapter = Adapter(path="/hci0", address="00:00:00:00:00:02", address_type="public", is_powered=True)

        async def opened():
            return bus, adapter

        radio._open = opened
        began = asyncio.get_running_loop().time()
        heard = await radio.scan()
        return bus.discoveries, heard, asyncio.get_running_loop().time() - began

    found, heard, took_s = run(scenario())
    assert found == discoveries
    sightings = {one.device.address: one.sightings for one in heard}
    assert sightings.pop("relay") == discoveries
    assert set(sightings.values()) <= {1}
    assert took_s < (2.5 if discoveries == 1 else 7)


# -- whether to visit -------------------------------------------------------


def visited(monkeypatch, then):
    """One relay, from which everything was read just now; returns what `then` does with the radio and the crowd."""

    async def scenario():
        crowd = Crowd("relay", honest="relay")
        async with in_crowd(crowd, monkeypatch) as radio:
            assert await radio.is_visit_due()
            await visit(radio, crowd)
            radio.was_read()
            await asyncio.sleep(60)
            return await then(radio, crowd)

    return run(scenario())


async def visit(radio, crowd):
    (await radio.open()).close()
    await crowd.left.wait()
    crowd.left.clear()
    while radio.is_connected:  # noqa: ASYNC110 - it takes a moment, and says so to nobody
        await asyncio.sleep(0.1)


def said(crowd, **changes):
    crowd.heard = [dataclasses.replace(crowd.heard[0], **changes)]


def test_a_phone_beside_a_relay_with_nothing_new_comes_again_only_now_and_then(monkeypatch):
    async def stay(radio, crowd):
        draw = random.Random(1)
        visits = 0
        radio._draw = draw.random
        for _ in range(600):
            if await radio.is_visit_due():
                visits += 1
                await visit(radio, crowd)
                radio.was_read()
            await asyncio.sleep(60)
        return visits

    # Ten hours: 40 new addresses in their time, and one look in ten that nothing is the reason of.
    assert 40 < visited(monkeypatch, stay) < 110


def test_news_and_every_new_address_are_a_reason_to_visit(monkeypatch):
    async def look(radio, crowd):
        (heard,) = crowd.heard
        due = [await radio.is_visit_due()]
        said(crowd, beacon=make_beacon(b"m" * 16, heard.beacon.salt))
        due.append(await radio.is_visit_due())
        # A copy of what it says, by somebody else: also if nobody else is heard.
        said(crowd, beacon=heard.beacon, device=dataclasses.replace(heard.device, address="another"))
        due.append(await radio.is_visit_due())
        # Or under the same address, with another salt and the same value.
        said(crowd, device=heard.device, beacon=make_beacon(b"n" * 16, b"\x07\x07\x07"))
        due.append(await radio.is_visit_due())
        return due

    assert visited(monkeypatch, look) == [False, True, True, True]


def test_what_was_read_counts_for_some_minutes_and_only_while_the_relay_is_there(monkeypatch):
    async def leave(radio, crowd):
        heard, crowd.heard = crowd.heard, []
        with pytest.raises(RelayConnectionError):
            await radio.is_visit_due()
        await asyncio.sleep(ABSENT_S)
        crowd.heard = heard
        return await radio.is_visit_due()

    async def stay(radio, _):
        minutes = 1
        while not await radio.is_visit_due():
            minutes += 1
            await asyncio.sleep(60)
        return minutes

    assert visited(monkeypatch, leave)
    assert visited(monkeypatch, stay) == pytest.approx(READ_S / 60, abs=1)


def test_of_two_relays_that_were_visited_at_once_none_has_told_everything(monkeypatch):
    async def scenario():
        crowd = Crowd("one", honest="one")
        async with in_crowd(crowd, monkeypatch) as radio:
            assert await radio.is_visit_due()
            await visit(radio, crowd)
            crowd.heard = Crowd("two", honest="").heard
            crowd.honest = "two"
            await visit(radio, crowd)
            radio.was_read()
            return await radio.is_visit_due()

    assert run(scenario())


def test_what_is_remembered_of_relays_is_bounded(monkeypatch):
    async def scenario():
        crowd = Crowd("0", honest="0")
        async with in_crowd(crowd, monkeypatch) as radio:
            for number in range(3 * MAX_READ):
                crowd.honest = f"{number}"
                crowd.heard = Crowd(crowd.honest, honest="").heard
                assert await radio.is_visit_due()
                await visit(radio, crowd)
                radio.was_read()
                assert len(radio._read) <= MAX_READ

    run(scenario())


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
        async with fake, Empty().serving() as address, client_of(bob, radio := Fickle(), "ble") as client:
            ports = [fake.sockets[0].getsockname()[1], int(address.rpartition(":")[2])]
            (outcome,) = await client.collect()
            return outcome, radio

    outcome, radio = asyncio.run(asyncio.wait_for(visit(), 20))
    assert (outcome.error, radio.avoided) == (None, 1)
