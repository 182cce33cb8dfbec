# SPDX-License-Identifier: GPL-2.0-or-later
"""Test phones, written from the facts and not from relay.bitchat.rules: each refuses what its app refuses.

What is known of the apps are the verdicts and constants in tests/vectors/bitchat.json (test_phones.py holds the phones
to every one of them), and facts read from both apps' code of the same versions. Free of I/O: frames go in by `hear`,
`due` says what the phone sends by itself (it passes on, asks, answers and announces itself where it `acts`).

What a phone must not get is in `refused`, and where one was made to believe that a link is somebody else, in `misled`:
every test wants both to be empty. What it could not check, as it does not know the sender, is in `strangers`; what its
screen lost as too much at once in `lost`; what it had forgotten and got again in `repeated`, other duplicates in
`known`.
"""

import contextlib
import heapq
import random
import zlib

from relay.bitchat.announce import Identity, read_announce
from relay.bitchat.courier import decode_letter
from relay.bitchat.fragments import decode_piece, split
from relay.bitchat.gcs import encode_filter, most_ids
from relay.bitchat.packet import PacketType, decode_packet, make_packet
from relay.bitchat.private import NoiseSession, PrivateMessage, decode_private_message
from relay.bitchat.sync import decode_request_sync, encode_request_sync
from relay.core.errors import DecodeError, RelayError

#: The link of a phone that has one.
ONLY = "link"
SEEN_S = 300
MOST_SEEN = 1000
PIECES_S = 30
MOST_SET_BYTES = 1 << 20
DIRECTED = frozenset({PacketType.NOISE_HANDSHAKE, PacketType.NOISE_ENCRYPTED, PacketType.COURIER})


