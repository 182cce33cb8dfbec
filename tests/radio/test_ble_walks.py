# SPDX-License-Identifier: GPL-2.0-or-later
"""A phone that walks out of range while it sends or fetches goes on where it was."""

import random

import pytest

WALKS = 5
PHOTO_BYTES = 1_500_000
PIECES = 93
#: What a client has sent and not had answered when it leaves: 64 KiB, and what is on its way.
MOST_AGAIN = 8
#: A visit may end early by itself, as any on a radio.
MOST_VISITS = 4
PATIENCE_S = 90
#: A transfer that begins: hearing, connecting, discovery and handshake, on a busy machine.
BEGIN_S = 60


@pytest.mark.timeout(600)
def test_a_phone_that_leaves_ten_times_sends_and_fetches_on_where_it_was(open_stage):
    photo = random.Random(7).randbytes(PHOTO_BYTES)
    with open_stage("phones") as stage:
        relay, alice, bob, _ = stage.machines.values()
        relay.start_relay()
        relay.start("ble")
        alice.cli("contact", "add", bob.cli("identity").split()[0], "--name", "Bob")
        alice.guest.write(f"{alice.folder}/photo.jpg", photo)

        def held():
            return relay.status()["store"]["envelopes"]

        sending = ["send", "Bob", "--file", "photo.jpg", "--relay", "ble"]
        for walk in range(1, WALKS + 1):
            process = alice.start_process("python3", "-m", "relay", *sending)
            # What is left is offered whenever the client runs.
            sending = ["receive", "--relay", "ble"]
            least = PIECES * walk // (WALKS + 2)
            relay.wait(f"{least} pieces are here", lambda status, n=least: status["store"]["envelopes"] >= n, BEGIN_S)
            stage.air.heard([])
            process.wait(PATIENCE_S)
            assert held() < PIECES, "it has sent everything before it left"
            stage.air.heard(None)
        for _ in range(MOST_VISITS):
            alice.cli("receive", "--relay", "ble", timeout_s=PATIENCE_S)
            print(f"{held()} of {PIECES} pieces are there")
            if held() == PIECES:
                break
        assert held() == PIECES
        totals = relay.status()["totals"]["total"]
        assert totals["duplicate"] <= WALKS * MOST_AGAIN, totals

        got = 0
        for _ in range(WALKS):
            process = bob.start_process("python3", "-m", "relay", "receive", "--relay", "ble")
            before = served(relay)
            relay.wait(
                "some more was fetched",
                lambda _, n=before: served(relay) >= n + PHOTO_BYTES // (WALKS + 2),
                BEGIN_S,
            )
            stage.air.heard([])
            process.wait(PATIENCE_S)
            assert "photo.jpg" not in process.stdout, "it has fetched everything before it left"
            stage.air.heard(None)
        got = served(relay)
        for _ in range(MOST_VISITS):
            if "photo.jpg" in bob.cli("receive", "--relay", "ble", timeout_s=PATIENCE_S):
                break
        assert bob.guest.read(f"{bob.folder}/photo.jpg") == photo
        print(f"{served(relay) - got} bytes in the last visit, {served(relay)} in all, of a photo of {PHOTO_BYTES}")


def served(relay):
    """Bytes that went out over Bluetooth."""
    return sum(link["bytes_out"] for link in relay.status()["links"] if link["kind"] == "ble")
