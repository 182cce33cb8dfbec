# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever is on the card, the relay starts: with what the file says, or with what is safe."""

import hashlib
import tempfile
import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.appliance.apply import read_plan
from relay.appliance.checks import read_checks
from relay.appliance.network import draw_segment
from relay.appliance.plan import Facts, Plan
from relay.appliance.portal import PageRequest, answer
from relay.appliance.portal_page import PortalPage
from relay.config.appliance import EXAMPLE
from relay.config.credentials import MESH_SECRET
from relay.config.file import parse_config
from relay.config.toml_write import write_toml
from relay.control.notices import NoticeCode, decode_notices, encode_notices

FACTS = Facts(segment=draw_segment(lambda count: bytes(range(count))), stand_in=hashlib.sha256(b"drawn").hexdigest())
CHECKS = read_checks()
PAGE = PortalPage()
SECTIONS = ["appliance", "board", "net", "store", "tcp", "mesh", "http", "ble", "nonsense"]
SETTINGS = ["country", "storage", "ssh_keys", "lan_bridge", "radios", "bridge", "ethernet", "led", "secret", "listen"]
SCALARS = st.sampled_from(["DE", "", "volatile", "auto", True, False, 0, -1, 1e9, "wifi0", "\x00", "💡"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["mesh", "interface", "batman", "mode", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(
    st.sampled_from(SECTIONS), st.dictionaries(st.sampled_from(SETTINGS), VALUES, max_size=5) | SCALARS, max_size=5
)


def plan_of(raw: bytes) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "relay.toml").write_bytes(raw)
        return read_plan(Path(folder), FACTS)


def whole(plan):
    """The services' file is one that they take."""
    files = {file.path.name: file.content for file in plan.files}
    parse_config(files["relay.toml"], Path("relay.toml"), {"HOME": "/"})
    assert b"policy drop" in files["nftables.conf"]
    assert decode_notices(files["notices.json"])[:1] == list(plan.notices)[:1]


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_a_relay(raw):
    whole(plan_of(raw))


CLOSED = EXAMPLE.read_text().replace('mesh_secret = ""', f'mesh_secret = "{hashlib.sha256(b"theirs").hexdigest()}"')


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(0, len(CLOSED)), drop=st.integers(0, 3), put=st.text("\"=[]\n'. xD", max_size=2), cut=st.booleans()
)
def test_no_slip_of_a_finger_opens_a_closed_mesh(at, drop, put, cut):
    """Whatever is typed, deleted or lost at the end; only who makes the line a remark opens it."""
    text = CLOSED[:at] if cut else CLOSED[:at] + put + CLOSED[at + drop :]
    plan = plan_of(text.encode())
    assert MESH_SECRET in {file.path.name for file in plan.files}, text


@settings(max_examples=400, deadline=None)
@given(DOCUMENTS)
def test_any_settings_give_a_relay(document):
    plan = plan_of(write_toml(document).encode())
    whole(plan)
    files = {file.path.name: file.content.decode() for file in plan.files}
    if any(notice.code in {NoticeCode.CONFIG, NoticeCode.NO_COUNTRY} for notice in plan.notices):
        assert "hostapd.conf" not in files
        assert "radios" not in tomllib.loads(files["relay.toml"])["net"]


@given(st.binary(max_size=300))
def test_any_bytes_are_notices_or_none(raw):
    found = decode_notices(raw)
    assert decode_notices(encode_notices(found)) == found


@given(st.binary(max_size=300))
def test_any_request_gets_one_answer(raw):
    found = answer(raw, CHECKS)
    if isinstance(found, PageRequest):
        found = PAGE.answer(found)
    head, _, body = found.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 ")
    length = [int(line.split(b":")[1]) for line in lines if line.startswith(b"Content-Length")]
    assert not body or length == [len(body)]
