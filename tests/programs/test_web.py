# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio
import json
import random
import re
import socket
from contextlib import AsyncExitStack, suppress
from html.parser import HTMLParser

import aiohttp
import pytest

from relay.config.run import HttpConfig
from relay.config.settings import Address
from relay.control.coarse import coarse
from relay.control.status import ComponentStatus, LinkState, LinkStatus, StoreStatus, TaskStatus
from relay.core.stats import Rejected
from relay.process.shelf import make_list
from relay.process.shelf_page import POLICY
from relay.run.history import MAX_SAMPLES, SAMPLE_INTERVAL_S, History
from relay.run.shelf_routes import ShelfPages
from relay.run.web import MAX_CONNECTIONS, HttpError, StatusServer

AGAIN = "start it again; if that happens again, replace the card or disk"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def serve(engine, use, history=None, announced=frozenset(), **settings):
    """Run `use(base URL, session, server)` against a server on a free port."""

    async def run():
        config = HttpConfig(listen=Address("127.0.0.1", 0), **settings)
        async with (
            StatusServer(engine, config, history or History(Clock()), announced) as server,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
        ):
            return await use(f"http://127.0.0.1:{server.port}", session, server)

    return asyncio.run(run())


def get(engine, path, history=None, headers=None, **settings):
    async def use(base, session, _):
        async with session.get(base + path, headers=headers) as response:
            return response.status, dict(response.headers), await response.text()

    return serve(engine, use, history, **settings)


