# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay receive` shows and saves, whatever else goes on: other commands, bad messages, full folders."""

import asyncio
import fcntl
import itertools
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from relay.cli import messages as command
from relay.client import finding
from relay.client.body import file_body, text_body
from relay.client.bulletin import Bulletin
from relay.client.bulletin_book import BulletinBook
from relay.client.database import Database
from relay.client.errors import TakenError
from relay.client.finding import NoRelayError
from relay.client.inbox import Inbox
from relay.client.outbox import Outbox
from relay.client.posts import PostStore
from relay.client.saving import save
from relay.links.address import parse_address
from tests.client.online import Dripping, Holding, User

#: Nobody listens there: what has come already is shown all the same.
NOWHERE = "localhost:1"


def envelopes(sender, recipient, *bodies, now_s=None):
    """Envelopes of these bodies, as the sender's outbox has them."""
    now_s = now_s or time.time()
    with Database(sender.home / "elsewhere") as database:
        outbox = Outbox(database, sender.identity)
        known = {one.id for one in outbox.pending(now_s)}
        for body in bodies:
            outbox.queue_message([recipient.card], body, lifetime_days=3, price=4, now_s=now_s)
        new = [one for one in outbox.pending(now_s) if one.id not in known]
    return [one.envelope for one in sorted(new, key=lambda one: one.id)]


def deliver(sender, recipient, *bodies, now_s=None):
    """Have messages arrive, without any relay."""
    with Database(recipient.data) as database:
        inbox = Inbox(database, recipient.identity, lambda static: static == sender.card.static)
        opened = [inbox.try_open(envelope) for envelope in envelopes(sender, recipient, *bodies, now_s=now_s)]
        inbox.accept(opened, time.time())


def file_of(tmp_path, content, name):
    path = tmp_path / "content"
    path.write_bytes(content)
    return file_body(path.open("rb"), name)


def texts_in(output):
    return re.findall(r"^.+? \([-0-9: ]+\): (.*)$", output, re.MULTILINE)


# -- two commands at once --------------------------------------------------


def test_a_message_that_one_command_is_saving_is_left_to_it(alice, bob, tmp_path):
    content = random.Random(1).randbytes(500_000)
    with file_of(tmp_path, content, "map.jpg").file as file:
        deliver(alice, bob, text_body("before"), file_body(file, "map.jpg"), text_body("after"))
    with Database(bob.data) as database:
        inbox = Inbox(database, bob.identity, lambda _: True)
        before, message, after = inbox.messages()
        claimed = inbox.claim(message)
        # Not even another user of the library in this process.
        assert inbox.claim(message) is None
        reading = inbox.content(message)
        begun = next(reading)
        beside = bob.run("receive", "--dir", str(bob.inbox), relays=[NOWHERE])
        assert texts_in(beside.stdout) == ["before", "after"]
        assert list(bob.inbox.iterdir()) == []
        assert begun + b"".join(reading) == content
        inbox.release(claimed)
        # What was taken meanwhile can be neither claimed nor shown, not in part and not as nothing.
        assert inbox.claim(before) is None
        for taken in (before, after):
            with pytest.raises(TakenError):
                b"".join(inbox.content(taken))
    later = bob.run("receive", "--dir", str(bob.inbox), relays=[NOWHERE])
    assert texts_in(later.stdout) == [f"map.jpg, 488 KiB, saved as {bob.inbox / 'map.jpg'}"]
    assert (bob.inbox / "map.jpg").read_bytes() == content


def test_saved_is_said_only_of_what_was_sent(alice, bob, tmp_path):
    content = random.Random(1).randbytes(500_000)
    with file_of(tmp_path, content, "map.jpg").file as file:
        deliver(alice, bob, file_body(file, "map.jpg"))
    with Database(bob.data) as database:
        inbox = Inbox(database, bob.identity, lambda _: True)
        (message,) = inbox.messages()
        reading = inbox.content(message)

        def taken_half_way():
            yield next(reading)
            inbox.take(message)
            yield from reading

        with pytest.raises(TakenError):
            save(taken_half_way(), bob.inbox, "map.jpg")
    assert list(bob.inbox.iterdir()) == []


