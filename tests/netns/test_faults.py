# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks and clocks that fail: nothing that was acknowledged is lost, and the relay says what is wrong."""

import resource
import time

import pytest

from relay.core.messages import Refusal
from tests.netns.lab import command
from tests.netns.rawclient import ClientError, RawClient, make_envelopes
from tests.netns.scene import Scene


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
    # More than the disk has, so that it is the disk which says no.
    scene = Scene(lab, store={"path": str(small_disk / "store"), "max_bytes": 1 << 30})
    client = scene.enemy.client(scene.address)
    refused_for_storage(client, make_envelopes(1, 1000, 16384))
    status = scene.relay.status()
    assert not status["store"]["writable"]
    assert status["totals"]["rejected"]["storage"] == len(client.refused)
    # What was acknowledged is served all the while.
    held = status["store"]["envelopes"]
    assert held >= len(client.acked) > 0
    assert len(scene.phone.client(scene.address).fetch_all()) == held

    # Switched off and on again meanwhile.
    scene.relay.stop()
    scene.relay.start()
    assert scene.relay.status()["store"]["envelopes"] == held
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
    # Its exit status is of no use here: what it printed goes to a file, and fails like the store.
    scene.relay.kill()
    scene.relay.start()
    assert scene.relay.status()["store"]["envelopes"] == held
    scene.serves()


def test_a_volatile_store_survives_the_death_of_the_process(lab):
    scene = Scene(lab, store={"storage": "volatile", "path": f"/run/{lab.folder.name}"})
    seeds = iter(range(10, 20))
    held = scene.relay.status()["store"]["envelopes"]
    for _ in range(5):
        client = scene.phone.client(scene.address)
        assert not client.relay.durable
        client.put(make_envelopes(next(seeds), 300))
        held += 300
        scene.relay.kill()
        scene.relay.start()
        assert scene.relay.status()["store"]["envelopes"] == held
    assert len(scene.phone.client(scene.address).fetch_all()) == held


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
    for wrong in ("2001-01-01T00:00Z", "@99999999999"):
        with pytest.raises(AssertionError, match="check the year"):
            scene.relay.cli("clock", "set", wrong)
    scene.relay.cli("clock", "set", f"@{now}")
    scene.serves()
    assert scene.relay.status()["store"]["envelopes"] == held + 3
    scene.relay.stop()
    scene.relay.start()
    assert scene.relay.status()["store"]["envelopes"] == held + 3
    scene.serves()
