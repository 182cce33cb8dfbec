# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with a relay is caused on a real one; metric, status, page and /healthz all say it, and nothing else.

Where something is mended, all four say so, too. What is no fault is said by none.
"""

import contextlib
import html
import http.client
import json
import re
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.control.conditions import SLOW_COMMITS
from relay.control.notices import NOTICES, Notice, NoticeCode, encode_notices
from relay.process.link_socket import component_preamble
from relay.process.reports import Component, Idle, Reporter
from relay.run.words import CONDITIONS
from tests.netns.lab import LabError, command
from tests.netns.rawclient import ClientError, RawClient, make_envelopes
from tests.waiting import wait_until

#: What a relay does each minute it does each second here: it feeds a watchdog three times in its time.
OFTEN = {"WATCHDOG_USEC": "3000000", "NOTIFY_SOCKET": "@nobody-listens"}
PATIENCE_S = 30


class Watched:
    """A relay, seen as those see it who are not on its machine."""

    def __init__(self, box, name="relay", **sections):
        self.box = box
        self.relay = box.relay(name, start=False, **sections)
        self.relay.environ = OFTEN
        self.relay.start()

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1")
        connection.sock = self.box.connect("127.0.0.1", 9470)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def metrics(self):
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
        }

    def state(self, metric, *labels):
        """The one value of the label `state` under which a metric is 1."""
        [state] = [key[-1] for key, value in self.metrics().items() if key[:-1] == (metric, *labels) and value]
        return state

    def wait_state(self, state, metric, *labels):
        """Wait for it, where nothing else told that it is so already: an answer may be a moment old."""
        wait_until(lambda: f"{metric} {labels} is {state}", lambda: self.state(metric, *labels) == state, PATIENCE_S)

    def problems(self):
        """The names of what is wrong by metric, status, page and /healthz."""
        held = [key[1:] for key, value in self.metrics().items() if key[0] == "relay_condition" and value]
        metric = {name for name, severity in held if severity != "info"}
        status = {one["name"] for one in self.relay.status()["conditions"] if one["severity"] != "info"}
        code, lines = self.get("/healthz")
        healthz = {line.partition(": ")[0] for line in lines.splitlines()} - {"ok"}
        assert code == (503 if healthz else 200)
        page = html.unescape(self.get("/")[1])
        shown = re.search(r'class="[^"]*health.*?</section>', page, re.DOTALL)[0]
        return metric, status, {name for name, said in CONDITIONS.items() if said.what in shown}, healthz

    def wait_for(self, *names, timeout_s=PATIENCE_S):
        """Wait until all four say that this is wrong, and nothing else."""
        last = []

        def look():
            last[:] = self.problems()
            return all(seen == set(names) for seen in last)

        wait_until(lambda: f"not all of metric, status, page, healthz say {names}: {last}", look, timeout_s)

    def put(self, envelopes, timeout_s=60):
        with RawClient(self.box.connect("127.0.0.1")) as client:
            client.put(envelopes, timeout_s)


@pytest.fixture
def small_disk(tmp_path):
    """8 MiB."""
    command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path))
    yield tmp_path
    command("umount", "--lazy", str(tmp_path))


def test_cables_interfaces_and_discovery(lab):
    segment = lab.segment()
    box, other = lab.box("relay", segment), lab.box("other", segment)
    watched = Watched(box)
    watched.wait_for()
    watched.relay.wait("it looks for relays", lambda status: row(status, "eth0", "dnssd"), PATIENCE_S)
    states = {link: watched.state("relay_link_state", link) for link in ("tcp", "unix", "ble", "dnssd")}
    assert states == {"tcp": "listening", "unix": "listening", "ble": "off", "dnssd": "discovering"}
    assert {(link["kind"], link["interface"]) for link in watched.relay.status()["links"]} == {
        ("tcp", "eth0"),
        ("dnssd", "eth0"),
    }
    # A second card without a cable, and one that is pulled out without ever having had a relay, are no fault.
    spare = box.plug(lab.segment(), "eth1")
    spare.unplug()
    watched.relay.wait("it sees it", lambda status: row(status, "eth1").get("state") == "unplugged", PATIENCE_S)
    watched.wait_for()
    spare.delete()
    watched.relay.wait("it is gone", lambda status: not row(status, "eth1"), PATIENCE_S)
    watched.wait_for()
    port = box.ports["eth0"]
    port.unplug()
    watched.wait_for("no_link")
    somebody_on_this_machine_changes_nothing(watched, "no_link")
    port.replug()
    watched.wait_for()
    somebody_on_this_machine_changes_nothing(watched)
    # One by which a relay came is missed.
    neighbour = other.relay()
    watched.relay.wait_linked()
    assert (watched.state("relay_link_state", "tcp"), watched.metrics()["relay_neighbours",]) == ("up", 1)
    port.unplug()
    watched.wait_for("link_down", "no_link")
    assert watched.state("relay_link_state", "tcp") == "down"
    # When it comes back, discovery does not get through any more.
    box.run("nft", "table inet lab { chain input { type filter hook input priority 0; udp dport 5353 drop; }; }")
    port.replug()
    watched.wait_for("discovery_down")
    assert watched.state("relay_link_state", "dnssd") == "down"
    # Relays come and go, and are switched off: for ten minutes that is nobody's fault.
    neighbour.stop()
    watched.relay.wait("it is gone", lambda status: status["relays"] == 0, PATIENCE_S)
    watched.wait_for("discovery_down")
    assert 0 < watched.metrics()["relay_alone_seconds",] < 600
    port.delete()
    watched.wait_for("link_down", "no_link")
    assert row(watched.relay.status(), "eth0")["fault"] == "the interface is gone, or was switched off"
    assert sum(value for key, value in watched.metrics().items() if key[0] == "relay_errors_total") == 0


def somebody_on_this_machine_changes_nothing(watched, *names):
    """Whoever comes by loopback lets nobody else in, and whether he is there is seen on this machine alone."""

    def seen():
        # An answer may be a moment old.
        since = watched.relay.status()["uptime_s"]
        status = wait_until(
            "the page is of now",
            lambda: (found := json.loads(watched.get("/status.json")[1]))["uptime_s"] > since and found,
            PATIENCE_S,
        )
        told = [(link["kind"], link["interface"], link["state"]) for link in status["links"]]
        return told, status["link_states"], [(one["name"], one["details"]) for one in status["conditions"]]

    before = seen()
    with RawClient(watched.box.connect("127.0.0.1")) as client:
        client.fetch_all()
        watched.relay.wait("it sees him", lambda status: row(status, "lo").get("clients") == 1, PATIENCE_S)
        assert seen() == before
        watched.wait_for(*names)
    watched.relay.wait("he has gone", lambda status: not row(status, "lo"), PATIENCE_S)
    watched.wait_for(*names)


def row(status, interface, kind="tcp"):
    """A link's row of the status; {} if there is none."""
    return next((r for r in status["links"] if (r["kind"], r["interface"]) == (kind, interface)), {})


