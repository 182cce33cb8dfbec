# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom `relay targets` asks, and whom it answers. That it finds real relays is in tests/netns/test_watching.py."""

import asyncio
import contextlib
import gc
import gzip
from ipaddress import ip_address

import aiohttp
import pytest
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncZeroconf

from relay.config.settings import Address
from relay.links.address import SERVICE_TYPE
from relay.links.interfaces import Interface, Snapshot
from relay.process.http_server import MAX_OWN_CONNECTIONS, HttpError
from relay.watch import target_finder, target_server
from relay.watch.scrape_targets import MAX_TARGETS, Identity
from relay.watch.target_finder import MAX_ADDRESSES, MAX_ANNOUNCED, MAX_ASKED, Finder
from relay.watch.target_server import FIRST_LOOK_S, TargetServer, warnings
from tests.waiting import until_true


def test_nobody_outside_of_this_machines_segments_is_asked():
    eth0 = Interface(
        name="eth0", index=2, multicast=True, addresses=frozenset({"10.0.1.9"}),
        networks=frozenset({"10.0.1.0/24", "fe80::/64"}),
    )  # fmt: skip
    announced = ["10.0.1.1", "192.0.2.1", "8.8.8.8", "127.0.0.1", "fe80::1%eth0", "fe80::1", "2001:db8::1", "::1"]
    assert target_finder._askable(announced, Snapshot({"eth0": eth0}), 9470) == [
        Address("10.0.1.1", 9470),
        Address("fe80::1%eth0", 9470),
    ]


async def answer(response, then):
    """`then(port)` while a server on loopback answers everything with ``response``."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await then(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    ("response", "is_relay"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{"run": "00ff00ff00ff00ff"}', True),
        (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"", False),
    ],
    ids=["a relay", "a redirect", "much", "no web server", "nothing"],
)
def test_an_answer_is_a_relays_or_none(response, is_relay):
    async def ask(port):
        return await Finder(port)._ask(Address("127.0.0.1", port))

    assert (asyncio.run(answer(response, ask)) is not None) == is_relay


@pytest.mark.parametrize(
    ("head", "endless"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"Set-Cookie: a=b\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"run": "00ff00ff00ff00ff"}', b" "),
    ],
    ids=["continue", "headers", "pieces", "body"],
)
def test_who_answers_without_end_is_left_after_some_kilobytes(head, endless):
    """Of some of it a library's parser took 64 at once for a quarter of a minute, and 190 MiB."""
    taken = []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        sent = 0
        with contextlib.suppress(OSError):
            while True:
                writer.write(endless * 100)
                await writer.drain()
                sent += 100
        taken.append(sent)

    async def main():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            found = await Finder(port)._ask(Address("127.0.0.1", port))
            await until_true("the server is told", lambda: taken, 20)
        return found

    # Blanks behind what was said are no fault.
    assert (asyncio.run(main()) is not None) == (endless == b" ")
    # What is on its way in two kernels, for three seconds or three hours.
    assert taken[0] * len(endless) < 16 << 20


def test_what_is_packed_stays_so():
    packed = gzip.compress(b'{"run": "00ff00ff00ff00ff"}')
    response = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed

    async def ask(port):
        return await Finder(port)._ask(Address("127.0.0.1", port))

    assert asyncio.run(answer(response, ask)) is None


def test_the_list_is_for_who_calls_it_by_its_address(monkeypatch):
    monkeypatch.setattr(target_server, "LOOK_INTERVAL_S", 0.2)

    async def run():
        with_port = asyncio.get_running_loop()
        probe = await with_port.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = probe.sockets[0].getsockname()[1]
        probe.close()
        await probe.wait_closed()
        told, listening = [], []
        serving = asyncio.ensure_future(
            TargetServer(9, warn=told.append).serve(Address("127.0.0.1", port), lambda: listening.append(port))
        )
        async with aiohttp.ClientSession() as session:

            async def status(host):
                async with session.get(f"http://127.0.0.1:{port}/", headers={"Host": host}) as response:
                    return response.status, await response.text()

            async with asyncio.timeout(20):
                while True:
                    try:
                        code, _ = await status("localhost")
                    except aiohttp.ClientError:
                        await asyncio.sleep(0.05)
                        continue
                    if code == 200:
                        break
                    # An empty list would have Prometheus forget what it knows.
                    assert code == 503
                    await asyncio.sleep(FIRST_LOOK_S / 10)
            assert (await status("attacker.example"))[0] == 421
            assert (await status("127.0.0.1:9471"))[0] == 200
            # Who holds connections open keeps nobody out, and their number is bounded; the operator is told.
            async with contextlib.AsyncExitStack() as stack:
                held = []
                for _ in range(3 * MAX_OWN_CONNECTIONS):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    stack.callback(writer.close)
                    held.append(reader)
                closed = held[: 2 * MAX_OWN_CONNECTIONS]

                def is_closed():
                    return all(reader.at_eof() or reader.exception() for reader in closed)

                await until_true("the oldest are closed", is_closed, 10)
                assert (await status("localhost"))[0] == 200
            await until_true("the operator is told", lambda: "somebody holds them open" in "".join(told), 10)
            with pytest.raises(HttpError, match=r"already in use.+ --serve"):
                # It was said before it was so.
                await TargetServer(9, warn=told.append).serve(Address("127.0.0.1", port), lambda: listening.append(0))
            assert listening == [port]
        serving.cancel()
        await asyncio.wait([serving])

    asyncio.run(run())


