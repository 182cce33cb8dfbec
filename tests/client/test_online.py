# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages between people who are never online together, through real relays that come and go."""

import asyncio
import contextlib
import random
import re
import signal
import subprocess
import time

import pytest

from relay.client.contacts import stranger_name
from relay.client.errors import ClientError
from relay.core.envelope import cid, envelope_id
from relay.core.messages import Subscribe
from relay.core.session import CaughtUp, Envelopes
from relay.links.address import AddressError, parse_address
from relay.links.client_session import Connection, Failure, RelayConnectionError
from tests.client.online import RelayProcess, User

SECRET = "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90"
HOUR_S = 3600


@pytest.fixture
def relays(tmp_path):
    """Starts relays; each is stopped at the end, and has to end well."""
    with contextlib.ExitStack() as stack:

        def start(name="relay", **sections):
            relay = RelayProcess(tmp_path / name, **sections)
            stack.callback(relay.stop)
            return relay.start()

        yield start


@pytest.fixture
def relay(relays):
    return relays()


def test_a_text_and_a_file_reach_someone_who_was_never_online_with_the_sender(relay, alice, bob, tmp_path):
    content = random.Random(1).randbytes(100_000)
    photo = tmp_path / "a photo.jpg"
    photo.write_bytes(content)
    for arguments in (("send", "bob", "hello\nthere \x1b[2J"), ("send", "bob", "--file", str(photo))):
        sent = alice.run(*arguments, relays=[relay.address])
        assert sent.returncode == 0, sent.stderr
        assert "on disk (durable)" in sent.stdout
    (bob.inbox / "a photo.jpg").write_bytes(b"mine")
    received = bob.run("receive", "--receipts", "now", "--dir", str(bob.inbox), relays=[relay.address])
    assert received.returncode == 0, received.stderr
    lines = received.stdout.splitlines()
    assert re.fullmatch(r"alice \(\d{4}-\d\d-\d\d \d\d:\d\d\): hello", lines[0])
    assert lines[1] == "  | there \N{REPLACEMENT CHARACTER}[2J"
    assert lines[2].endswith(f"a photo.jpg, 97.7 KiB, saved as {bob.inbox / 'a photo (2).jpg'}")
    assert (bob.inbox / "a photo (2).jpg").read_bytes() == content
    assert (bob.inbox / "a photo.jpg").read_bytes() == b"mine"
    assert len(list(bob.inbox.iterdir())) == 2
    again = bob.run("receive", "--dir", str(bob.inbox), relays=[relay.address])
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "No new messages.\n")
    # Bob's receipts are on the relay by now.
    alice.run("receive", relays=[relay.address])
    states = [line.split("; ")[1] for line in alice.run("sent").stdout.splitlines()]
    assert states == ["received", "received"]


def test_the_relay_writes_nothing_down_that_names_anybody(relays, alice, bob, tmp_path):
    relay = relays("marked")
    marker = tmp_path / "MARKER-file.txt"
    marker.write_text("MARKER-content")
    assert alice.run("send", "bob", "--file", str(marker), relays=[relay.address]).returncode == 0
    assert bob.run("receive", "--dir", str(bob.inbox), relays=[relay.address]).returncode == 0
    relay.stop()
    for secret in ("MARKER", "alice", "bob", "127.0.0.1", "::1", alice.identity.static.public.hex()):
        assert secret not in relay.errors
    for path in (relay.folder / "store").rglob("*"):
        assert not path.is_file() or b"MARKER" not in path.read_bytes(), path


def test_a_large_file_goes_on_where_it_was_after_the_relay_was_killed(relay, alice, bob):
    content = random.Random(2).randbytes(5_000_000)
    at_kill = []

    async def send():
        async with alice.client(relay.address, patience_s=30.0) as client:
            path = alice.home / "big"
            path.write_bytes(content)
            with path.open("rb") as file:
                (message_id,) = (await client.send_file(["bob"], file, "big")).values()
            restarting = []

            def progressed(_, result):
                if result.acknowledged >= 64 and not at_kill:
                    at_kill.append(result.acknowledged)
                    relay.kill()
                    restarting.append(asyncio.ensure_future(asyncio.to_thread(relay.start)))

            (outcome,) = await client.deliver(progressed)
            await restarting[0]
            assert outcome.error is None
            assert outcome.delivered.durable == outcome.delivered.envelopes
            progress = await client.progress(message_id)
            assert progress.durable == progress.pieces == 310
            return progress.pieces

    pieces = asyncio.run(send())
    counts = relay.totals()["total"]
    assert 0 < at_kill[0] < pieces
    # Less by what the relay had said before it was killed and the client read after.
    assert 0 < counts["accepted"] + counts["duplicate"] <= pieces - at_kill[0]

    async def receive():
        async with bob.client(relay.address) as client:
            await client.collect()
            (message,) = await client.messages()
            path = await client.save(message, bob.inbox)
            await client.take(message)
            return path

    assert asyncio.run(receive()).read_bytes() == content