@pytest.mark.timeout(240)
def test_another_secret_and_a_clock_that_is_ahead(lab):
    segment = lab.segment()
    boxes = [lab.box(name, segment) for name in "ab"]
    closed = [Watched(box, mesh={"secret": secrets.token_hex(32)}) for box in boxes]
    for watched in closed:
        # Of two the one dials ten seconds after the other, and then ever more rarely; three in vain are needed.
        watched.wait_for("secret_differs", timeout_s=100)
    for watched in closed:
        watched.relay.stop()
        watched.relay.configure(
            {
                "store": {"path": str(watched.relay.folder / "store")},
                "unix": {"path": str(watched.relay.folder / "link.sock")},
                "control": {"path": str(watched.relay.folder / "control.sock")},
                "clock": {"trust": "system"},
            }
        )
    for watched in closed:
        watched.relay.start()
    for watched in closed:
        watched.relay.wait_linked()
        watched.wait_for()
        assert watched.metrics()["relay_clock_offset_hours",] == 0
        assert watched.metrics()["relay_clock_source", "system"] == 1
    a, b = closed
    ahead_s = int(time.time()) + 400 * 86_400
    a.relay.cli("clock", "set", f"@{ahead_s}")
    a.wait_for("clock_wrong")
    assert a.metrics()["relay_clock_offset_hours",] == pytest.approx(9600, abs=1)
    assert a.metrics()["relay_clock_time_seconds",] == pytest.approx(ahead_s, abs=3600)
    # Alone it sees that it refuses everybody.
    b.relay.stop()
    a.relay.wait("it is alone", lambda status: status["relays"] == 0, PATIENCE_S)
    a.wait_for()
    with pytest.raises(ClientError, match="EXPIRED"):
        a.put(make_envelopes(3, 5))
    a.wait_for("clock_wrong")


