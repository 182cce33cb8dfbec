# SPDX-License-Identifier: GPL-2.0-or-later
"""Two people with everything a client keeps, and a world between them that is a list of envelopes."""

import io
import random

from relay.client.body import file_body, text_body
from relay.client.card import Card
from relay.client.database import Database
from relay.client.identity import Identity
from relay.client.inbox import Inbox
from relay.client.outbox import Outbox

#: 2025-06-01 00:00 UTC; a whole day, so that hours of the day can be read off the tests.
DAY = 20_240
NOW_S = DAY * 86_400.0
NOW_HOUR = DAY * 24
HOUR_S = 3600.0
PRICE = 4


class Person:
    """A client's offline half in a folder of its own; deterministic by `seed`."""

    def __init__(self, folder, seed, contacts=()):
        self.random = random.Random(seed)
        self.folder = folder
        self.identity = Identity.generate(self.random.randbytes)
        self.contacts = {contact.identity.static.public for contact in contacts}
        self.open()

    def open(self):
        self.database = Database(self.folder)
        self.outbox = Outbox(self.database, self.identity, self.random.randbytes)
        self.inbox = Inbox(self.database, self.identity, self.contacts.__contains__)

    def reopen(self):
        self.database.close()
        self.open()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.database.close()

    @property
    def card(self):
        return Card.of(self.identity)

    def send_text(self, text, *recipients, now_s=NOW_S, days=3):
        return self.outbox.queue_message(
            [one.card for one in recipients], text_body(text), lifetime_days=days, price=PRICE, now_s=now_s
        )

    def send_file(self, content, name, *recipients, now_s=NOW_S, days=3):
        return self.outbox.queue_message(
            [one.card for one in recipients],
            file_body(io.BytesIO(content), name),
            lifetime_days=days,
            price=PRICE,
            now_s=now_s,
        )

    def envelopes(self, now_s=NOW_S):
        return [pending.envelope for pending in self.outbox.pending(now_s)]

    def receive(self, envelopes, now_s=NOW_S):
        """Open and accept one by one; None for what is not for us."""
        outcomes = []
        for envelope in envelopes:
            opened = self.inbox.try_open(envelope)
            outcomes.append(None if opened is None else self.inbox.accept([opened], now_s)[0])
        return outcomes

    def inbox_contents(self):
        return [(one.name, b"".join(self.inbox.content(one))) for one in self.inbox.messages()]
