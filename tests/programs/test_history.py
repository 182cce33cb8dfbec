# SPDX-License-Identifier: GPL-2.0-or-later
"""The day's traffic outlives the process, in memory, and nothing else does."""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from relay.control.status import LinkStatus, Status
from relay.process.notify import Notifier
from relay.run.history import MAX_SAMPLES, SAMPLE_INTERVAL_S, History
from relay.run.kept import MAX_BYTES, NAME, Kept, open_kept


class Clock:
    now = 5000.0

    def __call__(self):
        return self.now


def status(received, sent=0):
    return Status(version="1", links=[LinkStatus(kind="tcp", interface="eth0", bytes_in=received, bytes_out=sent)])


def test_the_first_relay_of_a_session_makes_its_folder_and_one_that_cannot_goes_on(tmp_path):
    """It ended at once on every desktop whose session had had no relay yet."""
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    open_kept(environ, Notifier({}), tmp_path / "mesh-relay" / "control.sock").write(b"noted")
    assert (tmp_path / "mesh-relay").stat().st_mode & 0o777 == 0o700
    assert open_kept(environ, Notifier({}), tmp_path / "mesh-relay" / "control.sock").read() == b"noted"
    (tmp_path / "file").touch()
    assert open_kept(environ, Notifier({}), tmp_path / "file" / "control.sock") is None


@pytest.fixture
def kept():
    fd = os.memfd_create("test")
    yield Kept(fd)
    os.close(fd)


def test_traffic_is_told_from_sample_to_sample(kept):
    clock = Clock()
    history = History(clock, kept)
    for received, sent in ((100, 10), (150, 30), (150, 30)):
        history.note(status(received, sent))
        clock.now += SAMPLE_INTERVAL_S
    assert [(sample.received, sample.sent) for sample in history.until_now(status(155, 30))] == [
        (100, 10), (50, 20), (0, 0), (5, 0),
    ]  # fmt: skip


def test_an_interface_that_went_takes_nothing_off_the_traffic(kept):
    clock = Clock()
    history = History(clock, kept)
    for received in (100, 20, 50):
        history.note(status(received))
        clock.now += SAMPLE_INTERVAL_S
    assert [sample.received for sample in history.until_now(status(50))] == [100, 0, 30, 0]


def test_a_process_goes_on_where_the_one_before_it_ended(kept):
    clock = Clock()
    before = History(clock, kept)
    for received in (100, 200):
        before.note(status(received))
        clock.now += SAMPLE_INTERVAL_S
    after = History(clock, kept)
    after.note(status(7))
    assert [sample.received for sample in after.until_now(status(7))] == [100, 100, 7, 0]


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"{}", b'{"v": 1}', b'{"v": 1, "samples": 5}', b'{"v": 1, "samples": [[1, 2]]}',
        b'{"v": 1, "samples": [["x", 1, 1, 1, 1]]}', b'{"v": 2, "samples": [[1, 1, 1, 1, 1]]}', b"[" * 10_000,
        # Of a clock that began anew since, or ran backwards.
        b'{"v": 1, "samples": [[99999, 1, 1, 1, 1]]}', b'{"v": 1, "samples": [[2, 1, 1, 1, 1], [1, 1, 1, 1, 1]]}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_no_history(kept, raw):
    os.pwrite(kept._fd, raw, 0)
    history = History(Clock(), kept)
    assert len(history.until_now(status(1))) == 1
    history.note(status(1))
    assert json.loads(kept.read())["samples"] == [[5000.0, 0, 0, 1, 0]]


def test_it_is_a_day_at_most_and_fits(kept):
    clock = Clock()
    history = History(clock, kept)
    for step in range(MAX_SAMPLES + 3):
        history.note(replace(status(step << 40, step << 40)))
        clock.now += SAMPLE_INTERVAL_S
    assert len(kept.read()) < MAX_BYTES / 2
    assert len(History(clock, kept).until_now(status(0))) == MAX_SAMPLES + 1


def test_the_service_manager_is_given_the_file_and_hands_it_back(tmp_path):
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    made = open_kept(environ, Notifier(environ), tmp_path / "control.sock")
    made.write(b"noted")
    message, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(4))
    manager.close()
    assert message == f"FDSTORE=1\nFDNAME={NAME}".encode()
    fds = array.array("i")
    fds.frombytes(ancillary[0][2])
    # In memory: no file of any disk.
    assert str(Path(f"/proc/self/fd/{fds[0]}").readlink()).startswith("/memfd:")
    # The next start gets it as its first file, as systemd hands it over.
    code = (
        "import os; os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "from pathlib import Path; from relay.process.notify import Notifier; from relay.run.kept import open_kept\n"
        "print(open_kept(os.environ, Notifier(os.environ), Path('/x')).read())"
    )
    # By a shell, which may put any file in the place of the first that is handed over.
    found = subprocess.run(
        ["bash", "-c", f'exec 3<>/proc/self/fd/{fds[0]} && exec "$0" -c "$1"', sys.executable, code],
        env=os.environ | {"LISTEN_FDNAMES": NAME}, pass_fds=[fds[0]], capture_output=True, text=True, check=True,
    )  # fmt: skip
    os.close(fds[0])
    assert found.stdout == "b'noted'\n"


def test_without_a_place_in_memory_nothing_is_kept(tmp_path):
    assert open_kept({}, Notifier({}), tmp_path / "control.sock") is None
    elsewhere = {"XDG_RUNTIME_DIR": str(tmp_path / "session")}
    assert open_kept(elsewhere, Notifier({}), tmp_path / "control.sock") is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def short_path():
    """A folder for sockets, whose paths have 100 bytes at most; pytest's own may be longer."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_relay_that_is_killed_goes_on_with_its_day(short_path):
    config = short_path / "relay.toml"
    folder = short_path / "session" / "mesh-relay"
    folder.mkdir(parents=True)
    config.write_text(
        f'[store]\npath = "{short_path}/store"\n[http]\nenabled = false\n[unix]\nenabled = false\n'
        f'[tcp]\nport = 0\ndiscovery = false\ninterfaces = ["lo"]\n[control]\npath = "{folder}/control.sock"\n'
    )
    environ = os.environ | {"XDG_RUNTIME_DIR": str(short_path / "session")}
    times = []
    for _ in range(2):
        relay = subprocess.Popen(
            [sys.executable, "-m", "relay", "run", "--config", str(config)], env=environ, stdout=subprocess.PIPE
        )
        assert relay.stdout.readline()
        time.sleep(0.1)
        relay.send_signal(signal.SIGKILL)
        relay.wait(10)
        relay.stdout.close()
        times.append([row[0] for row in json.loads((folder / NAME).read_bytes())["samples"]])
    # The second found what the first had noted, and took no sample of its own within five minutes.
    assert times[0] == times[1]
    assert len(times[0]) == 1
    assert (folder / NAME).stat().st_mode & 0o777 == 0o600
