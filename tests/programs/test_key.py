# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay that its operator lets others recognise: its key file, and who makes use of the key."""

import asyncio
import contextlib
import os
import re
import secrets
import sqlite3
import stat
from dataclasses import replace

import pytest

from relay.cli import main
from relay.client.settings import load_settings
from relay.config.file import load_config
from relay.config.settings import Address
from relay.control.control_client import ControlClient
from relay.core.noise import KeyPair
from relay.links.address import parse_address
from relay.links.client_session import Connection, Failure, RelayConnectionError
from relay.run.keyfile import KeyFileError, load_key, load_or_make_key
from tests.client.online import RelayProcess, User
from tests.waiting import wait_until

KEY = KeyPair.from_private(bytes(range(32)))
CONNECT_S = 20.0


# -- the file ----------------------------------------------------------------


def test_the_key_is_made_once_for_its_owner_only_and_kept(tmp_path):
    path = tmp_path / "relay.key"
    made = load_or_make_key(path, secrets.token_bytes)
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert load_key(path) == load_or_make_key(path, secrets.token_bytes) == made
    assert path.stat().st_ino == status.st_ino
    assert [found.name for found in tmp_path.iterdir()] == ["relay.key"]


def test_two_relays_do_not_make_the_same_key(tmp_path):
    one, other = (load_or_make_key(tmp_path / name, secrets.token_bytes) for name in ("one", "other"))
    assert one.public != other.public


def test_what_a_first_start_that_was_cut_short_left_is_not_taken_for_a_key(tmp_path):
    half = tmp_path / "relay.key.new"
    half.write_text("0123")
    half.chmod(0o644)
    made = load_or_make_key(tmp_path / "relay.key", secrets.token_bytes)
    assert load_key(tmp_path / "relay.key") == made
    assert stat.S_IMODE((tmp_path / "relay.key").stat().st_mode) == 0o600
    assert not half.exists()


@pytest.mark.parametrize(
    "content", [KEY.private, KEY.private.hex().encode(), KEY.private.hex().upper().encode() + b"\r\n"]
)
def test_a_key_of_the_operators_own_may_be_bytes_or_digits(tmp_path, content):
    path = tmp_path / "relay.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert load_or_make_key(path, secrets.token_bytes) == KEY
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_key_that_others_may_read_or_write_is_refused_and_left_alone(tmp_path, mode):
    path = tmp_path / "relay.key"
    path.write_bytes(KEY.private)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {re.escape(str(path))}"):
        load_or_make_key(path, secrets.token_bytes)
    assert path.read_bytes() == KEY.private
    path.chmod(0o600)
    assert load_key(path) == KEY


@pytest.mark.parametrize("content", [b"", b"\0" * 31, b"\0" * 33, b"0" * 63, b"g" * 64, b"0" * 65, b"0" * 100_000])
def test_what_is_no_key_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "relay.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"holds no key.*backup"):
        load_or_make_key(path, secrets.token_bytes)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(KEY.private)
    elsewhere.chmod(0o600)
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe"):
        with pytest.raises(KeyFileError, match="plain file"):
            load_or_make_key(tmp_path / name, secrets.token_bytes)


def test_a_key_that_cannot_be_written_says_where_and_what_to_do(tmp_path):
    with pytest.raises(KeyFileError, match=r"none/relay.key: cannot be written: No such file.*folder"):
        load_or_make_key(tmp_path / "none" / "relay.key", secrets.token_bytes)


# -- relay key ---------------------------------------------------------------


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Write a relay.toml for a store in `tmp_path`; return its path."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def write(static_key="true", port=4270):
        path = tmp_path / "relay.toml"
        path.write_text(f'[store]\npath = "{tmp_path}"\n[mesh]\nstatic_key = {static_key}\n[tcp]\nport = {port}\n')
        return path

    return write


def test_relay_key_prints_what_a_peer_and_a_client_can_use_as_it_stands(configured, tmp_path, capsys):
    load_or_make_key(tmp_path / "relay.key", lambda _: KEY.private)
    assert main(["key", "--config", str(configured())]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0] == KEY.public.hex()
    said = "\n".join(line[2:] for line in out.replace("HOST", "192.0.2.1").splitlines() if line.startswith("  "))
    ours, theirs = said.split("[[relay]]")
    (tmp_path / "peer.toml").write_text(ours)
    (peer,) = load_config(tmp_path / "peer.toml").tcp.peers
    assert (peer.address, peer.key) == (Address("192.0.2.1", 4270), KEY.public)
    (tmp_path / "client.toml").write_text("[[relay]]" + theirs)
    (tmp_path / "client.toml").chmod(0o600)
    (relay,) = load_settings(tmp_path).relays
    assert (relay.hosts, relay.pinned) == ((("192.0.2.1", 4270),), KEY.public)
    assert KEY.private.hex() not in out


