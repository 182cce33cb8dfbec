# SPDX-License-Identifier: GPL-2.0-or-later
"""Test phones, written from the facts and not from relay.bitchat.rules: each refuses what its app refuses.

A phone that gets what it must not get keeps it in `refused`, which every test wants to be empty; what it could not
check, as it does not know the sender, is in `strangers`.
"""

from relay.bitchat.announce import Identity, read_announce
from relay.bitchat.courier import decode_letter
from relay.bitchat.fragments import decode_piece
from relay.bitchat.gcs import encode_filter
from relay.bitchat.packet import PacketType, decode_packet, make_packet
from relay.bitchat.private import NoiseSession
from relay.bitchat.sync import encode_request_sync


class Phone:
    """What both apps have in common."""

    frame_bytes = 512
    takes_long = False

    def __init__(self, name, wall_ms):
        """``wall_ms``: what its clock says at now = 0."""
        seed = name.encode().ljust(32, b".")
        self.name = name
        self.identity = Identity.from_seeds(seed, seed)
        self.id = self.identity.peer_id
        self.wall_ms = wall_ms
        self.linked_to = None
        self.asked_at = None
        self.keys = {}
        self.shown = []
        self.accepted = []
        self.refused = []
        self.strangers = []
        self.letters = []
        self.pieces = {}

    def time_ms(self, now):
        return self.wall_ms + int(1000 * now)

    def announce(self, now, **other):
        return self.identity.announce(self.name, self.time_ms(now), **other).encode()

    def packet(self, kind, payload, now, **other):
        return make_packet(kind, payload, sender=self.id, timestamp_ms=self.time_ms(now), **other)

    def say(self, text, now, **other):
        return self.identity.sign(self.packet(PacketType.MESSAGE, text.encode(), now, **other))

    def hear(self, frame, now):
        assert self.takes_long or len(frame) <= self.frame_bytes, "a frame that does not fit"
        self.take(decode_packet(frame), now)

    def take(self, packet, now, pieces=1):
        reason = self.why_not(packet, now, pieces)
        if reason is not None:
            self.refused.append((reason, packet))
            return
        if packet.type == PacketType.FRAGMENT:
            self.piece(packet, now)
            return
        if packet.type == PacketType.ANNOUNCE:
            said = read_announce(packet)
            self.keys[packet.sender] = said.signing_key
            if packet.ttl == 7:
                self.linked_to = packet.sender
        elif packet.type == PacketType.MESSAGE:
            if not packet.is_signed_by(self.keys.get(packet.sender, b"")):
                self.strangers.append(packet)
                return
            self.shown.append(packet.payload.decode())
        elif packet.type == PacketType.COURIER:
            self.letters.append(decode_letter(packet.payload))
        self.accepted.append(packet)

    def piece(self, packet, now):
        piece = decode_piece(packet.payload)
        held = self.pieces.setdefault(piece.set_id, {})
        held[piece.index] = piece.data
        if len(held) == piece.count:
            del self.pieces[piece.set_id]
            self.take(decode_packet(b"".join(held[n] for n in range(piece.count))), now, pieces=piece.count)


class Iphone(Phone):
    takes_long = True

    def sync(self, now, have=(), since_ms=None, types=0x403):
        modulus, data = encode_filter(have)
        payload = encode_request_sync(7, modulus, data, types=types, since_ms=since_ms)
        self.asked_at = now
        packet = self.packet(PacketType.REQUEST_SYNC, payload, now, recipient=self.linked_to, ttl=0)
        return self.identity.sign(packet).encode()

    def why_not(self, packet, now, pieces):
        skew = self.time_ms(now) - packet.timestamp_ms
        if packet.sender == self.id and not (packet.is_answer and packet.ttl == 0):
            return "selfLoopback"
        if packet.type == PacketType.REQUEST_SYNC and packet.sender != self.linked_to:
            return "directSenderMismatch"
        if packet.type == PacketType.ANNOUNCE and packet.ttl == 7 and self.linked_to not in {None, packet.sender}:
            return "takes the link"
        if packet.is_answer:
            # The window is for the peer that the link is; of pieces, for whoever is named as their sender.
            asked = self.asked_at is not None and now - self.asked_at <= 30
            if not asked or self.linked_to is None or (pieces > 1 and packet.sender != self.linked_to):
                return "invalidRSR"
        elif abs(skew) > 120_000:
            return "timestampSkew"
        if packet.type == PacketType.ANNOUNCE and skew > 900_000:
            return "announce too old"
        if packet.type == PacketType.MESSAGE and skew > 21_600_000:
            return "message too old"
        return None


