# SPDX-License-Identifier: GPL-2.0-or-later
"""The first line of a connection to `relay run`, at both of its ends."""

import asyncio
import json

import pytest

from relay.core.errors import DecodeError
from relay.core.stats import LinkKind
from relay.process.link_socket import ForeignStream, Gateway, component_preamble, connect, decode_preamble
from relay.process.reports import Component

GOOD = {"version": 1, "interface": "hci0", "initiator": False, "slow": True}


def test_a_stream_may_say_of_which_kind_it_is():
    assert decode_preamble(json.dumps(GOOD).encode()).link is LinkKind.UNIX
    assert decode_preamble(json.dumps(GOOD | {"link": "unix"}).encode()).link is LinkKind.UNIX
    assert decode_preamble(json.dumps(GOOD | {"link": "ble"}).encode()).link is LinkKind.BLE
    for wrong in ("tcp", "dnssd", "", 1, None, ["ble"]):
        with pytest.raises(DecodeError):
            decode_preamble(json.dumps(GOOD | {"link": wrong}).encode())


@pytest.mark.parametrize(
    "said",
    [
        ForeignStream(interface="local"),
        ForeignStream(interface="hci0", initiator=True, slow=True, link=LinkKind.BLE),
    ],
)
def test_a_stream_is_what_it_says(said):
    assert decode_preamble(said.preamble()[:-1]) == said


def test_a_client_says_what_the_documentation_of_links_has():
    assert json.loads(ForeignStream(interface="local").preamble()) == {
        "version": 1,
        "interface": "local",
        "initiator": False,
        "slow": False,
    }


@pytest.mark.parametrize(
    "values",
    [
        {"component": "ble"},
        {"version": 2, "component": "ble"},
        {"version": True, "component": "ble"},
        {"version": 1, "component": "run"},
        {"version": 1, "component": ["ble"]},
        {"version": 1, "component": "ble", "slow": True},
    ],
)
def test_a_first_line_of_no_component_is_refused(values):
    with pytest.raises(DecodeError):
        decode_preamble(json.dumps(values).encode())


def test_components_say_who_they_are_by_their_first_line():
    for component in Component:
        assert decode_preamble(component_preamble(component)[:-1]) is component


def test_connecting_writes_the_first_line(tmp_path):
    said = ForeignStream(interface="hci0", slow=True)

    async def main():
        lines = []

        async def serve(reader, writer):
            lines.append(await reader.readline())
            writer.close()

        path = tmp_path / "link.sock"
        with pytest.raises(FileNotFoundError):
            await connect(path, said, ahead_bytes=8192)
        async with await asyncio.start_unix_server(serve, path):
            sock = await connect(path, said, ahead_bytes=8192)
            assert await asyncio.get_running_loop().sock_recv(sock, 10) == b""
            sock.close()
        assert lines == [said.preamble()]

    asyncio.run(main())


def test_a_gateway_says_what_it_wants_by_its_first_line():
    said = Gateway(name="bitchat", kinds=frozenset({1, 255}))
    assert decode_preamble(said.preamble()[:-1]) == said
    assert json.loads(said.preamble()) == {"version": 1, "gateway": "bitchat", "kinds": [1, 255]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"version": True},
        {"gateway": ""},
        {"gateway": "a name"},
        {"gateway": ["bitchat"]},
        {"kinds": []},
        {"kinds": [256]},
        {"kinds": [-1]},
        {"kinds": [True]},
        {"kinds": list(range(9))},
        {"kinds": "1"},
        {"slow": True},
    ],
)
def test_a_first_line_of_no_gateway_is_refused(wrong):
    with pytest.raises(DecodeError):
        decode_preamble(json.dumps({"version": 1, "gateway": "bitchat", "kinds": [1]} | wrong).encode())
