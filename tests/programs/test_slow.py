# SPDX-License-Identifier: GPL-2.0-or-later
"""A slow stream: what is urgent passes what is not, whatever lies in between."""

import asyncio
import random
from contextlib import closing

import pytest

from relay.core.envelope import envelope_id
from relay.core.messages import Subscribe
from relay.core.session import SLOW_RECORD_BYTES
from relay.run.stream import SLOW_AHEAD_BYTES
from tests.programs.running import Phone, envelope, put, running

#: A radio of 20 kB/s, in steps that a small piece on the air would make.
PIECE_BYTES = 500
PIECE_S = 0.025
RECORD_BYTES = SLOW_RECORD_BYTES + 18


@pytest.mark.parametrize("fetches", [False, True])
def test_a_put_is_acknowledged_at_once_while_a_download_fills_a_slow_stream(tmp_path, fetches):
    """Counted in bytes that the phone still has to read, not in seconds: so it is the same on each machine."""

    async def run():
        rng = random.Random(3)
        async with running(tmp_path) as (_, path):
            held = [envelope(rng, size_class) for size_class in (*[3] * 20, *[0] * 300)]
            await put(path, held)
            with closing(await Phone.open(path, slow=True)) as phone:
                if fetches:
                    phone.session.fetch([envelope_id(one) for one in held])
                else:
                    phone.session.subscribe(Subscribe(prefix_bits=0, prefix=0))
                await phone.flush()
                ahead = []
                for number in range(12):
                    for _ in range(20):
                        await phone.read(PIECE_BYTES)
                        await asyncio.sleep(PIECE_S)
                    before = phone.read_bytes
                    phone.session.put(envelope(rng))
                    await phone.flush()
                    # The put is there at once, and committed while a piece is on the air.
                    while number not in phone.acknowledged:
                        await asyncio.sleep(PIECE_S)
                        await phone.read(PIECE_BYTES)
                    ahead.append(phone.read_bytes - before)
                return ahead

    ahead = asyncio.run(run())
    # The record that has the acknowledgement in it, and what goes by while the store commits. A disk that others use
    # is late now and then, and the phone does not wait for it.
    assert sorted(ahead)[len(ahead) * 3 // 4] <= SLOW_AHEAD_BYTES + RECORD_BYTES + 2 * PIECE_BYTES, ahead