def test_full_and_damaged_stores(lab):
    box = lab.box("relay", lab.segment())
    watched = Watched(box, store={"max_envelopes": 200})
    watched.put(make_envelopes(1, 100))
    watched.wait_for()
    watched.put(make_envelopes(2, 90))
    watched.wait_for("store_nearly_full")
    with contextlib.suppress(ClientError):
        watched.put(make_envelopes(3, 50))
    names = {one["name"] for one in watched.relay.status()["conditions"]}
    assert "store_nearly_full" in names
    assert names & {"store_evicting", "store_refusing"}
    watched.wait_for(*(names - {"clock_untrusted"}))
    assert watched.metrics()["relay_store_full_ratio",] > 0.9
    assert watched.metrics()["relay_store_untaken_age_seconds",] == 0
    watched.relay.stop()
    damaged = Watched(box, "damaged", tcp={"port": 4271})
    envelopes = make_envelopes(4, 20)
    with RawClient(box.connect("127.0.0.1", 4271)) as client:
        client.put(envelopes)
    damaged.relay.stop()
    [path] = (damaged.relay.folder / "store").glob("*.sqlite")
    raw = bytearray(path.read_bytes())
    raw[raw.index(envelopes[7][40:200]) + 60] ^= 0x10
    path.write_bytes(raw)
    damaged.relay.start()
    damaged.wait_for()
    with RawClient(box.connect("127.0.0.1", 4271)) as client:
        assert len(client.fetch_all()) == 19
    damaged.wait_for("store_damaged")
    assert damaged.metrics()["relay_store_unreadable_bodies_total",] == 1
    # A damaged log, as of a machine whose power was cut: what of it is lost is counted, and the rest is mended.
    more = make_envelopes(5, 20)
    for first in range(0, 20, 5):
        with RawClient(box.connect("127.0.0.1", 4271)) as client:
            client.put(more[first : first + 5])
    damaged.relay.kill()
    [log] = (damaged.relay.folder / "store").glob("*.sqlite-wal")
    raw = bytearray(log.read_bytes())
    at = -1
    while (at := raw.find(more[12][40:200], at + 1)) >= 0:  # in each copy of its page
        raw[at] ^= 0x10
    log.write_bytes(raw)
    damaged.relay.start()
    damaged.wait_for("store_mended", "store_damaged")
    assert damaged.metrics()["relay_store_log_damaged",] == 1


def test_a_disk_that_is_full_or_read_only_and_is_well_again_without_anybody_putting_anything(lab, small_disk):
    box = lab.box("relay", lab.segment())
    # More than the disk has, so that it is the disk which is full.
    watched = Watched(box, store={"path": str(small_disk / "store"), "max_bytes": 1 << 30})
    watched.wait_for("disk_full")
    with pytest.raises(ClientError, match="STORAGE"):
        watched.put(make_envelopes(1, 1000, 16384))
    watched.wait_for("disk_full", "store_unwritable")
    assert watched.metrics()["relay_store_free_bytes",] < 16 << 20
    command("mount", "-o", "remount,size=64m", str(small_disk))
    watched.wait_for(timeout_s=90)
    assert watched.metrics()["relay_store_free_bytes",] > 32 << 20
    # What is not committed is not held.
    held = watched.relay.status()["store"]["envelopes"]
    watched.relay.kill()
    watched.relay.start()
    assert watched.relay.status()["store"]["envelopes"] == held


