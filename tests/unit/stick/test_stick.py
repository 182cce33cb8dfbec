# SPDX-License-Identifier: GPL-2.0-or-later
"""What is a stick, what of it is looked at, and how its files reach those who download them."""

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relay.appliance import portal_server
from relay.appliance.portal_page import PortalPage
from relay.config.sticks import StickUse
from relay.control.notices import read_notices
from relay.core.errors import DecodeError
from relay.core.stats import Download
from relay.process import downloads, shelf, update_request
from relay.process.downloads import Downloads
from relay.process.shelf import Entry, make_list, piece, read_list, read_lists
from relay.process.stick_request import MAX_REQUEST_BYTES, StickRequest
from relay.process.unlock_request import MAX_SECRET_BYTES, OpeningError, ask
from relay.process.update_request import Incoming, Said
from relay.stick import app, offering
from relay.stick.content import FOLDER, Content, look, read_key
from relay.stick.found import MAX_STICKS, Stick, find_sticks, is_anything_there
from relay.stick.offering import MAX_READERS, Offering

APP = os.urandom(300_000)
SOC = "devices/platform/soc"
USB = f"{SOC}/3f980000.usb/usb1/1-1/1-1.2/1-1.2:1.0/host0/target0:0:0/0:0:0:0/block"


# Which they are


class Machine:
    """A /sys and a /dev made of files; the root is on the second partition of ``card``."""

    def __init__(self, folder, card=f"{SOC}/mmc_host/mmc0/block/mmcblk0"):
        self.sys, self.dev = folder / "sys", folder / "dev"
        self.links = self.dev / "relay/stick"
        self.links.mkdir(parents=True)
        (self.sys / "class/block").mkdir(parents=True)
        (self.sys / "dev/block").mkdir(parents=True)
        self.numbers = iter(range(100, 1000))
        for number in (1, 2):
            part = self.add(card, number)
        # The kernel checks the root: it is a device of its own, on top of the card's.
        (self.sys / "devices/virtual/block/dm-0/slaves").mkdir(parents=True)
        (self.sys / "devices/virtual/block/dm-0/slaves" / part.name).symlink_to(part)
        self.root = folder / "root"
        self.root.mkdir()
        device = self.root.stat().st_dev
        own = self.sys / f"dev/block/{os.major(device)}:{os.minor(device)}"
        own.symlink_to(self.sys / "devices/virtual/block/dm-0")

    def add(self, path, partition=0, size=1000):
        """A disk, or one of its partitions, as the kernel shows it."""
        disk = self.sys / path
        node = disk / f"{disk.name}{'p' * disk.name[-1].isdigit()}{partition}" if partition else disk
        if not disk.exists():
            disk.mkdir(parents=True)
            self._tell(disk, size)
        if partition:
            node.mkdir()
            (node / "partition").write_text(f"{partition}\n")
            self._tell(node, size)
        return node

    def _tell(self, node, size):
        number = f"8:{next(self.numbers)}"
        (node / "dev").write_text(f"{number}\n")
        (node / "size").write_text(f"{size}\n")
        (self.sys / "class/block" / node.name).symlink_to(node)
        (self.sys / "dev/block" / number).symlink_to(node)
        # Whatever it is: what udev makes of it is looked at again.
        (self.links / node.name).symlink_to(self.dev / node.name)

    def find(self):
        return find_sticks(root=self.root, sys=self.sys, dev=self.dev, links=self.links)


def test_a_stick_is_what_is_on_usb_and_never_the_card(tmp_path):
    machine = Machine(tmp_path)
    assert machine.find() == []
    assert is_anything_there(machine.links)
    machine.add(f"{USB}/sda", 1)
    machine.add(f"{USB}/sda", 2)
    machine.add(f"{USB}/sdb")
    machine.add(f"{USB}/sdc", size=0)
    assert [stick.device.name for stick in machine.find()] == ["sda1", "sda2", "sdb"]


def test_where_the_machine_started_from_usb_that_disk_is_no_stick(tmp_path):
    machine = Machine(tmp_path, card=f"{USB}/sda")
    machine.add(f"{USB}/sdb", 1)
    assert [stick.device.name for stick in machine.find()] == ["sdb1"]