class Phone:
    """What both apps have in common."""

    frame_bytes = 512
    takes_long = False
    #: How long after somebody's last announce what he said is no longer in the phone's filter.
    forgets_s = 0
    most_pieces = 0
    most_sets = 0
    filter_bytes = 0

    def __init__(self, name, wall_ms, *, acts=False):
        """``wall_ms``: what its clock says at now = 0. ``acts``: it announces itself and asks as its app does."""
        seed = name.encode().ljust(32, b".")
        self.name = name
        self.identity = Identity.from_seeds(seed, seed)
        self.id = self.identity.peer_id
        self.wall_ms = wall_ms
        self.acts = acts
        self.random = random.Random(zlib.crc32(seed))
        #: By link, who it believes is at the other end.
        self.links = {}
        self.asked = {}
        #: Signing keys by peer, and when he was heard last.
        self.keys = {}
        self.heard_at = {}
        self.names = {}
        self.shown = []
        self.shown_ids = set()
        self.accepted = []
        self.refused = []
        self.misled = []
        self.strangers = []
        self.lost = []
        self.repeated = []
        self.known = []
        self.letters = []
        #: Conversations: sessions by peer, what waits for one, and (peer, text) of what came.
        self.sessions = {}
        self.untold = {}
        self.private = []
        self.pieces = {}
        self.seen = {}
        self.announces = {}
        self.messages = {}
        self.relaying = []
        self.relayed = set()
        self.outgoing = []
        self.announce_at = 0.0
        self.ask_at = {}
        self._number = 0

    # What it says

    def time_ms(self, now):
        return self.wall_ms + int(1000 * now)

    def announce(self, now, **other):
        return self.identity.announce(self.name, self.time_ms(now), **other).encode()

    def packet(self, kind, payload, now, **other):
        return make_packet(kind, payload, sender=self.id, timestamp_ms=self.time_ms(now), **other)

    def say(self, text, now, **other):
        packet = self.identity.sign(self.packet(PacketType.MESSAGE, text.encode(), now, **other))
        self.messages[packet.sync_id] = packet
        return packet

    def frames(self, packet):
        """A packet as what it writes: in pieces where it is too long."""
        data = packet.encode()
        if len(data) > self.frame_bytes:
            data = packet.encode(padded=False)
        return [data] if len(data) <= self.frame_bytes else [piece.encode() for piece in split(packet, 512)]

    def tell(self, peer, text, now):
        """Say something to one peer alone."""
        self.untold.setdefault(peer, []).append(text)
        if peer not in self.sessions:
            session = self.sessions[peer] = self.session(initiator=True)
            self.broadcast(self.packet(PacketType.NOISE_HANDSHAKE, session.start(), now, recipient=peer))
        self.tell_rest(peer, now)

    def tell_rest(self, peer, now):
        session = self.sessions[peer]
        while session.is_open and self.untold.get(peer):
            message = PrivateMessage(message_id=f"{self.random.random()}", content=self.untold[peer].pop(0)).encode()
            self.broadcast(self.packet(PacketType.NOISE_ENCRYPTED, session.encrypt(message), now, recipient=peer))

    def session(self, *, initiator):
        return NoiseSession(initiator=initiator, static=self.identity.noise, random_bytes=self.random.randbytes)

    def converse(self, packet, now):
        """Take part of a conversation."""
        peer = packet.sender
        if packet.type == PacketType.NOISE_ENCRYPTED:
            if (session := self.sessions.get(peer)) is not None:
                self.private.append((peer, decode_private_message(session.decrypt(packet.payload)).content))
            return
        if len(packet.payload) == 32:
            self.sessions[peer] = self.session(initiator=False)
        if (session := self.sessions.get(peer)) is not None:
            answer = session.receive_handshake(packet.payload)
            if answer is not None:
                self.broadcast(self.packet(PacketType.NOISE_HANDSHAKE, answer, now, recipient=peer))
            self.tell_rest(peer, now)

    def broadcast(self, packet):
        for link in self.links:
            self.send(link, packet)

    # Its links

    @property
    def linked_to(self):
        """Who it believes is at the other end of its first link."""
        return next(iter(self.links.values()), None)

    def link(self, link, now):
        """Somebody is connected."""
        self.links[link] = None
        self.announce_at = now
        self.ask_at[link] = now + 5

    def unlink(self, link=ONLY):
        self.links.pop(link, None)
        self.ask_at.pop(link, None)

    # What it hears

    def hear(self, frame, now, link=ONLY):
        """Take one notification or write."""
        assert len(frame) <= self.frame_bytes, "a frame that does not fit"
        self.hear_packet(frame, now, link)

    def hear_packet(self, data, now, link=ONLY):
        try:
            packet = decode_packet(data)
        except DecodeError as error:
            self.refused.append((f"no packet: {error}", None))
            return
        self.take(packet, now, link=link)

    def take(self, packet, now, pieces=1, link=ONLY):
        self.links.setdefault(link, None)
        reason = self.gate(packet, now, pieces, link)
        if reason is None and not self.is_known(packet, now):
            reason = self.accept(packet, now, link)
            if reason is None and pieces == 1:
                self.pass_on(packet, now, link)
        if reason is not None:
            self.refused.append((reason, packet))

    def is_known(self, packet, now):
        """Whether it is a duplicate; of whatever was heard again nothing is passed on."""
        if packet.type == PacketType.FRAGMENT or (packet.sender == self.id and packet.ttl == 0):
            return False
        name = packet.sync_id
        at = self.seen.get(name)
        if at is not None and now - at < SEEN_S and not self.wants_again(packet):
            self.cancel(name)
            self.known.append(packet)
            return True
        self.seen.pop(name, None)
        self.seen[name] = now
        while len(self.seen) > MOST_SEEN:
            del self.seen[next(iter(self.seen))]
        return False

    def wants_again(self, _packet):
        return False

    def accept(self, packet, now, link):
        """Take what passed the gate; return why not."""
        if packet.type == PacketType.FRAGMENT:
            return self.piece(packet, now, link)
        if packet.type == PacketType.ANNOUNCE:
            return self.meet(packet, now, link)
        if packet.type == PacketType.REQUEST_SYNC:
            self.answer(packet, link)
        elif self.has_to_be_signed(packet):
            key = self.key_of(packet.sender, now)
            if key is None:
                self.strangers.append(packet)
                return None
            if not packet.is_signed_by(key):
                return "forged"
            if packet.type == PacketType.MESSAGE and packet.is_broadcast:
                self.messages[packet.sync_id] = packet
                self.show(packet, now)
            elif packet.type == PacketType.LEAVE:
                self.forget(packet.sender)
        elif packet.type == PacketType.COURIER:
            self.letters.append(decode_letter(packet.payload))
        elif packet.recipient == self.id:
            with contextlib.suppress(RelayError):
                self.converse(packet, now)
        self.accepted.append(packet)
        return None

    def meet(self, packet, now, link):
        try:
            said = read_announce(packet)
        except DecodeError:
            return "forged"
        if self.keys.get(packet.sender, said.signing_key) != said.signing_key:
            return "another signing key"
        self.keys[packet.sender] = said.signing_key
        self.heard_at[packet.sender] = now
        self.names[packet.sender] = said.nickname
        known = self.announces.get(packet.sender)
        if known is None or packet.timestamp_ms > known.timestamp_ms:
            self.announces[packet.sender] = packet
        if packet.ttl == 7:
            if self.links[link] not in {None, packet.sender}:
                self.misled.append(packet)
            self.links[link] = packet.sender
        self.accepted.append(packet)
        return None

    def show(self, packet, now):
        if packet.sync_id in self.shown_ids:
            self.repeated.append(packet)
        elif not self.has_room(packet.sender, now):
            self.lost.append(packet)
        elif packet.sender != self.id:
            self.shown_ids.add(packet.sync_id)
            self.shown.append(packet.payload.decode())

    def has_room(self, _sender, _now):
        """Whether its screen has room; it is not known to have less on Androids."""
        return True

    def key_of(self, sender, _now):
        return self.identity.signing_public if sender == self.id else self.keys.get(sender)

    def forget(self, sender):
        """Of somebody who left, or is silent, nothing is in the filter any more."""
        self.announces.pop(sender, None)
        self.messages = {name: packet for name, packet in self.messages.items() if packet.sender != sender}

    def piece(self, packet, now, link):
        piece = decode_piece(packet.payload)
        if piece.count > self.most_pieces:
            return "too many pieces"
        self.pieces = {name: held for name, held in self.pieces.items() if now - held["at"] < PIECES_S}
        held = self.pieces.setdefault((packet.sender, piece.set_id), {"at": now})
        held[piece.index] = piece.data
        while len(self.pieces) > self.most_sets:
            del self.pieces[next(iter(self.pieces))]
            self.refused.append(("too many sets", packet))
        if sum(len(data) for index, data in held.items() if index != "at") > MOST_SET_BYTES:
            return "too large"
        if len(held) == piece.count + 1:
            del self.pieces[packet.sender, piece.set_id]
            try:
                whole = decode_packet(b"".join(held[n] for n in range(piece.count)))
            except DecodeError as error:
                return f"no packet: {error}"
            self.take(whole, now, pieces=piece.count, link=link)
        return None

    # What it does by itself

    def next_s(self, now):
        """When something is due."""
        times = [item[0] for item in self.relaying[:1]]
        if self.outgoing:
            times.append(now)
        if self.acts and self.links:
            times += [self.announce_at, *self.ask_at.values()]
        return min(times, default=float("inf"))

    def due(self, now):
        """Return (link, frame) of all that it sends now."""
        if self.acts and self.links:
            self.act(now)
        while self.relaying and self.relaying[0][0] <= now:
            _, _, packet, came_by = heapq.heappop(self.relaying)
            if packet.sync_id in self.relayed:
                continue
            self.relayed.add(packet.sync_id)
            for link in self.links:
                if link != came_by:
                    self.send(link, packet)
        sent, self.outgoing = self.outgoing, []
        return sent

    def send(self, link, packet):
        self.outgoing += [(link, frame) for frame in self.frames(packet)]

    def act(self, now):
        for peer, at in list(self.heard_at.items()):
            if now - at > self.forgets_s:
                del self.heard_at[peer]
                self.forget(peer)
        if self.announce_at <= now:
            self.announce_at = now + self.random.uniform(11, 19)
            for link in self.links:
                self.outgoing.append((link, self.announce(now)))
        for link, at in list(self.ask_at.items()):
            if at <= now:
                self.ask_at[link] = now + 30
                self.ask(link, now)

    def filter(self):
        """Modulus and bits of a filter of the newest that it has, and the time of the oldest if that was not all."""
        newest = sorted([*self.announces.values(), *self.messages.values()], key=lambda packet: -packet.timestamp_ms)
        covered = newest[: most_ids(self.filter_bytes)]
        since_ms = covered[-1].timestamp_ms if len(covered) < len(newest) else None
        return *encode_filter([packet.sync_id for packet in covered]), since_ms

    def answer(self, packet, link):
        """Answer another phone, as both apps do: announces first, then messages, all at once."""
        request = decode_request_sync(packet.payload)
        held = [*self.announces.values(), *self.messages.values()]
        if not (request.asks_for(PacketType.ANNOUNCE) or request.asks_for(PacketType.MESSAGE)):
            return
        for one in [*held]:
            if not request.filter.may_have(one.sync_id) and not (
                request.since_ms is not None and one.type == PacketType.MESSAGE and one.timestamp_ms < request.since_ms
            ):
                self.send(link, one.as_answer(is_answer=self.marks_answers))

    marks_answers = False

    def pass_on(self, packet, now, came_by):
        ttl = self.relayed_ttl(packet)
        if ttl is None or self.id in {packet.recipient, packet.sender} or len(self.links) < 2:
            return
        self._number += 1
        item = (now + self.random.uniform(0.01, 0.15), self._number, packet.with_ttl(ttl), came_by)
        heapq.heappush(self.relaying, item)

    def cancel(self, name):
        """A packet that waits to be passed on was heard again."""

    # What each app has of its own

    def gate(self, packet, now, pieces, link):
        raise NotImplementedError

    def has_to_be_signed(self, packet):
        raise NotImplementedError

    def relayed_ttl(self, packet):
        """With which TTL it passes a packet on; None where it does not."""
        raise NotImplementedError

    def ask(self, link, now):
        raise NotImplementedError


