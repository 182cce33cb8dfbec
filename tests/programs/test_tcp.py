# SPDX-License-Identifier: GPL-2.0-or-later
"""The TCP link, with a real engine and a real connection."""

import asyncio
import random
import secrets
import socket

from relay.links.tcp import TcpLink
from tests.programs.running import running


class Watched:
    """A host that notes whether small answers on the streams it is brought leave at once."""

    def __init__(self, host):
        self._host = host
        self.leave_at_once = asyncio.Queue()

    def __getattr__(self, name):
        return getattr(self._host, name)

    def stream(self, describe, on_closed=None):
        def noted(transport):
            sock = transport.get_extra_info("socket")
            self.leave_at_once.put_nowait(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            return describe(transport)

        return self._host.stream(noted, on_closed)


def test_an_answer_does_not_wait_until_the_peer_has_confirmed_the_one_before(tmp_path):
    """That takes the peer's kernel up to 40 ms, and was what one envelope in a hundred waited for."""

    async def run():
        loop = asyncio.get_running_loop()
        port = loop.create_future()
        link = TcpLink(
            port=0,
            interfaces=["lo"],
            peers=[],
            discovery=False,
            random=random.random,
            random_bytes=secrets.token_bytes,
            on_listening=port.set_result,
            announced=set(),
        )
        async with running(tmp_path) as (engine, _), asyncio.timeout(10):
            host = Watched(engine)
            serving = asyncio.ensure_future(link.run(host))
            with socket.create_connection(("127.0.0.1", await port)):
                found = await host.leave_at_once.get()
            serving.cancel()
            await asyncio.wait([serving])
            return found

    assert asyncio.run(run())
