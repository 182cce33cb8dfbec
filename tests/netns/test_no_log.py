# SPDX-License-Identifier: GPL-2.0-or-later
"""No log, and no status or metric, tells who spoke with whom or about what."""

import base64
import http.client
import json
import random
import re
import secrets

from relay.core.envelope import TAG_BYTES, cid
from tests.netns.lab import command
from tests.netns.rawclient import ClientError, RawClient, identity, make_envelopes
from tests.netns.relays import linked
from tests.waiting import wait_until

FILE_NAME = "Zeugenliste-Marker.pdf"
TEXT = "Treffpunkt Marker Rathaus"


def spellings(value):
    """Every usual way to write these bytes; what is shorter than 6 characters could be chance."""
    return {
        value.hex(),
        value.hex(":"),
        value.hex().upper(),
        base64.b64encode(value).decode().rstrip("="),
        base64.urlsafe_b64encode(value).decode().rstrip("="),
        base64.b32encode(value).decode().rstrip("=").lower(),
        repr(value)[2:-1],
    }


def markers_of_envelopes(envelopes):
    found = set()
    for envelope in envelopes:
        found |= spellings(identity(envelope)) | spellings(identity(envelope)[:8]) | {cid(identity(envelope))}
        found |= spellings(envelope[8 : 8 + TAG_BYTES]) | spellings(envelope[10:24]) | spellings(envelope[24:40])
    return found


def addresses_of(box):
    """IP and hardware addresses of a machine, but not what every machine has."""
    links = json.loads(command("ip", "-j", "-n", box.namespace, "address"))
    found = {info["local"] for link in links for info in link["addr_info"]} | {link["address"] for link in links}
    # 10.0.1.2 as 10.0.1.2, never as a part of 110.0.1.20.
    return found - {"127.0.0.1", "::1", "00:00:00:00:00:00"}


def get(box, path):
    """What the status page's server answers on the relay's own machine."""
    connection = http.client.HTTPConnection("127.0.0.1", 9470, timeout=10)
    connection.sock = box.connect("127.0.0.1", 9470)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    assert answer.status == 200, f"{path}: {answer.status}"
    return body


def occurrences(markers, text):
    return [marker for marker in markers if re.search(rf"(?<![0-9a-zA-Z]){re.escape(marker)}(?![0-9a-zA-Z])", text)] + [
        marker for marker in markers if len(marker) > 15 and marker in text
    ]


def test_nothing_that_a_relay_says_names_a_message_a_key_a_file_or_an_address(lab):
    segment, far = lab.segment(), lab.segment()
    one_box, two_box = lab.box("one", segment), lab.box("two", segment, far)
    secret = secrets.token_hex(32)
    one = one_box.relay(mesh={"secret": secret}, clock={"trust": "system"})
    two = two_box.relay(mesh={"secret": secret}, tcp={"peers": [f"{one_box.ports['eth0'].ipv4}:4270"]})
    one.wait_linked()
    address = one_box.ports["eth0"].ipv4
    markers = {secret}

    # A conversation.
    alice, bob = lab.box("alice", segment), lab.box("bob", far)
    uri = bob.cli("identity").split()[0]
    alice.cli("contact", "add", uri, "--name", "Bob")
    (alice.folder / FILE_NAME).write_bytes(random.Random(1).randbytes(30_000))
    alice.cli("send", "Bob", TEXT, "--relay", f"{address}:4270")
    alice.cli("send", "Bob", "--file", FILE_NAME, "--relay", f"{address}:4270")
    wait_until("it is over", lambda: two.status()["store"]["envelopes"] == one.status()["store"]["envelopes"] > 2, 20)
    assert TEXT in bob.cli("receive", "--relay", f"{two_box.ports['eth1'].ipv4}:4270")
    markers |= {FILE_NAME, TEXT, "Rathaus", uri, uri.rpartition("/")[2]}

    # Envelopes that are refused for every reason there is, and sessions that go wrong.
    phone = lab.box("phone", segment)
    good = make_envelopes(1, 50)
    late = make_envelopes(2, 3, expires_in_hours=-5)
    early = make_envelopes(3, 3, expires_in_hours=5000)
    broken = [b"\xff" + envelope[1:] for envelope in make_envelopes(4, 3)]
    client = phone.client(address)
    client.put(good)
    for refused in (late, early, broken):
        try:
            client.put(refused)
        except ClientError:
            client.refused.clear()
            client.acked.update(range(client.session._puts_sent))
    for garbage in (b"\x00\x22\x02\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x22\x01\x00" + bytes(80)):
        with phone.connect(address) as sock:
            sock.sendall(garbage)
    with RawClient(phone.connect(address)) as wrong:
        wrong.session._push(0, b"\xee" + good[0][:100])
        wrong.step(0.5)
    markers |= markers_of_envelopes([*good, *late, *early, *broken, *phone.client(address).fetch_all()])
    markers |= spellings(client.session.peer_static) | spellings(client.session._static.public)
    markers |= spellings(client.session.handshake_hash)

    # Links that fail, and relays that are gone.
    for box in (one_box, two_box, alice, bob, phone):
        markers |= addresses_of(box)
    port = one_box.ports["eth0"]
    port.set("down")
    one.wait("it noticed", lambda status: not linked(status), 10)
    port.set("up")
    one.wait_linked(1, 30)
    two.kill()
    one.wait("it noticed again", lambda status: not linked(status), 10)
    two.start()
    markers |= addresses_of(one_box)
    assert len(markers) > 1000
    assert occurrences(markers, f"cannot connect to {address}: timeout") == [address]

    said = {
        "status": json.dumps(one.status()),
        "status of two": json.dumps(two.status()),
        "relay status": one.cli("status"),
        **{path: get(one_box, path) for path in ("/", "/metrics", "/status.json", "/healthz")},
        **{f"{path} of two": get(two_box, path) for path in ("/", "/metrics")},
    }
    one.stop()
    two.stop()
    said |= {"log": one.output(), "log of two": two.output()}
    for name, text in said.items():
        assert text, name
        assert occurrences(markers, text) == [], name
    assert "Traceback" not in said["log"] + said["log of two"]