class Iphone(Phone):
    takes_long = True
    forgets_s = 60
    most_pieces = 10_000
    most_sets = 128
    filter_bytes = 400
    marks_answers = True
    #: After so long it takes what comes for another packet.
    stream_pause_s = 0.25

    def __init__(self, name, wall_ms, **other):
        super().__init__(name, wall_ms, **other)
        self.rest = {}
        self.rooms = {}
        self.rounds = 0

    def hear(self, frame, now, link=ONLY):
        """Take one notification: several may make a packet."""
        held, at = self.rest.pop(link, (b"", now))
        if held and now - at >= self.stream_pause_s:
            self.refused.append((f"{len(held)} bytes and then a pause", None))
            held = b""
        data = held + frame
        try:
            decode_packet(data)
        except DecodeError:
            self.rest[link] = (data, now)
            return
        self.hear_packet(data, now, link)

    def sync(self, now, have=(), since_ms=None, types=0x403, link=None):
        """A request to whoever is at the other end of a link."""
        modulus, data = encode_filter(have)
        peer = self.linked_to if link is None else self.links[link]
        self.asked[peer] = now
        payload = encode_request_sync(7, modulus, data, types=types, since_ms=since_ms)
        return self.identity.sign(self.packet(PacketType.REQUEST_SYNC, payload, now, recipient=peer, ttl=0)).encode()

    def ask(self, link, now):
        """First for all at once, then for messages, fragments, files and more, each in a request of its own."""
        peer = self.links[link]
        if peer is None:
            return
        modulus, data, since_ms = self.filter()
        self.rounds += 1
        for types in (0x403, 0x20, 0x80, 0x200, 0x100)[: 5 if self.rounds % 2 else 3] if self.rounds > 1 else (0x7E3,):
            self.asked[peer] = now
            mine = types & 3
            payload = encode_request_sync(
                7, modulus if mine else 1, data if mine else b"", types=types, since_ms=since_ms if mine else None
            )
            packet = self.packet(PacketType.REQUEST_SYNC, payload, now, recipient=peer, ttl=0)
            self.outgoing.append((link, self.identity.sign(packet).encode()))

    def gate(self, packet, now, pieces, link):
        skew = self.time_ms(now) - packet.timestamp_ms
        peer = self.links[link]
        if packet.sender == self.id and not (packet.is_answer and packet.ttl == 0):
            return "selfLoopback"
        if packet.type == PacketType.REQUEST_SYNC and packet.sender != peer:
            return "directSenderMismatch"
        if packet.is_answer:
            # The window is for the peer that the link is; of pieces, for whoever is named as their sender.
            asked_at = self.asked.get(peer if pieces == 1 else packet.sender)
            if peer is None or asked_at is None or now - asked_at > 30:
                return "invalidRSR"
        elif abs(skew) > 120_000:
            return "timestampSkew"
        if packet.type == PacketType.ANNOUNCE and skew > 900_000:
            return "announce too old"
        if packet.type == PacketType.MESSAGE and skew > 21_600_000:
            return "message too old"
        return None

    def has_to_be_signed(self, packet):
        return packet.type in {PacketType.MESSAGE, PacketType.LEAVE}

    def has_room(self, sender, now):
        """Five at once, then one a second, for each sender."""
        room, at = self.rooms.get(sender, (5.0, now))
        room = min(5.0, room + now - at)
        self.rooms[sender] = (room - 1 if room >= 1 else room, now)
        return room >= 1

    def cancel(self, name):
        if len(self.links) > 2:
            self.relaying = [item for item in self.relaying if item[2].sync_id != name]
            heapq.heapify(self.relaying)

    def relayed_ttl(self, packet):
        ttl, degree = min(packet.ttl, 7), len(self.links)
        if packet.type == PacketType.REQUEST_SYNC or ttl <= 1:
            return None
        if packet.type in DIRECTED and packet.recipient is not None:
            return ttl - 1
        if packet.type in {PacketType.FRAGMENT, PacketType.VOICE_FRAME}:
            return min(ttl, 7 if degree < 6 else 5) - 1
        most = 7 if degree <= 2 or packet.type == PacketType.ANNOUNCE else 6
        return max(2, min(ttl, most if degree < 6 else 5)) - 1