def test_receiving_goes_on_where_it_was_too(relay, alice, bob):
    content = random.Random(3).randbytes(2_000_000)

    async def run():
        async with alice.client(relay.address) as client:
            path = alice.home / "big"
            path.write_bytes(content)
            with path.open("rb") as file:
                await client.send_file(["bob"], file, "big")
            await client.deliver()
        async with bob.client(relay.address, patience_s=30.0) as client:
            collecting = asyncio.ensure_future(client.collect())
            await asyncio.wait_for(client.changed.wait(), 10)
            relay.kill()
            started = asyncio.to_thread(relay.start)
            await started
            (outcome,) = await collecting
            assert outcome.error is None
            # Each was looked at once, whichever session brought it.
            assert outcome.collected.envelopes == outcome.collected.kept == 124
            (message,) = await client.messages()
            assert (await client.save(message, bob.inbox)).read_bytes() == content

    asyncio.run(run())


def test_a_group_is_written_to_at_once(relay, alice, bob, tmp_path):
    carol = User(tmp_path, "carol")
    carol.knows(alice)
    alice.knows(carol)
    assert alice.run("contact", "group", "friends", "bob", "carol").returncode == 0
    sent = alice.run("send", "friends", "-", stdin="tonight at nine\n", relays=[relay.address])
    assert sent.returncode == 0
    assert [line.partition(":")[0] for line in sent.stdout.splitlines()] == ["bob", "carol"]
    for person, other in ((bob, carol), (carol, bob)):
        shown, about = person.run("receive", relays=[relay.address]).stdout.splitlines()
        assert re.fullmatch(r"alice to ~friends \(.*\): tonight at nine", shown)
        assert about == f"In the group ~friends are you and alice, {stranger_name(other.card.static)}."
    # Carol answers all, also Bob, whom she does not know, and leaves.
    assert carol.run("send", "friends", "I cannot", relays=[relay.address]).returncode == 0
    assert carol.run("contact", "leave", "friends").returncode == 0
    assert alice.run("receive", relays=[relay.address]).returncode == 0
    assert carol.run("receive", relays=[relay.address]).returncode == 0
    lines = bob.run("receive", relays=[relay.address]).stdout.splitlines()
    her = stranger_name(carol.card.static)
    assert [re.sub(r" \(\d.*?\): ", ": ", line) for line in lines] == [
        f"{her} to ~friends: I cannot",
        f"{her} to ~friends: (has left the group)",
        "In the group ~friends are you and alice.",
    ]
    assert bob.run("contact", "list").stdout.splitlines()[-1] == "~friends\tgroup of alice"


def test_whoever_waits_hears_that_it_was_received(relay, alice, bob):
    waiting = alice.start("send", "bob", "--wait", "--timeout", "60", "are you there?", relays=[relay.address])
    assert "durable" in waiting.stdout.readline()
    assert "are you there?" in bob.run("receive", "--receipts", "now", relays=[relay.address]).stdout
    out, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) == (0, "bob: received\n"), errors


def test_who_waits_in_vain_is_told_by_the_exit_status(relay, alice, bob):
    waited = alice.run("send", "bob", "hello?", "--wait", "--timeout", "0.5", relays=[relay.address])
    assert waited.returncode == 3
    assert waited.stdout.endswith("not received yet\n")
    assert bob.run("receive", relays=[relay.address]).stdout.endswith("hello?\n")