@pytest.mark.timeout(300)
def test_commands_beside_each_other_do_all_that_each_would_alone(alice, tmp_path):
    """Each of them twice, on folders that are not there yet: all pairs in one go."""
    carol = User(tmp_path, "carol")
    (carol.config / "identity.json").unlink()
    carol.config.rmdir()
    cards = {name: User(tmp_path, name).card.to_uri() for name in ("ann", "ben")}
    boards = {name: Bulletin.generate(random.Random(name).randbytes) for name in ("lake", "wood")}
    commands = [
        ("identity",),
        ("sent",),
        ("receive",),
        *(("contact", "add", uri, "--name", name) for name, uri in cards.items()),
        ("bulletin", "create", "camp"),
        *(("bulletin", "follow", one.for_readers.to_uri(), "--name", name) for name, one in boards.items()),
    ]
    running = [(one, carol.start(*one, relays=[NOWHERE])) for one in commands for _ in range(2)]
    # Only the first of two finds the name free.
    outcomes = [(one[:2], process.communicate(timeout=90), process.returncode) for one, process in running]
    once = {("contact", "add"), ("receive",), ("bulletin", "create"), ("bulletin", "follow")}
    for one, (_, errors), status in outcomes:
        assert status in ({0, 1} if one in once else {0}), errors
        assert "Traceback" not in errors
        assert "locked" not in errors
    shown = {out.splitlines()[0] for one, (out, _), _ in outcomes if one == ("identity",)}
    assert len(shown) == 1
    assert [line.split("\t")[0] for line in carol.run("contact", "list").stdout.splitlines()] == ["ann", "ben"]
    assert [line.split("\t")[:2] for line in carol.run("bulletin", "list").stdout.splitlines()] == [
        ["camp", "read and post"],
        ["lake", "read"],
        ["wood", "read"],
    ]

    deliver(alice, carol_as_she_is(carol), *(text_body(f"hello {number}") for number in range(20)))
    deliver_file = random.Random(2).randbytes(6_000_000)
    with file_of(tmp_path, deliver_file, "large.bin").file as file:
        deliver(alice, carol_as_she_is(carol), file_body(file, "large.bin"))
    pin(alice, carol_as_she_is(carol), boards["lake"], "soup")
    assert carol.run("bulletin", "post", "camp", "to go", "--slot", "old", relays=[NOWHERE]).returncode == 1
    assert carol.run("send", "ann", "to be purged", relays=[NOWHERE]).returncode == 1
    (purged,) = (line.split()[0] for line in carol.run("sent").stdout.splitlines() if " ann: " in line)
    commands = [
        ("receive", "--dir", str(carol.inbox)),
        ("send", "ann", "one"),
        ("send", "ben", "two"),
        ("purge", purged),
        ("contact", "group", "both", "ann", "ben"),
        ("sent",),
        ("bulletin", "post", "camp", "new", "--slot", "gate"),
        ("bulletin", "withdraw", "camp", "--slot", "old"),
        ("bulletin", "show"),
        ("bulletin", "leave", "wood"),
    ]
    running = [(one, carol.start(*one, relays=[NOWHERE])) for one in commands for _ in range(2)]
    outcomes = [(one[0], *process.communicate(timeout=90)) for one, process in running]
    for _, _, errors in outcomes:
        assert "Traceback" not in errors
        assert "locked" not in errors
    received = [text for one, out, _ in outcomes if one == "receive" for text in texts_in(out)]
    # It hangs there for whoever looks, and is new to one of them at most.
    assert received.count("soup") <= 1
    received = [text for text in received if text != "soup"]
    assert sorted(received) == sorted(
        [f"hello {number}" for number in range(20)] + [f"large.bin, 5.7 MiB, saved as {carol.inbox / 'large.bin'}"]
    )
    (saved,) = carol.inbox.iterdir()
    assert saved.read_bytes() == deliver_file
    purges = [out for one, out, _ in outcomes if one == "purge"]
    assert sorted(out.startswith("1 purge is ready") for out in purges) == [False, True]
    sent = carol.run("sent").stdout
    posts = [line for line in sent.splitlines() if "bulletin camp" in line]
    assert len(sent.splitlines()) - len(posts) == 5
    assert sent.count("purged") == 1
    # Each is the newest in its slot for a moment; what was replaced is not sent.
    assert sum("not on a relay yet" in line for line in posts) == 2
    assert any("bulletin camp: taken down;" in line for line in posts)
    shown = carol.run("bulletin", "show").stdout
    assert sorted(texts_in(shown)) == ["new", "soup"]
    listed = carol.run("bulletin", "list").stdout
    assert [line.split("\t")[0] for line in listed.splitlines()] == ["camp", "lake"]
    assert "both\tgroup of ann, ben" in carol.run("contact", "list").stdout