def test_what_claims_to_be_a_hundred_sticks_is_looked_at_in_part_and_odd_names_not_at_all(tmp_path):
    machine = Machine(tmp_path)
    for number in range(100):
        machine.add(f"{USB}/sdz", number + 1)
    for name in ("..", "sd\n1", "a" * 40):
        with suppress(FileExistsError):
            (machine.links / name).symlink_to("/dev/null")
    assert 0 < len(machine.find()) <= MAX_STICKS


def test_a_stick_that_left_is_another_when_it_is_plugged_in_again(tmp_path):
    machine = Machine(tmp_path)
    machine.add(f"{USB}/sda", 1)
    (stick,) = machine.find()
    assert stick.is_there(machine.sys)
    (machine.sys / "dev/block" / stick.number).unlink()
    assert not stick.is_there(machine.sys)
    assert Stick(device=stick.device, number="8:7") != stick


# What of it


def test_only_fixed_names_are_looked_at_and_no_links(tmp_path):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "write.txt").touch()
    assert look(tmp_path) is None
    (tmp_path / FOLDER).symlink_to(tmp_path)
    assert look(tmp_path) is None
    (tmp_path / FOLDER).unlink()
    (tmp_path / FOLDER).mkdir()
    assert look(tmp_path) == Content(shelf=None, is_marked=False, has_key=False, has_update=False)
    (tmp_path / FOLDER / "shelf").symlink_to("/etc")
    (tmp_path / FOLDER / "write.txt").mkdir()
    assert look(tmp_path) == Content(shelf=None, is_marked=False, has_key=False, has_update=False)
    (tmp_path / FOLDER / "shelf").unlink()
    (tmp_path / FOLDER / "shelf").mkdir()
    (tmp_path / FOLDER / "write.txt.txt").touch()
    assert look(tmp_path) == Content(shelf=tmp_path / FOLDER / "shelf", is_marked=True, has_key=False, has_update=False)


SECRET = "correct horse battery staple, and a lamp post"


def put_key(where, content, name="key.txt"):
    folder = where / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


@given(
    text=st.text(
        st.characters(exclude_categories=("Cs",), exclude_characters="\r\n\0\ufeff"), min_size=1, max_size=200
    ),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "utf-16")),
    end=st.sampled_from(("", "\n", "\r\n", "\r", "\n\n")),
    name=st.sampled_from(("key.txt", "key.txt.txt")),
)
def test_the_key_is_what_somebody_types_whatever_editor_wrote_it(tmp_path_factory, text, encoding, end, name):
    where = tmp_path_factory.mktemp("stick")
    # What begins so is a document of a word processor, and told as that.
    assume(not text.startswith(("{\\rtf", "PK\x03\x04")))
    put_key(where, (text + end).encode(encoding), name)
    content = look(where)
    assert content is not None
    assert content.has_key
    assert read_key(where) == text.encode()


@given(raw=st.binary(max_size=300))
def test_a_key_of_any_bytes_is_one_line_or_none(tmp_path_factory, raw):
    where = tmp_path_factory.mktemp("stick")
    put_key(where, raw)
    secret = read_key(where)
    assert secret is None or (b"\n" not in secret and 0 < len(secret) <= MAX_SECRET_BYTES)


def test_a_key_is_one_line_of_a_file_and_of_nothing_else(tmp_path):
    (tmp_path / FOLDER).mkdir()
    assert read_key(tmp_path) is None
    for content in (b"", b"\n", b"two\nlines", b"\xff\xfe\xff", b"x" * (MAX_SECRET_BYTES + 1), bytes(64 << 20)):
        put_key(tmp_path, content)
        assert read_key(tmp_path) is None, content[:20]
    put_key(tmp_path, b"x" * MAX_SECRET_BYTES)
    assert read_key(tmp_path) == b"x" * MAX_SECRET_BYTES
    key = tmp_path / FOLDER / "key.txt"
    for make in (lambda: key.symlink_to("/etc/passwd"), lambda: os.mkfifo(key), key.mkdir):
        key.unlink()
        make()
        content = look(tmp_path)
        assert content is not None
        assert not content.has_key
        assert read_key(tmp_path) is None
        if key.is_dir():
            break