class Document(HTMLParser):
    """Collects tags and checks that each is closed."""

    VOID = frozenset({"meta", "path", "rect", "circle", "polygon", "polyline"})

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.seen = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_says_first_that_all_is_well_then_what_there_is(engine):
    status, headers, text = get(engine, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    order = [text.index(part) for part in ("All well", "1,234", "Around this relay", "mesh0", "underpaid")]
    assert order == sorted(order)
    assert "2 relays, 5 or more clients" in text
    # Of all interfaces together, each once; and who left is no error.
    assert "<dt>Relays near</dt><dd>2</dd>" in text
    (row,) = re.findall(r"<tr><td>mesh0.*?</tr>", text)
    assert row.endswith("<td>1</td><td>2</td></tr>")


def test_the_page_needs_nothing_from_anywhere(engine):
    _, headers, text = get(engine, "/")
    tags = Document(text).seen
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    assert not any("style" in attributes or "src" in attributes for _, attributes in tags)
    assert {attributes["href"] for tag, attributes in tags if tag == "a"} == {"/status.json", "/metrics"}
    assert "url(" not in text
    assert "//" not in text.replace("</", "")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "aiohttp" not in str(headers)


def test_the_page_refreshes_itself_and_fits_a_phone(engine):
    metas = [attributes for tag, attributes in Document(get(engine, "/")[2]).seen if tag == "meta"]
    assert {"http-equiv": "refresh", "content": "30"} in metas
    assert any(meta.get("name") == "viewport" and "device-width" in meta["content"] for meta in metas)


def test_what_is_wrong_stands_first_and_turns_the_health_check(engine):
    engine.changes = {
        "store": StoreStatus(writable=False, unreadable_bodies=1),
        "tasks": [TaskStatus(name="store", idle_s=99.0, stalled=True)],
        "links": [
            LinkStatus(kind="tcp", interface="eth0", state=LinkState.DOWN),
            *(
                LinkStatus(kind="dnssd", interface=name, state=LinkState.DOWN, fault="stop it")
                for name in ("eth0", "eth1")
            ),
        ],
    }
    status, _, text = get(engine, "/healthz")
    assert status == 503
    assert text.splitlines() == [
        "store_unwritable: the store cannot be written: nothing new is accepted; free space on its disk or replace it",
        "store_damaged: the store is damaged: some envelopes cannot be read; replace the card or disk",
        "task_stalled: a part of the relay makes no progress: store; " + AGAIN,
        "link_down: a link is down: tcp on eth0: look at its cable, adapter and power",
        "discovery_down: relays are not found by themselves: on eth0, eth1: stop it",
    ]
    page = get(engine, "/")[2]
    Document(page)
    assert page.index("Needs a look") < page.index("the store cannot be written") < page.index("Around this relay")


def test_the_page_shows_how_the_radios_are(engine):
    report = {"counters": {"bluetoothd_lost": 2}, "gauges": {"clients": 13, "memory_bytes": 3 << 20}}
    engine.changes = {"components": [ComponentStatus(name="ble", connected=True, up=True, **report)]}
    page = get(engine, "/")[2]
    Document(page)
    assert "<td>Bluetooth</td><td>up</td><td>10 clients, 3.0 MiB of memory</td>" in page
    assert "<td>Bluetooth</td><td>bluetoothd lost</td><td>2</td>" in page
    engine.changes = {"components": [ComponentStatus(name="net", connected=True)]}
    status, _, text = get(engine, "/healthz")
    assert status == 503
    assert text.startswith(
        "net_down: Wi-Fi, mesh or bridge do not work: relay net runs and cannot work: start it again"
    )


def test_a_radio_that_nobody_has_or_that_was_stopped_is_worth_knowing_and_no_problem(engine):
    engine.changes = {
        "components": [
            ComponentStatus(name="ble", connected=True, idle="no_adapter"),
            ComponentStatus(name="net", idle="stopped"),
        ],
    }
    assert get(engine, "/healthz")[::2] == (200, "ok\n")
    page = get(engine, "/")[2]
    Document(page)
    assert '<td>Bluetooth</td><td><span class="soft">no adapter</span></td>' in page
    assert '<td>Wi-Fi</td><td><span class="soft">stopped</span></td>' in page
    assert "<li>Bluetooth: no adapter in this machine; one that is plugged in is used at once</li>" in page
    assert "<li>Wi-Fi: stopped; systemctl start relay-net, or relay net, starts it again</li>" in page


def test_a_relay_that_is_well_is_healthy(engine):
    assert get(engine, "/healthz")[::2] == (200, "ok\n")


def test_a_relay_without_links_and_history_has_a_page_too(engine):
    engine.changes = {"links": [], "store": StoreStatus(), "totals": {}}
    Document(get(engine, "/")[2])


def test_names_of_interfaces_cannot_bring_markup(engine):
    engine.changes = {"links": [LinkStatus(kind="tcp", interface="<b>\"'&", relays=1)]}
    page = get(engine, "/")[2]
    assert "<b>" not in page
    Document(page)


def test_machines_get_the_status_and_the_metrics(engine):
    assert json.loads(get(engine, "/status.json")[2]) == coarse(engine.status()).as_dict()
    _, headers, text = get(engine, "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert "relay_envelopes_accepted_total 1300.0" in text


def test_a_web_site_elsewhere_cannot_read_the_page_through_a_browser_here(engine):
    assert get(engine, "/status.json", headers={"Host": "attacker.example"})[0] == 421
    assert get(engine, "/status.json", headers={"Host": "127.0.0.1.attacker.example:9470"})[0] == 421
    for host in ("localhost:9470", "[::1]:9470", "192.0.2.1", socket.gethostname()):
        assert get(engine, "/status.json", headers={"Host": host})[0] == 200
    assert get(engine, "/", headers={"Host": "relay.example"}, hosts=("relay.example",))[0] == 200


def test_whoever_calls_it_by_a_name_that_it_has_is_answered(engine):
    def status(host, **settings):
        return get(engine, "/metrics", headers={"Host": host}, **settings)[0]

    for host in ("gate", "gate:9470", "Gate.local:9470", "gate.local."):
        assert status(host) == 421
        assert status(host, label="gate") == 200
    assert status("gate.attacker.example", label="gate") == 421

    announced = set()

    async def use(base, session, _):
        async with session.get(base + "/metrics", headers={"Host": "00ff00ff00ff00ff.local:9470"}) as response:
            return response.status

    assert serve(engine, use, announced=announced) == 421
    announced.add("00ff00ff00ff00ff")
    assert serve(engine, use, announced=announced) == 200


def test_it_tells_its_label_where_the_operator_gave_one_and_nowhere_else(engine):
    first, again = (json.loads(get(engine, "/target.json")[2]) for _ in range(2))
    assert first.keys() == again.keys() == {"run"}
    # Drawn at each start.
    assert first != again
    assert json.loads(get(engine, "/target.json", label="gate-2")[2])["label"] == "gate-2"
    for path in ("/", "/metrics", "/status.json", "/healthz"):
        assert "gate-2" not in get(engine, path, label="gate-2")[2]


def test_what_is_not_there_is_refused_without_naming_the_software(engine):
    status, headers, text = get(engine, "/etc/passwd")
    assert (status, text) == (404, "Not Found\n")
    assert headers["Server"] == "mesh-relay"


def test_nothing_can_be_sent_to_it(engine):
    async def use(base, session, _):
        async with session.post(base + "/", data=b"x") as response:
            return response.status

    assert serve(engine, use) == 405


def test_the_shelf_is_offered_here_too_and_leads_nowhere_else(engine, tmp_path, monkeypatch):
    files = tmp_path / "files"
    files.mkdir()
    (files / "map.pdf").write_bytes(b"%PDF a map")
    listing = tmp_path / "list.json"
    make_list(files, listing, pytest.fail)
    monkeypatch.setattr("relay.run.web.ShelfPages", lambda: ShelfPages(files, listing))
    status, headers, text = get(engine, "/shelf/", headers={"Accept-Language": "fr"})
    assert status == 200
    assert "map.pdf" in text
    assert headers["Content-Language"] == "fr"
    assert headers["Content-Security-Policy"] == POLICY
    status, headers, text = get(engine, "/shelf/map.pdf", headers={"Range": "bytes=5-"})
    assert (status, text) == (206, "a map")
    assert headers["Content-Disposition"].startswith("attachment")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert get(engine, "/shelf/map.pdf", headers={"Range": "bytes=99-"})[0] == 416
    for path in ("/shelf/%2e%2e%2flist.json", "/shelf/..%2flist.json", "/shelf/x", "/shelf//etc/passwd"):
        assert get(engine, path)[0] == 404
    (files / "map.pdf").unlink()
    assert get(engine, "/shelf/map.pdf")[0] == 404


def test_who_only_holds_connections_locks_nobody_out(engine):
    async def use(base, session, server):
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3 * MAX_CONNECTIONS)]
        async with session.get(base + "/healthz") as response:
            text = await response.text()
        assert await held[0][0].read() == b""
        for _, writer in held:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in held), return_exceptions=True)
        return text

    assert serve(engine, use) == "ok\n"


