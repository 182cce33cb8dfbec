# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may look, who may set the clock, and how often somebody may guess."""

import asyncio
import base64
import re

import aiohttp
import pytest

from relay.config.run import HttpConfig
from relay.config.settings import Address, BadValueError, token
from relay.core.stats import HttpRefused
from relay.links.interfaces import Interface, Snapshot, read
from relay.run.access import (
    GUESSES_IN_ALL,
    GUESSES_PER_ADDRESS,
    MAX_ADDRESSES,
    MAX_KNOWN,
    Access,
    Gate,
    Guesses,
)
from relay.run.history import History
from relay.run.web import StatusServer

TOKEN = "seven green herons"


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def use(engine, talk, **settings):
    """Run `talk(base URL, session)` against a server on a free port, and return what it returns."""

    async def run():
        config = HttpConfig(listen=Address("127.0.0.1", 0))
        async with (
            StatusServer(engine, config, History(lambda: 1.0), **{"token": TOKEN, **settings}) as server,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
        ):
            return await talk(f"http://127.0.0.1:{server.port}", session)

    return asyncio.run(run())


def give(engine, form, origin="own", headers=(), **settings):
    """Send the form; return the status, and where the browser is sent to."""

    async def talk(base, session):
        own = {"Origin": base} if origin == "own" else {"Origin": origin} if origin else {}
        async with session.post(
            base + "/clock", data=form, headers={**own, **dict(headers)}, allow_redirects=False
        ) as response:
            return response.status, response.headers.get("Location", "")

    return use(engine, talk, **settings)


FORM = {"time": "2026-05-01T12:30", "offset": "120", "token": TOKEN}


def test_the_clock_is_set_by_who_knows_the_token_and_the_page_says_so(engine):
    async def talk(base, session):
        async with session.post(
            base + "/clock?lang=fr", data=FORM, headers={"Origin": base}, allow_redirects=True
        ) as response:
            return str(response.url), await response.text()

    url, page = use(engine, talk)
    assert url.endswith("/?lang=fr&said=clock")
    assert "heure que vous avez donnée." in page
    assert "2026-05-01 10:00 UTC" in page
    # 12:30 two hours east of Greenwich.
    assert engine.clock.hour == 1777631400 // 3600


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": "seven green heron"}, "token"),
        ({"token": ""}, "token"),
        ({"time": "2016-05-01T12:30"}, "early"),
        ({"time": "9999-12-31T23:59", "offset": "-720"}, "time"),
        ({"time": "0001-01-01T00:00", "offset": "840"}, "time"),
        ({"time": "soon"}, "time"),
        ({"time": "2026-05-01T12:30+02:00"}, "time"),
        ({"offset": "100000"}, "time"),
        ({"offset": "x"}, "time"),
        ({"time": ""}, "time"),
    ],
)
def test_what_is_no_time_or_token_changes_nothing(engine, change, said):
    assert give(engine, FORM | change) == (303, f"/?lang=en&said={said}")
    assert not engine.clock.trusted


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        ("", {}),
        ("null", {}),
        ("http://attacker.example", {}),
        ("http://127.0.0.1:1", {}),
        ("own", {"Sec-Fetch-Site": "cross-site"}),
        ("own", {"Sec-Fetch-Site": "none"}),
    ],
)
def test_a_page_elsewhere_cannot_set_the_clock_though_it_knew_the_token(engine, origin, headers):
    assert give(engine, FORM, origin, headers)[0] == 403
    assert not engine.clock.trusted
    assert engine.stats.get(HttpRefused.ORIGIN) == 1


def test_where_there_is_no_token_nobody_sets_the_clock(engine):
    assert give(engine, FORM | {"token": ""}, token="")[1].endswith("said=token")
    assert not engine.clock.trusted

    async def talk(base, session):
        async with session.get(base + "/") as response:
            return await response.text()

    page = use(engine, talk, token="")
    assert "<form" not in page
    assert "write a token below [http]" in page


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"time=" + b"1" * 5000, "application/x-www-form-urlencoded", 413),
        (b"&".join(b"a=1" for _ in range(100)), "application/x-www-form-urlencoded", 400),
        (b"\xff\xfe", "application/x-www-form-urlencoded; charset=nonsense", 400),
        (b"{}", "application/json", 415),
        (b"--x--", "multipart/form-data; boundary=x", 415),
    ],
)
def test_what_is_no_form_is_refused(engine, body, kind, status):
    assert give(engine, body, headers={"Content-Type": kind})[0] == status


