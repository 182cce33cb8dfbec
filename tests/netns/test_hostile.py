# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers that take more than their part, and disks and clocks that fail: the relay stays up and serves the others."""

import random
import resource
import select
import shutil
import socket
import subprocess
import time

import pytest

from relay.core.envelope import make_purge, make_tag
from relay.core.messages import Refusal, Role
from tests.netns.lab import command, wait_until
from tests.netns.rawclient import ClientError, RawClient, make_envelopes
from tests.netns.relays import link_errors, linked

#: Python's allocator keeps what a burst took; a leak of what 1,000 connections sent would be more.
GROWTH_MIB = 24


class Scene:
    """A relay, an enemy and an honest phone on one segment."""

    def __init__(self, lab, **sections):
        segment = lab.segment()
        self.box, self.enemy, self.phone = (lab.box(name, segment) for name in ("relay", "enemy", "phone"))
        self.relay = self.box.relay(**sections)
        self.address = self.box.ports["eth0"].ipv4
        self._seed = 100
        self.serves()
        self._memory_mib = self.relay.memory_mib()[0]

    def serves(self, timeout_s=5.0):
        """Prove that the honest phone can put and fetch."""
        self._seed += 1
        began = time.monotonic()
        with RawClient(self.phone.connect(self.address)) as client:
            client.put(make_envelopes(self._seed, 3), timeout_s)
        took_s = time.monotonic() - began
        assert took_s < timeout_s, f"served after {took_s:.1f} s"

    def failures(self, reason):
        return self.relay.status()["totals"]["handshake_failures"][reason]

    def assert_memory_is_bounded(self):
        now, most = self.relay.memory_mib()
        print(f"memory: {self._memory_mib:.1f} MiB before, {now:.1f} MiB now, {most:.1f} MiB at most")
        assert most < self._memory_mib + GROWTH_MIB


@pytest.fixture
def sockets():
    opened = []
    yield opened
    for sock in opened:
        sock.close()


def connect_all(box, address, count, sockets):
    """Open ``count`` connections, whatever becomes of them."""
    for _ in range(count):
        sock = box.socket(socket.AF_INET)
        sockets.append(sock)
        sock.setblocking(False)
        sock.connect_ex((address, 4270))


def closed_by_peer(sockets):
    """How many of these the other side has ended."""
    poll = select.poll()
    by_number = {sock.fileno(): sock for sock in sockets}
    for number in by_number:
        poll.register(number, select.POLLIN)
    ended = 0
    for number, _ in poll.poll(0):
        try:
            ended += not by_number[number].recv(1 << 16)
        except OSError:
            ended += 1
    return ended


def test_a_thousand_connections_from_one_address_lock_nobody_out(lab, sockets):
    scene = Scene(lab)
    connect_all(scene.enemy, scene.address, 1000, sockets)
    wait_until("most are turned away", lambda: scene.failures("too_many") >= 900, 15)
    scene.serves()
    scene.assert_memory_is_bounded()


def test_a_thousand_connections_from_many_addresses_lock_nobody_out(lab, sockets):
    scene = Scene(lab)
    port = scene.enemy.ports["eth0"]
    for host in range(100, 140):
        port.address("add", f"10.0.{port.segment.subnet}.{host}/24")
    for host in range(100, 140):
        for _ in range(25):
            sock = scene.enemy.socket(socket.AF_INET)
            sockets.append(sock)
            sock.bind((f"10.0.{port.segment.subnet}.{host}", 0))
            sock.setblocking(False)
            sock.connect_ex((scene.address, 4270))
    wait_until("most are turned away", lambda: scene.failures("too_many") >= 700, 15)
    scene.serves()
    scene.assert_memory_is_bounded()


def test_a_slow_loris_is_let_go(lab, sockets):
    scene = Scene(lab, limits={"handshake_timeout_s": 2})
    connect_all(scene.enemy, scene.address, 30, sockets)
    began = time.monotonic()
    handshake = b"\x00\x40\x01\x00" + bytes(40)
    while closed_by_peer(sockets) < 30:
        assert time.monotonic() - began < 10, "slow connections are still open"
        if handshake:
            for sock in sockets:
                try:
                    sock.send(handshake[:1])
                except OSError:
                    continue
            handshake = handshake[1:]
        time.sleep(0.1)
    assert scene.failures("timeout") >= 30
    scene.serves()
    scene.assert_memory_is_bounded()