@pytest.fixture
def dying_disk(tmp_path):
    """A file system as of a card, and what has it meet an error, after which it takes no more writes."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    command("mkfs.ext4", "-q", str(image))
    try:
        command("mount", "-o", "loop,errors=remount-ro", str(image), str(folder))
    except LabError as error:
        pytest.skip(f"needs a loop device, which a user namespace has not: {error}")
    device = command("findmnt", "-no", "SOURCE", str(folder)).strip()
    yield folder, Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
    command("umount", "--lazy", str(folder))


def test_a_card_that_turns_read_only_is_told_before_anybody_puts_anything(lab, dying_disk):
    folder, trigger = dying_disk
    watched = Watched(lab.box("relay", lab.segment()), store={"path": str(folder / "store")})
    watched.put(make_envelopes(1, 20))
    watched.wait_for()
    trigger.write_text("as a worn card makes it")
    watched.wait_for("store_unwritable")
    assert watched.metrics()["relay_store_writable",] == 0
    assert "read only" in watched.get("/healthz")[1]
    # What it has it hands out.
    with RawClient(watched.box.connect("127.0.0.1")) as client:
        assert len(client.fetch_all()) == 20
    with pytest.raises(ClientError, match="STORAGE"):
        watched.put(make_envelopes(2, 1))
    watched.wait_for("store_unwritable")


def test_a_slow_card(lab):
    box = lab.box("relay", lab.segment())
    watched = Watched(box)
    watched.put(make_envelopes(1, 5))
    watched.wait_for()
    # The kernel itself holds up each sync of this process, as a card does that is dying.
    sync = "inject=fdatasync,fsync:delay_exit=1200000"
    tracing = box.start("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", sync,
                        "-p", str(watched.relay.process.pid), stderr=subprocess.PIPE)  # fmt: skip
    slow = 0
    for seed in range(2, 20):
        watched.put(make_envelopes(seed, 1))
        slow = watched.relay.status()["store"]["slow_commits"]
        if slow >= SLOW_COMMITS:
            break
    watched.wait_for("card_slow")
    found = watched.metrics()
    within = found["relay_commit_seconds_bucket", "1.0"]
    assert found["relay_commit_seconds_count",] - within >= SLOW_COMMITS
    tracing.send_signal(signal.SIGINT)
    tracing.wait(10)


def report(sock, reporter):
    reporter.connected()
    sock.sendall(reporter.line(0.0))


def connect(watched, component):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(watched.relay.folder / "link.sock"))
    sock.sendall(component_preamble(component))
    return sock


def test_what_other_processes_say_and_when_they_are_gone(lab):
    watched = Watched(lab.box("relay", lab.segment()))
    watched.wait_for()
    assert watched.state("relay_component_state", "ble") == "never_started"
    absent = ("relay_process_memory_bytes", "ble")
    assert not [key for key in watched.metrics() if "temperature" in key[0] or key == absent]
    reporter = Reporter(Component.BLE)
    with connect(watched, Component.BLE) as ble:
        reporter.idle = Idle.NO_ADAPTER
        reporter.measured("memory_bytes", 25 << 20)
        report(ble, reporter)
        watched.relay.wait("it is there", lambda status: status["components"], PATIENCE_S)
        watched.wait_state("no_adapter", "relay_component_state", "ble")
        watched.wait_for()
        assert watched.metrics()["relay_process_memory_bytes", "ble"] == 25 << 20
        reporter.idle = None
        report(ble, reporter)
        watched.wait_for("ble_down")
        assert watched.state("relay_component_state", "ble") == "failing"
        reporter.up = True
        report(ble, reporter)
        watched.wait_state("up", "relay_component_state", "ble")
        watched.wait_state("listening", "relay_link_state", "ble")
        watched.wait_for()
    watched.wait_for("ble_down")
    assert watched.state("relay_component_state", "ble") == "dead"
    with connect(watched, Component.BLE) as ble:
        reporter.stopped()
        ble.sendall(reporter.last_line())
    watched.wait_state("stopped", "relay_component_state", "ble")
    watched.wait_for()
    bitchat, net = Reporter(Component.BITCHAT), Reporter(Component.NET)
    with connect(watched, Component.BITCHAT) as phones, connect(watched, Component.NET) as radios:
        report(phones, bitchat)
        net.troubles = ("channel 13 is not allowed in US; write one from 1 to 11",)
        report(radios, net)
        watched.wait_for("bitchat_down", "net_down")
        # Five phones or more say another time than a clock that the operator vouches for.
        bitchat.up, net.up, net.troubles = True, True, ()
        bitchat.gauge("clock_disputed", 1)
        net.gauge("phones", 7)
        net.gauge("phones_most", 7)
        report(phones, bitchat)
        report(radios, net)
        watched.wait_for("clock_disputed", "access_point_full")
        assert watched.metrics()["relay_bitchat_clock_disputed",] == 1
        bitchat.gauge("clock_disputed", 0)
        net.gauge("phones", 6)
        report(phones, bitchat)
        report(radios, net)
        watched.wait_for()
        for sock, reporter in ((phones, bitchat), (radios, net)):
            reporter.stopped()
            sock.sendall(reporter.last_line())
    # What other programs of an appliance leave for those who have no terminal.
    told = {"config": "config_mistake", "secret": "secret_mistake", "storage": "card_trouble",
            "board": "board_trouble", "network": "network_trouble", "undervoltage": "undervoltage"}  # fmt: skip
    place = NOTICES[0]
    place.parent.mkdir()
    place.write_bytes(encode_notices(Notice(code=NoticeCode(code), text="what is wrong") for code in told))
    watched.wait_for(*told.values())
    place.write_bytes(encode_notices([Notice(code=NoticeCode.HINT, text="by the way")]))
    watched.wait_for()
    board = Reporter(Component.BOARD)
    board.up = True
    sensors = {"temperature_celsius": 84, "undervoltage": 0, "undervoltage_seen": 1, "card_worn": 1, "power_percent": 9}
    with connect(watched, Component.BOARD) as sock:
        # Before anybody looked the first time: a count that begins with 1 shows in no rate.
        for name, value in sensors.items():
            board.measured(name, value)
        report(sock, board)
        watched.wait_for("hot", "undervoltage", "card_worn", "power_low")
        assert watched.metrics()["relay_board_undervoltage_seen",] == 1
        for name in sensors:
            board.measured(name, None)
        report(sock, board)
        watched.wait_for()
        assert not [key for key in watched.metrics() if key[0].startswith("relay_board_t")]
    watched.wait_for("board_down")


def test_people_who_come_and_go_are_no_fault_and_not_counted_one_by_one(lab):
    segment = lab.segment()
    box, phone = lab.box("relay", segment), lab.box("phone", segment)
    neighbours = [lab.box(name, segment) for name in ("b", "c")]
    watched = Watched(box)
    relays = [neighbour.relay() for neighbour in neighbours]
    watched.relay.wait_linked(2)
    counted = set()
    until = time.monotonic() + 12
    seed = 10
    while time.monotonic() < until:
        seed += 1
        with RawClient(phone.connect(box.ports["eth0"].ipv4)) as client:
            if seed % 3:
                client.put(make_envelopes(seed, 2))
                client.fetch_all()
        if seed % 5 == 0:
            # Walks away in the midst of it.
            phone.connect(box.ports["eth0"].ipv4).close()
        if seed % 40 == 0:
            relays[0].kill()
            relays[0].start()
        watched.wait_for()
        found = watched.metrics()
        counted |= {value for key, value in found.items() if key[0] == "relay_sessions_ended_total"}
        assert found["relay_link_peers", "tcp", "client"] == 0
    assert sum(value for key, value in found.items() if key[0] == "relay_errors_total") == 0
    assert all(value % 10 == 0 for value in counted)
    assert found["relay_forward_latency_seconds_count",] > 0
    # What waited for who was away is no latency of forwarding.
    forwarded = found["relay_forward_latency_seconds_bucket", "5.0"]
    assert found["relay_forward_latency_seconds_count",] == forwarded
    print(f"{seed - 10} visits, {len(json.dumps(watched.relay.status()))} bytes of status")