def known(finder, name, *addresses):
    """As though an announcement had been resolved."""
    finder._announced[name] = addresses


@pytest.fixture
def loopback(monkeypatch):
    """A machine whose segment is 127.0.0.0/8, where every address answers or refuses at once."""
    own = Interface(name="eth0", index=2, multicast=True, networks=frozenset({"127.0.0.0/8"}))

    async def read():
        return Snapshot({"eth0": own})

    monkeypatch.setattr(target_finder, "_interfaces", read)


class Listening(Finder):
    """Without multicast DNS."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass


RELAY = b'HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{"run": "00ff00ff00ff00ff"}'


@pytest.mark.usefixtures("loopback")
def test_names_without_relays_keep_none_from_being_found():
    """Whoever announced as many as are looked at kept all others out, and had hundreds of silent addresses asked."""

    async def look(port):
        async with Listening(port) as finder:
            for number in range(MAX_ANNOUNCED):
                # On this segment or elsewhere, one or many, or never resolved.
                row = number >> 8, number & 255
                kinds = (
                    [f"127.1.{row[0]}.{row[1]}"],
                    [f"127.{n}.{row[0]}.{row[1]}" for n in range(2, 2 + MAX_ADDRESSES)],
                    ["192.0.2.1"],
                    [],
                )
                known(finder, f"liar {number}", *kinds[number % 4])
            # Before anybody was asked, none has to go.
            assert not finder._has_room()
            await finder.look(1.0)
            assert finder._has_room()
            assert len(finder._announced) == MAX_ANNOUNCED - 1
            known(finder, "relay", "127.0.0.1")
            targets = await finder.look(2.0)
            assert [str(target.address) for target in targets] == [f"127.0.0.1:{port}"]
            # What answers keeps its place, however many more come.
            for number in range(2 * MAX_ANNOUNCED):
                if finder._has_room():
                    known(finder, f"new liar {number}", "127.0.0.2")
            assert len(finder._announced) == MAX_ANNOUNCED
            assert "relay" in finder._announced

    asyncio.run(answer(RELAY, look))


@pytest.mark.usefixtures("loopback")
def test_where_more_answer_than_are_listed_the_operator_is_told(monkeypatch):
    async def tell(_, address):
        return Identity(run=f"{int(ip_address(address.host)):016x}")

    monkeypatch.setattr(Finder, "_ask_now", tell)
    monkeypatch.setattr(target_finder, "MAX_ASKED", MAX_TARGETS + 3)

    async def main():
        async with Listening(9) as finder:
            known(finder, "few", "127.1.0.1")
            await finder.look(0.0)
            assert warnings(finder, 9470) == []
            for number in range(MAX_TARGETS + 2):
                known(finder, f"liar {number}", f"127.2.{number >> 8}.{number & 255}")
            await finder.look(1.0)
            return warnings(finder, 9470)

    (said,) = asyncio.run(main())
    assert said.startswith("3 that answered are not listed")


@pytest.mark.usefixtures("loopback")
def test_of_many_addresses_a_part_is_asked_in_each_look_and_all_in_turn(monkeypatch):
    asked = []

    async def note(_, address):
        asked.append(address)

    monkeypatch.setattr(Finder, "_ask_now", note)

    async def main():
        async with Listening(9) as finder:
            for number in range(100):
                known(finder, f"liar {number}", *(f"127.{n}.0.{number}" for n in range(1, 1 + MAX_ADDRESSES)))
            counts = []
            for turn in range(4):
                asked.clear()
                await finder.look(float(turn))
                counts.append(set(asked))
            return counts

    turns = asyncio.run(main())
    assert [len(turn) for turn in turns] == [MAX_ASKED, MAX_ASKED, MAX_ASKED, MAX_ASKED]
    # The first address of each comes first.
    assert {Address(f"127.1.0.{number}", 9) for number in range(100)} <= turns[0]
    assert len(set().union(*turns)) == 100 * MAX_ADDRESSES


def test_one_name_is_resolved_once_at_a_time(monkeypatch):
    resolving = []

    async def resolve(_, __, name):
        resolving.append(name)
        await asyncio.sleep(0.05)

    monkeypatch.setattr(Finder, "_resolve", resolve)

    async def main():
        finder = Finder(9)
        for _ in range(1000):
            for name in ("one", "two"):
                finder._changed(None, "", name, ServiceStateChange.Updated)
        assert len(finder._resolving) == 2
        await until_true("both are", lambda: finder._resolving == {}, 10)
        finder._changed(None, "", "one", ServiceStateChange.Updated)
        await until_true("it is, again", lambda: finder._resolving == {}, 10)

    asyncio.run(main())
    assert resolving == ["one", "two", "one"]


@pytest.mark.parametrize("label", ["a\nb", "\x00", "\x7f", "a.b.c", '"}', "x" * 63])
def test_a_name_that_is_none_is_no_fault(label):
    async def main():
        faults = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with AsyncZeroconf(interfaces=["127.0.0.1"]) as zeroconf:
            finder = Finder(9)
            finder._changed(zeroconf.zeroconf, SERVICE_TYPE, f"{label}.{SERVICE_TYPE}", ServiceStateChange.Added)
            resolving = list(finder._resolving.values())
            await asyncio.wait(resolving, timeout=0.2)
            for task in resolving:
                task.cancel()
            await asyncio.sleep(0)
            gc.collect()
        return faults

    assert asyncio.run(main()) == []
