# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay sniff` as its user calls it."""

import json
import random
import subprocess
import sys

import pytest

from relay.cli import main
from relay.core.messages import Hello, Role
from relay.core.noise import KeyPair
from relay.core.session import Session
from tests.unit.core.memory import envelope
from tests.unit.sniff.sniffing import (
    advertisement,
    btsnoop,
    conversation,
    ethernet,
    pcap,
    private_address,
    report,
    segments,
)

PRIVATE = bytes(range(32))


def talk_with_pinned_relay():
    """(said by the dialling side, bytes) of a session whose responder has a lasting key."""
    rng = random.Random(1)
    key = KeyPair.from_private(PRIVATE)
    client = Session(initiator=True, hello=Hello(role=Role.CLIENT), random_bytes=rng.randbytes, now=0.0)
    relay = Session(initiator=False, hello=Hello(role=Role.RELAY), random_bytes=rng.randbytes, now=0.0, static=key)
    said = []
    for _ in range(5):
        for side, one, other in ((True, client, relay), (False, relay, client)):
            if data := one.data_to_send():
                said.append((side, data))
                other.receive_data(data, 0.0)
    return said


@pytest.fixture
def capture(tmp_path):
    rng = random.Random(5)
    said, _ = conversation(puts=[envelope(rng, size_class=one) for one in range(3)])
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(1, [bytes(one) for one in ethernet(segments(said))]))
    return path


@pytest.fixture
def air(tmp_path):
    """Two epochs with one salt."""
    rng = random.Random(1)
    path = tmp_path / "a.btsnoop"
    packets = [(3, report(private_address(rng), advertisement(b"abc", rng.randbytes(3)))) for _ in range(2)]
    path.write_bytes(btsnoop(1002, packets))
    return path


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "relay.key"
    path.write_text(PRIVATE.hex())
    path.chmod(0o600)
    return path


def sniff(*arguments):
    return main(["sniff", *map(str, arguments)])


def test_the_events_of_a_capture(capture, capsys):
    assert sniff("--read", capture) == 0
    out, err = capsys.readouterr()
    lines = [line.split("  ", 1)[1] for line in out.splitlines()]
    assert lines[:4] == [
        "#1 TCP 10.0.0.2:50000 > 10.0.0.1:4270",
        "#1 > handshake 1, 34 bytes XX",
        "#1 < handshake 2, 96 bytes",
        "#1 > handshake 3, 64 bytes",
    ]
    assert "#1 > transport, 280 bytes (PUT of class 0?)" in lines
    assert lines[-1] == "#1 closed: end of stream"
    assert err.endswith(" frames\n")


def test_the_same_as_json(capture, capsys):
    assert sniff("--read", capture, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in events[:2]] == ["stream_opened", "record"]
    assert (events[1]["length_bytes"], events[1]["pattern"]) == (34, "XX")
    assert events[-1]["event"] == "end"
    assert events[-1]["passed"] == {}


def test_the_figures_of_each_session(capture, capsys):
    assert sniff("--read", capture, "--stats") == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[0] == "#1 TCP 10.0.0.2:50000 > 10.0.0.1:4270: end of stream"
    assert "1 up to 400" in out[1]
    assert sniff("--read", capture, "--stats", "--json") == 0
    stream, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert stream["flows"][0]["records_up_to_bytes"]["400"] == 1


def test_what_joins_epochs_fails_the_command(air, capture, capsys):
    assert sniff("--read", air, "--linkable") == 1
    out = capsys.readouterr().out
    assert "LINKED  salt 616263 joins" in out
    assert out.splitlines()[-1] == "2 addresses and 0 sessions compared: 1 found"
    assert sniff("--read", air, "--linkable", "--json") == 1
    found, summary, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (found["event"], found["field"], found["value"]) == ("linked", "salt", "616263")
    assert summary["is_clean"] is False
    assert sniff("--read", capture, "--linkable") == 1
    assert "too few to tell anything" in capsys.readouterr().out


def test_several_captures_are_compared_with_each_other(tmp_path, capsys):
    paths = []
    for index in range(2):
        path = tmp_path / f"{index}.btsnoop"
        data = report(private_address(random.Random(index)), advertisement(b"abc", bytes([index] * 3)))
        path.write_bytes(btsnoop(1002, [(3, data)]))
        paths += ["--read", path]
    assert sniff(*paths, "--linkable") == 1
    assert "salt 616263 joins" in capsys.readouterr().out


def test_the_relays_own_key_opens_nothing_and_is_looked_for(tmp_path, key, capsys):
    said = talk_with_pinned_relay()
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(1, [bytes(one) for one in ethernet(segments(said))]))
    assert sniff("--read", path) == 0
    without = capsys.readouterr()
    assert sniff("--read", path, "--key", key) == 0
    with_key = capsys.readouterr()
    assert with_key.out == without.out
    assert "the key was not seen in the clear" in with_key.err
    # What a relay that shows it in the clear would look like, in pieces smaller than the key.
    public = KeyPair.from_private(PRIVATE).public
    said = [(True, said[0][1]), (False, b"\x00\x60" + bytes(20) + public + bytes(44))]
    path.write_bytes(pcap(1, [bytes(one) for one in ethernet(segments(said, mss=20))]))
    assert sniff("--read", path, "--key", key) == 1
    assert "the key stood in the clear 1 times" in capsys.readouterr().err


def test_mistakes_are_told_with_their_remedy(tmp_path, key, capture, capsys):
    def complaint(*arguments):
        assert sniff(*arguments) == 1
        return capsys.readouterr().err

    assert "either an interface" in complaint()
    assert "either an interface" in complaint("eth0", "--read", capture)
    assert "nowhere: cannot be read: No such file" in complaint("--read", tmp_path / "nowhere")
    assert "no such interface; there are " in complaint("nothere0")
    assert "relay key" in complaint("--read", capture, "--key", tmp_path / "nowhere")
    key.chmod(0o644)
    assert "open to other users" in complaint("--read", capture, "--key", key)
    capture.write_bytes(capture.read_bytes()[:-10])
    assert sniff("--read", capture) == 1
    out, err = capsys.readouterr()
    assert "#1 > handshake 1" in out
    assert "cut off in the middle; what stands before it was read" in err


def test_without_the_right_to_listen_the_remedy_is_told():
    # PR_CAPBSET_DROP of CAP_NET_RAW: not even root has it after that.
    code = (
        "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 13, 0, 0, 0)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'relay', 'sniff', 'lo'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 1
    assert found.stderr == (
        "lo: listening takes CAP_NET_RAW: run it as root (sudo), or capture elsewhere and use --read\n"
    )


def test_other_commands_do_without_scapy():
    code = (
        "import sys; sys.modules['scapy'] = None\n"
        "from relay.cli import build_parser, main; build_parser()\n"
        "sys.exit(main(['sniff', '--read', 'x']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (1, "")
    assert "pip install 'mesh-relay[sniff]'" in found.stderr
