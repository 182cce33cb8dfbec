# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, suppress
from html.parser import HTMLParser

import aiohttp
import pytest

from relay.config.run import HttpConfig
from relay.config.settings import Address
from relay.control.coarse import coarse
from relay.control.status import ComponentStatus, LinkState, LinkStatus, StoreStatus, TaskStatus
from relay.core.stats import Download, Rejected
from relay.process import downloads
from relay.process.http_server import MAX_CONNECTIONS, HttpError
from relay.process.shelf import make_list
from relay.run.history import MAX_SAMPLES, SAMPLE_INTERVAL_S, History
from relay.run.shelf_routes import ShelfRoutes
from relay.run.web import StatusServer


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

    VOID = frozenset({"meta", "path", "rect", "circle", "polygon", "polyline", "use", "input"})

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


def shown(page):
    """The page's text, without markup and with its spaces as one."""
    return " ".join(re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_the_page_says_first_that_all_is_well_then_what_there_is(engine):
    status, headers, text = get(engine, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    Document(text)
    said = shown(text)
    parts = (
        "All well",
        "does not know what time it is",
        "1,234",
        "Around this relay",
        "mesh0",
        "had not done the work",
    )
    order = [said.index(part) for part in parts]
    assert order == sorted(order)
    # Of all interfaces together, each once.
    assert "Relays nearby 2 People connected 5+" in said
    # Who left is no error.
    (row,) = re.findall(r"<tr><th scope=\"row\"><bdi>mesh0.*?</tr>", text, re.DOTALL)
    assert shown(row).endswith("1 under 5 0 B 0 B 1 2")


def test_nobody_is_counted_who_comes_or_goes_alone(engine):
    for clients in (0, 1, 4):
        engine.changes = {"links": [LinkStatus(kind="tcp", interface="eth0", clients=clients)]}
        assert "few people or nobody" in get(engine, "/")[2]
    engine.changes = {"links": [LinkStatus(kind="tcp", interface="eth0", clients=49)]}
    assert "20 people or more" in get(engine, "/")[2]


@pytest.mark.parametrize("path", ["/", "/about"])
def test_a_page_needs_nothing_from_anywhere(engine, path):
    _, headers, text = get(engine, path)
    tags = Document(text).seen
    assert not {"link", "img", "iframe", "object", "embed"} & {tag for tag, _ in tags}
    assert not any({"style", "src", "onclick"} & attributes.keys() for _, attributes in tags)
    links = {attributes["href"] for tag, attributes in tags if tag in {"a", "use"}}
    assert all(re.match(r"/(?!/)|\?lang=|#i-", link) for link in links), links
    assert "url(" not in text
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "aiohttp" not in str(headers)


def test_the_page_is_whole_without_scripts_and_fits_a_phone(engine):
    tags = Document(get(engine, "/")[2]).seen
    metas = [attributes for tag, attributes in tags if tag == "meta"]
    # A screen reader would begin anew at each refresh.
    assert not any("http-equiv" in meta for meta in metas)
    assert any("device-width" in meta.get("content", "") for meta in metas)
    assert len([tag for tag, _ in tags if tag == "script"]) == 1
    assert not any(tag == "script" for tag, _ in Document(get(engine, "/about")[2]).seen)


@pytest.mark.parametrize(
    ("path", "header", "language", "text"),
    [
        ("/", "fr-CH, en;q=0.5", 'lang="fr" dir="ltr"', "Tout va bien"),
        ("/", "ar", 'lang="ar" dir="rtl"', "كل شيء على ما يرام"),
        ("/?lang=es", "ar", 'lang="es" dir="ltr"', "Todo bien"),
        ("/about", "es", 'lang="es" dir="ltr"', "Este relé funciona"),
        ("/about?lang=xx", "", 'lang="en" dir="ltr"', "No phone app yet."),
    ],
)
def test_a_page_is_in_the_language_of_who_reads_it(engine, path, header, language, text):
    _, headers, page = get(engine, path, headers={"Accept-Language": header})
    assert f"<html {language}>" in page
    assert text in page
    assert headers["Content-Language"] in language
    # Chosen by hand is in the address, and nowhere else.
    assert "Set-Cookie" not in headers
    Document(page)


def test_what_is_wrong_stands_first_and_turns_the_health_check(engine):
    engine.changes = {
        "store": StoreStatus(writable=False, unreadable_bodies=1),
        "tasks": [TaskStatus(name="store", idle_s=99.0, stalled=True)],
        "links": [
            LinkStatus(kind="tcp", interface="eth0", state=LinkState.DOWN),
            *(LinkStatus(kind="dnssd", interface=n, state=LinkState.DOWN, fault="<stop> it") for n in ("eth0", "eth1")),
        ],
    }
    status, _, text = get(engine, "/healthz")
    assert status == 503
    assert len(text.splitlines()) == 5
    page = get(engine, "/")[2]
    Document(page)
    said = shown(page)
    parts = (
        "Something is broken", "Nothing can be written to the card", "messages are damaged", "does not go on",
        "A connection is down", "does not find others", "on eth0, eth1: &lt;stop&gt; it", "Around this relay",
    )  # fmt: skip
    order = [said.index(part) for part in parts]
    assert order == sorted(order)
    # A participant is told no more than that somebody should look.
    about = shown(get(engine, "/about")[2])
    assert "This relay works, but something is wrong with it" in about
    assert "eth0" not in about
    engine.changes = {"ready": False}
    assert "This relay is starting" in get(engine, "/about")[2]


def test_everybody_is_told_of_bitchat_where_it_runs_and_only_there(engine):
    for is_up in (False, True):
        engine.changes = {"components": [ComponentStatus(name="bitchat", connected=True, up=is_up)]}
        about = shown(get(engine, "/about")[2])
        for text in ("Phones with bitchat:", "What bitchat gives away", "Files and voice stay near this box."):
            assert (text in about) is is_up
        assert ("No phone app yet." in about) is not is_up


def test_the_page_shows_how_the_radios_are(engine):
    report = {"counters": {"bluetoothd_lost": 2}, "gauges": {"clients": 3, "slots_used": 12, "neighbours": 1}}
    engine.changes = {"components": [ComponentStatus(name="ble", connected=True, up=True, **report)]}
    page = get(engine, "/")[2]
    Document(page)
    said = shown(page)
    assert "Bluetooth works people under 5 places of phones in use 10+" in said
    assert "ble bluetoothd_lost 2" in said
    engine.changes = {"components": [ComponentStatus(name="net", connected=True, troubles=["wifi1 is gone"])]}
    assert get(engine, "/healthz")[0] == 503
    said = shown(get(engine, "/")[2])
    assert "Wi-Fi does not work Look at the radio and its settings; then start the relay again. wifi1 is gone" in said


def test_a_radio_that_nobody_has_or_that_was_stopped_is_no_problem(engine):
    engine.changes = {
        "components": [
            ComponentStatus(name="ble", connected=True, idle="no_adapter"),
            ComponentStatus(name="net", idle="stopped"),
        ],
    }
    assert get(engine, "/healthz")[::2] == (200, "ok\n")
    said = shown(get(engine, "/")[2])
    assert "Bluetooth no such radio in this box Wi-Fi was stopped" in said
    assert "All well" in said


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
    assert json.loads(get(engine, "/status.json")[2]) == json.loads(json.dumps(coarse(engine.status()).as_dict()))
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


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """A folder that the server offers."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "map.pdf").write_bytes(b"%PDF a map")
    (files / "large.bin").write_bytes(bytes(200_000))
    listing = tmp_path / "list.json"
    make_list(files, listing, pytest.fail)
    monkeypatch.setattr("relay.run.web.ShelfRoutes", lambda pages, stats: ShelfRoutes(pages, stats, files, (listing,)))
    return files


def is_plain(headers):
    """Whether an answer has the headers that every answer has, and no name of a framework."""
    return (
        headers["Server"] == "mesh-relay"
        and headers["X-Content-Type-Options"] == "nosniff"
        and headers["Referrer-Policy"] == "same-origin"
        and headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
        and "default-src 'none'" in headers["Content-Security-Policy"]
        and headers["Cache-Control"] in {"no-store", "no-cache"}
    )


def test_the_shelf_is_offered_here_too_and_leads_nowhere_else(engine, offered):
    status, headers, text = get(engine, "/shelf/", headers={"Accept-Language": "fr"})
    assert (status, is_plain(headers)) == (200, True)
    assert "map.pdf" in text
    assert headers["Content-Language"] == "fr"
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    status, headers, text = get(engine, "/shelf/map.pdf", headers={"Range": "bytes=5-"})
    assert (status, text, is_plain(headers)) == (206, "a map", True)
    assert headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in headers["Content-Security-Policy"]
    status, headers, _ = get(engine, "/shelf/map.pdf", headers={"Range": "bytes=99-"})
    assert (status, is_plain(headers)) == (416, True)
    for path in ("/shelf/%2e%2e%2flist.json", "/shelf/..%2flist.json", "/shelf/x", "/shelf//etc/passwd"):
        status, headers, _ = get(engine, path)
        assert (status, is_plain(headers)) == (404, True)
    (offered / "map.pdf").unlink()
    assert get(engine, "/shelf/map.pdf")[0] == 404
    assert engine.stats.by_label(Download) | {"whole": 1, "unreadable": 1} == engine.stats.by_label(Download)


@pytest.mark.usefixtures("offered")
def test_downloads_and_a_card_that_hangs_hold_up_nothing_else(engine, monkeypatch):
    """All that one address may have wait for a card that gives nothing; the next is told so, and pages go on."""
    hanging = threading.Event()
    real = os.pread
    monkeypatch.setattr(downloads.os, "pread", lambda *of: hanging.wait(20) and real(*of))

    async def use(base, session, _):
        async def fetch(path):
            async with session.get(base + path) as response:
                return response.status, response.headers, await response.read()

        most = downloads.MAX_DOWNLOADS_PER_ADDRESS
        asking = [asyncio.ensure_future(fetch("/shelf/large.bin")) for _ in range(most + 1)]
        refused, held = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        status, headers, _ = refused.pop().result()
        assert (status, is_plain(headers), "Retry-After" in headers) == (503, True, True)
        assert engine.stats.get(Download.GREEDY) == 1
        # What imports take is no matter of the downloads.
        await fetch("/")
        began = asyncio.get_running_loop().time()
        for path in ("/healthz", "/", "/about", "/shelf/", "/metrics"):
            assert (await fetch(path))[0] == 200
        took_s = asyncio.get_running_loop().time() - began
        assert not any(one.done() for one in held)
        hanging.set()
        assert [len(body) for _, _, body in await asyncio.gather(*held)] == [200_000] * most
        return took_s

    try:
        assert serve(engine, use) < 3
    finally:
        hanging.set()


def test_who_shows_no_page_imports_nothing_for_it():
    """Templates and QR codes take megabytes that a relay with 512 has a better use for."""
    script = "import sys, relay.run.web, relay.run.app; print({'jinja2', 'segno', 'babel'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout == "set()\n"


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
    curve, *_ = re.findall(r'class="one" points="([^"]*)"', page)
    points = [tuple(map(float, point.split(","))) for point in curve.split()]
    assert len(points) == MAX_SAMPLES + 1
    assert points == sorted(points)
    assert points[0][0] == 0.0
    assert points[-1][0] == 1000.0


def test_a_reason_appears_on_the_page_only_once_it_happened(engine):
    told = "its time was over before this version was made"
    assert told not in get(engine, "/")[2]
    engine.stats.add(Rejected.BELOW_FLOOR)
    assert told in get(engine, "/")[2]


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
        assert len(server.http._manager.connections) <= MAX_CONNECTIONS + 1
        for writer in floods:
            writer.transport.abort()

    serve(engine, use)
