# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that is nothing but the protocol over one socket, so that tests can see and misuse all of it."""

from __future__ import annotations

import hashlib
import random
import secrets
import select
import time

from relay.core import session as s
from relay.core.envelope import CLASS_OF_SIZE, HEADER_BYTES, NONCE_BYTES, EnvelopeType, Header, grind, in_bucket
from relay.core.messages import Ack, Hello, Refused, Role, Subscribe
from relay.core.session import Session

_READ_BYTES = 1 << 18


def make_envelopes(seed, count, size=1024, *, bucket=None, expires_in_hours=48, expiry_hour=None, price=0):
    """Return valid envelopes with random payloads, the same for the same seed and ``expiry_hour``."""
    rng = random.Random(seed)
    if expiry_hour is None:
        expiry_hour = int(time.time()) // 3600 + expires_in_hours
    made = []
    for _ in range(count):
        tag = rng.randbytes(16) if bucket is None else in_bucket(bucket, rng.randbytes(16))
        header = Header(
            type=EnvelopeType.MESSAGE, size_class=CLASS_OF_SIZE[size], expiry_hour=expiry_hour, tag=tag
        ).encode()
        payload = rng.randbytes(size - HEADER_BYTES - NONCE_BYTES)
        made.append(grind(header + payload, price=price, random_bytes=rng.randbytes))
    return made


def identity(envelope):
    """The envelope's ID."""
    return hashlib.sha256(envelope).digest()


class ClientError(AssertionError):
    """The relay ended the session, or did not do in time what was waited for."""


class RawClient:
    """One session over one socket; blocking, every wait bounded."""

    def __init__(self, sock, *, secret=None, role=Role.CLIENT, opens=True):
        """``opens``: wait here for the relay's hello."""
        self.sock = sock
        self.session = Session(
            initiator=True,
            hello=Hello(role=role),
            random_bytes=secrets.token_bytes,
            now=time.monotonic(),
            secret=secret,
        )
        self.relay = None
        self.acked = set()
        self.refused = {}
        self.envelopes = []
        self.offers = []
        self.caught_up = False
        self.closed = None
        self._unsent = b""
        self._can_send = True
        if opens:
            self.pump("the relay says hello", lambda: self.relay is not None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def pump(self, what, done, timeout_s=30.0):
        """Move bytes both ways until ``done()``; fail with ``what`` after ``timeout_s``."""
        began = time.monotonic()
        while not done():
            if self.closed is not None:
                raise ClientError(f"session closed ({self.closed}) before {what}")
            left_s = began + timeout_s - time.monotonic()
            if left_s <= 0:
                raise ClientError(f"after {timeout_s} s not true that {what}")
            self.step(min(left_s, 0.5))

    def step(self, timeout_s=0.0):
        """Send and receive what can be, waiting ``timeout_s`` for the first byte."""
        self._unsent = self._unsent or self.session.data_to_send()
        self.sock.setblocking(False)
        writes = [self.sock] if self._unsent and self._can_send else []
        readable, writable, _ = select.select([self.sock], writes, [], timeout_s)
        if writable:
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except OSError:
                # What the relay said before it closed is still to be read.
                self._can_send = False
        if readable:
            try:
                data = self.sock.recv(_READ_BYTES)
            except OSError:
                data = b""
            self._note(self.session.receive_data(data, time.monotonic()))
            if not data:
                self._note(self.session.connection_lost())

    def _note(self, events):
        for event in events:
            match event:
                case s.Established(hello, _):
                    self.relay = hello
                case Ack():
                    self.acked.update(event.numbers())
                case Refused(price=_, refusals=refusals):
                    self.refused.update(refusals)
                case s.Envelopes(items):
                    self.envelopes += items
                case s.Offers(items):
                    self.offers += items
                case s.CaughtUp():
                    self.caught_up = True
                case s.Closed():
                    self.closed = event

    @property
    def answered(self):
        """Puts acknowledged or refused."""
        return len(self.acked) + len(self.refused)

    def put(self, envelopes, timeout_s=60.0, on_progress=None):
        """Put all, keeping to the relay's window, until each is answered; fail on a refusal."""
        sent = base = self.answered
        while self.answered < base + len(envelopes):
            while sent < base + len(envelopes) and sent - self.answered < self.relay.max_puts:
                self.session.put(envelopes[sent - base])
                sent += 1
            before = self.answered
            self.pump("puts are answered", lambda before=before: self.answered > before, timeout_s)
            if on_progress is not None:
                on_progress(self.answered - base)
        if self.refused:
            raise ClientError(f"refused: {set(self.refused.values())}")

    def subscribe(self, prefix_bits=0, prefix=0, *, follow=False, offers_only=False):
        """Start a subscription."""
        self.caught_up = False
        self.session.subscribe(
            Subscribe(
                prefix_bits=prefix_bits,
                prefix=prefix,
                offers_only=offers_only,
                follow=follow,
            )
        )

    def fetch_all(self, timeout_s=60.0):
        """Return every envelope that the relay holds."""
        self.subscribe()
        self.pump("the subscription is caught up", lambda: self.caught_up, timeout_s)
        return self.envelopes