class Android(Phone):
    forgets_s = 180
    most_pieces = 256
    most_sets = 64
    filter_bytes = 256

    def sync(self, now, have=()):
        modulus, data = encode_filter(have)
        payload = encode_request_sync(7, modulus, data)
        return self.identity.sign(self.packet(PacketType.REQUEST_SYNC, payload, now, ttl=0)).encode()

    def ask(self, link, now):
        modulus, data, _ = self.filter()
        packet = self.packet(PacketType.REQUEST_SYNC, encode_request_sync(7, modulus, data), now, ttl=0)
        self.outgoing.append((link, self.identity.sign(packet).encode()))

    def gate(self, packet, now, _pieces, _link):
        skew = self.time_ms(now) - packet.timestamp_ms
        if packet.sender == self.id:
            return "own"
        if packet.type == PacketType.ANNOUNCE and abs(skew) > 600_000:
            return "announce too far off"
        if packet.type == PacketType.LEAVE and abs(skew) > 300_000:
            return "leave too far off"
        if packet.type == PacketType.VOICE_FRAME and abs(skew) > 30_000:
            return "voice too far off"
        if packet.type == PacketType.COURIER:
            return "unknown type"
        return None

    def wants_again(self, packet):
        """A neighbour's announce, as it may be a new link of his."""
        return packet.type == PacketType.ANNOUNCE and packet.ttl >= 7

    def has_to_be_signed(self, packet):
        return packet.type in {
            PacketType.MESSAGE,
            PacketType.LEAVE,
            PacketType.FILE_TRANSFER,
            PacketType.VOICE_FRAME,
        }

    def key_of(self, sender, now):
        """A peer is forgotten after three minutes of silence."""
        if now - self.heard_at.get(sender, -self.forgets_s) >= self.forgets_s:
            return None
        return self.keys.get(sender)

    def relayed_ttl(self, packet):
        if packet.type == PacketType.REQUEST_SYNC or packet.ttl <= 1:
            return None
        return packet.ttl - 1


