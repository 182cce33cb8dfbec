# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio
import json
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from relay.control.control_client import (
    ControlClient,
    ControlError,
    NotYoursError,
    connect_to_first,
)
from relay.control.status import ClockStatus
from relay.process.unix_sockets import SocketInUseError, listen_unix
from relay.run.control_server import MAX_CONNECTIONS, MAX_REQUEST_BYTES, ControlServer
from tests.programs.running import not_root


def exchange(path, data):
    """Send raw bytes and return what comes back until the relay closes or a line is complete."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        sock.sendall(data)
        return sock.makefile("rb").readline()


def test_a_status_comes_through_whole(engine, control):
    with ControlClient(control) as client:
        assert client.read_status() == engine.status()
        assert client.status()["schema"] == 1


def test_the_operator_sets_the_clock(engine, control):
    with ControlClient(control) as client:
        client.set_clock(1_800_000_000)
    assert engine.clock == ClockStatus(trusted=True, source="operator", hour=500_000)


def test_a_clock_that_the_relay_refuses_is_told(engine, control):
    with ControlClient(control) as client:
        with pytest.raises(ControlError, match="before this relay was built"):
            client.set_clock(1)
        with pytest.raises(ControlError, match="whole seconds"):
            client.set_clock(10**15)
    assert not engine.clock.trusted


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"{\n",
        b"\xff\xfe\n",
        b"[" * 4000 + b"\n",
        b"[]\n",
        b"{}\n",
        b'{"v": 2, "op": "status"}\n',
        b'{"v": 1}\n',
        b'{"v": 1, "op": "shutdown"}\n',
        b'{"v": 1, "op": ["status"]}\n',
        b'{"v": 1, "op": "clock"}\n',
        b'{"v": 1, "op": "clock", "unix_s": true}\n',
        b'{"v": 1, "op": "clock", "unix_s": 1e400}\n',
        b'{"v": 1, "op": "clock", "unix_s": -1}\n',
    ],
)
def test_what_is_no_request_is_refused_and_the_next_is_served(control, request_line):
    answer = json.loads(exchange(control, request_line))
    assert answer["ok"] is False
    assert answer["error"]
    assert json.loads(exchange(control, b'{"v":1,"op":"status"}\n'))["ok"] is True


def test_a_line_without_end_is_cut_off(control):
    try:
        answer = exchange(control, b"x" * (4 * MAX_REQUEST_BYTES))
    except ConnectionError:
        answer = b""
    assert answer == b""


def test_connections_left_open_lock_nobody_out(control):
    held = [ControlClient(control) for _ in range(2 * MAX_CONNECTIONS)]
    assert held[-1].status()
    with pytest.raises(ControlError, match="closed"):
        held[0].status()
    for client in held:
        with client:
            pass


def test_who_asks_and_never_reads_is_dropped_and_others_are_served(control):
    with socket.socket(socket.AF_UNIX) as greedy:
        greedy.connect(str(control))
        greedy.settimeout(60)  # answers are paced
        with pytest.raises(ConnectionError):
            greedy.sendall(b'{"v":1,"op":"status"}\n' * 100_000)
        with ControlClient(control) as client:
            assert client.status()


def test_the_socket_is_its_owners(control):
    assert stat.S_IMODE(control.stat().st_mode) == 0o600


def test_no_relay_no_answer_but_a_remedy(tmp_path):
    with pytest.raises(ControlError, match="relay run"):
        ControlClient(tmp_path / "none.sock")


def test_the_first_relay_that_answers_is_asked(control, tmp_path):
    for paths in ([control], [control, tmp_path / "none.sock"], [tmp_path / "none.sock", control]):
        with connect_to_first(paths) as client:
            assert client.status()


def test_of_several_places_all_are_named_with_the_remedy(tmp_path):
    own, system = Path("/nonexistent/own.sock"), tmp_path / "run" / "control.sock"
    with pytest.raises(ControlError, match=r"at /nonexistent/own.sock or .*/run/control.sock; start one"):
        connect_to_first([own, system])
    system.parent.mkdir(mode=0)
    with not_root():
        with pytest.raises(NotYoursError, match=r"^no relay .*/own.sock, and .*/run/control.sock is not yours.*sudo"):
            connect_to_first([own, system])
        with pytest.raises(NotYoursError, match=r"^\S*/run/control.sock is not yours to open; use sudo, or.*access"):
            connect_to_first([system])


def test_the_socket_is_gone_after_a_clean_end(engine, tmp_path):
    path = tmp_path / "run" / "control.sock"

    async def run():
        async with ControlServer(engine, path, 0o660):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660

    asyncio.run(run())
    assert list(path.parent.iterdir()) == []


def test_a_connected_operator_does_not_hold_up_the_end(engine, tmp_path):
    path = tmp_path / "control.sock"

    async def run():
        async with ControlServer(engine, path, 0o600):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"v":1,"op":"status"}\n')
            assert await reader.readline()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    asyncio.run(asyncio.wait_for(run(), 5))


def test_a_dead_relays_socket_is_taken_over_and_a_living_ones_is_not(tmp_path):
    path = tmp_path / "control.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    listener = listen_unix(path, 0o600, 1)
    with pytest.raises(SocketInUseError, match="running"):
        listen_unix(path, 0o600, 1)
    # Full is alive as well.
    waiting = []
    for _ in range(3):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        client.connect_ex(str(path))
        waiting.append(client)
    with pytest.raises(SocketInUseError, match="running"):
        listen_unix(path, 0o600, 1)
    for client in waiting:
        client.close()
    listener.close()
    assert not path.exists()


def test_a_file_in_the_way_is_not_removed(tmp_path):
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(SocketInUseError, match="remove it"):
        listen_unix(path, 0o600, 1)
    assert path.read_text() == "precious"


def test_the_end_leaves_a_successors_socket_alone(tmp_path):
    path = tmp_path / "control.sock"
    first = listen_unix(path, 0o600, 1)
    path.unlink()
    second = listen_unix(path, 0o600, 1)
    first.close()
    assert path.exists()
    second.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user, which only root can become")
def test_who_may_open_the_socket_reads_the_status_and_does_not_set_the_clock(engine):
    # As `relay ble` and the screen do it: in the group, and neither root nor the relay.
    script = (
        "import json, os, socket, sys; os.setgroups([4270]); os.setgid(65534); os.setuid(65534); "
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile('rw')\n"
        "for request in ({'op': 'status'}, {'op': 'clock', 'unix_s': 1893456000}):\n"
        "    f.write(json.dumps({'v': 1, **request}) + '\\n'); f.flush(); print(json.loads(f.readline())['ok'])"
    )

    async def run(path):
        async with ControlServer(engine, path, 0o660):
            os.chown(path, 0, 4270)
            other = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, str(path), stdout=asyncio.subprocess.PIPE
            )
            said, _ = await other.communicate()
            assert said.split() == [b"True", b"False"]
            assert not engine.status().clock.trusted
            assert await asyncio.to_thread(_set_clock, path) is None
            assert engine.status().clock.trusted

    # pytest's folders are their owner's alone.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        asyncio.run(run(Path(folder) / "control.sock"))


def _set_clock(path):
    with ControlClient(path) as client:
        return client.set_clock(1893456000)
