# SPDX-License-Identifier: GPL-2.0-or-later
"""Twenty conditions, caused on real relays under a real Prometheus: each alert fires and clears; who is well is silent.

One scene, in which a second stands for a minute of the rules: all is caused at once, then all is mended. Meanwhile
phones come and go at two relays to which nothing happens: 30 such minutes and more.
"""

import contextlib
import http.client
import itertools
import json
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from docs.prometheus import dashboard
from relay.control.conditions import SLOW_COMMITS
from relay.control.control_client import ControlClient
from relay.process.progress import DEFAULT_LIMIT_S
from tests.netns.lab import PROJECT, command
from tests.netns.prometheus import Watcher
from tests.netns.rawclient import ClientError, RawClient, make_envelopes
from tests.netns.relays import PORT
from tests.waiting import wait_until

METRICS_PORT = 9470
#: linux/if_ether.h
ETH_P_ALL = 3
#: All on one machine, each with ports of its own.
APART = ("small", "card", "odd", "stuck")
#: Ten at once, each of which imports for a second of processor time.
START_TIMEOUT_S = 120
OPEN = {"listen": f"[::]:{METRICS_PORT}"}
#: Announced on a segment beside the 64 that a relay takes.
FALSE_RELAYS = 90
#: Work that pays more than what is there.
PAID_BITS = 8
#: The relay that docs/dashboard.png shows alone.
DRAWN = "card"
#: What its card and battery say, which are well.
WELL = ("card_life_used_percent", 20, "card_worn", 0, "power_percent", 90, "power_external", 1)
#: The least of "30 minutes"; the scene takes longer.
SOAK_S = 30
#: A reporter in the place of `relay board`: this machine has neither a Pi's sensors nor its button.
BOARD = """
import asyncio, sys
from pathlib import Path
from relay.process.report_connection import report_forever
from relay.process.reports import Component, Reporter
reporter = Reporter(Component.BOARD)
reporter.up = True
for name, value in zip(sys.argv[2::2], map(int, sys.argv[3::2])):
    reporter.measured(name, value)
asyncio.run(report_forever(Path(sys.argv[1]), reporter, random=lambda: 0.0))
"""
CROWD = """
import asyncio, socket, sys
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
async def announce():
    zeroconf = AsyncZeroconf(interfaces=[sys.argv[1]])
    kind = "_mesh-relay._tcp.local."
    for number in range(int(sys.argv[2])):
        await zeroconf.async_register_service(
            AsyncServiceInfo(kind, f"{number:016x}.{kind}", port=9, server=f"{number:016x}.local.",
                             parsed_addresses=[sys.argv[1]]), cooperating_responders=True)
    await asyncio.sleep(3600)
asyncio.run(announce())
"""


@dataclass
class Site:
    """Who is there; `well` and `camp` are those to whom nothing happens."""

    watcher: Watcher
    phone: object
    enemy: object
    disk: Path
    #: Holds up the card of `stuck` for as long as it lives; and who waits for that.
    hanging: subprocess.Popen | None = None
    waiting: Future | None = None
    boxes: dict = field(default_factory=dict)
    relays: dict = field(default_factory=dict)

    def address(self, name):
        return self.boxes[name].ports["eth0"].ipv4

    def client(self, name):
        return RawClient(self.boxes[name].connect("127.0.0.1", self.port(name)))

    def port(self, name):
        return {"card": PORT + 1, "odd": PORT + 2, "stuck": PORT + 3}.get(name, PORT)