class Opener:
    """Stands where the store is opened, and says the same to everybody who hands in a secret."""

    def __init__(self, path, said):
        self.secrets = []
        self._said = said
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, connection.makefile("rb") as file:
                    self.secrets.append(file.read())
                    connection.sendall(self._said)


def test_what_is_wrong_with_a_secret_comes_back_in_words(tmp_path):
    with pytest.raises(OpeningError, match="appliance only"):
        ask(b"x", tmp_path / "none")
    for number, (said, told) in enumerate(
        (
            (b'"that is not its passphrase"\n', "not its passphrase"),
            (b"", "appliance only"),
            (b"[1\n", "appliance only"),
        )
    ):
        path = tmp_path / str(number)
        with Opener(path, said) as opener, pytest.raises(OpeningError, match=told):
            ask(SECRET.encode(), path)
        assert opener.secrets == [SECRET.encode()]


@pytest.mark.parametrize(
    ("uses", "waits", "content", "said", "told", "asked"),
    [
        ({"key"}, True, SECRET, b'""\n', "pull the stick out", True),
        ({"key"}, True, SECRET, b'"that is not its passphrase"\n', "that is not its passphrase", True),
        ({"key"}, True, "two\nlines", b'""\n', "cannot be read", False),
        ({"report"}, True, SECRET, b'""\n', "anybody could plug one in", False),
        # Nothing to open: nobody reads a key.
        ({"key"}, False, SECRET, b'""\n', "", False),
    ],
)
def test_a_key_is_handed_in_where_the_operator_wants_it_and_something_waits_for_it(
    tmp_path, monkeypatch, uses, waits, content, said, told, asked
):
    put_key(tmp_path, content.encode())
    waiting = tmp_path / "store-when-open"
    if waits:
        waiting.touch()
    monkeypatch.setattr(app, "STORE_WHEN_OPEN", waiting)
    monkeypatch.setattr(app, "MOUNT", tmp_path)
    monkeypatch.setattr(app, "REPORTED", tmp_path / "reported")
    with Opener(tmp_path / "socket", said) as opener:
        monkeypatch.setattr(app, "ask", lambda secret: ask(secret, tmp_path / "socket"))
        sticks = app.Sticks({StickUse(use) for use in uses}, tmp_path / "control")
        sticks._open_store()
    assert opener.secrets == [SECRET.encode()] * asked
    texts = [notice.text for notice in sticks._notices]
    assert len(texts) == bool(told)
    assert told in "".join(texts)
    assert SECRET not in "".join(texts)
    # By which the light says that it may be pulled out.
    assert (tmp_path / "reported").exists() is ("pull the stick out" in told)


class PluggedIn:
    """A stick that stays."""

    def is_there(self):
        return True


class Taker(threading.Thread):
    """Who takes updates: asks for two pieces, and says what it thinks of them."""

    def __init__(self, path, said):
        super().__init__()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._said = said
        self.got = b""
        self.older = None

    def run(self):
        connection, _ = self._listener.accept()
        with self._listener, connection:
            incoming = Incoming(connection, 20)
            self.older = incoming.older
            self.got = incoming.read(0, 4) + incoming.read(6, 4)
            incoming.say(self._said)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Said(text="Version 9 is on the card.", reason=""), "Version 9 is on the card."),
        (Said(text="it is older", reason="older"), "The stick's update is not used: it is older."),
    ],
)
def test_an_update_is_read_piece_by_piece_and_what_became_of_it_is_told(tmp_path, monkeypatch, said, told):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "update.relay").write_bytes(b"0123456789")
    monkeypatch.setattr(app, "MOUNT", tmp_path)
    monkeypatch.setattr(app, "REPORTED", tmp_path / "reported")
    monkeypatch.setattr(app, "NOTICES", [tmp_path / "notices"] * 3)
    sticks = app.Sticks({StickUse.UPDATE}, tmp_path / "control")
    taker = Taker(tmp_path / "socket", said)
    taker.start()
    sticks._hand_in(update_request.connect(tmp_path / "socket"), PluggedIn())
    taker.join()
    assert taker.got == b"01236789"
    # Only a person takes what is older.
    assert taker.older is False
    assert [notice.text for notice in read_notices([tmp_path / "notices"])] == [told]
    assert (tmp_path / "reported").exists()


