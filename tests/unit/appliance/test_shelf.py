# SPDX-License-Identifier: GPL-2.0-or-later
"""The shelf: what is on it, and what strangers can make of its server."""

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import socket
import time
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.appliance import portal_server
from relay.appliance.checks import read_checks
from relay.appliance.portal import answer, shelf_request
from relay.appliance.portal_page import PortalPage
from relay.appliance.portal_server import serve
from relay.appliance.portal_shelf import MAX_PAGES_OUT, ShelfRequest, ShelfServer
from relay.cli import main
from relay.core.stats import Download
from relay.pages.language import LANGUAGES
from relay.pages.render import Pages
from relay.pages.shelf import MAX_KEPT, ShelfPage, render
from relay.process import downloads, shelf
from relay.process.downloads import MAX_DOWNLOADS, MAX_DOWNLOADS_PER_ADDRESS, Downloads
from relay.process.shelf import Entry, Missing, find, look, piece, read_list

APP = bytes(range(256)) * 400
APP_SUM = hashlib.sha256(APP).hexdigest()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    (made / "Chat app-1.2.apk").write_bytes(APP)
    (made / "map.pdf").write_bytes(b"%PDF-1.4 a map")
    (made / "empty").write_bytes(b"")
    return made


@pytest.fixture
def listing(folder, tmp_path):
    assert main(["appliance", "shelf", str(folder), str(tmp_path / "list.json")]) == 0
    return tmp_path / "list.json"


# What is on it


def test_only_plain_files_with_plain_names_are_on_it(folder, tmp_path, capsys):
    secret = tmp_path / "relay.toml"
    secret.write_text("mesh_secret")
    (folder / "link.pdf").symlink_to(secret)
    (folder / "inside").mkdir()
    (folder / "inside" / "x.apk").write_bytes(b"x")
    os.mkfifo(folder / "pipe")
    for name in (".DS_Store", "_note.txt", "<script>.apk", "a\nb", "über.pdf", "a" * 101, 'x".apk', "a;b", "a%2fb"):
        (folder / name).write_bytes(b"x")
    entries, missing = look(folder)
    assert [entry.name for entry in entries] == ["Chat app-1.2.apk", "empty", "map.pdf"]
    assert {name for name, why in missing.items() if why is Missing.KIND} == {"link.pdf", "inside", "pipe"}
    assert ".DS_Store" not in missing
    main(["appliance", "shelf", str(folder), str(tmp_path / "list.json")])
    said = capsys.readouterr().err
    assert "is not offered" in said
    assert "script" not in said
    for number in range(100):
        (folder / f"{number:03}").write_bytes(b"")
    entries, missing = look(folder)
    assert len(entries) == shelf.MAX_FILES
    assert Missing.MANY in missing.values()
    assert look(tmp_path / "nowhere") == ([], {})


def test_the_list_has_sizes_and_sums_and_anything_else_is_none(listing, tmp_path):
    found = read_list(listing)
    assert found["Chat app-1.2.apk"] == Entry(name="Chat app-1.2.apk", size=len(APP), sha256=APP_SUM)
    assert found["empty"].sha256 == hashlib.sha256().hexdigest()
    for raw in (b"", b"{}", b"[1]", b"\xff", b'[{"name": "x"}]'):
        (tmp_path / "bad").write_bytes(raw)
        assert read_list(tmp_path / "bad") == {}
    assert read_list(tmp_path / "nowhere") == {}


def test_a_file_that_changed_or_became_a_link_is_not_opened(folder, listing):
    entry = read_list(listing)["map.pdf"]
    os.close(shelf.open_entry(folder, entry))
    (folder / "map.pdf").write_bytes(b"longer than it was before")
    with pytest.raises(OSError, match="map"):
        shelf.open_entry(folder, entry)
    (folder / "map.pdf").unlink()
    (folder / "map.pdf").symlink_to(folder / "empty")
    with pytest.raises(OSError, match="symbolic"):
        shelf.open_entry(folder, entry)
    with pytest.raises(OSError, match="passwd"):
        shelf.open_entry(folder, Entry(name="../../etc/passwd", size=1))


