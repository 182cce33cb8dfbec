# SPDX-License-Identifier: GPL-2.0-or-later
"""Who asks much on a socket of lines is answered in turn, and keeps nothing else of the loop waiting."""

import asyncio
import time

from relay.process.lines import LineServer

QUESTIONS = 2000
ANSWER_S = 0.002


def test_a_flood_of_questions_has_one_answer_at_a_time_and_a_fifth_of_the_time(tmp_path):
    async def run():
        path = tmp_path / "socket"
        asked = []

        def answer(line, _user):
            asked.append(line)
            time.sleep(ANSWER_S)
            return line + b"\n"

        server = LineServer(
            path=path, mode=0o600, answer=answer, max_connections=8, max_request_bytes=100, max_unread_bytes=1 << 20
        )
        async with server:
            flooding, honest = [await asyncio.open_unix_connection(path) for _ in range(2)]
            flooding[1].write(b"much\n" * QUESTIONS)
            most = 0
            for _ in range(200):
                before = len(asked)
                await asyncio.sleep(0)
                most = max(most, len(asked) - before)
            assert most == 1
            began, before = time.monotonic(), len(asked)
            honest[1].write(b"little\n")
            assert await honest[0].readline() == b"little\n"
            assert len(asked) - before <= 3, "others wait for one answer of his, and not for all"
            await asyncio.sleep(0.5)
            assert (len(asked) - before) * ANSWER_S < 0.4 * (time.monotonic() - began)
            for _, writer in (flooding, honest):
                writer.close()

    asyncio.run(run())
