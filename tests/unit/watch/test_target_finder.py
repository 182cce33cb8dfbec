# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom `relay targets` asks, and whom it answers. That it finds real relays is in tests/netns/test_watching.py."""

import asyncio

import aiohttp
import pytest

from relay.config.settings import Address
from relay.links.interfaces import Interface, Snapshot
from relay.watch import target_finder
from relay.watch.target_finder import Finder
from relay.watch.target_server import FIRST_LOOK_S, ServeError, TargetServer


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
        finder = Finder(port)
        finder._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3))
        async with finder._http:
            return await finder._ask(Address("127.0.0.1", port))

    assert (asyncio.run(answer(response, ask)) is not None) == is_relay


def test_the_list_is_for_who_calls_it_by_its_address():
    async def run():
        with_port = asyncio.get_running_loop()
        probe = await with_port.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = probe.sockets[0].getsockname()[1]
        probe.close()
        await probe.wait_closed()
        told = []
        serving = asyncio.ensure_future(TargetServer(9, warn=told.append).serve(Address("127.0.0.1", port)))
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
            with pytest.raises(ServeError, match=r"already in use.+ --serve"):
                await TargetServer(9, warn=told.append).serve(Address("127.0.0.1", port))
        serving.cancel()
        await asyncio.wait([serving])

    asyncio.run(run())