@pytest.mark.parametrize("has_update", [False, True])
def test_a_stick_with_a_report_may_be_pulled_out_once_its_update_was_read(tmp_path, monkeypatch, has_update):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "write.txt").touch()
    if has_update:
        (folder / "update.relay").write_bytes(b"0123456789")
    monkeypatch.setattr(app, "MOUNT", tmp_path)
    monkeypatch.setattr(app, "REPORTED", tmp_path / "reported")
    monkeypatch.setattr(app.privilege, "mount", lambda *_, **__: None)
    monkeypatch.setattr(app.privilege, "unmount", lambda *_: None)
    sticks = app.Sticks({StickUse.REPORT, StickUse.UPDATE}, tmp_path / "control")
    monkeypatch.setattr(sticks, "_report_text", lambda _: b"report")
    taken = app.Taken(stick=Stick(device=tmp_path / "sda", number="8:0"), content=look(tmp_path))
    sticks._report(taken)
    assert (tmp_path / "reported").exists() is not has_update
    assert ("may be pulled out" in sticks._notices[0].text) is not has_update


def test_an_update_is_not_even_opened_where_the_operator_does_not_want_that(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "REPORTED", tmp_path / "reported")
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "update.relay").write_bytes(b"0123456789")
    sticks = app.Sticks({StickUse.REPORT}, tmp_path / "control")
    found = look(tmp_path)
    assert found.has_update
    assert sticks._find_taker(app.Taken(stick=None, content=found)) is None
    assert "is not used" in sticks._notices[0].text
    # On no appliance nobody takes one.
    sticks = app.Sticks({StickUse.UPDATE}, tmp_path / "control")
    assert sticks._find_taker(app.Taken(stick=None, content=found)) is None
    assert "appliance only" in sticks._notices[0].text


def test_a_folder_of_any_number_of_names_is_looked_at_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "MAX_LOOKED", 10)
    for number in range(30):
        (tmp_path / f"{number}.apk").touch()
    assert len(shelf.look(tmp_path)[0]) == 10
    large = tmp_path / "large"
    large.mkdir()
    with (large / "x.apk").open("wb") as file:
        file.truncate(shelf.MAX_FILE_BYTES + 1)
    assert shelf.look(large) == ([], {"x.apk": shelf.Missing.LARGE})


# Both shelves as one


def test_what_is_on_the_card_is_not_replaced_by_what_is_plugged_in(tmp_path):
    lists = (tmp_path / "card.json", tmp_path / "stick.json")
    shelf.write_list([Entry(name="a.apk", size=1)], lists[0])
    assert list(read_lists(lists)) == ["a.apk"]
    before = shelf.changed_at(lists)
    shelf.write_list([Entry(name=f"{n}.apk", size=2, stick=True) for n in "ab"], lists[1])
    assert shelf.changed_at(lists) != before
    found = read_lists(lists)
    assert {name: entry.stick for name, entry in found.items()} == {"a.apk": False, "b.apk": True}
    many = [Entry(name=f"{n}.pdf", size=2, stick=True) for n in range(shelf.MAX_FILES)]
    shelf.write_list(many, lists[1])
    assert len(read_lists(lists)) == shelf.MAX_FILES
    lists[1].unlink()
    assert list(read_lists(lists)) == ["a.apk"]


@pytest.mark.parametrize(
    "row",
    [
        {"name": "a\r\nSet-Cookie: x"},
        {"name": "../relay.toml"},
        {"name": 'x".apk'},
        {"size": -1},
        {"size": "1"},
        {"size": True},
        {"size": 1 << 60},
        {"sha256": '"'},
        {"sha256": "A" * 64},
        {"stick": 1},
        {"more": 1},
    ],
)
def test_a_list_with_one_unsound_row_is_none(tmp_path, row):
    sound = {"name": "a.apk", "size": 1, "sha256": "", "stick": True}
    path = tmp_path / "list.json"
    path.write_text(json.dumps([sound]))
    assert read_list(path)
    path.write_text(json.dumps([sound, sound | row]))
    assert read_list(path) == {}