@pytest.fixture
def disk(tmp_path):
    """A card of 64 MiB; `mount` reaches no further than this test's mount namespace."""
    command("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path))
    yield tmp_path
    command("umount", "--lazy", str(tmp_path))


@pytest.fixture
def templates():
    """What Alertmanager reads in /usr/share, where .ci/tools unpacked it only: in this test's mount namespace."""
    program = shutil.which("prometheus-alertmanager")
    if program is None or shutil.which("prometheus") is None:
        pytest.skip("prometheus and prometheus-alertmanager (Debian packages of these names) are not installed")
    share = Path(program).parent.parent / "share"
    if Path(program).parent == Path("/usr/bin") or Path("/usr/share/prometheus/alertmanager").exists():
        yield
        return
    command("mount", "-t", "overlay", "-o", f"lowerdir={share}:/usr/share", "overlay", "/usr/share")
    yield
    command("umount", "--lazy", "/usr/share")


@pytest.fixture
def site(lab, disk, templates):  # noqa: ARG001 - Alertmanager finds them
    ops, camp, field_, crowd = (lab.segment() for _ in range(4))
    operator = lab.box("operator", ops, camp, field_, crowd)
    boxes = {
        "well": lab.box("well", camp),
        "camp": lab.box("camp", camp),
        # With its way to the operator first: that is the address by which it is read.
        "link": lab.box("link", ops, camp),
        "gone": lab.box("gone", field_),
        # To be read at a link-local address, as it has no other.
        "alone": lab.box("alone", field_, has_ipv4=False),
        "crowd": lab.box("crowd", crowd),
    }
    shelf = lab.box("shelf", ops)
    boxes |= dict.fromkeys(APART, shelf)
    # On one machine, and strangers to each other: nobody is to mend what another one is to suffer.
    apart = {
        name: {
            "tcp": {"port": PORT + number, "discovery": False},
            "http": OPEN | {"listen": f"[::]:{METRICS_PORT + number}"},
        }
        for number, name in enumerate(APART)
    }
    apart["small"]["store"] = {"path": str(lab.folder / "small-store"), "max_envelopes": 100}
    apart["card"]["store"] = {"path": str(disk / "store")}
    made = Site(watcher=None, phone=lab.box("phone", camp), enemy=lab.box("enemy", crowd), disk=disk, boxes=boxes)
    for name, box in boxes.items():
        sections = apart.get(name, {"http": OPEN | {"label": name}})
        made.relays[name] = box.relay(name, start=False, **sections)
    for relay in made.relays.values():
        relay.spawn()
    for relay in made.relays.values():
        relay.wait_ready(START_TIMEOUT_S)
    shelf_address = shelf.ports["eth0"].ipv4
    damage(made)
    made.watcher = Watcher(operator, [(f"{shelf_address}:{METRICS_PORT + n}", name) for n, name in enumerate(APART)])
    yield made
    made.watcher.end()


def damage(site):
    """Flip a bit of a body on the card, as it was after a restart: the relay does not know yet."""
    held = make_envelopes(77, 5)
    with site.client("card") as client:
        client.put(held)
    relay = site.relays["card"]
    # Orderly, so that nothing is left in the log of SQLite; how fast is tested elsewhere.
    relay.process.terminate()
    relay.process.wait(START_TIMEOUT_S)
    with (site.disk / "store" / "store.sqlite").open("r+b") as file:
        at = file.read().index(held[2][40:200]) + 60
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
    relay.start()


class Phones(threading.Thread):
    """People at the two relays that are well: they come, send, fetch and leave, some without a word."""

    def __init__(self, site):
        super().__init__(daemon=True)
        self._site = site
        self._leaving = threading.Event()
        self.visits = 0
        self.error = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._leaving.set()
        self.join(30)
        if self.error is not None:
            raise self.error

    def run(self):
        rng = random.Random(5)
        try:
            while not self._leaving.wait(0.2):
                self._visit(rng)
        except AssertionError as error:
            self.error = error

    def _visit(self, rng):
        sock = self._site.phone.connect(self._site.address(rng.choice(["well", "camp"])))
        self.visits += 1
        if self.visits % 20 == 0:
            sock.close()  # Out of reach before a word was said.
            return
        with RawClient(sock) as client:
            if self.visits % 2:
                client.put(make_envelopes(self.visits, 3))
            else:
                client.fetch_all()


def fill(site):
    """More than the small store holds: first for nothing, then for work; then nobody gets in for nothing."""
    with site.client("small") as client:
        client.put(make_envelopes(1, 96))
        client.put(make_envelopes(2, 10, price=PAID_BITS))
    full_now(site, 3)


def full_now(site, seed):
    with site.client("small") as client, pytest.raises(ClientError, match="refused"):
        client.put(make_envelopes(seed, 30))


def wear_out(site):
    """A body that is damaged is read, syncs take over a second, then the disk takes no more."""
    relay = site.relays["card"]
    # The kernel itself holds up each sync of this process.
    slow = site.boxes["card"].start(
        "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync",
        "-e", "inject=fdatasync,fsync:delay_exit=1300000", "-p", str(relay.process.pid), stderr=subprocess.DEVNULL
    )  # fmt: skip
    with site.client("card") as client:
        client.fetch_all()
        seeds = itertools.count(10)
        while relay.status()["store"]["slow_commits"] < SLOW_COMMITS:
            client.put(make_envelopes(next(seeds), 1))
        slow.send_signal(signal.SIGINT)
        slow.wait(10)
        free = shutil.disk_usage(site.disk).free
        (site.disk / "ballast").write_bytes(bytes(free))


def hang(site):
    """A card that answers no more: the next sync does not end. What it is that stands still is told after a minute."""
    relay = site.relays["stuck"]
    site.hanging = site.boxes["stuck"].start(
        "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync",
        "-e", "inject=fdatasync,fsync:delay_enter=600000000", "-p", str(relay.process.pid), stderr=subprocess.DEVNULL
    )  # fmt: skip

    def put():
        # Nobody is told that it is committed, until it is.
        with site.client("stuck") as client:
            began = time.monotonic()
            client.put(make_envelopes(1, 1), timeout_s=300)
            assert time.monotonic() - began > DEFAULT_LIMIT_S

    site.waiting = ThreadPoolExecutor(1).submit(put)


def knock(site, count):
    """Who speaks something else to the relay's port."""
    for _ in range(count):
        sock = site.boxes["odd"].connect("127.0.0.1", site.port("odd"))
        sock.sendall(random.Random(count).randbytes(200))
        sock.settimeout(2)
        try:
            while sock.recv(1000):
                pass
        except OSError:
            pass
        sock.close()


def board(site, *sensors):
    relay = site.relays["odd"]
    return site.boxes["odd"].python("-c", BOARD, str(relay.folder / "link.sock"), *map(str, sensors))


def cause(site):
    """All at once."""
    relays = site.relays
    hang(site)
    site.enemy.python("-c", CROWD, site.enemy.ports["eth0"].ipv4, str(FALSE_RELAYS))
    relays["gone"].kill()
    site.boxes["link"].ports["eth1"].unplug()
    wearing = threading.Thread(target=wear_out, args=(site,))
    wearing.start()
    set_clock(relays["odd"], time.time() + 400 * 86400)
    hot = board(site, "temperature_celsius", 85, "undervoltage", 1, "undervoltage_seen", 1, *WELL)
    fill(site)
    knock(site, 40)
    wearing.join(60)
    full_now(site, 4)
    site.watcher.wait_fires({("RelayHot", "odd"), ("RelayUndervoltage", "odd")}, 30)
    hot.kill()


def set_clock(relay, unix_s):
    """As `relay clock set` does, without starting a program for it."""
    with ControlClient(relay.folder / "control.sock") as control:
        control.set_clock(int(unix_s))


def start_again_and_again(site):
    """Come back, and fail three times more."""
    relay = site.relays["gone"]
    relay.start()
    for _ in range(3):
        site.watcher.wait_read_anew("gone")
        relay.kill()
        relay.start()


def mend(site):
    """Each by its remedy."""
    relays = site.relays
    site.hanging.send_signal(signal.SIGINT)
    site.hanging.wait(10)
    site.waiting.result(60)
    restarting = threading.Thread(target=start_again_and_again, args=(site,))
    restarting.start()
    site.boxes["link"].ports["eth1"].replug()
    set_clock(relays["odd"], time.time())
    board(site, "temperature_celsius", 55, "undervoltage", 0, "undervoltage_seen", 0, *WELL)
    (site.disk / "ballast").unlink()
    relays["small"].configure_again(store={"max_envelopes": 10_000})
    for name in ("card", "small"):
        relays[name].kill()
        relays[name].spawn()
    for name in ("card", "small"):
        relays[name].wait_ready(START_TIMEOUT_S)
    restarting.join(120)


CAUSED = {
    ("RelayDown", "gone"),
    ("RelayAlone", "alone"),
    ("RelayLinkDown", "link"),
    ("RelayStoreNearlyFull", "small"),
    ("RelayEvicting", "small"),
    ("RelayRefusing", "small"),
    ("RelaySlowCard", "card"),
    ("RelayDamagedBodies", "card"),
    ("RelayDiskFull", "card"),
    ("RelayClockWrong", "odd"),
    ("RelayHandshakeFailures", "odd"),
    ("RelayComponentDead", "odd"),
    ("RelayDrops", "crowd"),
    ("RelayNeedsALook", "stuck"),
}


@pytest.mark.alerts
@pytest.mark.timeout(400)
def test_each_alert_fires_when_it_is_caused_and_clears_and_who_is_well_is_silent(site):
    watcher = site.watcher
    wait_until(
        lambda: f"all are read: {watcher.up()} of {watcher.listed()}\n{watcher.log('targets')}",
        lambda: watcher.up() == site.relays.keys(),
        40,
    )
    # Each once, though one is on two networks of the operator's.
    assert sorted(watcher.listed().values()) == sorted(site.relays.keys() - set(APART))
    printing = watcher.box.start_cli("targets")
    site.relays["alone"].wait_linked(1)
    site.relays["link"].wait_linked(2)
    wait_until("its neighbour was seen", lambda: watcher.query('relay_alone_seconds{instance="alone"} == 0'), 10)
    began = time.monotonic()
    with Phones(site) as phones:
        cause(site)
        watcher.wait_fires(CAUSED, 60 + DEFAULT_LIMIT_S)
        printed = json.loads(watcher.box.finish_cli(printing))
        assert {row["labels"]["__meta_relay_label"] for row in printed} >= {"well", "camp", "alone", "crowd"}
        print(f"all fired after {time.monotonic() - began:.1f} s")
        mend(site)
        watcher.wait_fires({("RelayRestartLoop", "gone")}, 30)
        watcher.wait_silent(60)
    print(f"all clear after {time.monotonic() - began:.1f} s; {phones.visits} visits of phones")
    assert time.monotonic() - began > SOAK_S
    assert phones.visits > 50
    fired = {
        (row["metric"]["alertname"], row["metric"]["instance"])
        for row in watcher.query_range('ALERTS{alertstate="firing"}')
    }
    assert {name for _, name in fired}.isdisjoint({"well", "camp"}), fired
    assert fired >= CAUSED
    print("beside these fired:", sorted(fired - CAUSED))
    every_panel_has_data(watcher)


def every_panel_has_data(watcher):
    """Each query of the dashboards, over all that happened; what they give is kept for the picture of the README."""

    def results(instance):
        return {
            query: watcher.query_range(dashboard.concrete(query, instance=instance, interval="10s"))
            for query in dashboard.queries()
        }

    of_all = results(".+")
    kept = PROJECT / "build" / "dashboard.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps({"fleet.json": of_all, "relay.json": results(DRAWN)}))
    assert [query for query, rows in of_all.items() if not rows] == []


def test_a_label_is_neither_on_the_air_nor_in_the_log(lab):
    label = "kilimanjaro"
    segment = lab.segment()
    boxes = [lab.box(name, segment) for name in ("one", "two")]
    with boxes[0].socket(socket.AF_PACKET, socket.SOCK_RAW) as listener:
        listener.bind(("eth0", ETH_P_ALL))
        listener.setblocking(False)
        relays = [box.relay(http=OPEN | {"label": label}) for box in boxes]
        relays[0].wait_linked(1)
        with RawClient(boxes[1].connect(boxes[0].ports["eth0"].ipv4)) as client:
            client.put(make_envelopes(1, 3))
        relays[1].wait_held(3)
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(listener.recv(65_536))
    heard = b"".join(frames)
    # All of it was heard: announcements of both, and what was put.
    assert b"_mesh-relay" in heard
    assert len(heard) > 3 * 1024
    assert label.encode() not in heard.lower()
    assert not any(label in relay.output() for relay in relays)
    # ... while who may read the metrics is told.
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1")) as connection:
        connection.sock = boxes[1].connect(boxes[0].ports["eth0"].ipv4, METRICS_PORT)
        connection.request("GET", "/target.json")
        assert json.load(connection.getresponse())["label"] == label