def test_relay_key_says_what_to_do_when_there_is_none(configured, tmp_path, capsys):
    assert main(["key", "--config", str(configured())]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "static_key = true" in err
    assert not (tmp_path / "relay.key").exists()


def test_relay_key_says_when_the_key_is_not_in_use(configured, tmp_path, capsys):
    load_or_make_key(tmp_path / "relay.key", lambda _: KEY.private)
    assert main(["key", "--config", str(configured("false", 0))]) == 0
    out, err = capsys.readouterr()
    assert "HOST:PORT#" in out
    assert "not in use" in err


# -- real relays -------------------------------------------------------------


@pytest.fixture
def relays(tmp_path):
    """Starts relays; each is stopped at the end, and has to end well."""
    with contextlib.ExitStack() as stack:

        def start(name, **sections):
            relay = RelayProcess(tmp_path / name, **sections)
            stack.callback(relay.stop)
            return relay.start()

        yield start


def public_key(relay, capsys):
    assert main(["key", "--config", str(relay.folder / "relay.toml")]) == 0
    return capsys.readouterr().out.splitlines()[0]


def wait_for(relay, condition):
    """Return the first status of a relay for which `condition` holds."""

    def look():
        with ControlClient(relay.folder / "control") as control:
            status = control.status()
        return status if condition(status) else None

    return wait_until(condition.__name__, look, CONNECT_S)


def linked(status):
    return sum(link["relays"] for link in status["links"])


def wrong_keys(status):
    return status["totals"]["handshake_failures"]["wrong_key"]


def test_a_peer_with_another_key_is_turned_away_and_counted_and_one_with_the_right_key_is_kept(relays, capsys):
    peer = relays("peer", mesh={"static_key": True})
    key = public_key(peer, capsys)
    wary = relays("wary", tcp={"peers": [f"localhost:{peer.port}#{KEY.public.hex()}"]})
    status = wait_for(wary, wrong_keys)
    assert (wrong_keys(status), linked(status)) == (1, 0)
    wait_for(peer, lambda status: not linked(status))
    trusting = relays("trusting", tcp={"peers": [f"localhost:{peer.port}#{key}"]})
    assert not wrong_keys(wait_for(trusting, linked))
    # A relay that dials shows nobody its own lasting key, and one without shows a fresh one.
    both = relays(
        "both", mesh={"static_key": True}, tcp={"peers": [f"localhost:{trusting.port}#{public_key(peer, capsys)}"]}
    )
    assert not linked(wait_for(both, wrong_keys))


def test_the_key_survives_restarts_and_without_the_setting_there_is_none(relays, capsys):
    relay = relays("relay", mesh={"static_key": True})
    shown = {shown_key(relay), public_key(relay, capsys)}
    relay.kill()
    relay.start()
    shown |= {shown_key(relay), shown_key(relay)}
    assert len(shown) == 1
    other = relays("other")
    assert len({shown_key(other) for _ in range(3)}) == 3
    assert not (other.folder / "store" / "relay.key").exists()


def shown_key(relay):
    async def ask():
        async with await Connection.open(parse_address(relay.address)) as connection:
            return connection.relay_key.hex()

    return asyncio.run(ask())


def test_a_relay_does_not_start_with_a_key_that_others_can_read(relays):
    relay = relays("relay", mesh={"static_key": True})
    relay.kill()
    path = relay.folder / "store" / "relay.key"
    path.chmod(0o644)
    with pytest.raises(AssertionError, match="chmod 600"):
        relay.start()


def test_a_client_resumes_where_it_was_at_a_relay_that_it_knows_and_is_not_taken_in_by_another(
    relays, tmp_path, capsys
):
    relay = relays("relay", mesh={"static_key": True})
    known = replace(parse_address(relay.address), pinned=bytes.fromhex(public_key(relay, capsys)))
    alice, bob = User(tmp_path, "alice"), User(tmp_path, "bob")
    alice.knows(bob)
    bob.knows(alice)
    count = 200

    async def send():
        async with alice.client(relay.address) as client:
            for number in range(count):
                await client.send_text(["bob"], f"message {number}")
            await client.deliver()

    async def collect(address):
        """Read once; return how much the relay had to send for it, and how many envelopes came."""
        before = sent_bytes()
        async with bob.client(address) as client:
            (outcome,) = await client.collect()
        assert outcome.error is None, outcome.error
        return sent_bytes() - before, outcome.collected.kept

    def sent_bytes():
        with ControlClient(relay.folder / "control") as control:
            return sum(link["bytes_out"] for link in control.status()["links"])

    asyncio.run(send())
    first_bytes, kept = asyncio.run(collect(known))
    assert kept == count
    assert first_bytes > count * 256
    # Let thirty hours pass for the relay; for the client it is minutes, and it asks for a day.
    relay.kill()
    with contextlib.closing(sqlite3.connect(relay.folder / "store" / "store.sqlite")) as store, store:
        store.execute("INSERT OR REPLACE INTO meta VALUES ('residence_s', ?)", [108_000])
    relay.start()
    again_bytes, kept = asyncio.run(collect(known))
    assert kept == 0
    unknown_bytes, kept = asyncio.run(collect(parse_address(relay.address)))
    assert kept == 0
    print("bytes:", first_bytes, again_bytes, unknown_bytes)
    assert again_bytes < 2000
    assert unknown_bytes > count * 37
    with pytest.raises(RelayConnectionError) as caught:
        asyncio.run(Connection.open(replace(known, pinned=KEY.public)))
    assert caught.value.failure is Failure.WRONG_KEY
