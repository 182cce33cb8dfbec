# SPDX-License-Identifier: GPL-2.0-or-later
"""Commits and reports until it is killed: ``python -m tests.store.crash_child PATH SEED``.

Prints a line of JSON for every batch before it is submitted, and its first seq
after the store said that it is stored.
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path

from relay.core.batch import Batch
from relay.store.committer import Committer
from relay.store.database import Store
from tests.store.helpers import insert, make_envelope, rows_of

_PENDING_ROWS = 300


async def main(path, seed):
    rng = random.Random(seed)
    store = Store.open(path)
    committer = Committer(store, loop=asyncio.get_running_loop())
    live = {row.seq for row in rows_of(store)}
    held = {row.seq for row in rows_of(store) if row.has_body}
    # Few different ones: making them would take the time in which to be killed.
    envelopes = {number: make_envelope(number, number % 3) for number in range(40)}
    seq = store.last_seq
    while True:
        inserts = []
        for _ in range(rng.choice((1, 1, 3, 70))):
            seq += 1
            inserts.append(insert(seq, envelopes[seq % 40], interface=seed % 1000))
        drop = rng.sample(sorted(held), min(len(held), rng.choice((0, 0, 2))))
        forget = rng.sample(sorted(live), min(len(live), rng.choice((0, 0, 2))))
        held -= {*drop, *forget}
        live -= {*forget}
        first = inserts[0][0]
        batch = Batch(inserts=inserts, drop_bodies=drop, forget=forget, state={"newest": seq})
        _tell({"first": first, "last": seq, "drop": drop, "forget": forget})
        committer.submit(batch, lambda error, first=first: _stored(error, first))
        live.update(range(first, seq + 1))
        held.update(range(first, seq + 1))
        await (committer.drain() if committer.pending_rows > _PENDING_ROWS else asyncio.sleep(0))


def _stored(error, first):
    if error is not None:
        raise error
    _tell(first)


def _tell(what):
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
