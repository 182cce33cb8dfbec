# SPDX-License-Identifier: GPL-2.0-or-later
"""What an appliance has to say is on every page that its operator sees."""

import asyncio
import json

import pytest

from relay.appliance import screen
from relay.control.control_client import ControlClient
from relay.control.notices import Notice, NoticeCode, decode_notices, encode_notices, read_notices
from relay.control.status import NoticeStatus
from relay.control.text import status_text
from relay.pages.language import LANGUAGES
from relay.pages.render import Pages
from relay.run import overview
from relay.run.history import Sample
from relay.run.page import operator_page
from tests.programs.running import running

MISTAKE = NoticeStatus(code="config", text="line 3: <b>no</b>", serious=True)
HINT = NoticeStatus(code="no_country", text="Wi-Fi is off", serious=False)


@pytest.fixture
def status(control, engine):
    engine.changes = {"notices": [MISTAKE, HINT]}
    with ControlClient(control) as client:
        return client.read_status()


def test_a_mistake_is_a_problem_and_a_hint_is_none(status):
    assert status.problems() == [f"relay.toml has a mistake: {MISTAKE.text}; correct it as it says"]
    text = status_text(status)
    assert "health     relay.toml has a mistake: line 3: <b>no</b>" in text
    assert "note       Wi-Fi is off" in text


def test_the_page_shows_both_and_takes_no_markup_from_a_file(status):
    now = Sample(at_s=0.0, envelopes=0, bytes=0, received=0, sent=0)
    page = operator_page(Pages(), LANGUAGES[0], status, [now], can_set_clock=False)
    assert "line 3: &lt;b&gt;no&lt;/b&gt;" in page
    assert "Wi-Fi is off" in page


def test_the_screen_shows_the_status_or_that_there_is_none_yet(control, engine, status, tmp_path):
    engine.changes = {"notices": status.notices}
    text, started = screen.picture(control)
    assert started
    assert "line 3: <b>no</b>" in text
    assert max(map(len, text.splitlines())) <= 78
    text, started = screen.picture(tmp_path / "none.sock")
    assert not started
    assert "starting" in text


def test_a_notice_gives_a_terminal_nothing_to_obey():
    """A process that reads strangers' sticks writes one of the files, and operators and the screen see them."""
    hostile = "a\x1b[2J\x1b]0;b\x07 c\u202ed\u2066e\x9b1m \u2028 f"
    raw = json.dumps({"v": 1, "notices": [{"code": "hint", "text": hostile}]}).encode()
    for found in (decode_notices(raw), decode_notices(encode_notices([Notice(code=NoticeCode.HINT, text=hostile)]))):
        (notice,) = found
        assert notice.text.isprintable()
        assert notice.text.startswith("a")
        assert notice.text.endswith("f")


def test_notices_are_read_from_where_they_are(tmp_path):
    there = tmp_path / "notices.json"
    notices = [Notice(code=code, text=f"about {code}") for code in NoticeCode]
    there.write_bytes(encode_notices(notices))
    assert read_notices([tmp_path / "none", there]) == notices
    there.write_bytes(encode_notices([Notice(code=NoticeCode.HINT, text="x" * 10_000)] * 1000))
    assert len(there.read_bytes()) < 64 * 1024
    assert len(read_notices([there])) == 32


def test_notices_are_read_on_a_tick_and_not_by_whoever_asks(tmp_path, monkeypatch):
    there = [Notice(code=NoticeCode.HINT, text="Wi-Fi is off")]
    read = []
    monkeypatch.setattr(overview, "read_notices", lambda: read.append(1) or there)

    async def ask():
        async with running(tmp_path) as (engine, _):
            engine.tick()
            before = len(read)
            told = [engine.status().notices for _ in range(3)]
            assert len(read) == before
            return told

    assert [[notice.text for notice in notices] for notices in asyncio.run(ask())] == [["Wi-Fi is off"]] * 3
