# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio
import contextlib
import random
import socket
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.appliance.checks import ANY_PATH, read_checks
from relay.appliance.dhcp_probe import decode_offer, encode_probe, is_router
from relay.appliance.election import PROBE_S, SERVER_S, SILENCE_S, TAKEOVER_S, Election, Role, Unopposed
from relay.appliance.mdns import NAME, announce, asked_for
from relay.appliance.portal import MAX_REQUEST_BYTES, answer
from relay.appliance.portal_page import PortalPage
from relay.appliance.portal_server import serve
from relay.appliance.segment import Files
from relay.core.errors import DecodeError

#: What the issue allows.
SETTLED_S = 30
CHECKS = read_checks()


class World:
    """Relays on segments; each question is answered after a while by every server on the same segment."""

    def __init__(self, seed, *, loss=0.0):
        self.random = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.relays = {}
        self.segment = {}
        self.routers = set()
        self.answers = []

    def add(self, name, segment):
        number = self.random.randbytes(8)
        self.relays[name] = Election(number=number, now=self.now, random=self.random.random), number
        self.segment[name] = segment

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            for name, (election, _) in self.relays.items():
                if election.expire(self.now) and self.random.random() >= self.loss:
                    self._ask(name)
            due = [answer for answer in self.answers if answer[0] <= self.now]
            self.answers = [answer for answer in self.answers if answer[0] > self.now]
            for _, asker, server in due:
                self._hear(asker, server)

    def _ask(self, asker):
        for name, (election, _) in self.relays.items():
            if name != asker and self.segment[name] == self.segment[asker] and election.role is Role.SERVING:
                self.answers.append((self.now + self.random.random() * SERVER_S, asker, name))
        if self.segment[asker] in self.routers:
            self.answers.append((self.now + 0.1, asker, None))

    def _hear(self, asker, server):
        if self.random.random() < self.loss or asker not in self.relays:
            return
        if server is None:
            self.relays[asker][0].heard_server(self.now)
        elif server in self.relays and self.segment[server] == self.segment[asker]:
            self.relays[asker][0].heard_relay(self.relays[server][1], self.now)

    def serving(self, segment):
        return {
            name
            for name, (election, _) in self.relays.items()
            if election.role is Role.SERVING and self.segment[name] == segment
        }


SEEDS = st.integers(0, 2**32)
#: Minutes of a segment take long on a busy machine.
SIMULATED = settings(deadline=None, max_examples=50)


@SIMULATED
@given(SEEDS, st.integers(1, 12))
def test_where_nobody_serves_one_relay_soon_does(seed, count):
    world = World(seed)
    for number in range(count):
        world.add(number, "a")
    world.run(SETTLED_S)
    assert len(world.serving("a")) == 1


@SIMULATED
@given(SEEDS, st.integers(1, 5))
def test_where_somebody_serves_no_relay_ever_does(seed, count):
    world = World(seed)
    world.routers.add("a")
    for number in range(count):
        world.add(number, "a")
    for _ in range(60):
        world.run(10)
        assert not world.serving("a")


@SIMULATED
@given(SEEDS, st.integers(2, 6))
def test_when_segments_meet_all_but_one_yield_in_time(seed, count):
    world = World(seed)
    for number in range(count):
        world.add(number, number)
    world.run(60)
    assert all(len(world.serving(number)) == 1 for number in range(count))
    world.segment = dict.fromkeys(world.segment, 0)
    world.run(SETTLED_S)
    (left,) = world.serving(0)
    assert world.relays[left][1] == min(number for _, number in world.relays.values())
    for _ in range(30):
        world.run(10)
        assert world.serving(0) == {left}


@SIMULATED
@given(SEEDS)
def test_when_a_router_comes_the_relay_yields_in_time(seed):
    world = World(seed)
    world.add("relay", "a")
    world.run(60)
    assert world.serving("a")
    world.routers.add("a")
    world.run(SETTLED_S)
    assert not world.serving("a")


@SIMULATED
@given(SEEDS, st.integers(2, 6))
def test_when_the_one_that_served_is_gone_another_takes_over(seed, count):
    world = World(seed)
    for number in range(count):
        world.add(number, "a")
    world.run(60)
    (gone,) = world.serving("a")
    del world.relays[gone]
    world.run(SILENCE_S + TAKEOVER_S + 1)
    assert world.serving("a")
    world.run(2 * PROBE_S + SERVER_S)
    assert len(world.serving("a")) == 1


@SIMULATED
@given(SEEDS)
def test_on_a_bad_segment_they_settle_as_well(seed):
    world = World(seed, loss=0.2)
    for number in range(3):
        world.add(number, "a")
    world.run(600)
    served = []
    for _ in range(200):
        world.run(3)
        served.append(len(world.serving("a")))
    # Three answers lost in a row look like nobody; that is mended at the next question.
    assert sum(count == 1 for count in served) >= 0.9 * len(served)