class Town:
    """Relays with phones, joined to each other by live packets that take a while; phones may be linked to phones."""

    def __init__(self, meshes, delay_s=0.05):
        self.meshes = meshes
        self.delay_s = delay_s
        self.now = 0.0
        self.links = [{} for _ in meshes]
        self.pairs = {}
        self.flying = []
        self.happened = [[] for _ in meshes]
        self.joined = True

    def join(self, at, phone, number=None, *, announces=True):
        number = max(self.links[at], default=0) + 1 if number is None else number
        self.links[at][number] = phone
        self.meshes[at].open_link(number, self.now, frame_bytes=phone.frame_bytes, can_stream=phone.takes_long)
        phone.link((at, number), self.now)
        if announces and not phone.acts:
            self.send(phone, phone.announce(self.now), at)
        return number

    def part(self, phone, at=None):
        at, number = self.where(phone, at)
        del self.links[at][number]
        self.meshes[at].close_link(number)
        phone.unlink((at, number))

    def pair(self, one, other):
        """Two phones are linked to each other."""
        for phone, peer in ((one, other), (other, one)):
            phone.link(peer.name, self.now)
            self.pairs[phone.name, peer.name] = peer

    def unpair(self, one, other):
        for phone, peer in ((one, other), (other, one)):
            phone.unlink(peer.name)
            self.pairs.pop((phone.name, peer.name), None)

    def where(self, phone, at=None):
        found = [(to, n) for to, links in enumerate(self.links) for n, other in links.items() if other is phone]
        return next(place for place in found if at in {None, place[0]})

    def send(self, phone, data, at=None):
        at, number = self.where(phone, at)
        self.meshes[at].receive(number, data if isinstance(data, bytes) else data.encode(), self.now)

    def say(self, phone, packet):
        """A phone sends a packet of its own to all whom it is linked to."""
        for link in list(phone.links):
            for frame in phone.frames(packet):
                self.carry(phone, link, frame)

    def carry(self, phone, link, frame):
        if isinstance(link, tuple):
            at, number = link
            if self.links[at].get(number) is phone:
                self.meshes[at].receive(number, frame, self.now)
        elif (peer := self.pairs.get((phone.name, link))) is not None:
            # What phones send each other is none of our business.
            held = len(peer.refused), len(peer.misled)
            peer.hear(frame, self.now, phone.name)
            del peer.refused[held[0] :], peer.misled[held[1] :]

    def run(self, seconds, *, announcing=(), every=60):
        """Let time pass; phones in ``announcing`` do so again and again."""
        until, again = self.now + seconds, self.now + every
        while True:
            steps = [mesh.next_s(self.now) for mesh in self.meshes] + [at for at, _, _ in self.flying] + [again]
            steps += [phone.next_s(self.now) for phone in self.phones()]
            following = max(self.now + 1e-6, min(steps))
            if following > until:
                break
            self.now = following
            if self.now >= again:
                again += every
                for phone in announcing:
                    self.send(phone, phone.announce(self.now))
            self.step()
        self.now = until
        self.step()

    def step(self):
        for phone in self.phones():
            for link, frame in phone.due(self.now):
                self.carry(phone, link, frame)
        for at, mesh in enumerate(self.meshes):
            mesh.take_due(self.now)
            for event in mesh.events():
                self.happened[at].append(event)
                if self.joined and hasattr(event, "data"):
                    others = [to for to in range(len(self.meshes)) if to != at]
                    self.flying += [(self.now + self.delay_s, to, event.data) for to in others]
            for number, phone in list(self.links[at].items()):
                for frame in mesh.frames_to_send(number, self.now):
                    # The process cuts what goes as a stream.
                    for start in range(0, len(frame), phone.frame_bytes):
                        phone.hear(frame[start : start + phone.frame_bytes], self.now, (at, number))
        arrived = [item for item in self.flying if item[0] <= self.now]
        self.flying = [item for item in self.flying if item[0] > self.now]
        for _, to, data in arrived:
            self.meshes[to].receive_live(data, self.now)

    def phones(self):
        found = {phone.name: phone for links in self.links for phone in links.values()}
        return list((found | {peer.name: peer for peer in self.pairs.values()}).values())

    def nothing_refused(self):
        for phone in self.phones():
            assert (phone.refused, phone.misled) == ([], []), phone.name


def handshake(phone, mesh_id, now):
    """The first packet of a Noise session with a relay, and the session."""
    session = NoiseSession(initiator=True, static=phone.identity.noise, random_bytes=lambda count: b"\7" * count)
    return session, phone.packet(PacketType.NOISE_HANDSHAKE, session.start(), now, recipient=mesh_id)