@pytest.mark.parametrize(
    ("wanted", "only_if", "found"),
    [
        ("", "", (200, 0, 100)),
        ("bytes=0-", "", (206, 0, 100)),
        ("bytes=10-19", "", (206, 10, 10)),
        ("bytes=90-1000", "", (206, 90, 10)),
        ("bytes=-7", "", (206, 93, 7)),
        ("bytes=-1000", "", (206, 0, 100)),
        ("bytes=99-99", "", (206, 99, 1)),
        ("bytes=100-", "", (416, 0, 0)),
        ("bytes=-0", "", (416, 0, 0)),
        ("bytes=9999999999999999999-", "", (416, 0, 0)),
        # What is odd gets all of it, as RFC 9110 has it.
        ("bytes=-", "", (200, 0, 100)),
        ("bytes=9-3", "", (200, 0, 100)),
        ("bytes=0-0,5-9", "", (200, 0, 100)),
        ("bytes=" + "0-0," * 1000, "", (200, 0, 100)),
        ("bytes=99999999999999999999-", "", (200, 0, 100)),
        ("chunks=0-1", "", (200, 0, 100)),
        ("bytes=٣-٤", "", (200, 0, 100)),
        ("bytes=10-19", '"aa"', (206, 10, 10)),
        ("bytes=10-19", '"bb"', (200, 0, 100)),
        ("bytes=10-19", "Sun, 29 Nov 2026 00:00:00 GMT", (200, 0, 100)),
    ],
)
def test_parts(wanted, only_if, found):
    part = piece(Entry(name="x", size=100, sha256="aa"), wanted, only_if)
    assert (part.status, part.start, part.length) == found


@settings(max_examples=60, deadline=None)
@given(wanted=st.text(alphabet="bytes=0123456789-, ", max_size=30), size=st.integers(0, 1 << 40))
def test_any_range_is_a_part_of_the_file(wanted, size):
    part = piece(Entry(name="x", size=size), wanted, "")
    assert 0 <= part.start <= part.start + part.length <= size
    assert part.status == 200 or part.length or part.status == 416


@pytest.mark.parametrize(
    "path",
    [
        "/shelf/../relay.toml",
        "/shelf/..%2frelay.toml",
        "/shelf/%2e%2e/%2e%2e/etc/passwd",
        "/shelf/%2Fetc%2Fpasswd",
        "/shelf//etc/passwd",
        "/shelf/..\\relay.toml",
        "/shelf/map.pdf/",
        "/shelf/map.pdf%00",
        "/shelf/MAP.PDF",
        "/shelf/.",
        "/shelf/%",
        "/shelf/%ff%fe",
        "/shelfmap.pdf",
        "/shelf/map.pdf/..",
    ],
)
def test_no_path_leads_elsewhere(listing, path):
    assert find(path, read_list(listing)) is None


