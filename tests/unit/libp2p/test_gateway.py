# SPDX-License-Identifier: GPL-2.0-or-later
"""What the gateway answers: the cases of the specification, and of its conformance suite for raw blocks."""

import hashlib
import json

import pytest

from relay.libp2p.cid import DAG_CBOR, EMPTY, Cid, parse_cid, raw
from relay.libp2p.gateway import RAW_TYPE, Answer, answer, providers, understand

BLOCK = bytes(range(256)) * 4
CID = raw(hashlib.sha256(BLOCK).digest())
PATH = f"/ipfs/{CID}"


def ask(path=PATH, query="format=raw", accept="", method="GET", block=BLOCK, **headers):
    question = understand(method, path, query, accept)
    if isinstance(question, Answer):
        return question
    return answer(question, block, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("query", "accept"), [("format=raw", "*/*"), ("", RAW_TYPE), ("", f"text/html, {RAW_TYPE};q=0.9")]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_block_with_all_that_is_said_of_it(method, query, accept):
    found = ask(query=query, accept=accept, method=method)
    assert found.status == 200
    assert found.body == BLOCK
    said = found.headers
    assert said["Content-Type"] == "application/vnd.ipld.raw"
    assert said["Content-Disposition"] == f'attachment; filename="{CID}.bin"'
    assert said["X-Content-Type-Options"] == "nosniff"
    assert said["Etag"] == f'"{CID}.raw"'
    assert said["Cache-Control"] == "public, max-age=29030400, immutable"
    assert said["X-Ipfs-Path"] == PATH
    assert said["X-Ipfs-Roots"] == str(CID)
    assert said["Accept-Ranges"] == "bytes"


def test_format_comes_before_accept():
    assert ask(query="format=raw", accept="text/html").status == 200
    assert ask(query="format=car", accept=RAW_TYPE).status == 406


@pytest.mark.parametrize(
    ("query", "accept"),
    [
        ("", ""),
        ("", "*/*"),
        ("", "application/vnd.ipld.car"),
        ("format=car", ""),
        ("format=", ""),
        ("x=1", "text/html"),
    ],
)
def test_other_formats_are_not_acceptable(query, accept):
    assert ask(query=query, accept=accept).status == 406


def test_the_empty_block_is_always_there():
    question = understand("HEAD", f"/ipfs/{EMPTY}", "format=raw", "")
    assert question.cid.inline
    found = answer(question, question.cid.digest, {})
    assert (found.status, found.body, found.headers["Etag"]) == (200, b"", f'"{EMPTY}.raw"')


def test_a_name_that_is_asked_for_cannot_leave_its_quotes():
    assert ask(query="format=raw&filename=a%20b.txt").headers["Content-Disposition"] == 'attachment; filename="a b.txt"'
    said = ask(query='format=raw&filename=a"%0d%0aX: y/../é').headers["Content-Disposition"]
    assert '"' not in said.removeprefix('attachment; filename="').removesuffix('"')
    assert "\n" not in said
    assert "\r" not in said
    assert said.isascii()


@pytest.mark.parametrize(
    "said", ['"{cid}.raw"', 'W/"{cid}.raw"', '"other", "{cid}.raw"', "*", 'W/"other",W/"{cid}.raw"']
)
def test_who_has_it_is_told_so(said):
    found = ask(if_none_match=said.format(cid=CID))
    assert (found.status, found.body) == (304, b"")
    assert found.headers["Etag"] == f'"{CID}.raw"'
    assert "Cache-Control" in found.headers
    assert "Content-Type" not in found.headers


@pytest.mark.parametrize("said", ['"other"', "{cid}.raw", '"{cid}"', "", '"{cid}.raw'])
def test_who_has_another_gets_it(said):
    assert ask(if_none_match=said.format(cid=CID)).status == 200


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 9),
        ("bytes=1000-", 206, 1000, 1023),
        ("bytes=-24", 206, 1000, 1023),
        ("bytes=1000-9999", 206, 1000, 1023),
        ("bytes=0-0", 206, 0, 0),
        ("bytes=1024-", 416, 0, -1),
        ("bytes=9-1", 200, 0, 1023),
        ("bytes=0-1,4-5", 200, 0, 1023),
        ("lines=1-2", 200, 0, 1023),
    ],
)
def test_parts(wanted, status, start, end):
    found = ask(range=wanted)
    assert found.status == status
    if status == 206:
        assert found.body == BLOCK[start : end + 1]
        assert found.headers["Content-Range"] == f"bytes {start}-{end}/1024"
    elif status == 416:
        assert found.headers["Content-Range"] == "bytes */1024"
    else:
        assert found.body == BLOCK


def test_a_part_is_of_what_was_there_before_or_it_is_all():
    assert ask(range="bytes=0-9", if_range=f'"{CID}.raw"').status == 206
    assert ask(range="bytes=0-9", if_range='"other"').status == 200


def test_what_is_purged_expired_or_unknown_is_missing_alike():
    found = ask(block=None)
    assert (found.status, found.headers["Cache-Control"]) == (404, "no-store")
    assert ask(block=None, cache_control="max-age=0, only-if-cached").status == 412
    assert ask(cache_control="only-if-cached").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/ipfs/",
        "/ipfs/notacid",
        "/ipfs/bafkqaab",
        "/ipfs/" + "b" * 5000,
        "/routing/v1/providers/x",
        "/ipfs/é",
    ],
)
def test_what_is_no_cid_is_a_bad_request(path):
    assert ask(path).status == 400


def test_other_paths_and_methods():
    assert ask("/").status == 404
    assert ask("/ipns/example.org").status == 404
    assert ask(f"{PATH}/a.txt").status == 404
    assert ask(method="POST").status == 405
    assert ask(query="&".join(f"a{number}=1" for number in range(50))).status == 400


def test_a_cid_of_another_codec_or_version_names_the_same_bytes():
    for cid in (Cid(1, DAG_CBOR, CID.digest), Cid(0, 0x70, CID.digest)):
        question = understand("GET", f"/ipfs/{cid}", "format=raw", "")
        assert question.cid.digest == CID.digest
        assert answer(question, BLOCK, {}).headers["Etag"] == f'"{cid}.raw"'


def test_who_has_a_block():
    question = understand("GET", f"/routing/v1/providers/{CID}", "", "application/json")
    assert question.is_routing
    assert parse_cid(question.written) == CID
    found = providers("12D3KooWx", ["/ip4/192.0.2.1/tcp/4280/http"])
    (record,) = json.loads(found.body)["Providers"]
    assert record == {
        "Schema": "peer",
        "ID": "12D3KooWx",
        "Addrs": ["/ip4/192.0.2.1/tcp/4280/http"],
        "Protocols": ["transport-ipfs-gateway-http"],
    }
    assert found.headers["Content-Type"] == "application/json"
    assert json.loads(providers("12D3KooWx", []).body) == {"Providers": []}