def test_a_relay_hears_nothing_in_its_own_voice():
    election = Election(number=b"12345678", now=0, random=lambda: 0.0)
    election.expire(20)
    assert election.role is Role.SERVING
    election.heard_relay(b"12345678", 21)
    assert election.role is Role.SERVING


# DHCP


def offer(*, options, transaction=7, op=2, port=68, cookie=b"\x63\x82\x53\x63"):
    """An answer as a server makes it; written from RFC 2131, not by the code under test."""
    message = (
        struct.pack("!BBBBIHH", op, 1, 6, 0, transaction, 0, 0x8000) + bytes(16 + 16 + 64 + 128) + cookie + options
    )
    udp = struct.pack("!HHHH", 67, port, 8 + len(message), 0) + message
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\n\0\0\1", b"\xff" * 4) + udp


OFFER = b"\x35\x01\x02"


def test_a_servers_offer_is_heard():
    found = decode_offer(offer(options=OFFER + b"\x36\x04\x0a\0\0\1\xff"))
    assert (found.transaction, found.election) == (7, None)


def test_a_relays_offer_says_its_number():
    found = decode_offer(offer(options=b"\0" + OFFER + b"\xe0\x08abcdefgh\xff"))
    assert found.election == b"abcdefgh"


def test_a_number_that_is_none_is_no_relay():
    assert decode_offer(offer(options=OFFER + b"\xe0\x04abcd\xff")).election is None


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(20),
        offer(options=b"\x35\x01\x05\xff"),
        offer(options=b"\x35"),
        offer(options=b"\x35\xff\x02"),
        offer(options=OFFER, op=1),
        offer(options=OFFER, port=67),
        offer(options=OFFER, cookie=b"abcd"),
        offer(options=OFFER)[:200],
    ],
)
def test_what_is_no_offer_is_refused(packet):
    with pytest.raises(DecodeError):
        decode_offer(packet)


@given(st.binary(max_size=400), st.integers(0, 300))
def test_any_packet_is_an_offer_or_refused(noise, cut):
    for packet in (noise, offer(options=noise)[: 240 + cut], b"\x45" + noise):
        try:
            decode_offer(packet)
        except DecodeError:
            continue


def test_the_question_names_nobody():
    packet = encode_probe(0x01020304, b"\x02\0\0\0\0\1")
    header = packet[:20]
    assert sum(struct.unpack("!10H", header)) % 0xFFFF == 0
    assert packet[12:20] == bytes(4) + b"\xff" * 4
    options = packet[20 + 8 + 240 :]
    # Type and what is asked for; no name, no vendor, no client identifier, no address of before.
    assert options == b"\x35\x01\x01\x37\x03\x01\x03\xe0\xff"


def test_only_a_way_out_makes_a_router():
    assert is_router(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0))
    assert not is_router(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0))
    assert not is_router(struct.pack("!BBHBBHII", 133, 0, 0, 64, 0, 1800, 0, 0))
    assert not is_router(b"\x86")


# relay.local

ADDRESS = IPv4Address("10.200.1.1")


def query(*names, kind=1, flags=0):
    questions = b"".join(
        b"".join(bytes([len(label)]) + label for label in name.split(b".")) + b"\0" + struct.pack("!HH", kind, 1)
        for name in names
    )
    return struct.pack("!HHHHHH", 0, flags, len(names), 0, 0, 0) + questions


def test_who_asks_for_relay_local_gets_its_address():
    for packet in (query(b"relay.local"), query(b"RELAY.local", kind=255), query(b"printer.local", b"relay.local")):
        assert asked_for(packet, {NAME}) == "relay"
    assert announce(ADDRESS).endswith(b"\x05relay\x05local\0\0\x01\x80\x01\0\0\0\x1e\0\x04" + ADDRESS.packed)


def test_a_relay_is_known_by_the_name_that_it_was_given_and_by_no_other():
    assert asked_for(query(b"Gate-2.local"), {"gate-2"}) == "gate-2"
    assert asked_for(query(b"relay.local"), {"gate-2"}) is None
    assert asked_for(query(b"relay.local"), set()) is None
    assert announce(ADDRESS, "gate-2").count(b"\x06gate-2\x05local\0") == 1


@pytest.mark.parametrize(
    "packet",
    [
        query(b"printer.local"),
        query(b"my.relay.local"),
        query(b"relay.local", kind=28),
        query(b"relay.local", flags=0x8400),
        query(b"relay.local")[:-1],
        b"",
    ],
)
def test_other_questions_are_not_answered(packet):
    assert asked_for(packet, {NAME}) is None


@given(st.binary(max_size=200))
def test_any_question_can_be_asked(noise):
    asked_for(noise, {NAME})
    asked_for(struct.pack("!HHHHHH", 0, 0, 40, 0, 0, 0) + noise, {NAME})