class Android(Phone):
    def sync(self, now, have=()):
        modulus, data = encode_filter(have)
        payload = encode_request_sync(7, modulus, data)
        self.asked_at = now
        return self.identity.sign(self.packet(PacketType.REQUEST_SYNC, payload, now, ttl=0)).encode()

    def why_not(self, packet, now, pieces):
        skew = self.time_ms(now) - packet.timestamp_ms
        if pieces > 256:
            return "too many pieces"
        if packet.type == PacketType.ANNOUNCE and abs(skew) > 600_000:
            return "announce too far off"
        if packet.type == PacketType.LEAVE and abs(skew) > 300_000:
            return "leave too far off"
        if packet.type == PacketType.COURIER:
            return "unknown type"
        if packet.sender == self.id:
            return "own"
        return None


class Town:
    """Relays with phones, joined to each other by live packets that take a while."""

    def __init__(self, meshes, delay_s=0.05):
        self.meshes = meshes
        self.delay_s = delay_s
        self.now = 0.0
        self.links = [{} for _ in meshes]
        self.flying = []
        self.happened = [[] for _ in meshes]
        self.joined = True

    def join(self, at, phone, number=None, *, announces=True):
        number = len(self.links[at]) + 1 if number is None else number
        self.links[at][number] = phone
        self.meshes[at].open_link(number, self.now, frame_bytes=phone.frame_bytes, can_stream=phone.takes_long)
        if announces:
            self.send(phone, phone.announce(self.now))
        return number

    def part(self, phone):
        at, number = self.where(phone)
        del self.links[at][number]
        self.meshes[at].close_link(number)
        phone.linked_to = None

    def where(self, phone):
        return next((at, n) for at, links in enumerate(self.links) for n, other in links.items() if other is phone)

    def send(self, phone, data):
        at, number = self.where(phone)
        self.meshes[at].receive(number, data if isinstance(data, bytes) else data.encode(), self.now)

    def run(self, seconds, *, announcing=(), every=60):
        """Let time pass; phones in ``announcing`` do so again and again."""
        until, again = self.now + seconds, self.now + every
        while True:
            steps = [mesh.next_s(self.now) for mesh in self.meshes] + [at for at, _, _ in self.flying] + [again]
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
        for at, mesh in enumerate(self.meshes):
            mesh.take_due(self.now)
            for event in mesh.events():
                self.happened[at].append(event)
                if self.joined and hasattr(event, "data"):
                    others = [to for to in range(len(self.meshes)) if to != at]
                    self.flying += [(self.now + self.delay_s, to, event.data) for to in others]
            for number, phone in list(self.links[at].items()):
                for frame in mesh.frames_to_send(number, self.now):
                    phone.hear(frame, self.now)
        arrived = [item for item in self.flying if item[0] <= self.now]
        self.flying = [item for item in self.flying if item[0] > self.now]
        for _, to, data in arrived:
            self.meshes[to].receive_live(data, self.now)

    def phones(self):
        return [phone for links in self.links for phone in links.values()]

    def nothing_refused(self):
        for phone in self.phones():
            assert phone.refused == [], phone.name


def handshake(phone, mesh_id, now):
    """The first packet of a Noise session with a relay, and the session."""
    session = NoiseSession(initiator=True, static=phone.identity.noise, random_bytes=lambda count: b"\7" * count)
    return session, phone.packet(PacketType.NOISE_HANDSHAKE, session.start(), now, recipient=mesh_id)
