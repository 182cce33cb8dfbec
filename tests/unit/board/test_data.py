# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on the partition for data, and what becomes of it; mounted it is in tests/image/test_storage.py."""

import json
import os
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.appliance import apply
from relay.appliance.data_state import DataState, Trouble, read_state, write_state
from relay.board import data, mapping
from relay.board.card import AMNESIC, BLANK, Card
from relay.board.device import Part
from relay.board.panic import erase_data
from relay.control.notices import NoticeCode, read_notices
from tests.fat32 import Fat32
from tests.unit.appliance.test_plan import FACTS
from tests.unit.board.test_erase import make_ext4

PI_4 = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"
PI_5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics\n"
PC = "model name\t: an aes of a kind\nflags\t\t: fpu sse2 aes avx\n"


@pytest.mark.parametrize(
    ("cpuinfo", "cipher"),
    [(PI_4, mapping.ADIANTUM), (PI_5, mapping.AES), (PC, mapping.AES), (PC.replace("2 aes", "2"), mapping.ADIANTUM)],
)
def test_a_board_without_instructions_for_aes_is_given_what_is_fast_without(cpuinfo, cipher):
    assert mapping.best_cipher(cpuinfo) == cipher


def test_where_there_is_no_mapping_there_is_no_key():
    assert mapping.destroy("mesh-relay-no-such")
    assert not mapping.is_destroyed("mesh-relay-no-such")


@pytest.fixture
def partition(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(24 << 20))
    return path


@pytest.fixture
def card(tmp_path, partition):
    return Card(disk=tmp_path / "disk", boot=Part(path=tmp_path / "none"), data=Part(path=partition))


def put(partition, head):
    with partition.open("r+b") as file:
        file.write(head)


@pytest.mark.tools
def test_what_is_on_it_is_told_by_its_first_blocks(partition):
    part = Part(path=partition)
    assert data.what_is_kept(part) is data.Kept.NOTHING
    for head, kept in (
        (os.urandom(4096), data.Kept.UNKNOWN),
        (AMNESIC, data.Kept.AMNESIC),
        (BLANK, data.Kept.NOTHING),
        (b"LUKS\xba\xbe\0\2", data.Kept.DURABLE),
    ):
        put(partition, head)
        assert data.what_is_kept(part) is kept
    make_ext4(partition)
    assert data.what_is_kept(part) is data.Kept.PLAIN
    # Its first sector is no part of it.
    put(partition, bytes(512))
    assert data.what_is_kept(part) is data.Kept.PLAIN
    assert erase_data(part)
    assert data.what_is_kept(part) is data.Kept.NOTHING


NOISE = b"\x17noise" * 700


@pytest.mark.parametrize(
    ("head", "wanted", "forgets", "trouble", "is_erased"),
    [
        (b"LUKS\xba\xbe" + NOISE, "volatile", True, Trouble.NONE, True),
        (NOISE, "volatile", True, Trouble.NONE, True),
        (b"LUKS\xba\xbe" + NOISE, "volatile", False, Trouble.DURABLE_KEPT, False),
        (b"LUKS\xba\xbe" + NOISE, "amnesic", False, Trouble.DURABLE_KEPT, False),
        (NOISE, "amnesic", False, Trouble.PLAIN_KEPT, False),
        (b"LUKS\xba\xbe" + NOISE, "plain", False, Trouble.DURABLE_KEPT, False),
        (b"LUKS\xba\xbe" + NOISE, "durable", False, Trouble.LOCKED, False),
        (NOISE, "durable", False, Trouble.PLAIN_KEPT, False),
        (AMNESIC, "durable", False, Trouble.UNMADE, False),
        (BLANK, "durable", False, Trouble.UNMADE, False),
        # A mistake.
        (b"LUKS\xba\xbe" + NOISE, None, False, Trouble.DURABLE_KEPT, False),
        (NOISE, None, False, Trouble.PLAIN_KEPT, False),
        (AMNESIC, None, False, Trouble.NONE, False),
    ],
)
def test_only_who_says_that_nothing_is_kept_has_something_erased(
    card, partition, monkeypatch, head, wanted, forgets, trouble, is_erased
):
    monkeypatch.setattr(data, "node", lambda *_: partition)
    put(partition, head)
    before = partition.read_bytes()
    state = data._prepare(card, wanted, forgets=forgets)
    assert (state.trouble, state.forgot) == (trouble, is_erased)
    assert (partition.read_bytes() == before) is not is_erased
    assert (NOISE in partition.read_bytes()) is (NOISE in before and not is_erased)


@pytest.mark.tools
def test_what_others_know_by_its_first_blocks_is_theirs_and_nothing_else_is(partition, card, monkeypatch):
    monkeypatch.setattr(data, "node", lambda *_: partition)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    put(partition, os.urandom(8192))
    assert not data.is_foreign(partition)
    make_ext4(partition)
    assert not data.is_foreign(partition)
    put(partition, bytes(2048))
    assert not data.is_foreign(partition), "it is mended"
    Fat32(partition, 4000, label=b"PHOTOS")
    assert data.is_foreign(partition)
    before = partition.read_bytes()
    assert data._prepare(card, "plain", forgets=False) == DataState(trouble=Trouble.FOREIGN)
    assert partition.read_bytes() == before