def test_one_envelope_is_had_by_its_cid(relay, alice, bob):
    def held():
        async def look():
            found = set()
            async with await Connection.open(parse_address(relay.address)) as connection:
                connection.subscribe(Subscribe(prefix_bits=0, prefix=0, follow=False))
                while True:
                    for event in await connection.events(30):
                        if isinstance(event, Envelopes):
                            found |= {cid(envelope_id(envelope)) for envelope in event.items}
                        elif isinstance(event, CaughtUp):
                            return found

        return asyncio.run(look())

    assert alice.run("send", "bob", "the first", relays=[relay.address]).returncode == 0
    before = held()
    assert alice.run("send", "bob", "the second", relays=[relay.address]).returncode == 0
    (second,) = held() - before
    got = bob.run("receive", "--cid", second, relays=[relay.address])
    assert (got.returncode, got.stdout.count("the second"), got.stdout.count("the first")) == (0, 1, 0), got.stderr
    absent = bob.run("receive", "--cid", cid(bytes(32)), relays=[relay.address])
    assert absent.returncode == 1
    assert "1 of 1 are on no relay in reach" in absent.stderr
    for wrong in ("nonsense", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"):
        assert (
            "give one as IPFS prints it" in (said := bob.run("receive", "--cid", wrong).stderr) or "raw blocks" in said
        )
    assert "not both" in bob.run("receive", "--cid", second, "--follow").stderr
    assert "the first" in bob.run("receive", relays=[relay.address]).stdout


def test_what_is_purged_in_time_is_not_received(relay, alice, bob):
    assert alice.run("send", "bob", "regrets", relays=[relay.address]).returncode == 0
    (listed,) = alice.run("sent").stdout.splitlines()
    message_id = listed.split()[0]
    purged = alice.run("purge", message_id[:4], relays=[relay.address])
    assert purged.returncode == 0
    assert "10 minutes to an hour" in purged.stdout
    assert "purged before" in alice.run("purge", message_id).stdout
    assert "to be purged: its purge is not on a relay yet" in alice.run("sent").stdout
    assert "no message has that ID" in alice.run("purge", "ffff0000ffff").stderr

    async def run():
        # Not due yet: nobody is to see that the two belong together.
        async with alice.client(relay.address) as client:
            assert await client.deliver() == []
        async with alice.client(relay.address, clock=lambda: time.time() + 2 * HOUR_S) as client:
            (outcome,) = await client.deliver()
            assert outcome.delivered.durable == 1
        async with bob.client(relay.address) as client:
            await client.collect()
            assert await client.messages() == []

    asyncio.run(run())


def test_following_shows_what_comes_and_survives_the_relay(relay, alice, bob):
    following = bob.start("receive", "--follow", "--receipts", "now", relays=[relay.address])
    try:
        assert alice.run("send", "bob", "one", relays=[relay.address]).returncode == 0
        assert following.stdout.readline().endswith("): one\n")
        relay.kill()
        relay.start()
        sent = alice.run("send", "bob", "two", "--wait", "--timeout", "60", relays=[relay.address])
        assert sent.returncode == 0, sent.stderr
        assert following.stdout.readline().endswith("): two\n")
    finally:
        following.kill()
        following.communicate()


def test_following_ends_with_ctrl_c_and_leaves_nothing_half_done(relay, alice, bob):
    following = bob.start("receive", "--follow", relays=[relay.address])
    assert alice.run("send", "bob", "one", relays=[relay.address]).returncode == 0
    assert following.stdout.readline().endswith("): one\n")
    following.send_signal(signal.SIGINT)
    out, errors = following.communicate(timeout=10)
    assert (following.returncode, out) == (130, "")
    assert "Traceback" not in errors
    assert bob.run("receive", relays=[relay.address]).stdout == ""


def test_every_relay_that_is_named_gets_everything(relays, alice, bob):
    one, two = relays("one"), relays("two")

    async def run():
        async with alice.client(one.address, two.address) as client:
            await client.send_text(["bob"], "to both")
            outcomes = await client.deliver()
            assert [outcome.delivered.durable for outcome in outcomes] == [1, 1]
            # Not again so soon.
            assert await client.deliver() == []
        async with bob.client(one.address, two.address) as client:
            await client.collect()
            assert await bob.texts(client) == ["to both"]

    asyncio.run(run())


def test_one_relay_that_is_gone_keeps_nothing_from_the_other(relays, alice, bob):
    one = relays("one")
    sent = alice.run("send", "bob", "hi", "--relay", "localhost:1", "--relay", one.address)
    assert sent.returncode == 0
    assert "no relay answers at localhost:1" in sent.stderr
    received = bob.run("receive", "--relay", "localhost:1", "--relay", one.address)
    assert (received.returncode, received.stdout[-4:]) == (0, " hi\n")


def test_without_any_relay_nothing_is_lost(relays, alice, bob):
    sent = alice.run("send", "bob", "later", relays=["localhost:1"])
    assert sent.returncode == 1
    assert "check that it runs" in sent.stderr
    assert "It is kept" in sent.stderr
    one = relays("one")
    assert alice.run("receive", relays=[one.address]).returncode == 0
    assert bob.run("receive", relays=[one.address]).stdout.endswith("later\n")


def test_a_relay_that_asks_for_work_gets_it(relays, alice, bob):
    dear = relays("dear", mesh={"min_price": 9})

    async def run():
        async with alice.client(dear.address) as client:
            await client.send_text(["bob"], "worth it")
            (outcome,) = await client.deliver()
            assert (outcome.delivered.durable, dict(outcome.delivered.refused)) == (1, {})
        async with bob.client(dear.address) as client:
            await client.collect()
            assert await bob.texts(client) == ["worth it"]
        async with bob.client(dear.address, receipts_at_once=True) as client:
            # The receipt is paid for as well.
            assert [outcome.delivered.durable for outcome in await client.deliver()] == [1]

    asyncio.run(run())


@pytest.mark.usefixtures("bob")
def test_work_beyond_reason_is_not_done(relays, alice):
    dear = relays("dear", mesh={"min_price": 17})
    sent = alice.run("send", "bob", "hi", relays=[dear.address])
    assert sent.returncode == 1
    assert "asks for more work than is done here" in sent.stderr


@pytest.mark.usefixtures("bob")
def test_a_closed_mesh_lets_in_who_knows_its_secret(relays, alice):
    closed = relays("closed", mesh={"secret": SECRET, "open_to_clients": False})
    refused = alice.run("send", "bob", "hi", relays=[closed.address])
    assert refused.returncode == 1
    assert "ask its operator for the secret" in refused.stderr
    settings = alice.config / "client.toml"
    for secret, status in ((SECRET[::-1], 1), (SECRET, 0)):
        settings.write_text(f'secret = "{secret}"\n[[relay]]\naddress = "{closed.address}"\n')
        settings.chmod(0o600)
        sent = alice.run("send", "bob", "hi")
        assert sent.returncode == status, sent.stderr
        assert ("compare the secrets" in sent.stderr) == bool(status)


def test_nothing_is_looked_at_twice(relay, alice, bob):
    async def run():
        async with alice.client(relay.address) as client:
            for number in range(20):
                await client.send_text(["bob"], f"{number}")
            await client.deliver()
        async with bob.client(relay.address) as client:
            first, second = await client.collect(), await client.collect()
            assert (first[0].collected.envelopes, first[0].collected.kept) == (20, 20)
            assert second[0].collected.envelopes == 0
            assert sorted(await bob.texts(client), key=int) == [str(number) for number in range(20)]

    asyncio.run(run())


def test_the_hint_of_a_new_relay_works_as_it_is_printed(relay, tmp_path):
    user = User(tmp_path, "new")
    (user.config / "identity.json").unlink()
    commands = re.findall(r"^  (.*-m relay .*)$", relay.output, re.MULTILINE)
    assert len(commands) == 4
    uri, outputs = "", []
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command.replace("URI'", f"{uri}'")],
            env=user.environ(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
        uri = uri or done.stdout.splitlines()[0]
    assert outputs[-1].endswith("): hello\n")


def test_a_wrong_clock_is_told(alice):
    client = alice.client("localhost:1", clock=lambda: 1_500_000_000.0)
    assert "Set it" in client.clock_warning()
    assert alice.client("localhost:1").clock_warning() is None


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("relay.example", (("relay.example", 4270),)),
        ("192.0.2.1:99", (("192.0.2.1", 99),)),
        ("[fe80::1%eth0]:99", (("fe80::1%eth0", 99),)),
        ("[2001:db8::1]", (("2001:db8::1", 4270),)),
        ("fe80::1%eth0", (("fe80::1%eth0", 4270),)),
    ],
)
def test_addresses_are_read_as_people_write_them(text, hosts):
    address = parse_address(text)
    assert address.hosts == hosts
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "a b", "host:", "host:0", "host:99999", "fe80::1", "[::1", "1:2:3", "unix:x"])
def test_what_is_no_address_is_told_with_a_remedy(text):
    with pytest.raises(AddressError):
        parse_address(text)


