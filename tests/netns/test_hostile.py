# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers that take more than their part: the relay stays up, bounded in memory, and serves the others."""

import random
import select
import shutil
import socket
import subprocess
import time

import pytest

from relay.core.envelope import make_purge, make_tag
from relay.core.messages import Role
from tests.netns.rawclient import ClientError, RawClient, make_envelopes
from tests.netns.relays import PORT, link_errors, linked
from tests.netns.scene import Scene
from tests.waiting import wait_until


@pytest.fixture
def sockets():
    opened = []
    yield opened
    for sock in opened:
        sock.close()


def connect_all(scene, count, sockets, sources=("",)):
    """Open ``count`` connections, whatever becomes of them, from the enemy's addresses in turn."""
    for number in range(count):
        sock = scene.enemy.socket(socket.AF_INET)
        sockets.append(sock)
        sock.bind((sources[number % len(sources)], 0))
        sock.setblocking(False)
        sock.connect_ex((scene.address, PORT))
        if not number % 50:
            # Lets the relay accept: the kernel keeps no more than the backlog for it.
            scene.relay.status()


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
    connect_all(scene, 1000, sockets)
    wait_until("most are turned away", lambda: scene.failures("too_many") >= 900, 15)
    scene.serves()
    scene.assert_memory_is_bounded()


def test_a_thousand_connections_from_many_addresses_lock_nobody_out(lab, sockets):
    scene = Scene(lab)
    port = scene.enemy.ports["eth0"]
    sources = [f"10.0.{port.segment.subnet}.{host}" for host in range(100, 140)]
    for source in sources:
        port.address("add", f"{source}/24")
    connect_all(scene, 1000, sockets, sources)
    wait_until("most are turned away", lambda: scene.failures("too_many") >= 600, 15)
    scene.serves()
    scene.assert_memory_is_bounded()


def test_28_connections_that_say_small_things_without_end_delay_nobody_for_long(lab):
    scene = Scene(lab)
    pipe = subprocess.PIPE
    enemy = scene.enemy.python(
        "-m", "bench.enemy", str(PORT), "--host", scene.address, stdin=pipe, stdout=pipe, text=True
    )
    for kind in ("ping", "put_malformed", "put_one_byte", "subscribe"):
        print(kind, 28, file=enemy.stdin, flush=True)
        assert int(enemy.stdout.readline()) > 0
        for _ in range(3):
            scene.serves(timeout_s=5)
        began = time.monotonic()
        assert sum(link["clients"] for link in scene.relay.status()["links"]) > 1
        assert time.monotonic() - began < 5
    enemy.stdin.close()
    scene.assert_memory_is_bounded()


def test_a_slow_loris_is_let_go(lab, sockets):
    scene = Scene(lab, limits={"handshake_timeout_s": 2})
    connect_all(scene, 30, sockets)
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


def first_record(version, pattern, rest):
    return (2 + len(rest)).to_bytes(2, "big") + bytes([version, pattern]) + rest


#: What a stranger's program may say first, and how it is counted.
GARBAGE = {
    "truncated": b"\x00",
    "oversized": b"GET / HTTP/1.1\r\n\r\n",
    "version": first_record(2, 0, bytes(range(32))),
    "secret_required": first_record(1, 3, bytes(range(32))),
    "low_order_key": first_record(1, 0, bytes(32)) + b"\x00\x60" + bytes(96),
    "decrypt": first_record(1, 0, bytes(range(32))) + b"\x00\x40" + bytes(range(64)),
}


def test_garbage_is_counted_by_what_is_wrong_with_it(lab, sockets):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    scene = Scene(lab)
    said = [*GARBAGE.values(), *(rng.randbytes(rng.choice([1, 40, 4000, 100_000])) for _ in range(300))]

    def counted():
        return sum(scene.relay.status()["totals"]["handshake_failures"].values())

    for number, garbage in enumerate(said, 1):
        sock = scene.enemy.connect(scene.address)
        sockets.append(sock)
        try:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # turned away before the end of it
        if not number % 20:
            wait_until("all are counted", lambda number=number: counted() >= number, 10)
    for reason in GARBAGE:
        assert scene.failures(reason) >= 1, reason

    # Inside a session: a record that does not decrypt, and a message that does and is none.
    with RawClient(scene.enemy.connect(scene.address)) as client:
        client.sock.setblocking(True)
        client.sock.sendall(b"\x00\x40" + rng.randbytes(0x40))
        with pytest.raises(ClientError):
            client.pump("the session ends", lambda: False, 5)
    with RawClient(scene.enemy.connect(scene.address)) as client:
        client.session._push(0, b"\xee" + rng.randbytes(50))
        with pytest.raises(ClientError):
            client.pump("the session ends", lambda: False, 5)
    assert link_errors(scene.relay.status(), "replay") == 1
    assert link_errors(scene.relay.status(), "protocol") == 1
    scene.serves()
    scene.assert_memory_is_bounded()


@pytest.mark.slow
def test_clients_that_do_not_read_or_read_slowly_cost_no_memory_and_delay_nobody(lab):
    scene = Scene(lab)
    count = 2000
    scene.phone.client(scene.address).put(make_envelopes(1, count, 16384))
    scene.note_memory()
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
        tag = make_tag(rng.randrange(32), key)
        purges.append(make_purge(tag=tag, purge_key=key, expiry_hour=expiry_hour, price=0, random_bytes=rng.randbytes))
    began = time.monotonic()
    scene.enemy.client(scene.address).put(purges)
    print(f"3000 purges in {time.monotonic() - began:.1f} s")
    scene.serves()
    status = scene.relay.status()
    assert status["totals"]["total"]["purged"] == 0
    assert status["store"]["envelopes"] >= held + 3000


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
    assert "in use by another process; stop the other relay" in scene.relay.output()
    scene.serves()


def test_a_closed_mesh_takes_no_outsider_for_a_relay(lab):
    secret = {"secret": "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90"}
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
