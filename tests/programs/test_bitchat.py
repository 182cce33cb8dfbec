# SPDX-License-Identifier: GPL-2.0-or-later
"""Phones at two relays, `relay run` between them: all of `relay bitchat` but the radio (tests/radio has that)."""

import asyncio
import contextlib
import random
import secrets
import socket
import subprocess
import sys
import time

import pytest

from relay.bitchat.courier import DAY_MS, Letter, recipient_tag
from relay.bitchat.fragments import split
from relay.bitchat.live import KIND, is_true, to_datagram
from relay.bitchat.packet import PacketType
from relay.bitchat_gateway.gateway import Gateway
from relay.bitchat_gateway.letters import Letters
from relay.bitchat_gateway.peripheral import Peripheral
from relay.config.bitchat import BitchatConfig
from relay.config.file import ConfigError, parse_config
from relay.core.messages import LiveDatagram
from relay.process import link_socket
from relay.process.gateway_client import GatewayClient
from relay.process.reports import Component, Reporter
from tests.client.online import RelayProcess
from tests.unit.bitchat.phones import Android, Iphone
from tests.waiting import until_true

PATIENCE_S = 60
MTU_BYTES = 185
#: As BlueZ names a device, though none is there.
DEVICE = "/org/bluez/hci0/dev_{}"


class Island:
    """A relay's gateway, and phones at its places by socket pairs, as BlueZ would bring them."""

    def __init__(self, path):
        self.reporter = Reporter(Component.BITCHAT)
        self.gateway = Gateway(
            nickname="relay",
            earliest_ms=0,
            random=random.random,
            random_bytes=secrets.token_bytes,
            reporter=self.reporter,
        )
        self.peripheral = Peripheral(self.gateway, max_phones=8, reporter=self.reporter)
        self.hung_up = []
        self.told_all = []
        self.peripheral.hang_up = self.hung_up.append
        self.peripheral.notify_all = self.told_all.append
        self.client = GatewayClient(
            path,
            link_socket.Gateway(name="bitchat", kinds=frozenset({KIND})),
            on_live=self.gateway.heard_live,
            on_clock=self.gateway.trust,
        )
        self.gateway.to_relays = self.client.send
        self.letters = Letters(self.gateway, path=path, secret=None, reporter=self.reporter, random=random.random)
        self.gateway.letters = self.letters
        self.sockets = {}

    async def __aenter__(self):
        self.tasks = [
            asyncio.create_task(self.client.run(random=random.random)),
            asyncio.create_task(self.gateway.run()),
            asyncio.create_task(self.letters.run()),
        ]
        await until_true("the relay takes it in", lambda: self.client.is_connected, PATIENCE_S)
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.peripheral.forget_all()
        for sock in self.sockets.values():
            sock.close()

    def join(self, phone, mtu_bytes=MTU_BYTES):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        self.peripheral.on_subscribed(DEVICE.format(phone.name), ours, mtu_bytes)
        self.sockets[phone.name] = theirs
        self.announce(phone)

    def announce(self, phone):
        self.write(phone, phone.announce(now()))

    def write(self, phone, frame):
        self.peripheral.on_write(DEVICE.format(phone.name), frame, MTU_BYTES)

    def hear(self, phone):
        """Give a phone what was notified."""
        with contextlib.suppress(BlockingIOError):
            while frame := self.sockets[phone.name].recv(4096):
                phone.hear(frame, now())


def now():
    return time.monotonic() - BEGAN


BEGAN = time.monotonic()


def phone(kind, name):
    made = kind(name, int(time.time() * 1000))
    made.wall_ms -= int(1000 * now())
    made.frame_bytes = MTU_BYTES - 3
    return made


@pytest.fixture
def two(tmp_path):
    relays = [
        RelayProcess(tmp_path / name, unix={"enabled": True, "path": str(tmp_path / name / "link")}) for name in "ab"
    ]
    relays[0].start()
    relays[1]._sections["tcp"] = {"peers": [f"127.0.0.2:{relays[0].port}"]}
    relays[1].start()
    yield [relay.folder / "link" for relay in relays]
    for relay in relays:
        relay.stop()


async def until_shown(island, listener, texts):
    def look():
        island.hear(listener)
        return sorted(listener.shown) == sorted(texts)

    await until_true(lambda: f"{listener.shown}, {listener.refused}", look, PATIENCE_S)


async def until_known(islands, listeners):
    """Have all announce themselves, until each knows all others; the relays have to find each other first."""

    def look():
        for island, one in zip(islands, listeners, strict=True):
            island.hear(one)
        # Each knows its relay, itself not.
        return all(len(one.keys) == len(listeners) for one in listeners)

    async with asyncio.timeout(PATIENCE_S):
        while not look():
            for island, one in zip(islands, listeners, strict=True):
                island.announce(one)
            await asyncio.sleep(0.5)


