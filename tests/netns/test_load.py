# SPDX-License-Identifier: GPL-2.0-or-later
"""Many at once, and a relay that is stopped or killed while they are busy."""

import threading
import time

import pytest

from tests.netns.rawclient import ClientError, RawClient, identity, make_envelopes

CLIENTS = 10
EACH = 300


class Worker(threading.Thread):
    """Runs ``work(client)``; `result` raises what it raised."""

    def __init__(self, sock, work):
        super().__init__(daemon=True)
        self.sock = sock
        self.work = work
        self.error = None
        self.took_s = 0.0
        self.start()

    def run(self):
        began = time.monotonic()
        try:
            with RawClient(self.sock) as client:
                self.work(client)
        except (AssertionError, OSError) as error:
            self.error = error
        self.took_s = time.monotonic() - began

    def wait(self, timeout_s):
        self.join(timeout_s)
        assert not self.is_alive(), f"not done after {timeout_s} s"
        if self.error is not None:
            raise self.error


def test_ten_clients_at_once_are_all_served_and_none_much_later_than_the_others(lab):
    segment = lab.segment()
    box = lab.box("relay", segment)
    relay = box.relay()
    address = box.ports["eth0"].ipv4
    sent = [make_envelopes(seed, EACH) for seed in range(CLIENTS)]
    everything = {identity(envelope) for envelopes in sent for envelope in envelopes}
    put_s = {}

    def work(number):
        def put_and_receive(client):
            client.subscribe(follow=True)
            began = time.monotonic()
            client.put(sent[number])
            put_s[number] = time.monotonic() - began
            client.pump("all is here", lambda: len(client.envelopes) >= len(everything))
            assert {identity(envelope) for envelope in client.envelopes} == everything
            assert len(client.envelopes) == len(everything)

        return put_and_receive

    phones = [lab.box(f"phone{number}", segment) for number in range(CLIENTS)]
    workers = [Worker(phone.connect(address), work(number)) for number, phone in enumerate(phones)]
    for worker in workers:
        worker.wait(60)
    times = [worker.took_s for worker in workers]
    print(f"{CLIENTS} clients: {min(times):.2f} to {max(times):.2f} s, puts {min(put_s.values()):.2f} to "
          f"{max(put_s.values()):.2f} s")  # fmt: skip
    assert max(times) < 3 * min(times) + 0.5
    assert relay.status()["store"]["envelopes"] == CLIENTS * EACH


def test_who_asks_for_few_of_many_envelopes_gets_them_at_once(lab):
    segment = lab.segment()
    box, phone = lab.box("relay", segment), lab.box("phone", segment)
    box.relay()
    address = box.ports["eth0"].ipv4
    wanted = make_envelopes(2, 1, bucket=0x11)
    phone.client(address).put(make_envelopes(1, 10_000, 256, bucket=0x0F) + wanted)
    for prefix, expected in ((0x11, wanted), (0x12, [])):
        client = phone.client(address)
        began = time.monotonic()
        client.subscribe(5, prefix)
        client.pump("the subscription is caught up", lambda client=client: client.caught_up, 5)
        print(f"{len(expected)} of 10,000 after {1000 * (time.monotonic() - began):.0f} ms")
        assert client.envelopes == expected


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_was_acknowledged_is_there_after_the_relay_ended_under_load(lab, end):
    segment = lab.segment()
    box, phone = lab.box("relay", segment), lab.box("phone", segment)
    relay = box.relay()
    address = box.ports["eth0"].ipv4
    sent = make_envelopes(1, 20_000, 4096)  # more than it takes while it is told to end
    acknowledged = set()
    ended = []

    def put_until_the_end(client):
        try:
            client.put(sent, on_progress=lambda _: acknowledged.update(client.acked))
        except ClientError:
            acknowledged.update(client.acked)
            ended.append(client.closed)

    worker = Worker(phone.connect(address), put_until_the_end)
    relay.wait("it is busy", lambda status: status["store"]["envelopes"] > 1000, 20)
    if end == "stop":
        print(f"stopped in {relay.stop():.2f} s")
    else:
        relay.kill()
    worker.wait(30)
    assert 100 < len(acknowledged) < len(sent)
    if end == "stop":
        assert "SHUTTING_DOWN" in str(ended)
    relay.start()
    held = {identity(envelope) for envelope in phone.client(address).fetch_all()}
    assert {identity(sent[number]) for number in acknowledged} <= held
    print(f"{len(acknowledged)} acknowledged, {len(held)} held")
