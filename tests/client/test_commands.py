# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay identity` and `relay contact` as a user runs them."""

import fcntl
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from relay.cli import main
from relay.client.card import Card
from relay.client.identity import Identity
from tests.waiting import wait_until


@pytest.fixture
def relay(tmp_path):
    def run(*arguments, stdin="", home="home"):
        environ = os.environ | {"HOME": str(tmp_path / home)}
        environ.pop("XDG_CONFIG_HOME", None)
        (tmp_path / home).mkdir(exist_ok=True)
        command = [sys.executable, "-c", "import sys; from relay.cli import main; sys.exit(main())", *arguments]
        return subprocess.run(command, env=environ, input=stdin, capture_output=True, text=True, check=False)

    return run


def test_without_the_package_for_bluetooth_the_end_is_at_once_and_says_what_to_do(tmp_path):
    environ = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    # As in an environment without it, where no import finds it.
    program = "import sys; sys.modules['dbus_next'] = None; from relay.cli import main; sys.exit(main())"
    for options in ((), ("--follow",)):
        command = [sys.executable, "-c", program, "receive", "--relay", "ble", *options]
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=30)
        assert ended.returncode == 1
        assert "dbus-next is missing; install it with: " in ended.stderr


@pytest.mark.timeout(60)
def test_a_text_without_an_end_is_refused(relay, tmp_path):
    """It took all memory that there is."""
    assert relay("contact", "add", GOOD, "--name", "z").returncode == 0
    environ = os.environ | {"HOME": str(tmp_path / "home"), "MESH_RELAY": "localhost:1"}
    environ.pop("XDG_CONFIG_HOME", None)
    command = [sys.executable, "-m", "relay", "send", "z"]
    with Path("/dev/zero").open("rb") as endless:
        ended = subprocess.run(command, env=environ, stdin=endless, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "at most 1048576 bytes; send what is longer with --file -" in ended.stderr


GOOD = Card.of(Identity.generate(random.Random(1).randbytes)).to_uri()


def uri_in(output):
    return re.search(r"^mesh-relay:contact/\S+$", output, re.MULTILINE).group()


def test_the_first_use_makes_keys_and_the_next_shows_the_same_card(relay, tmp_path):
    first, second = relay("identity"), relay("identity", "--name", "Zoë")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "Made your keys" in first.stderr
    assert second.stderr == ""
    assert uri_in(second.stdout) == uri_in(first.stdout) + "?name=Zo%C3%AB"
    assert (tmp_path / "home/.config/mesh-relay/identity.json").stat().st_mode & 0o777 == 0o600


def test_a_card_goes_from_one_person_to_another(relay):
    theirs = relay("identity", "--name", "Zoë", home="hers").stdout
    assert "█" in theirs
    added = relay("contact", "add", uri_in(theirs))
    assert added.returncode == 0, added.stderr
    fingerprint = re.search(r"Fingerprint: (.*)", theirs).group(1)
    # It is the card that says so.
    assert added.stdout.startswith("Added ~Zoë.\n~ marks a name that the card gives itself.")
    assert f"Fingerprint: {fingerprint}" in added.stdout
    shown = relay("contact", "show", "zoë", "--qr").stdout
    assert uri_in(shown) == uri_in(theirs)
    assert relay("contact", "list").stdout == f"~Zoë\t{fingerprint}\n"
    assert relay("contact", "rename", "zoë", "Zoë").stdout == "zoë is called Zoë now.\n"
    assert relay("contact", "group", "all", "Zoë").stdout.startswith("The group all: you and Zoë.\n")
    assert relay("contact", "list").stdout == f"Zoë\t{fingerprint}\nall\tgroup of Zoë\n"
    for name in ("all", "Zoë"):
        assert relay("contact", "remove", name).stdout.startswith(f"Removed {name}.")
    assert relay("contact", "list").stdout == ""


def test_who_leaves_a_group_of_nobody_else_is_told_so(relay):
    relay("contact", "add", uri_in(relay("identity").stdout), "--name", "me")
    relay("contact", "group", "alone", "me")
    assert relay("contact", "leave", "alone").stdout == "You left. Nobody else was in it.\n"


def test_a_card_can_come_by_standard_input_under_a_name_of_ones_own(relay):
    uri = uri_in(relay("identity", home="hers").stdout)
    assert "give one with --name" in relay("contact", "add", uri).stderr
    assert relay("contact", "add", "-", "--name", "z", stdin=uri + "\n").returncode == 0
    assert relay("contact", "list").stdout.startswith("z\t")
    # As it comes out of a mail: in several lines, or several words of the shell.
    for name, arguments, stdin in (
        ("y", ("-",), f"\n<{uri[:30]}\n{uri[30:60]}\r\n {uri[60:]}>\n\nKind regards\n"),
        ("x", (uri[:30], uri[30:]), ""),
    ):
        assert relay("contact", "remove", "z" if name == "y" else "y").returncode == 0
        added = relay("contact", "add", *arguments, "--name", name, stdin=stdin)
        assert added.returncode == 0, added.stderr


@pytest.mark.parametrize("begins", [1, 2])
def test_a_part_of_a_card_that_begins_as_an_option_does_is_none(relay, begins):
    """Of a card in several words, which of them begins with a dash is chance."""
    for number in itertools.count():
        uri = uri_in(relay("identity", home=f"her{number}").stdout)
        if found := re.search(r"(?<=.{40})-[A-Za-z0-9_]{3}", uri):
            break
    dash = found.start()
    words = [uri[:dash], uri[dash:]] if begins == 1 else [uri[:25], uri[25:dash], uri[dash:]]
    added = relay("contact", "add", *words, "--name", "w")
    assert added.returncode == 0, added.stderr


def test_mistakes_are_told_in_one_line_with_a_remedy(relay):
    for arguments, remedy in (
        (("contact", "add", "mesh-relay:contact/AAAA", "--name", "x"), "copy it again"),
        (("contact", "add", "mesh-relay:bulletin/AAAA", "--name", "x"), "relay bulletin follow"),
        (("bulletin", "follow", GOOD, "--name", "x"), "relay contact add"),
        (("contact", "add", f"{GOOD}?name=%E2%80%AE"), "give one with --name"),
        (("contact", "show", "nobody"), "relay contact list"),
        (("identity", "--name", "x" * 65), "64 characters"),
        (("contact", "group", "g", "nobody"), "relay contact list"),
    ):
        result = relay(*arguments)
        assert result.returncode == 1
        assert remedy in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""


def test_what_cannot_be_sent_or_saved_as_asked_is_told_with_a_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MESH_RELAY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["identity"]) == 0
    assert main(["contact", "add", GOOD, "--name", "z"]) == 0
    for arguments, remedy in (
        (("send", "z", "--file", ""), "write its path after it"),
        (("send", "z", "--file", "/usr/lib"), "pack it, and send that: tar -czf FILE.tar.gz /usr/lib"),
        (("send", "z", "--file", "/nonexistent"), "ls -a"),
        (("send", "z", "--file", "see you at the gate " * 20), "is that the text?"),
        (("send", "z", "hi", "--relay", "http://127.0.0.1:9470/"), "write the HOST in it alone"),
        (("receive", "--dir", "/etc/passwd"), "is no folder; name one with --dir"),
        (("receive", "--dir", "/no such"), "mkdir -p '/no such'"),
        (("send", "z", ""), "or name a file with --file PATH"),
    ):
        capsys.readouterr()
        assert main(list(arguments)) == 1
        said = capsys.readouterr()
        assert remedy in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""


