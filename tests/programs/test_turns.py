# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay that is busy: how long others wait, counted in rounds of the loop and not in seconds."""

import asyncio
from contextlib import closing

from tests.programs.running import Phone, running

#: Nothing is left to do after so long.
QUIET_S = 0.05


def test_whoever_says_something_is_heard_before_the_turns_that_are_due(tmp_path):
    """Behind them he would wait for a whole round more while others keep the relay busy."""

    async def run():
        async with running(tmp_path) as (engine, path):
            with closing(await Phone.open(path, slow=False)) as phone:
                await asyncio.sleep(QUIET_S)
                happened = []
                connections = engine._connections
                received, take_turns = connections.received, connections.take_turns
                # Notes what reaches the real ones.
                connections.received = lambda *of: (happened.append("heard"), received(*of))
                connections.take_turns = lambda: (happened.append("turns"), take_turns())[1]
                phone.session.probe(0.0)
                phone.sock.send(phone.session.data_to_send())
                engine.wake()
                await asyncio.sleep(QUIET_S)
                return happened

    assert asyncio.run(run())[:2] == ["heard", "turns"]
