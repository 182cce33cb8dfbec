# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay sniff` on a real interface sees two relays find each other and a phone send."""

import json
import signal
import threading

from tests.netns.rawclient import make_envelopes
from tests.netns.relays import PORT
from tests.waiting import wait_until


def guesses(events):
    return {event["could_be"] for event in list(events) if event["event"] == "record"}


def test_a_listener_sees_announcements_handshakes_and_sizes(lab):
    segment = lab.segment()
    boxes = [lab.box(name, segment) for name in ("a", "b")]
    phone = lab.box("phone", segment)
    one = boxes[0].relay()
    # On the relay's own machine: a switch does not show others' traffic.
    listener = boxes[0].start_cli("sniff", "eth0", "--json")
    told = []
    reading = threading.Thread(target=lambda: told.extend(map(json.loads, listener.stdout)))
    reading.start()
    wait_until("it listens", lambda: len(boxes[0].run("cat", "/proc/net/packet").splitlines()) > 1, 20)

    two = boxes[1].relay()
    one.wait_linked(1)
    two.wait_linked(1)
    client = phone.client(boxes[0].ports["eth0"].ipv4)
    envelopes = make_envelopes(1, 20)
    client.put(envelopes[:1])
    client.put(envelopes[1:])
    wait_until("both have them", lambda: two.status()["store"]["envelopes"] >= 20, 20)
    wait_until("the envelope was heard", lambda: "PUT of class 1" in guesses(told), 20)
    client.sock.close()
    listener.send_signal(signal.SIGINT)
    assert listener.wait(20) == 0
    reading.join(20)

    events = list(told)
    opened = {event["stream"]: event for event in events if event["event"] == "stream_opened"}
    shaken = {
        number: [event["handshake"] for event in events if event["event"] == "record" and event["stream"] == number][:3]
        for number in opened
    }
    assert [1, 2, 3] in shaken.values()
    addresses = {event["initiator"].rsplit(":", 1)[0] for event in opened.values()}
    assert phone.ports["eth0"].ipv4 in addresses
    announced = [event for event in events if event["event"] == "announcement"]
    assert {event["port"] for event in announced} == {PORT}
    assert events[-1]["event"] == "end"
    assert "kernel" not in events[-1]["passed"]