# From the stick to who downloads


@given(st.binary(max_size=600))
def test_any_request_is_one_or_none(line):
    with suppress(DecodeError):
        assert StickRequest.decode(StickRequest.decode(line).encode()[:-1]) == StickRequest.decode(line)


def test_the_longest_request_fits():
    request = StickRequest(name="x" * 100, start=shelf.MAX_FILE_BYTES, length=shelf.MAX_FILE_BYTES)
    assert len(request.encode()) < MAX_REQUEST_BYTES
    for line in (
        b"[" * 100_000,
        b"{}",
        b'{"name": "x", "start": -1, "length": 1}',
        b'{"name": 1, "start": 0, "length": 1}',
    ):
        with pytest.raises(DecodeError):
            StickRequest.decode(line)


class Plugged:
    """A folder that is offered as a stick's, by the thread that would be the process."""

    def __init__(self, folder):
        self.folder, self.listing, self.path = folder / "files", folder / "list.json", folder / "files.sock"
        self.folder.mkdir()
        (self.folder / "app.apk").write_bytes(APP)
        make_list(self.folder, self.listing, pytest.fail, stick=True)
        self.entry = read_list(self.listing)["app.apk"]
        self.is_there = True
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(MAX_READERS)
        self.offering = Offering(self.listener, self.folder, self.listing)
        self.thread = threading.Thread(target=self.offering.run, args=(lambda: self.is_there,))
        self.thread.start()

    def leave(self):
        """What systemd does at the end of the process is done here: its sockets close, its files go."""
        self.is_there = False
        self.thread.join()
        self.listener.close()
        self.path.unlink(missing_ok=True)
        self.listing.unlink(missing_ok=True)


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    monkeypatch.setattr(offering, "LOOK_S", 0.05)
    made = Plugged(tmp_path)
    yield made
    made.leave()


async def fetch(sending, entry, wanted=""):
    found = b""
    async with aclosing(sending.blocks(entry, piece(entry, wanted, ""))) as blocks:
        async for block in blocks:
            found += block
    return found


def test_a_file_comes_whole_and_in_parts(plugged, tmp_path):
    assert plugged.entry.stick
    assert plugged.entry.sha256
    sending = Downloads(tmp_path / "no card", stick=plugged.path, rate=1e9)
    assert asyncio.run(fetch(sending, plugged.entry)) == APP
    assert asyncio.run(fetch(sending, plugged.entry, "bytes=100000-100999")) == APP[100_000:101_000]


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"x" * 10_000, b'{"name": "../list.json", "start": 0, "length": 1}\n',
        b'{"name": "app.apk", "start": 300000, "length": 1}\n', b'{"name": "app.apk", "start": 0, "length": 9999999}\n',
    ],
)  # fmt: skip
def test_what_is_not_offered_is_given_to_nobody(plugged, line):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(plugged.path))
        with suppress(OSError):
            sock.sendall(line)
        with suppress(ConnectionError):
            assert sock.recv(1) == b""


def test_a_stick_that_leaves_ends_what_is_being_fetched_and_nothing_else(plugged, tmp_path):
    sending = Downloads(tmp_path / "no card", stick=plugged.path, rate=1e9)

    async def scene():
        async with aclosing(sending.blocks(plugged.entry, piece(plugged.entry, "", ""))) as blocks:
            got = await anext(blocks)
            # The file is gone, as it is for who reads it once the stick has left.
            await asyncio.to_thread(os.truncate, plugged.folder / "app.apk", len(got))
            await asyncio.to_thread(plugged.leave)
            # What was read before is still on its way.
            with suppress(OSError):
                async for block in blocks:
                    got += block
        assert APP.startswith(got)
        assert len(got) < len(APP)
        with pytest.raises(OSError, match="pulled out"):
            await fetch(sending, plugged.entry)

    asyncio.run(scene())
    assert read_lists((plugged.listing,)) == {}