def test_what_a_phone_says_is_shown_once_at_the_other_relay_and_also_by_one_that_lost_its_socket(two):
    async def main():
        async with Island(two[0]) as a, Island(two[1]) as b:
            ana, cleo, ben = phone(Iphone, "ana"), phone(Android, "cleo"), phone(Android, "ben")
            a.join(ana)
            a.join(cleo)
            b.join(ben)
            await until_known((a, a, b), (ana, cleo, ben))
            said = ben.say("soup", now())
            b.write(ben, said.encode())
            # A phone may say it again, and a relay in between: it is shown once.
            b.write(ben, said.encode())
            for one in (ana, cleo):
                await until_shown(a, one, ["soup"])
            b.hear(ben)
            assert ben.shown == []

            a.sockets.pop("ana").close()
            await until_true("it is noticed", lambda: a.reporter._counters["clients_orphaned"], PATIENCE_S)
            # The reader of another phone's socket has it first, as BlueZ tells all.
            b.write(ben, ben.say("bread", now()).encode())
            await until_true("it is told to all", lambda: a.told_all, PATIENCE_S)
            for frame in a.told_all:
                assert len(frame) <= MTU_BYTES - 3
                ana.hear(frame, now())
            assert ana.shown == ["soup", "bread"]
            await until_shown(a, cleo, ["soup", "bread"])
            for one in (ana, cleo, ben):
                assert one.refused == [], one.name
            assert a.reporter._counters["live_received"] > 0
            assert b.reporter._counters["live_sent"] > 0

            before = a.gateway.mesh.identity.peer_id
            a.gateway.become_another()
            assert len(a.peripheral) == 0
            assert sorted(a.hung_up) == [DEVICE.format(name) for name in ("ana", "cleo")]
            assert a.gateway.mesh.identity.peer_id != before

    asyncio.run(main())


def test_a_letter_given_to_one_relay_is_handed_over_by_the_other_when_its_recipient_comes(two):
    async def main():
        async with Island(two[0]) as a, Island(two[1]) as b:
            ana, ben = phone(Iphone, "ana"), phone(Iphone, "ben")
            a.join(ben)

            def is_linked(island, one):
                island.hear(one)
                return one.linked_to

            await until_true("he knows the relay", lambda: is_linked(a, ben), PATIENCE_S)
            time_ms = ben.time_ms(now())
            letter = Letter(
                tag=recipient_tag(ana.identity.noise.public, time_ms // DAY_MS),
                expiry_ms=time_ms + DAY_MS - 1000,
                ciphertext=b"sealed for ana" * 20,
                copies=3,
            )
            given = ben.packet(PacketType.COURIER, letter.encode(), now(), recipient=ben.linked_to)
            for frame in split(ben.identity.sign(given), 400):
                a.write(ben, ben.identity.sign(frame).encode())
            await until_true("it is kept", lambda: a.reporter._counters["letters_kept"], PATIENCE_S)

            b.join(ana)
            await until_true("she knows the relay", lambda: is_linked(b, ana), PATIENCE_S)
            b.write(ana, ana.sync(now()))

            def has_it():
                b.hear(ana)
                return ana.letters

            await until_true("she has it", has_it, PATIENCE_S)
            assert [one.ciphertext for one in ana.letters] == [letter.ciphertext]
            assert (ana.refused, ben.refused) == ([], [])

    asyncio.run(main())


def test_a_datagram_that_is_not_what_it_says_is_dropped_and_counted(two):
    async def main():
        async with Island(two[0]) as a:
            true = to_datagram(phone(Iphone, "ana").say("soup", now()).encode())
            assert is_true(true)
            a.gateway.heard_live(LiveDatagram(kind=KIND, identity=bytes(16), data=true.data))
            a.gateway.heard_live(LiveDatagram(kind=KIND, identity=true.identity, data=true.data[:-1] + b"?"))
            assert a.reporter._counters["live_untrue"] == 2
            # By another TTL it is the same packet.
            other = true.data[:2] + bytes([true.data[2] - 1]) + true.data[3:]
            assert to_datagram(other).identity == true.identity

    asyncio.run(main())


def parse(text, tmp_path):
    return parse_config(text.encode(), tmp_path / "relay.toml", {"HOME": "/home/user"}).bitchat


def test_it_is_off_unless_asked_for(tmp_path):
    assert parse("[tcp]\nport = 4270\n", tmp_path) == BitchatConfig(
        enabled=False, nickname="relay", adapter="", max_phones=8, max_dialled=0, carry_media=False
    )
    assert parse('[bitchat]\nenabled = true\nadapter = "hci1"', tmp_path).adapter == "hci1"


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ('adapter = "eth0"', '"hci1"'),
        ("adapter = 1", '"hci1"'),
        ("max_phones = 0", "1 to 32"),
        ('nickname = ""', "1 to 24"),
        (f'nickname = "{25 * "x"}"', "1 to 24"),
    ],
)
def test_a_wrong_setting_is_told_with_its_remedy(line, remedy, tmp_path):
    with pytest.raises(ConfigError) as caught:
        parse(f"[bitchat]\n{line}\n", tmp_path)
    (problem,) = caught.value.problems
    assert (problem.line, remedy in problem.message) == (2, True)


@pytest.mark.parametrize(
    ("enabled", "code", "said"), [("false", 0, "enabled = true"), ("true", 1, "start dbus.service")]
)
def test_switched_off_it_ends_well_and_without_dbus_it_says_what_to_start(tmp_path, enabled, code, said):
    config = tmp_path / "relay.toml"
    config.write_text(f"[bitchat]\nenabled = {enabled}\n")
    ended = subprocess.run(
        [sys.executable, "-m", "relay", "bitchat", "--config", config],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/none", "HOME": str(tmp_path)},
    )
    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
