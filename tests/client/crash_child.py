# SPDX-License-Identifier: GPL-2.0-or-later
"""Works on a client's database, saying what is done once it is done, until it is killed.

`python -m tests.client.crash_child send FOLDER SEED` queues files to the person of seed 2 for ever;
`... receive FOLDER SEED ENVELOPES` accepts what is in that file, in an order by seed, again and again.
"""

import pickle
import random
import sys
from pathlib import Path

from relay.client.inbox import Outcome
from relay.client.pieces import PIECE_BYTES
from tests.client.helpers import NOW_S, PRICE, Person

BATCH = 8


def content_of(number):
    return random.Random(number).randbytes(number % 5 * PIECE_BYTES + number)


def say(*words):
    print(*words, flush=True)


def send(folder, seed):
    sender, recipient = Person(folder, 1), Person(folder.with_name(f"to{seed}"), 2)
    # The identities are those of the parent's persons; the IDs must differ in each life.
    sender.random.seed(seed)
    say("ready")
    while True:
        number = sender.random.randrange(10_000)
        (message_id,) = sender.send_file(content_of(number), str(number), recipient)
        say(message_id.hex(), number)


def receive(folder, seed, envelopes):
    recipient = Person(folder, 2)
    rng = random.Random(seed)
    say("ready")
    while True:
        rng.shuffle(envelopes)
        for start in range(0, len(envelopes), BATCH):
            batch = envelopes[start : start + BATCH]
            outcomes = recipient.inbox.accept([recipient.inbox.try_open(one) for one in batch], NOW_S)
            assert set(outcomes) <= {Outcome.STORED, Outcome.DUPLICATE}, outcomes
            say("accepted", *(envelopes_id.hex() for envelopes_id in map(identity, batch)))
            recipient.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)


def identity(envelope):
    return envelope[8:24]


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        receive(Path(sys.argv[2]), int(sys.argv[3]), pickle.loads(Path(sys.argv[4]).read_bytes()))  # noqa: S301