@pytest.mark.usefixtures("bob")
def test_a_relay_in_another_place_than_its_key_says_is_not_used(relay, alice):
    settings = alice.config / "client.toml"
    settings.write_text(f'[[relay]]\naddress = "{relay.address}"\nkey = "{"ab" * 32}"\n')
    settings.chmod(0o600)
    for relays in ([], [relay.address]):
        sent = alice.run("send", "bob", "hi", relays=relays)
        assert sent.returncode == 1
        assert "not the one whose key you noted" in sent.stderr


def test_settings_that_cannot_be_used_are_told_in_one_line(alice):
    settings = alice.config / "client.toml"
    for text in ("x", "relays = []", "secret = 1", "relay = 1", "[[relay]]", '[[relay]]\naddress = "a b"\n'):
        settings.write_text(text)
        settings.chmod(0o600)
        result = alice.run("receive")
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert str(settings) in result.stderr


def test_what_is_no_relay_is_told_apart_from_one_that_is_gone(alice):
    async def run(answer):
        async def serve(reader, writer):
            await reader.read(10)
            writer.write(answer)
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, alice.client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            (outcome,) = await client.collect()
            assert isinstance(outcome.error, RelayConnectionError)
            assert isinstance(outcome.error, ClientError)
            return outcome.error.failure

    assert asyncio.run(run(b"HTTP/1.1 400 Bad Request\r\n\r\n")) is Failure.NOT_A_RELAY
    assert asyncio.run(run(b"\x00\x60" + bytes(96))) is Failure.NOT_A_RELAY
    assert asyncio.run(run(b"")) is Failure.BUSY