def test_an_address_in_use_is_told_with_its_remedy(engine):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = HttpConfig(listen=Address("127.0.0.1", taken.getsockname()[1]))

        async def run():
            async with StatusServer(engine, config, History(Clock())):
                pass

        with pytest.raises(HttpError, match=r"Address already in use by .+; stop .+ listen in \[http\]"):
            asyncio.run(run())


def test_the_curve_covers_a_day_and_no_more_memory(engine):
    clock = Clock()
    history = History(clock)
    for _ in range(3 * MAX_SAMPLES):
        history.note(engine.status())
        history.note(engine.status())
        clock.now += SAMPLE_INTERVAL_S
    samples = history.until_now(engine.status())
    assert len(samples) == MAX_SAMPLES + 1
    assert samples[-1].at_s - samples[0].at_s == MAX_SAMPLES * SAMPLE_INTERVAL_S
    page = get(engine, "/", history)[2]
    (curve,) = re.findall(r'class="curve" points="([^"]*)"', page)
    points = [tuple(map(float, point.split(","))) for point in curve.split()]
    assert len(points) == MAX_SAMPLES + 1
    assert points == sorted(points)
    assert points[0][0] == 0.0
    assert points[-1][0] == 360.0


def test_a_reason_appears_on_the_page_only_once_it_happened(engine):
    assert "below floor" not in get(engine, "/")[2]
    engine.stats.add(Rejected.BELOW_FLOOR)
    assert "below floor" in get(engine, "/")[2]


def test_it_can_listen_on_every_address_of_both_families(engine):
    async def run():
        server, port = await listening()
        async with server, aiohttp.ClientSession() as session:
            for host in ("127.0.0.1", "[::1]"):
                async with session.get(f"http://{host}:{port}/healthz") as response:
                    assert response.status == 200

    async def listening():
        """A server, on a port that is free for both: a number for one family says nothing of the other.

        The kernel gives a number of its own to each. One of those that it gives to whoever calls out may be taken at
        any moment, so it is one below them.
        """
        for port in random.sample(range(20_000, 30_000), 20):
            context = AsyncExitStack()
            with suppress(HttpError):
                config = HttpConfig(listen=Address("::", port))
                await context.enter_async_context(StatusServer(engine, config, History(Clock())))
                return context, port
        raise AssertionError("twenty ports are taken")

    asyncio.run(run())


def test_who_asks_much_and_reads_nothing_holds_up_neither_the_loop_nor_the_page(engine):
    async def use(base, session, server):
        questions = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 300
        floods = []
        for _ in range(3 * MAX_CONNECTIONS):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(questions)
            floods.append(writer)
        loop = asyncio.get_running_loop()
        lags = []
        for _ in range(100):
            began = loop.time()
            await asyncio.sleep(0.005)
            lags.append(loop.time() - began)
        print("lags", sorted(lags)[50], max(lags))
        assert sorted(lags)[50] < 0.05
        async with session.get(base + "/healthz") as response:
            assert response.status == 200
        assert len(server._runner.server.connections) <= MAX_CONNECTIONS + 1
        for writer in floods:
            writer.transport.abort()

    serve(engine, use)