def test_guesses_are_bounded_counted_and_told(engine):
    async def talk(base, session):
        found = []
        for number in range(GUESSES_PER_ADDRESS + 3):
            form = FORM | {"token": f"guess number {number}"}
            async with session.post(
                base + "/clock", data=form, headers={"Origin": base}, allow_redirects=False
            ) as response:
                found.append(response.headers["Location"].rpartition("=")[2])
        # And now the right one is not looked at, either.
        async with session.post(
            base + "/clock", data=FORM, headers={"Origin": base}, allow_redirects=False
        ) as response:
            found.append(response.headers["Location"].rpartition("=")[2])
        return found

    assert use(engine, talk) == ["token"] * GUESSES_PER_ADDRESS + ["guesses"] * 4
    assert engine.stats.get(HttpRefused.TOKEN) == GUESSES_PER_ADDRESS
    assert engine.stats.get(HttpRefused.GUESSES) == 4
    assert not engine.clock.trusted


def test_guesses_from_many_addresses_are_bounded_as_well_and_so_is_what_is_remembered():
    guesses, looked_at = Guesses(0.0), 0
    for number in range(10_000):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        if guesses.allowed(address, 0.0):
            guesses.wrong(address, 0.0)
            looked_at += 1
    assert looked_at == GUESSES_IN_ALL
    day = Guesses(0.0)
    tried = 0
    for step in range(8_640 * 2):
        address = f"10.9.{step >> 8 & 255}.{step & 255}"
        if day.allowed(address, step * 5.0):
            day.wrong(address, step * 5.0)
            tried += 1
    assert tried < 9000
    assert len(day) <= MAX_ADDRESSES


def test_who_had_the_token_before_waits_for_no_strangers_guesses():
    """Whoever guesses without end kept every operator out for as long as he went on."""
    guesses = Guesses(0.0)
    guesses.right("192.0.2.7")
    for number in range(GUESSES_IN_ALL):
        guesses.wrong(f"192.0.2.{100 + number}", 0.0)
    assert not guesses.allowed("192.0.2.8", 0.0)
    assert guesses.allowed("192.0.2.7", 0.0)
    assert guesses.allowed("127.0.0.1", 0.0)
    assert guesses.allowed("::ffff:127.0.0.1", 0.0)
    # His own guesses are bounded as everybody's.
    for _ in range(GUESSES_PER_ADDRESS):
        guesses.wrong("192.0.2.7", 0.0)
        guesses.wrong("127.0.0.1", 0.0)
    assert not guesses.allowed("192.0.2.7", 0.0)
    assert not guesses.allowed("127.0.0.1", 0.0)
    # The last few are known.
    guesses.right("192.0.2.9")
    assert guesses.allowed("192.0.2.9", 0.0)
    for number in range(MAX_KNOWN):
        guesses.right(f"198.51.100.{number}")
    assert not guesses.allowed("192.0.2.9", 0.0)
    assert guesses.allowed("198.51.100.0", 0.0)


def test_the_page_knows_who_had_the_token(engine, monkeypatch):
    address = ["198.51.100.1"]
    monkeypatch.setattr("relay.run.web.peer", lambda _: (address[0], 0))

    async def talk(base, session):
        async def status(password):
            async with session.get(base + "/", headers=basic("x", password)) as response:
                return response.status

        assert await status(TOKEN) == 200
        for number in range(GUESSES_IN_ALL):
            address[0] = f"198.51.100.{100 + number}"
            assert await status("a wrong guess") == 401
        address[0] = "198.51.100.2"
        assert await status(TOKEN) == 429
        address[0] = "198.51.100.1"
        assert await status(TOKEN) == 200

    use(engine, talk)