def begun(tmp_path, *arguments, **streams):
    environ = os.environ | {"HOME": str(tmp_path / "home"), "MESH_RELAY": "localhost:1"}
    environ.pop("XDG_CONFIG_HOME", None)
    command = [sys.executable, "-m", "relay", *arguments]
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, **streams)


def test_ctrl_c_ends_a_text_that_is_being_written(relay, tmp_path):
    """The first one was swallowed, and what was written until Ctrl-D lost."""
    assert relay("contact", "add", GOOD, "--name", "z").returncode == 0
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe, os.fdopen(reading, "rb") as stdin:
        writes = begun(tmp_path, "send", "z", stdin=stdin)
        pipe.write(b"half a")
        wait_until("it reads", lambda: fcntl.ioctl(stdin, termios.FIONREAD, bytes(4)) == bytes(4), 30)
        writes.send_signal(signal.SIGINT)
        _, said = writes.communicate(timeout=30)
    assert (writes.returncode, said) == (130, "")


def test_streams_that_are_closed_or_full_are_told(relay, tmp_path):
    assert relay("contact", "add", GOOD, "--name", "z").returncode == 0
    for arguments in (("send", "z"), ("send", "z", "--file", "-"), ("contact", "add", "-")):
        ended = begun(tmp_path, *arguments, preexec_fn=lambda: os.close(0))
        assert "there is no standard input to read" in ended.communicate(timeout=30)[1]
        assert ended.returncode == 1
    with Path("/dev/full").open("w") as full:
        ended = begun(tmp_path, "contact", "list", stdout=full)
        said = ended.communicate(timeout=30)[1]
    assert (ended.returncode, said.count("\n")) == (1, 1)
    assert said.startswith("cannot write: No space left on device; free some space")