def pin(sender, reader, bulletin, text):
    """Have a post on a notice board arrive, without any relay."""
    with Database(sender.home / "elsewhere") as database:
        book = BulletinBook(sender.config)
        book.add(bulletin, "theirs")
        outbox = Outbox(database, sender.identity)
        known = {one.id for one in outbox.pending(time.time())}
        PostStore(database, book, outbox, os.urandom).post_text(
            bulletin, text, "", lifetime_days=3, price=4, now_s=time.time()
        )
        (sent,) = (one.envelope for one in outbox.pending(time.time()) if one.id not in known)
    with Database(reader.data) as database:
        outbox = Outbox(database, reader.identity)
        posts = PostStore(database, BulletinBook(reader.config), outbox, os.urandom)
        posts.accept([posts.reader(int(time.time() // 3600))(sent)], time.time())


def carol_as_she_is(carol):
    """With the identity that her own commands made."""
    from relay.client.identity import Identity  # noqa: PLC0415

    carol.identity = Identity.load(carol.config)
    return carol


# -- bad messages ----------------------------------------------------------


def test_one_message_that_cannot_be_saved_or_read_keeps_back_no_other(alice, bob, tmp_path):
    with file_of(tmp_path, b"x" * 100, "map.jpg").file as file:
        deliver(alice, bob, text_body("first"), text_body("rotten"), file_body(file, "map.jpg"), text_body("last"))
    with Database(bob.data) as database:
        assert database.execute("DELETE FROM piece WHERE id >> 20 = 2") == 1
    for shown in (["first", "last"], []):
        # A folder that takes no file, whoever asks.
        received = bob.run("receive", "--dir", "/proc", relays=[NOWHERE])
        assert received.returncode == 1
        assert received.stderr.count("cannot save 'map.jpg' in /proc") == 1
        assert received.stderr.count("the message is not here any more as it was sent") == 1
        # Fetching and sending went on.
        assert "localhost:1" in received.stderr
        assert texts_in(received.stdout) == shown
    received = bob.run("receive", "--dir", str(bob.inbox), relays=[NOWHERE])
    assert texts_in(received.stdout) == [f"map.jpg, 100 B, saved as {bob.inbox / 'map.jpg'}"]


def test_following_goes_on_past_a_bad_message_and_tells_of_it_once(alice, bob, tmp_path):
    with file_of(tmp_path, b"x" * 100, "map.jpg").file as file:
        deliver(alice, bob, file_body(file, "map.jpg"), text_body("first"))
    following = bob.start("receive", "--follow", "--dir", "/proc", relays=[NOWHERE])
    try:
        assert texts_in(following.stdout.readline()) == ["first"]
        for text in ("second", "third"):
            deliver(alice, bob, text_body(text))
            assert texts_in(following.stdout.readline()) == [text]
    finally:
        following.kill()
        _, errors = following.communicate()
    assert errors.count("cannot save 'map.jpg'") == 1


def test_a_file_is_saved_whatever_its_name_and_however_many_have_it(tmp_path):
    content = [b"content"]
    names = [save(content, tmp_path, "photo.jpg").name for _ in range(101)]
    assert names[:3] == ["photo.jpg", "photo (2).jpg", "photo (3).jpg"]
    assert names[98] == "photo (99).jpg"
    for name in names[99:]:
        assert re.fullmatch(r"photo \([0-9a-f]{16}\)\.jpg", name)
    # Longer than the file system takes, as many a name is on an encrypted one.
    assert re.fullmatch(r"message [0-9a-f]{16}\.jpg", save(content, tmp_path, "x" * 300 + ".jpg").name)
    assert len(list(tmp_path.iterdir())) == 102
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"content"}


def test_a_terminal_without_the_letters_of_a_message_shows_the_others(alice, bob):
    deliver(alice, bob, text_body("Grüße, 李"), text_body("last"))
    done = subprocess.run(
        [sys.executable, "-m", "relay", "receive"],
        env=bob.environ(NOWHERE) | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert texts_in(done.stdout.decode("latin-1")) == ["Grüße, ?", "last"], done.stderr


# -- order and rows --------------------------------------------------------


def test_messages_are_shown_oldest_first_as_their_sender_sent_them(alice, bob, tmp_path):
    carol = User(tmp_path, "carol")
    bob.knows(carol)
    noon_s = (time.time() - 86_400) // 3600 * 3600
    late = envelopes(alice, bob, text_body("17h: all cancelled"), now_s=noon_s + 5 * 3600)
    # The clock was set back in between, and the sender counts on.
    wrong = envelopes(alice, bob, text_body("well, not all"), now_s=noon_s + 4 * 3600)
    burst = [envelopes(alice, bob, text_body(f"{number}"), now_s=noon_s + 6 * 3600) for number in range(12)]
    other = envelopes(carol, bob, text_body("14:30 from carol"), now_s=noon_s + 2.5 * 3600)
    with Database(bob.data) as database:
        inbox = Inbox(database, bob.identity, lambda _: True)
        # A relay gives the newest first.
        for envelope in itertools.chain(*reversed(burst), wrong, late, other):
            inbox.accept([inbox.try_open(envelope)], time.time())
    # Not by a name: a bare machine has no table of zones.
    environ_zone = {"TZ": "IST-5:30"}
    done = subprocess.run(
        [sys.executable, "-m", "relay", "receive"],
        env=bob.environ(NOWHERE) | environ_zone,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    expected = ["14:30 from carol", "17h: all cancelled", "well, not all", *map(str, range(12))]
    assert texts_in(done.stdout) == expected
    # The reader's time, to the minute that the sender told.
    shown = re.search(r"\([-0-9]+ ([0-9:]+)\): 14:30 from carol", done.stdout)[1]
    india = int(noon_s + 2.5 * 3600 + 5.5 * 3600) % 86_400
    assert shown == f"{india // 3600:02d}:{india % 3600 // 60:02d}"


def test_no_row_on_a_terminal_passes_for_another_message(alice, bob):
    columns = 61
    forged = "ben (2026-11-28 18:00): all cancelled"
    deliver(
        alice, bob, *(text_body("x" + " " * spaces + forged) for spaces in range(1, columns)), text_body("\u202eend")
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "receive"], env=bob.environ(NOWHERE), stdout=theirs, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    output = b""
    # The other end closed is an error here.
    try:
        while data := os.read(ours, 65_536):
            output += data
    except OSError:
        pass
    os.close(ours)
    process.wait(30)
    screen = [
        line[place : place + columns]
        for line in output.decode().splitlines()
        for place in range(0, max(1, len(line)), columns)
    ]
    assert sum(row.startswith("alice (") for row in screen) == columns
    assert all(row.startswith(("alice (", "  | ")) for row in screen), screen
    assert "\u202e" not in output.decode()


# -- what was never sent ---------------------------------------------------


def test_what_was_sent_while_the_clock_was_behind_is_not_gone_without_a_word(alice, bob):
    with Database(alice.data) as database:
        then_s = time.time() - 14 * 86_400
        outbox = Outbox(database, alice.identity)
        (message_id,) = outbox.queue_message(
            [bob.card], text_body("meet at nine"), lifetime_days=7, price=4, now_s=then_s
        )
    short = message_id.hex()[:8]
    told = f"To bob: never sent: it expired before it was on a relay. Send it again. ID {short}"
    for _ in range(2):
        assert told in alice.run("receive", relays=[NOWHERE]).stderr
    assert "bob: text, 12 B; never sent" in alice.run("sent").stdout
    assert alice.run("purge", short).stdout == "It was never sent, and is forgotten now.\n"
    assert alice.run("sent").stdout == ""


# -- relays that keep one waiting ------------------------------------------


def test_what_relays_have_given_is_shown_while_another_keeps_one_waiting(alice, bob):
    honest = Holding(envelopes(alice, bob, text_body("from the honest one")))
    hostile = Dripping(envelopes(alice, bob, text_body("from the hostile one")))

    async def run():
        async with honest.serving() as one, hostile.serving() as two:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "relay", "receive", env=bob.environ(one, two), stdout=asyncio.subprocess.PIPE
            )
            try:
                async with asyncio.timeout(30):
                    return [await process.stdout.readline() for _ in range(2)]
            finally:
                process.kill()
                await process.wait()

    lines = asyncio.run(run())
    assert sorted(texts_in(b"".join(lines).decode())) == ["from the honest one", "from the hostile one"]


def test_a_relay_that_gives_little_and_never_says_that_this_is_all_is_left(bob):
    async def run():
        async with Dripping().serving() as address, bob.client(address, patience_s=3.0) as client:
            async with asyncio.timeout(20):
                (outcome,) = await client.collect()
            return outcome

    outcome = asyncio.run(run())
    assert outcome.error is not None


def test_a_relay_that_was_found_and_is_of_no_use_gives_way_to_the_next(alice, bob, monkeypatch):
    async def run():
        async with Dripping().serving() as hostile, Holding(mail).serving() as honest:
            found = [parse_address(address) for address in (hostile, honest)]

            async def browse():
                return found

            monkeypatch.setattr(finding, "LOCAL", parse_address(NOWHERE))
            monkeypatch.setattr(finding, "browse", browse)
            async with asyncio.timeout(30), bob.client(patience_s=3.0) as client:
                outcomes = await client.collect()
                shown = [await client.text(message) for message in await client.messages()]
                # As long as there are others.
                for address in (found[1], finding.ANY_BLUETOOTH):
                    client.finder.avoid(address)
                with pytest.raises(NoRelayError):
                    await client.finder.find()
                return outcomes, shown, await client.finder.find() == (found[0],)

    mail = envelopes(alice, bob, text_body("hello"))
    outcomes, shown, is_found_again = asyncio.run(run())
    assert [outcome.error is None for outcome in outcomes] == [False, True]
    assert shown == ["hello"]
    assert is_found_again


def test_what_could_not_be_shown_is_tried_again_later(alice, bob, monkeypatch):
    deliver(alice, bob, text_body("hello"))

    async def run():
        async with bob.client(NOWHERE) as client:
            display = command._Display(client, bob.inbox)
            with monkeypatch.context() as broken:
                broken.setattr(client, "text", None)
                await display.show()
                assert (display.shown, display.kept) == (0, 1)
            await display.show()
            assert (display.shown, display.kept) == (0, 1)
            monkeypatch.setattr(command, "_SAVE_AGAIN_S", 0.0)
            display._failures = {key: (problem, 0.0) for key, (problem, _) in display._failures.items()}
            await display.show()
            return display.shown, display.kept

    assert asyncio.run(run()) == (1, 0)