def test_one_household_of_ipv6_is_one_address():
    guesses = Guesses(0.0)
    for number in range(GUESSES_PER_ADDRESS):
        guesses.wrong(f"2001:db8:1:2::{number:x}", 0.0)
    assert not guesses.allowed("2001:db8:1:2:ffff::1", 0.0)
    assert guesses.allowed("2001:db8:1:3::1", 0.0)
    # Each has one more look after a while.
    assert guesses.allowed("2001:db8:1:2:ffff::1", 61.0)


SNAPSHOT = Snapshot(
    {
        "lo": Interface(name="lo", index=1, multicast=False, networks=frozenset({"127.0.0.0/8", "::1/128"})),
        "eth0": Interface(name="eth0", index=2, multicast=True, networks=frozenset({"192.0.2.0/24", "fe80::/64"})),
        "wifi0": Interface(name="wifi0", index=3, multicast=True, networks=frozenset({"10.42.64.0/19", "fe80::/64"})),
    }
)


@pytest.mark.parametrize(
    ("address", "scope", "authorization", "access"),
    [
        ("127.0.0.1", 0, "", Access.ADMITTED),
        ("::ffff:127.0.0.1", 0, "", Access.ADMITTED),
        ("192.0.2.7", 0, "", Access.ADMITTED),
        ("::ffff:192.0.2.7", 0, "", Access.ADMITTED),
        ("fe80::7", 2, "", Access.ADMITTED),
        # Beyond a router, and on a segment of strangers.
        ("198.51.100.1", 0, "", Access.STRANGER),
        ("10.42.70.9", 0, "", Access.STRANGER),
        ("fe80::7", 3, "", Access.STRANGER),
        ("fe80::7", 0, "", Access.STRANGER),
        ("10.42.70.9", 0, "right", Access.ADMITTED),
        ("198.51.100.1", 0, "wrong", Access.WRONG),
        ("198.51.100.1", 0, "Bearer x", Access.WRONG),
        ("198.51.100.1", 0, "Basic !!!", Access.WRONG),
    ],
)
def test_who_is_near_is_let_in_and_others_by_the_token(address, scope, authorization, access):
    async def interfaces():
        return SNAPSHOT

    words = {"right": TOKEN, "wrong": "x"}
    if authorization in words:
        authorization = basic("anybody", words[authorization])["Authorization"]
    gate = Gate(token=TOKEN, strangers=("wifi0",), interfaces=interfaces, clock=lambda: 0.0)
    assert asyncio.run(gate.admits(address, scope, authorization)) is access


def test_the_interfaces_of_this_machine_are_read():
    assert asyncio.run(read()).interfaces["lo"].reaches("127.0.0.1")


def test_a_stranger_is_asked_for_the_token_and_has_the_page_for_everybody(engine, monkeypatch):
    """As one who comes through a router: the address of who asks is put in the place of that of this machine."""
    monkeypatch.setattr("relay.run.web.peer", lambda _: ("198.51.100.1", 0))

    async def talk(base, session):
        found = {}
        for path in ("/", "/status.json", "/metrics", "/healthz", "/about", "/favicon.ico"):
            async with session.get(base + path) as response:
                found[path] = response.status, response.headers.get("WWW-Authenticate", "")
        async with session.get(base + "/", headers=basic("prometheus", TOKEN)) as response:
            found["token"] = response.status, ""
        return found

    found = use(engine, talk)
    assert all(found[path][0] == 401 for path in ("/", "/status.json", "/metrics", "/healthz"))
    assert found["/"][1].startswith("Basic ")
    assert found["/about"][0] == found["/favicon.ico"][0] == found["token"][0] == 200
    assert use(engine, talk, token="")["/"] == (403, "")


@pytest.mark.parametrize("value", ["short", "aaaaaaaaaaaaaaaa", "abababababababab", 5, "x" * 200])
def test_a_token_that_can_be_guessed_is_none(value):
    with pytest.raises(BadValueError, match=r"nobody change anything"):
        token(value)


def test_the_token_is_never_shown(engine):
    async def talk(base, session):
        text = ""
        for path in ("/", "/status.json", "/metrics", "/about"):
            async with session.get(base + path) as response:
                text += await response.text()
        return text

    assert not re.search("heron", use(engine, talk))
    assert "heron" not in repr(HttpConfig(token=TOKEN))