def test_garbage_is_counted_and_nothing_else(lab, sockets):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    scene = Scene(lab)
    for number in range(300):
        sock = scene.enemy.connect(scene.address)
        sockets.append(sock)
        # Half begin like a handshake, so that they are refused later.
        start = b"\x00\x22\x01\x00" if number % 2 else b""
        try:
            sock.sendall(start + rng.randbytes(rng.choice([1, 40, 200, 4000, 100_000])))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            continue
    counted = ("version", "decrypt", "truncated", "oversized", "low_order_key")

    def sum_of_failures():
        failures = scene.relay.status()["totals"]["handshake_failures"]
        return sum(failures[reason] for reason in counted)

    wait_until("all are counted", lambda: sum_of_failures() >= 300, 15)
    # Inside a session: what does not decrypt, and what decrypts to nothing known.
    with RawClient(scene.enemy.connect(scene.address)) as client:
        client.sock.setblocking(True)
        client.sock.sendall(b"\x00\x40" + rng.randbytes(0x40))
        with pytest.raises(ClientError):
            client.pump("the session ends", lambda: False, 5)
    with RawClient(scene.enemy.connect(scene.address)) as client:
        client.session._push(0, b"\xee" + rng.randbytes(50))
        with pytest.raises(ClientError):
            client.pump("the session ends", lambda: False, 5)
    errors = [link["errors"] for link in scene.relay.status()["links"] if link["interface"] == "eth0"][0]
    assert errors.get("replay", 0) + errors.get("garbage_frame", 0) >= 1
    assert errors.get("protocol", 0) + errors.get("decode", 0) >= 1
    scene.serves()
    scene.assert_memory_is_bounded()


@pytest.mark.slow
def test_clients_that_do_not_read_or_read_slowly_cost_no_memory_and_delay_nobody(lab):
    scene = Scene(lab)
    count = 2000
    scene.phone.client(scene.address).put(make_envelopes(1, count, 16384))
    scene._memory_mib = scene.relay.memory_mib()[0]
    deaf = [scene.enemy.client(scene.address) for _ in range(20)]
    for client in deaf:
        client.subscribe(follow=True)
        client.step()
    # Puts without ever reading an answer.
    mute = scene.enemy.client(scene.address)
    for envelope in make_envelopes(2, 2000, 256):
        mute.session.put(envelope)
    began = time.monotonic()
    while time.monotonic() - began < 5 and (data := mute.session.data_to_send()):
        mute.sock.setblocking(True)
        mute.sock.sendall(data)

    # A slow reader that goes on reading gets everything; here, a part of it.
    slow = scene.enemy.client(scene.address)
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    slow.subscribe()
    served = 0
    while link_errors(scene.relay.status(), "slow_reader") < len(deaf):
        slow.step(0.2)
        scene.serves()
        served += 1
        if time.monotonic() - began > 80:
            raise AssertionError("clients that do not read are still connected")
    print(f"let go after {time.monotonic() - began:.0f} s; the honest client was served {served} times meanwhile")
    scene.assert_memory_is_bounded()
    slow.pump("all is read", lambda: slow.caught_up, 60)
    assert len(slow.envelopes) >= count


def test_a_relay_that_never_gives_credit_is_offered_only_a_window(lab):
    scene = Scene(lab)
    scene.phone.client(scene.address).put(make_envelopes(1, 3000, 256))
    with RawClient(scene.enemy.connect(scene.address), role=Role.RELAY) as other:
        other.session.send_same([])
        other.step()
        # New ones are offered as they are admitted; beyond the window they wait.
        scene.phone.client(scene.address).put(make_envelopes(2, 3000, 256))
        other.pump("offers came", lambda: len(other.offers) >= 1024, 20)
        began = time.monotonic()
        while time.monotonic() - began < 1:
            other.step(0.1)
        assert len(other.offers) == 1024
        scene.serves()
    scene.assert_memory_is_bounded()


def test_a_flood_of_purges_removes_nothing_that_is_not_its_own(lab):
    scene = Scene(lab)
    rng = random.Random(4)
    expiry_hour = int(time.time()) // 3600 + 24
    keep = make_envelopes(1, 1000, 256, expires_in_hours=24)
    scene.phone.client(scene.address).put(keep)
    held = scene.relay.status()["store"]["envelopes"]
    purges = []
    for _ in range(3000):
        key = rng.randbytes(32)
        tag = make_tag(rng.randrange(1 << 16), key)
        purges.append(make_purge(tag=tag, purge_key=key, expiry_hour=expiry_hour, price=0, random_bytes=rng.randbytes))
    began = time.monotonic()
    scene.enemy.client(scene.address).put(purges)
    print(f"3000 purges in {time.monotonic() - began:.1f} s")
    scene.serves()
    status = scene.relay.status()
    assert status["totals"]["total"]["purged"] == 0
    assert status["store"]["envelopes"] >= held + 3000


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder with 8 MiB; `mount` reaches no further than this test's mount namespace."""
    command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path))
    yield tmp_path
    command("umount", "--lazy", str(tmp_path))


def refused_for_storage(client, envelopes):
    with pytest.raises(ClientError, match="STORAGE"):
        client.put(envelopes, 20)
    assert set(client.refused.values()) == {Refusal.STORAGE}