# Port 80


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/generate_204", b"204 No Content", b""),
        ("/gen_204?x=1", b"204 No Content", b""),
        ("/hotspot-detect.html", b"200 OK", b"<BODY>Success</BODY>"),
        ("/connecttest.txt", b"200 OK", b"Microsoft Connect Test"),
        ("/ncsi.txt", b"200 OK", b"Microsoft NCSI"),
        ("/success.txt", b"200 OK", b"success\n"),
        ("http://CAPTIVE.apple.com", b"200 OK", b"<BODY>Success</BODY>"),
        ("http://nmcheck.gnome.org./x", b"200 OK", b"NetworkManager is online"),
        ("/etc/passwd", b"404 Not Found", b"http://10.42.70.1/"),
    ],
)
def test_each_phone_gets_what_it_wants(path, status, body):
    found = answer(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), CHECKS)
    head, _, rest = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert body in rest
    assert not rest or f"Content-Length: {len(rest)}".encode() in head


def test_what_is_no_question_is_refused():
    assert answer(b"POST /generate_204 HTTP/1.1\r\n\r\n", CHECKS).startswith(b"HTTP/1.1 405")
    assert answer(b"\x16\x03\x01 hello", CHECKS).startswith(b"HTTP/1.1 400")
    assert answer(b"HEAD /generate_204 HTTP/1.1\r\n\r\n", CHECKS).endswith(b"\r\n\r\n")


def test_the_table_of_checks_is_whole():
    seen = set()
    for host, path, check in CHECKS.questions():
        # Else one of the two is never answered.
        assert (host, path) not in seen
        seen.add((host, path))
        assert host == host.lower()
        assert path == ANY_PATH or path.startswith("/")
        assert (check.answer.status == 204) == (not check.answer.body)
        assert check.source
        assert check.system
        # One line each, and short enough for one packet.
        for word in (check.answer.type, *check.answer.headers, *check.answer.headers.values()):
            assert word.isprintable()
        assert len(check.answer.body) < MAX_REQUEST_BYTES / 8
    for name in CHECKS.names:
        assert name.host not in CHECKS.hosts


async def fetch(port, request, own="127.0.0.1"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(own, 0))
    writer.write(request)
    found = await reader.read()
    writer.close()
    return found


def test_the_portal_answers_many_and_then_ends():
    async def main():
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        serving = asyncio.ensure_future(serve(listening, PortalPage(), idle_s=0.5))
        request = b"GET /generate_204 HTTP/1.1\r\n\r\n"
        found = await asyncio.gather(*(fetch(port, request, f"127.0.2.{n % 25 + 1}") for n in range(100)))
        assert all(answered.startswith(b"HTTP/1.1 204") for answered in found)
        # Dropped with what was not read: its end is a reset or none, as it happens.
        with contextlib.suppress(ConnectionResetError):
            assert await fetch(port, b"x" * 20_000) == b""
        await asyncio.wait_for(serving, 10)

    asyncio.run(main())


@pytest.mark.usefixtures("open_files")
@pytest.mark.parametrize("addresses", [1, 225])
def test_a_probe_is_answered_beside_any_number_of_silent_connections(addresses):
    """Those of before took turns of five seconds: 900 of them were 70 s, and phones left."""
    request = b"GET /generate_204 HTTP/1.1\r\n\r\n"

    class Silent(asyncio.Protocol):
        """Says half a head, and is told by ``lost`` that it was thrown out."""

        def __init__(self):
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            transport.write(request[:-2])

        def connection_lost(self, _):
            if not self.lost.done():
                self.lost.set_result(None)

    async def hold(port, own):
        loop = asyncio.get_running_loop()
        while True:
            transport, silent = await loop.create_connection(Silent, "127.0.0.1", port, local_addr=(own, 0))
            try:
                await silent.lost
                # Another one for each that is closed.
                await asyncio.sleep(0.5)
            finally:
                transport.abort()

    async def main():
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        serving = asyncio.ensure_future(serve(listening, PortalPage(), idle_s=5))
        silent = [asyncio.ensure_future(hold(port, f"127.0.3.{n % addresses + 1}")) for n in range(900)]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(20):
            for phone in range(5):
                found = await fetch(port, request, f"127.0.4.{phone + 1}")
                assert found.startswith(b"HTTP/1.1 204")
        for holding in (*silent, serving):
            holding.cancel()
        await asyncio.gather(*silent, serving, return_exceptions=True)

    asyncio.run(main())


def test_on_the_own_access_point_nobody_is_believed_to_serve():
    own = Unopposed()
    own.heard_server(1.0)
    own.heard_relay(b"", 2.0)
    assert not own.expire(1e9)
    assert own.role is Role.SERVING


def test_files_say_whether_it_serves_and_never_both(tmp_path):
    server = Files(tmp_path, "dhcp")

    async def main():
        said = []
        for step in (server.start, server.start, server.stop, server.stop, server.start):
            await step()
            said.append([path.name for path in tmp_path.iterdir()])
        assert said == [["dhcp"], ["dhcp"], ["idle"], ["idle"], ["dhcp"]]

    asyncio.run(main())