def test_a_stick_that_hangs_holds_nobody_s_event_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "STICK_TIMEOUT_S", 0.5)
    path = tmp_path / "files.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        sending = Downloads(tmp_path, stick=path, rate=1e9)

        async def scene():
            fetching = asyncio.ensure_future(fetch(sending, Entry(name="x", size=10, stick=True)))
            began, turns = time.monotonic(), 0
            while not fetching.done():
                await asyncio.sleep(0.01)
                turns += 1
            # OSError and none of its kinds: these are how a reader's own end is known.
            assert type(fetching.exception()) is OSError
            assert turns > 10
            return time.monotonic() - began

        assert asyncio.run(scene()) < 5


def test_more_readers_than_there_are_places_are_sent_away(plugged):
    held = []
    for _ in range(MAX_READERS):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(str(plugged.path))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(plugged.path))
        assert sock.recv(1) == b""
    for one in held:
        one.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(plugged.path))
            sock.settimeout(10)
            with suppress(BrokenPipeError):
                sock.sendall(StickRequest(name="app.apk", start=0, length=10).encode())
            with suppress(ConnectionError):
                if sock.recv(10) == APP[:10]:
                    return
    pytest.fail("nobody has a place any more")


# Its one privilege


def test_what_it_could_do_before_it_cannot_do_afterwards():
    """In a process of its own, as there is no way back. With root's rights it has all of them before."""
    script = """
        import os, threading, time
        from pathlib import Path
        from relay.stick import privilege
        held = threading.Event()
        other = threading.Thread(target=held.wait)
        other.start()
        try:
            privilege.give_up()
            raise SystemExit("it went on with a thread that keeps its privileges")
        except privilege.PrivilegeError:
            held.set()
            other.join()
            # The kernel's is there a moment longer than Python's.
            while len(os.listdir("/proc/self/task")) > 1:
                time.sleep(0.01)
        assert bool(privilege.privileges()) == (os.geteuid() == 0)
        privilege.give_up()
        assert privilege.privileges() == 0
        try:
            privilege.mount(Path("/dev/null"), Path("/"))
        except OSError as error:
            print(error.errno)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split() == [str(errno.EPERM)], done.stderr


# The whole way, as a phone has it


@asynccontextmanager
async def portal(monkeypatch, folder, plugged):
    """Its port, and how downloads from it ended; the card has nothing."""
    made = []

    def slow(where):
        made.append(Downloads(where, stick=plugged.path, rate=2e5))
        return made[0]

    monkeypatch.setattr(portal_server, "Downloads", slow)
    listening = socket.create_server(("127.0.0.1", 0))
    lists = (folder / "none.json", plugged.listing)
    running = portal_server.serve(listening, PortalPage(), idle_s=60, folder=folder / "none", lists=lists)
    serving = asyncio.ensure_future(running)
    try:
        yield listening.getsockname()[1], made
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


@asynccontextmanager
async def asking(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 10.42.70.1\r\n\r\n".encode())
    try:
        async with asyncio.timeout(20):
            yield reader
    finally:
        writer.close()


async def answer(port, path):
    async with asking(port, path) as reader:
        return await reader.read()


def test_a_phone_sees_the_stick_s_files_until_it_leaves_in_the_middle_of_a_download(plugged, tmp_path, monkeypatch):
    async def scene():
        async with portal(monkeypatch, tmp_path, plugged) as (port, made):
            assert b"app.apk" in await answer(port, "/shelf/")
            async with asking(port, "/shelf/app.apk") as reader:
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                got = await reader.readexactly(20_000)
                await asyncio.to_thread(os.truncate, plugged.folder / "app.apk", 0)
                await asyncio.to_thread(plugged.leave)
                got += await reader.read()
            assert APP.startswith(got)
            assert len(got) < len(APP)
            assert made[0].stats.by_label(Download)["unreadable"] == 1
            assert len(made[0]) == 0
            assert b"app.apk" not in await answer(port, "/shelf/")
            assert b"404" in await answer(port, "/shelf/app.apk")

    asyncio.run(scene())