def test_the_page_says_it_in_each_language_and_lets_in_nothing(listing):
    pages = Pages()
    titles = set()
    for language in LANGUAGES:
        page = render(pages, language, read_list(listing).values(), "10.42.70.1", home="/about")
        titles.add(re.search("<h1>(.*)</h1>", page)[1])
        assert APP_SUM in page
        assert "102\N{NO-BREAK SPACE}" in page or "102 " in page
        assert 'href="/shelf/Chat%20app-1.2.apk"' in page
        assert f'href="/about?lang={language.code}"' in page
        assert page.count('class="qr"') == 3
        assert "<script" not in page
        assert ('dir="rtl"' in page[:100]) == (language.code == "ar")
        (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in pages.content_security_policy
    assert len(titles) == len(LANGUAGES)
    assert "None yet." in render(pages, LANGUAGES[0], [], "10.42.70.1")


def test_a_page_is_made_once_until_the_list_changes_and_few_are_kept(tmp_path):
    listing = tmp_path / "list.json"
    shelf.write_list([], listing)
    made = []

    class Counting(Pages):
        def render(self, template, language, values):
            made.append(language.code)
            return super().render(template, language, values)

    async def scene():
        page = ShelfPage(Counting(), (listing,))
        for language in (LANGUAGES[0], LANGUAGES[3]):
            found = set(await asyncio.gather(*(page.get("10.42.70.1", language) for _ in range(20))))
            assert len(found) == 1
        assert made == ["en", "ar"]
        # Whoever calls it by ever new names does not take the page from those who use it.
        for number in range(MAX_KEPT):
            await page.get(f"10.42.71.{number}", LANGUAGES[1])
            await page.get("10.42.70.1", LANGUAGES[0])
        assert made.count("en") == 1
        assert len(page._kept) == MAX_KEPT
        shelf.write_list([Entry(name="new.pdf", size=4)], listing)
        assert b"new.pdf" in await page.get("10.42.70.1", LANGUAGES[0])

    asyncio.run(scene())


# Its server


@asynccontextmanager
async def portal(folder, listing):
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    serving = asyncio.ensure_future(serve(listening, PortalPage(), idle_s=60, folder=folder, lists=(listing,)))
    try:
        yield listening.getsockname()[1]
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def ask(port, path, *lines, method="GET", own="127.0.0.1"):
    """The head and the body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(own, 0))
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 10.42.70.1", *lines, "", ""])
    writer.write(head.encode())
    found = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    top, _, body = found.partition(b"\r\n\r\n")
    return top.decode(), body


def test_a_phone_lists_downloads_and_goes_on(folder, listing):
    async def scene():
        async with portal(folder, listing) as port:
            head, body = await ask(port, "/shelf/?lang=es")
            assert "200 OK" in head
            assert "Content-Language: es" in head
            assert APP_SUM.encode() in body
            assert "Location: /shelf/" in (await ask(port, "/shelf"))[0]
            path = "/shelf/Chat%20app-1.2.apk"
            head, body = await ask(port, path)
            assert body == APP
            for line in (
                "HTTP/1.1 200 OK",
                "Content-Type: application/vnd.android.package-archive",
                'Content-Disposition: attachment; filename="Chat app-1.2.apk"',
                "X-Content-Type-Options: nosniff",
                "Accept-Ranges: bytes",
                f'ETag: "{APP_SUM}"',
                f"Content-Length: {len(APP)}",
            ):
                assert line in head.split("\r\n")
            assert "sandbox" in head
            head, rest = await ask(port, path, "Range: bytes=100-", f'If-Range: "{APP_SUM}"')
            assert "206 Partial Content" in head
            assert f"Content-Range: bytes 100-{len(APP) - 1}/{len(APP)}" in head
            assert rest == APP[100:]
            head, rest = await ask(port, path, f"Range: bytes={len(APP)}-")
            assert "416" in head
            assert rest == b""
            assert (await ask(port, path, method="HEAD"))[1] == b""
            assert (await ask(port, "/shelf/empty"))[1] == b""
            for nowhere in ("/shelf/%2e%2e/list.json", "/shelf/nothing", "/shelf/" + "%2e" * 2000):
                assert "404" in (await ask(port, nowhere))[0]
            # A phone's check for a path like that, on its maker's host, is its maker's.
            assert shelf_request(b"GET /shelf/map.pdf HTTP/1.1\r\nHost: www.example.com\r\n\r\n") is None
            # The card went bad, or the file is another one.
            (folder / "map.pdf").write_bytes(b"")
            assert "404" in (await ask(port, "/shelf/map.pdf"))[0]

    asyncio.run(scene())


def test_all_downloads_together_keep_to_the_rate(folder, listing, monkeypatch):
    rate = 400_000
    monkeypatch.setattr(portal_server, "Downloads", lambda folder: Downloads(folder, rate=rate))

    async def scene():
        async with portal(folder, listing) as port:
            started = time.monotonic()
            path = "/shelf/Chat%20app-1.2.apk"
            found = await asyncio.gather(*(ask(port, path, own=f"127.0.3.{n + 1}") for n in range(4)))
            assert all(body == APP for _, body in found)
            taken = time.monotonic() - started
            assert taken > 0.9 * (4 * len(APP) - 4 * downloads.BLOCK_BYTES) / rate

    asyncio.run(scene())


def test_a_slow_reader_is_sent_to_a_quarter_of_the_time(folder, listing):
    class Slow:
        address = "127.0.0.1"
        taken = 0

        def write(self, data):
            self.taken += len(data)

        async def drained(self):
            await asyncio.sleep(0.05)

    async def scene():
        reader = Slow()
        server = ShelfServer(Downloads(folder), ShelfPage(Pages(), (listing,)), (listing,))
        answering = server.answer(ShelfRequest(host="x", path="/shelf/Chat%20app-1.2.apk"), reader)
        with suppress(TimeoutError):
            await asyncio.wait_for(answering, 0.9)
        # Its blocks take 0.05 s, and rest for 0.15 s.
        assert 1 <= reader.taken // downloads.BLOCK_BYTES <= 5

    asyncio.run(scene())


@pytest.mark.usefixtures("open_files")
def test_who_takes_all_places_or_reads_nothing_keeps_nobody_from_anything(folder, listing, monkeypatch):
    """A thousand connections, most of them silent, some that ask for files and do not read them."""
    (folder / "large.bin").write_bytes(os.urandom(1 << 23))
    assert main(["appliance", "shelf", str(folder), str(listing)]) == 0
    made = []
    monkeypatch.setattr(
        portal_server,
        "Downloads",
        lambda folder: made.append(Downloads(folder, rate=1e9, stall_s=1.0)) or made[0],
    )

    async def greedy(port, number, stack):
        own = f"127.0.4.{number % 40 + 1}"
        _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(own, 0))
        stack.callback(writer.close)
        if number % 4 == 0:
            writer.write(b"GET /shelf/large.bin HTTP/1.1\r\nHost: 10.42.70.1\r\n\r\n")
            writer.transport.pause_reading()

    async def scene():
        async with portal(folder, listing) as port, contextlib.AsyncExitStack() as stack:
            await asyncio.gather(*(greedy(port, number, stack) for number in range(1000)), return_exceptions=True)
            await asyncio.sleep(0.2)
            assert len(made[0]) <= MAX_DOWNLOADS
            started = time.monotonic()
            head, _ = await ask(port, "/generate_204")
            assert "204" in head
            assert time.monotonic() - started < 2
            # Nobody has a place by not reading; who comes then is served.
            for _ in range(100):
                head, body = await ask(port, "/shelf/map.pdf")
                if "200" in head:
                    break
                assert "Retry-After" in head
                await asyncio.sleep(0.1)
            assert body.startswith(b"%PDF")
            ended = made[0].stats.by_label(Download)
            assert ended["stalled"] + ended["gone"] > 0
            assert ended["busy"] + ended["greedy"] > 0

    asyncio.run(scene())
    assert MAX_DOWNLOADS_PER_ADDRESS < MAX_DOWNLOADS


def test_who_asks_for_files_and_goes_leaves_none_open_and_nobody_waiting(folder, listing, monkeypatch):
    """A card that is slow opens a file also for who has gone; and his share of the rate is nobody's debt."""
    opened = []
    real = shelf.open_entry

    def slow(where, entry):
        time.sleep(0.02)
        opened.append(real(where, entry))
        return opened[-1]

    monkeypatch.setattr(downloads, "open_entry", slow)

    async def scene():
        sending = Downloads(folder, rate=100_000)
        entry = read_list(listing)["Chat app-1.2.apk"]
        part = piece(entry, "", "")

        async def fetch():
            async with aclosing(sending.blocks(entry, part)) as blocks:
                async for _ in blocks:
                    pass

        # Gone while it is opened, and while he waits for his turn.
        for pause in [0.005, 0.01] * 20 + [0.03] * 20:
            fetching = asyncio.ensure_future(fetch())
            await asyncio.sleep(pause)
            fetching.cancel()
        began = time.monotonic()
        blocks = sending.blocks(entry, part)
        await anext(blocks)
        await blocks.aclose()
        sending._card.shutdown(wait=True)
        return time.monotonic() - began

    # Twenty blocks of 0.16 s, were they paid for.
    assert asyncio.run(scene()) < 1.0
    assert len(opened) > 20
    for descriptor in set(opened):
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(descriptor)


def test_a_page_for_the_shelf_is_drawn_for_one_at_a_time_also_for_who_goes(listing):
    at_once, most = [0], [0]

    class Counting(Pages):
        def render(self, template, language, values):
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            time.sleep(0.05)
            at_once[0] -= 1
            return super().render(template, language, values)

    async def scene():
        page = ShelfPage(Counting(), (listing,))
        for number in range(20):
            asking = asyncio.ensure_future(page.get(f"10.42.70.{number}", LANGUAGES[0]))
            await asyncio.sleep(0.02)
            asking.cancel()
        assert await page.get("10.42.70.1", LANGUAGES[0])

    asyncio.run(scene())
    assert most == [1]


@pytest.mark.parametrize("host", ["", "a" * 200, "[fe80::1]", "x" * 64 + ".local", "a_b", "1.2.3.4.5", "ü"])
def test_what_nobody_is_called_is_drawn_as_no_code(host):
    request = f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
    found = answer(request, read_checks())
    assert isinstance(found, bytes) or found.host == "10.42.70.1"
    found = shelf_request(request.replace(b"GET /", b"GET /shelf/"))
    assert found is None or found.host == "10.42.70.1"
    for known in ("relay", "relay.local", "10.42.64.3", "mesh-relay-3.local"):
        assert answer(f"GET / HTTP/1.1\r\nHost: {known}\r\n\r\n".encode(), read_checks()).host == known


def test_who_asks_for_pages_and_goes_has_none_made_and_keeps_nobody_waiting(folder, listing):
    """Pages for those who had gone were made one after the other, for minutes, and until then none for others."""

    async def scene():
        async with portal(folder, listing) as port:
            assert "200 OK" in (await ask(port, "/shelf/"))[0]
            for number in range(3 * MAX_PAGES_OUT):
                own = f"127.0.6.{number + 1}"
                _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(own, 0))
                writer.write(f"GET /shelf/ HTTP/1.1\r\nHost: 10.42.71.{number}\r\n\r\n".encode())
                await asyncio.sleep(0.005)
                writer.transport.abort()
            await asyncio.sleep(0.1)
            began = time.monotonic()
            assert "200 OK" in (await ask(port, "/shelf/"))[0]
            assert "200 OK" in (await ask(port, "/"))[0]
            return time.monotonic() - began

    assert asyncio.run(scene()) < 3