def test_a_full_disk_refuses_and_recovers(lab, small_disk):
    scene = Scene(lab, store={"path": str(small_disk / "store")})
    client = scene.enemy.client(scene.address)
    refused_for_storage(client, make_envelopes(1, 1000, 16384))
    status = scene.relay.status()
    assert not status["store"]["writable"]
    assert status["totals"]["rejected"]["storage"] == len(client.refused)
    # What was acknowledged is served all the while.
    held = status["store"]["envelopes"]
    assert held >= len(client.acked) > 0
    assert len(scene.phone.client(scene.address).fetch_all()) == held
    command("mount", "-o", "remount,size=64m", str(small_disk))

    def takes_again():
        with RawClient(scene.phone.connect(scene.address)) as honest:
            try:
                honest.put(make_envelopes(time.monotonic(), 1), 10)
            except ClientError:
                return False
            return True

    began = time.monotonic()
    while not takes_again():
        assert time.monotonic() - began < 30, "the relay takes nothing although there is space again"
        time.sleep(1)
    print(f"takes envelopes again {time.monotonic() - began:.1f} s after there was space")
    assert scene.relay.status()["store"]["writable"]
    scene.serves()
    # ... and it was no illusion.
    expected = scene.relay.status()["store"]["envelopes"]
    scene.relay.kill()
    scene.relay.start()
    assert scene.relay.status()["store"]["envelopes"] == expected


def test_a_disk_that_stops_taking_writes_costs_nothing_that_was_acknowledged(lab):
    scene = Scene(lab)
    scene.phone.client(scene.address).put(make_envelopes(1, 200))
    held = scene.relay.status()["store"]["envelopes"]
    # As of a card that turned read-only: every write fails from now on.
    resource.prlimit(scene.relay.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    refused_for_storage(scene.enemy.client(scene.address), make_envelopes(2, 5))
    status = scene.relay.status()
    assert not status["store"]["writable"]
    assert status["store"]["envelopes"] == held
    assert len(scene.phone.client(scene.address).fetch_all()) == held
    scene.relay.stop()
    scene.relay.start()
    assert scene.relay.status()["store"]["envelopes"] == held
    scene.serves()


def test_a_disk_that_is_read_only_from_the_start_is_named(lab, small_disk):
    command("mount", "-o", "remount,ro", str(small_disk))
    relay = lab.box("relay").relay(start=False, store={"path": str(small_disk / "store")})
    relay.spawn()
    assert relay.process.wait(20) != 0
    print(relay.output())
    assert "read-only" in relay.output().lower()
    assert "Traceback" not in relay.output()


def test_a_clock_set_by_years_forth_and_back_loses_nothing(lab):
    scene = Scene(lab)
    held = scene.relay.status()["store"]["envelopes"]
    now = int(time.time())
    scene.relay.cli("clock", "set", f"@{now + 10 * 365 * 86400}")
    assert scene.relay.status()["clock"]["trusted"]
    client = scene.enemy.client(scene.address)
    with pytest.raises(ClientError, match="EXPIRED"):
        client.put(make_envelopes(1, 3))
    assert scene.relay.status()["totals"]["rejected"]["expired"] == 3
    assert scene.relay.status()["store"]["envelopes"] == held
    with pytest.raises(AssertionError, match="check the year"):
        scene.relay.cli("clock", "set", "2001-01-01T00:00Z")
    scene.relay.cli("clock", "set", f"@{now}")
    scene.serves()
    assert scene.relay.status()["store"]["envelopes"] == held + 3
    scene.relay.stop()
    scene.relay.start()
    assert scene.relay.status()["store"]["envelopes"] == held + 3
    scene.serves()


def test_two_relays_made_alike_are_two_relays(lab):
    scene = Scene(lab)
    scene.relay.stop()
    twin_box = lab.box("twin", scene.box.ports["eth0"].segment)
    twin = twin_box.relay(start=False)
    shutil.copytree(scene.relay.folder / "store", twin.folder / "store")
    twin.spawn()
    scene.relay.start()
    twin.wait_linked()
    scene.serves()
    twin.wait_held(scene.relay.status()["store"]["envelopes"], 20)


def test_the_same_relay_twice_on_one_machine_is_refused_and_the_first_goes_on(lab):
    scene = Scene(lab)
    first = scene.relay.process
    scene.relay.spawn()
    second, scene.relay.process = scene.relay.process, first
    try:
        assert second.wait(20) != 0
    except subprocess.TimeoutExpired:
        second.kill()
        raise AssertionError("two relays run on one store") from None
    assert "running" in scene.relay.output()
    scene.serves()


def test_a_closed_mesh_takes_no_outsider_for_a_relay(lab):
    secret = {"secret": "correct horse battery staple"}
    scene = Scene(lab, mesh=secret)
    segment = scene.box.ports["eth0"].segment
    member = lab.box("member", segment).relay(mesh=secret)
    member.wait_linked()
    outsider = lab.box("outsider", segment).relay(start=False, tcp={"peers": [f"{scene.address}:4270"]})
    outsider.start()
    wait_until("the outsider was turned away", lambda: scene.failures("secret_required"), 20)
    scene.serves()
    member.wait_held(scene.relay.status()["store"]["envelopes"], 20)
    assert linked(outsider.status()) == 0
    assert outsider.status()["store"]["envelopes"] == 0
    assert linked(scene.relay.status()) == linked(member.status()) == 1
