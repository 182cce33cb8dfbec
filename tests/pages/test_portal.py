# SPDX-License-Identifier: GPL-2.0-or-later
"""The page for everybody on the access point: what `relay portal` answers to who types the relay's address."""

import asyncio
import json
import os
import re
import socket
import time
from html import unescape

import zxingcpp

from relay.appliance.checks import read_checks
from relay.appliance.portal import PageRequest, answer
from relay.appliance.portal_page import MAX_AGE_S, PortalPage, read_portal_page
from relay.appliance.portal_server import MAX_WAITING, PageMaker, serve
from relay.pages import qr

CHECKS = read_checks()


def ask(page, request=b"GET / HTTP/1.1\r\nHost: 10.42.70.1\r\n\r\n"):
    """Head and body of the answer."""
    found = answer(request, CHECKS)
    assert isinstance(found, PageRequest)
    head, _, body = page.answer(found).partition(b"\r\n\r\n")
    return head.decode(), body.decode()


def test_it_says_what_this_is_in_the_language_of_who_asks():
    page = PortalPage("Plaza")
    for host in ("10.42.70.1", "relay", "relay.local", "relay.local:80"):
        head, body = ask(page, f"GET / HTTP/1.1\r\nHost: {host}\r\nAccept-Language: es\r\n\r\n".encode())
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert "Esta caja pasa mensajes, sin internet" in body
        assert f"Content-Length: {len(body.encode())}" in head
        assert "default-src 'none'" in head
    assert 'lang="ar" dir="rtl"' in ask(page, b"GET /?lang=ar HTTP/1.1\r\nHost: relay\r\n\r\n")[1]
    assert 'lang="en"' in ask(page, b"GET /?lang=../../x HTTP/1.1\r\nHost: relay\r\n\r\n")[1]
    assert ask(page, b"HEAD / HTTP/1.1\r\nHost: relay\r\n\r\n")[1] == ""


def test_it_says_how_the_relay_is_as_long_as_somebody_looks(tmp_path):
    works = tmp_path / "works"
    page = PortalPage(works=works)
    assert "is not known just now" in ask(page)[1]
    for word, text in (
        ("yes", "This relay works"),
        ("trouble", "something is wrong with it"),
        ("starting", "is starting"),
        ("<b>", "is not known just now"),
    ):
        works.write_text(f"{word}\n")
        assert text in ask(page)[1]
    works.write_text("yes\n")
    old = time.time() - MAX_AGE_S - 1
    os.utime(works, (old, old))
    assert "is not known just now" in ask(page)[1]


def test_the_way_here_is_shown_as_codes_that_phones_read(tmp_path):
    given = {"name": 'Plaza; "north"', "password": "river: lantern\\42"}
    (tmp_path / "portal").write_text(json.dumps(given))
    body = ask(read_portal_page({"CREDENTIALS_DIRECTORY": str(tmp_path)}))[1]
    wifi, page = (read_code(svg) for svg in re.findall(r"<svg[^>]*class=\"qr\".*?</svg>", body))
    assert page == "http://10.42.70.1/"
    assert wifi == 'WIFI:T:WPA;S:Plaza\\; \\"north\\";P:river\\: lantern\\\\42;;'
    assert 'Plaza; "north"' in unescape(body)
    assert "relay receive --relay 10.42.70.1" in " ".join(re.sub("<[^>]+>", "", body).split())
    assert "What bitchat gives away" not in body
    (tmp_path / "portal").write_text(json.dumps({"bitchat": True}))
    body = ask(read_portal_page({"CREDENTIALS_DIRECTORY": str(tmp_path)}))[1]
    assert "What bitchat gives away" in body
    assert "Join the Wi-Fi" not in body
    # An open network, and none.
    assert "No password" in ask(PortalPage("Plaza"))[1]
    assert "Join the Wi-Fi" not in ask(read_portal_page({}))[1]


def read_code(svg):
    """Draw the one path of an SVG code (moves and horizontal lines of one module) and read it."""
    (side,) = {int(size) for size in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups()}
    (path,) = re.findall(r'<path[^>]*stroke[^>]*d="([^"]*)"|<path[^>]*d="([^"]*)"[^>]*stroke', svg)
    image = bytearray(b"\xff" * (side * side))
    x = y = 0.0
    for command, first, second in re.findall(r"([MmHh])(-?[\d.]+)(?:[ ,]?(-?[\d.]+))?", "".join(path)):
        if command == "M":
            x, y = float(first), float(second)
        elif command == "m":
            x, y = x + float(first), y + float(second)
        else:
            for dot in range(int(x), int(x) + int(first)):
                image[int(y) * side + dot] = 0
            x += float(first)
    scaled = bytes(image[row // 4 * side + column // 4] for row in range(4 * side) for column in range(4 * side))
    (found,) = zxingcpp.read_barcodes(memoryview(scaled).cast("B", (4 * side, 4 * side)))
    return found.text


def test_what_a_wifi_code_says():
    assert qr.wifi_text("Mesh relay", "") == "WIFI:T:nopass;S:Mesh relay;;"
    # Digits of base 16 in quotes, or they are read as bytes.
    assert qr.wifi_text("abcdef", "12345678") == 'WIFI:T:WPA;S:"abcdef";P:"12345678";;'


def test_a_check_does_not_wait_for_pages_that_are_being_made():
    class Slow(PortalPage):
        def answer(self, request):
            time.sleep(1)
            return super().answer(request)

    async def fetch(port, path):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n".encode())
        began = time.monotonic()
        found = await reader.read()
        writer.close()
        return found, time.monotonic() - began

    async def main():
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        serving = asyncio.ensure_future(serve(listening, Slow(), idle_s=1))
        page = asyncio.ensure_future(fetch(port, "/"))
        await asyncio.sleep(0.1)
        for _ in range(5):
            found, took_s = await fetch(port, "/generate_204")
            assert found.startswith(b"HTTP/1.1 204")
            assert took_s < 0.5
        assert (await page)[0].startswith(b"HTTP/1.1 200")
        await serving

    asyncio.run(main())


def test_who_asks_for_too_many_pages_at_once_is_told_to_wait():
    class Never:
        def __init__(self):
            self.asked = 0

        def submit(self, *_):
            self.asked += 1
            return asyncio.run_coroutine_threadsafe(asyncio.sleep(60), asyncio.get_running_loop())

    async def main():
        thread, said = Never(), []
        maker = PageMaker(PortalPage(), thread)
        for _ in range(MAX_WAITING + 2):
            maker.make(PageRequest(host="relay", language="", accept_language="", head=False), said.append)
        assert thread.asked == MAX_WAITING
        assert [answered.split(b" ")[1] for answered in said] == [b"503", b"503"]

    asyncio.run(main())
