# SPDX-License-Identifier: GPL-2.0-or-later
"""One bit of a body, or of the store's log, flips on the medium: the real engine and the real store."""

import asyncio
import random
import shutil
from contextlib import closing

from relay.core.envelope import envelope_id
from relay.core.session import Missing
from tests.programs.running import Phone, envelope, put, running


async def fetch(path, envelopes):
    """What a phone that asks for envelopes gets, and what it hears is missing."""
    with closing(await Phone.open(path, slow=False)) as phone:
        phone.session.fetch([envelope_id(one) for one in envelopes])
        await phone.flush()
        while len(phone.received) + sum(len(event.identities) for event in phone.of(Missing)) < len(envelopes):
            await phone.read(1 << 16)
        return phone.received


def flip_on_disk(engine, folder, body):
    """Change one bit of a body in the database's file, which has all that was committed."""
    engine._store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (folder / "relay.db").open("r+b") as file:
        at = file.read().index(body[40:200]) + 60
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def test_it_is_given_to_nobody_counted_and_taken_anew(tmp_path):
    async def run():
        rng = random.Random(5)
        async with running(tmp_path) as (engine, path):
            held = [envelope(rng, size_class) for size_class in (0, 1, 2, 3) for _ in range(20)]
            await put(path, held)
            fetched, unread = held[25], held[45]
            flip_on_disk(engine, tmp_path, fetched)
            flip_on_disk(engine, tmp_path, unread)
            assert set(await fetch(path, [*held[:40], fetched])) == {*held[:40]} - {fetched}
            assert engine.status().store.unreadable_bodies == 1
            await put(path, held)  # of these one was found damaged, and one is found so now
            assert engine.status().store.unreadable_bodies == 2
            assert set(await fetch(path, held)) == set(held)
            assert engine.status().store.envelopes == len(held)

    asyncio.run(run())


def test_a_log_damaged_before_the_start_is_mended_counted_and_told_until_the_next_one(tmp_path):
    async def run():
        rng = random.Random(6)
        held = [envelope(rng, size_class) for size_class in (0, 1, 2) for _ in range(20)]
        async with running(tmp_path / "made") as (_, path):
            for first in range(0, len(held), 5):
                await put(path, held[first : first + 5])
            for name in ("relay.db", "relay.db-wal"):  # what kill -9 leaves
                shutil.copy(tmp_path / "made" / name, tmp_path / name)
        log = bytearray((tmp_path / "relay.db-wal").read_bytes())
        at = -1
        while (at := log.find(held[44][40:200], at + 1)) >= 0:  # in each copy of its page
            log[at] ^= 0x10
        (tmp_path / "relay.db-wal").write_bytes(log)
        async with running(tmp_path) as (engine, path):
            status = engine.status()
            kept = await fetch(path, held)
            print(len(kept), "of", len(held), "held;", status.store.unreadable_bodies, "counted as lost")
            assert len(held) - 10 < len(kept) < len(held), "one commit and a page are lost at most"
            assert status.store.unreadable_bodies == len(held) - len(kept)
            assert held[44] not in kept
            assert status.store.log_damaged
            assert any("card or disk" in problem for problem in status.problems())
            await put(path, held)  # acknowledged: taken anew
            assert set(await fetch(path, held)) == set(held)
        async with running(tmp_path) as (engine, path):
            assert not engine.status().store.log_damaged
            assert engine.status().store.unreadable_bodies == 0
            assert set(await fetch(path, held)) == set(held)

    (tmp_path / "made").mkdir()
    asyncio.run(run())
