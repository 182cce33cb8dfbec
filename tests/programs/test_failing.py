# SPDX-License-Identifier: GPL-2.0-or-later
"""A mistake in the relay costs the session that finds it, and nobody else."""

import asyncio
import secrets

from relay.core.messages import Hello, Role
from relay.core.session import Session, State
from relay.core.stats import LinkKind
from relay.links import StreamInfo
from tests.programs.running import running


async def opens(port):
    """Try for a while to open a session; tell whether there is one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    session = Session(initiator=True, hello=Hello(role=Role.CLIENT), random_bytes=secrets.token_bytes, now=0.0)
    try:
        async with asyncio.timeout(5):
            while session.state is not State.OPEN:
                writer.write(session.data_to_send())
                data = await reader.read(1 << 16)
                if not data:
                    return False
                session.receive_data(data, 0.0)
    except (TimeoutError, OSError):
        return False
    finally:
        writer.close()
    return True


async def fail_once_of_five(tmp_path):
    loop = asyncio.get_running_loop()
    heard = []
    loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))
    info = StreamInfo(kind=LinkKind.TCP, interface="eth0", initiator=False, local="192.0.2.1", peer="192.0.2.2")
    async with running(tmp_path) as (engine, _):
        server = await loop.create_server(lambda: engine.stream(lambda _: info), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert await opens(port)
        connections = engine._connections
        serve = connections._serve
        failures = [ZeroDivisionError()]

        def fail(stream):
            if failures and stream.link.session.has_input:
                raise failures.pop()
            serve(stream)

        connections._serve = fail
        served = await asyncio.gather(*[opens(port) for _ in range(4)])
        assert sorted(served) == [False, True, True, True]
        assert [type(error) for error in heard] == [ZeroDivisionError]
        assert await opens(port)
        server.close()


def test_the_others_of_its_address_go_on(tmp_path):
    asyncio.run(fail_once_of_five(tmp_path))
