# SPDX-License-Identifier: GPL-2.0-or-later
import dataclasses
import json

import pytest

from relay.core.errors import DecodeError
from relay.net import found
from relay.net.found import Found, FoundLink, MadeLink, Record

LINK = FoundLink(
    name="wlan0",
    index=4,
    up=True,
    mtu=1500,
    master=0,
    address_mode=0,
    link_mode=0,
    kind=2,
    four_address=False,
    addresses=("0a40800004000000" + "00" * 20,),
    routes=("02" + "00" * 31,),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runtime" / "net.json"


def reread(path):
    record = Record(path)
    record.load()
    return record.found


def test_each_note_is_in_the_file_before_the_next_step(path):
    record = Record(path)
    record.load()
    assert record.found.is_empty
    record.note_link(LINK)
    assert reread(path) == Found(links=(LINK,))
    record.note_made(MadeLink(name="bat0", index=1 << 25))
    record.note_country("00")
    assert (
        reread(path) == record.found == Found(links=(LINK,), made=(MadeLink(name="bat0", index=1 << 25),), country="00")
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["net.json"]


def test_what_was_found_first_stays(path):
    record = Record(path)
    record.note_link(LINK)
    record.note_link(dataclasses.replace(LINK, kind=7, up=False))
    record.note_country("DE")
    record.note_country("US")
    assert reread(path) == Found(links=(LINK,), country="DE")


def test_a_radio_that_was_replugged_is_another_one(path):
    record = Record(path)
    record.note_link(LINK)
    again = dataclasses.replace(LINK, index=9, up=False)
    record.note_link(again)
    assert reread(path).links == (again,)


def test_when_all_is_put_back_the_file_goes(path):
    record = Record(path)
    record.note_link(LINK)
    record.keep(Found(country="00"))
    assert reread(path) == Found(country="00")
    record.keep(Found())
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"links": [{}]},
        {"links": [{**dataclasses.asdict(LINK), "index": "4"}]},
        {"links": [{**dataclasses.asdict(LINK), "up": 1}]},
        {"links": [{**dataclasses.asdict(LINK), "addresses": ["00"]}]},
        {"links": [{**dataclasses.asdict(LINK), "routes": ["xyz"]}]},
        {"made": [{"name": 1, "index": 2}]},
        {"country": None},
    ],
)
def test_a_record_that_is_none_is_refused(change):
    document = json.loads(found.encode(Found(links=(LINK,))))
    found.decode(json.dumps(document).encode())
    with pytest.raises(DecodeError):
        found.decode(json.dumps(document | change).encode())
