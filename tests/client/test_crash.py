# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything a command said it had done is there after kill -9 at any instant, and nothing is there by half."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time

from relay.client.inbox import Outcome
from relay.client.pieces import Kind
from tests.client.crash_child import content_of, identity
from tests.client.helpers import NOW_S, PRICE, Person

CYCLES = 12
#: Longest life of a child after it is ready; it commits some 20 to 100 times in it.
LIFE_S = 0.3


def run_until_killed(life_s, *arguments):
    """Return the lines that the child said in its life."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.client.crash_child", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    time.sleep(life_s)
    os.kill(child.pid, signal.SIGKILL)
    lines = [line.split() for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    return lines


def test_a_message_that_was_queued_survives_kill_9_and_arrives_and_a_half_one_is_gone(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    folder = tmp_path / "sender"
    queued = {}
    for cycle in range(CYCLES):
        said = run_until_killed(rng.uniform(0, LIFE_S), "send", folder, seed + cycle)
        queued |= {bytes.fromhex(message_id): int(number) for message_id, number in said}
    with Person(folder, 1) as sender, Person(tmp_path / "recipient", 2, contacts=[sender]) as recipient:
        halves = sender.database.rows("SELECT id FROM sent WHERE state = 0")
        sender.outbox.prune(NOW_S)
        assert sender.database.row("SELECT count(*) FROM sent WHERE state = 0") == (0,)
        assert sender.database.row("SELECT count(*) FROM body") == (len(sender.envelopes()),)
        opened = [recipient.inbox.try_open(envelope) for envelope in sender.envelopes()]
        assert set(recipient.inbox.accept(opened, NOW_S)) == {Outcome.STORED}
        assert recipient.inbox.partials() == []
        arrived = {message.message_id: message for message in recipient.inbox.messages()}
        # Each life may have ended between the commit and the word about it.
        assert len(queued) <= len(arrived) <= len(queued) + CYCLES
        assert set(queued) <= set(arrived)
        for message in arrived.values():
            assert b"".join(recipient.inbox.content(message)) == content_of(int(message.name))
    print(len(queued), "queued,", len(halves), "killed half-way")
    assert len(queued) > CYCLES


def test_a_piece_that_was_accepted_survives_kill_9_and_messages_end_up_whole_and_once(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    with Person(tmp_path / "sender", 1) as sender, Person(tmp_path / "spare", 2) as recipient:
        numbers = rng.sample(range(10_000), 40)
        for number in numbers:
            sender.send_file(content_of(number), str(number), recipient)
        envelopes = sender.envelopes()
        senders_key = sender.identity.static.public
    places = {identity(envelope).hex(): envelope for envelope in envelopes}
    (tmp_path / "envelopes").write_bytes(pickle.dumps(envelopes))
    folder = tmp_path / "recipient"
    accepted = set()
    for cycle in range(CYCLES):
        said = run_until_killed(rng.uniform(0, LIFE_S), "receive", folder, seed + cycle, tmp_path / "envelopes")
        for _, *ids in said:
            accepted |= set(ids)
        with Person(folder, 2) as recipient:
            known = recipient.inbox.accept([recipient.inbox.try_open(places[one]) for one in accepted], NOW_S)
            assert set(known) <= {Outcome.DUPLICATE}
    with Person(folder, 2) as recipient:
        recipient.receive(envelopes)
        assert recipient.inbox.partials() == []
        contents = dict(recipient.inbox_contents())
        assert contents == {str(number): content_of(number) for number in numbers}
        recipient.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
        receipts = recipient.database.rows("SELECT recipient FROM sent WHERE kind = ?", Kind.RECEIPT)
        assert receipts == [(senders_key,)] * len(numbers)
        assert recipient.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 0
    print(len(accepted), "of", len(envelopes), "accepted by those killed")
    assert accepted


def test_a_message_whose_last_piece_came_just_before_the_kill_is_whole_at_the_next_start(tmp_path):
    with Person(tmp_path / "sender", 1) as sender, Person(tmp_path / "recipient", 2) as recipient:
        sender.send_file(content_of(4), "4", recipient)
        recipient.receive(sender.envelopes())
        # What the file looks like when a process dies between the piece's commit and the verification.
        recipient.database.execute("UPDATE received SET state = 0, receipt_due = 0")
        assert recipient.inbox.messages() == []
        recipient.reopen()
        assert recipient.inbox_contents() == [("4", content_of(4))]
        assert recipient.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 1
