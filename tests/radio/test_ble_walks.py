# SPDX-License-Identifier: GPL-2.0-or-later
"""A phone that walks out of range while it sends or fetches, ten times, goes on where it was."""

import random

import pytest

#: What becomes of the command each time that the phone has gone: it ends by itself (as its patience does), it is still
#: there when the phone is back, or somebody closes it.
GIVES_UP, GOES_ON, CLOSED = "gives up", "goes on", "closed"
#: By default that is a minute, for which two tests would do nothing.
IMPATIENT = "tests.radio.inside.impatient"
WALKS = (GIVES_UP, GOES_ON, CLOSED, GOES_ON, CLOSED)
PHOTO = random.Random(7).randbytes(1_500_000)
PIECES = 93
#: That many come through before the phone leaves again.
STEP = PIECES // (len(WALKS) + 2)
#: 6 pieces a second, so that we see how far it is while it goes on.
BYTES_PER_S = 100_000
#: What a client has sent and not had answered when it leaves, or has asked for: 64 KiB, and what is on its way.
MOST_AGAIN = 8
#: A visit may end early by itself, as any on a radio.
MOST_VISITS = 4
#: More than a client's own, for which it goes on trying.
PATIENCE_S = 90
#: A transfer that begins: hearing, connecting, discovery and handshake, on a busy machine.
BEGIN_S = 60
RECEIVE = ("receive", "--relay", "ble")


@pytest.mark.lasts(105)
@pytest.mark.timeout(600)
def test_a_phone_that_leaves_five_times_sends_on_where_it_was(open_stage):
    with open_stage("phones") as stage:
        relay, alice, bob, _ = stage.machines.values()
        begin(stage)
        stage.air.conditions(bytes_per_s=BYTES_PER_S)

        def held():
            return relay.status()["store"]["envelopes"]

        ended = walk(stage, alice, ("send", "Bob", "--file", "photo.jpg", "--relay", "ble"), held, STEP)
        assert held() < PIECES, "it has sent everything before it left"
        assert f"of {PIECES} pieces are)" in ended.output, ended.describe("does not say what is left")
        for _ in range(MOST_VISITS):
            process = alice.run("python3", "-m", "relay", *RECEIVE, timeout_s=PATIENCE_S, check=False)
            print(process.describe(f"left {held()} of {PIECES} pieces there"))
            if process.code == 0:
                break
        assert held() == PIECES
        totals = relay.status()["totals"]["total"]
        assert totals["duplicate"] <= len(WALKS) * MOST_AGAIN, totals
        # Nor has the phone fetched its own photo.
        assert totals["forwarded"] == 0, totals
        stage.air.conditions()
        bob.cli(*RECEIVE, timeout_s=PATIENCE_S)
        assert bob.guest.read(f"{bob.folder}/photo.jpg") == PHOTO


@pytest.mark.lasts(105)
@pytest.mark.timeout(600)
def test_a_phone_that_leaves_five_times_fetches_on_where_it_was(open_stage):
    with open_stage("phones") as stage:
        relay, alice, bob, _ = stage.machines.values()
        begin(stage)
        alice.cli("send", "Bob", "--file", "photo.jpg", "--relay", "ble", timeout_s=PATIENCE_S)
        totals = relay.status()["totals"]["total"]
        assert totals["accepted"] == PIECES
        stage.air.conditions(bytes_per_s=BYTES_PER_S)

        def given():
            return relay.status()["totals"]["total"]["forwarded"] - totals["forwarded"]

        ended = walk(stage, bob, RECEIVE, given, STEP)
        assert "pieces are here" in ended.output, ended.describe("does not say what it has")
        assert "photo.jpg" not in bob.sh("ls"), "it has fetched everything before it left"
        for _ in range(MOST_VISITS):
            process = bob.run("python3", "-m", "relay", *RECEIVE, timeout_s=PATIENCE_S, check=False)
            print(process.describe(f"{given()} pieces given for {PIECES}"))
            if "photo.jpg" in process.stdout:
                break
        assert bob.guest.read(f"{bob.folder}/photo.jpg") == PHOTO
        print(f"{totals}; then {given()} pieces given")
        assert given() <= PIECES + len(WALKS) * MOST_AGAIN


def begin(stage):
    """Start the relay; give one phone a photo and the other one's card."""
    relay, alice, bob, _ = stage.machines.values()
    relay.start_relay()
    relay.start("ble")
    alice.cli("contact", "add", bob.cli("identity").split()[0], "--name", "Bob")
    alice.guest.write(f"{alice.folder}/photo.jpg", PHOTO)


def walk(stage, phone, command, count, step):
    """Have a phone leave whenever `step` more came through, and come back; return the process that gave up.

    What is left is gone on with whenever the client runs.
    """
    relay = stage.machines["relay"]
    ended = process = None
    for fate in WALKS:
        if process is None:
            program = IMPATIENT if fate == GIVES_UP else "relay"
            process = phone.start_process("python3", "-m", program, *command)
            command = RECEIVE
        enough = count() + step
        relay.wait(f"{enough} are through", lambda _, n=enough: count() >= n, BEGIN_S)
        stage.air.heard([])
        print(f"{phone.name} left when {count()} were through, and {fate}")
        if fate == GIVES_UP:
            process.wait(PATIENCE_S)
            assert process.code == 1, process.describe("is content")
            ended = process
        else:
            relay.wait("the phone is gone", lambda status: not clients(status), BEGIN_S)
        if fate == CLOSED:
            process.kill()
        if fate != GOES_ON:
            process = None
        stage.air.heard(None)
    return ended


def clients(status):
    return sum(link["clients"] for link in status["links"] if link["kind"] == "ble")