def test_what_takes_no_writes_is_known_by_one_that_changes_nothing(partition, monkeypatch):
    put(partition, os.urandom(512))
    before = partition.read_bytes()
    assert data.is_writable(partition)
    assert partition.read_bytes() == before

    def fails(*_):
        raise OSError

    monkeypatch.setattr(data.Device, "sync", fails)
    assert not data.is_writable(partition)


def test_what_resists_is_not_used(card, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "node", lambda *_: tmp_path / "data")
    put(tmp_path / "data", NOISE)
    monkeypatch.setattr(data.panic, "erase_data", lambda _: False)
    assert data._prepare(card, "volatile", forgets=True) == DataState(trouble=Trouble.RESISTS)


def test_once_it_is_open_the_relay_keeps_there_what_it_acknowledges(tmp_path):
    (tmp_path / "relay.toml").write_text(
        "[appliance]\nstorage = 'durable'\n[store]\nmax_envelopes = 500\n[tcp]\nport = 4711\n"
    )
    root = tmp_path / "root"
    locked = replace(FACTS, data=DataState(trouble=Trouble.LOCKED))
    apply.write_plan(apply.read_plan(tmp_path, locked), root)
    output = root / "run/mesh-relay-config"
    document = tomllib.loads((output / "relay.toml").read_text())
    assert document["store"]["storage"] == "volatile"
    assert json.loads((output / "store-when-open").read_text()) == {"storage": "durable", "max_envelopes": 500}
    assert NoticeCode.STORAGE in [notice.code for notice in read_notices([output / "notices.json"])]

    apply.use_opened(DataState(size_bytes=255 << 20), root)
    after = tomllib.loads((output / "relay.toml").read_text())
    fits = (255 << 20) * 7 // 10 - (32 << 20)
    store = {"storage": "durable", "max_envelopes": 500, "max_bytes": fits, "fallback": document["store"]["path"]}
    assert after == document | {"store": store}
    assert (output / "relay.toml").stat().st_mode & 0o777 == 0o600
    assert [notice.code for notice in read_notices([output / "notices.json"])] == [NoticeCode.NO_COUNTRY]
    assert not (output / "store-when-open").exists()


HALF = 64 << 10


@given(
    head=st.sampled_from((b"LUKS\xba\xbe\0\2", AMNESIC, BLANK, b"", b"\x17")) | st.binary(max_size=1024),
    tail=st.binary(max_size=64),
    wanted=st.sampled_from((None, "amnesic", "durable", "plain", "volatile")),
)
def test_whatever_is_there_nobody_s_word_leaves_it_to_the_byte_or_makes_use_of_it(tmp_path_factory, head, tail, wanted):
    partition = tmp_path_factory.mktemp("data") / "data"
    partition.write_bytes(head.ljust(HALF, b"\0") + tail.ljust(HALF, b"\0"))
    before = partition.read_bytes()
    card = Card(disk=partition, boot=Part(path=partition), data=Part(path=partition))
    kept = data.what_is_kept(Part(path=partition))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data, "node", lambda *_: partition)
        if kept in data._USED[wanted]:
            # What would be made there: nothing of it is of use to anybody, or is what is wanted.
            assert kept is not data.Kept.DURABLE or wanted == "durable"
            assert kept not in {data.Kept.PLAIN, data.Kept.UNKNOWN} or wanted == "plain"
            return
        state = data._prepare(card, wanted, forgets=False)
        assert partition.read_bytes() == before
        assert state.trouble in {Trouble.PLAIN_KEPT, Trouble.DURABLE_KEPT}
        assert state.size_bytes == 0
        assert not state.forgot
        # Somebody's word is enough, for what keeps nothing.
        assert data._prepare(card, "volatile", forgets=True) == DataState(forgot=True)
    after = partition.read_bytes()
    assert after.startswith(BLANK)
    # Noise is over all of it: of that size all of a LUKS volume is its header.
    assert after[len(BLANK) : HALF] != before[len(BLANK) : HALF]
    assert after[HALF:] != before[HALF:]


@given(raw=st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(("size_bytes", "trouble", "was_closed", "forgot")) | st.text(), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_of_any_file_something_is_known_of_the_partition(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("state") / "state.json"
    assert read_state(path) == DataState(trouble=Trouble.UNUSABLE)
    path.write_bytes(raw)
    state = read_state(path)
    write_state(state, path)
    assert read_state(path) == state


@given(
    state=st.builds(
        DataState,
        size_bytes=st.integers(min_value=0, max_value=1 << 50),
        trouble=st.sampled_from(Trouble),
        was_closed=st.booleans(),
        forgot=st.booleans(),
    )
)
def test_what_one_process_leaves_the_next_one_reads(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("state") / "folder" / "state.json"
    write_state(state, path)
    assert read_state(path) == state
    assert path.stat().st_mode & 0o777 == 0o644
