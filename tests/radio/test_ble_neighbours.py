# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays that have nothing but Bluetooth between them, with phones coming and going on the same adapters."""

import time

import pytest

#: Seed, count, size: a thousand on each relay, of all sizes but the largest.
LOTS = {
    "north": [(1, 800, 256), (2, 180, 1024), (3, 20, 4096)],
    "south": [(4, 800, 256), (5, 180, 1024), (6, 20, 4096)],
}
ENVELOPES = 2000
MESSAGES = 3
#: Why a session ends that reads bytes of another one.
FOREIGN_BYTES = {"replay", "garbage_frame", "oversized_frame", "decode", "protocol", "unwanted_envelope"}
PATIENCE_S = 120


@pytest.mark.lasts(60)
@pytest.mark.timeout(400)
def test_two_relays_reconcile_2000_envelopes_while_three_phones_fetch_and_send(open_stage):
    # Told once, as the test may see the next hour begin.
    hour = str(int(time.time()) // 3600 + 48)
    with open_stage("neighbours") as stage:
        machines = stage.machines
        relays = [machines[name] for name in LOTS]
        phones = [machines[f"phone{number}"] for number in (1, 2, 3)]
        for relay in relays:
            # No IP between them, but loopback for the test.
            relay.start_relay(tcp={"interfaces": [], "discovery": False})
            for lot in LOTS[relay.name]:
                relay.run("python3", "-m", "tests.radio.inside.store", "put", hour, *map(str, lot))
            relay.start("ble")
        cards = [phone.cli("identity").split()[0] for phone in phones]
        for index, phone in enumerate(phones):
            phone.cli("contact", "add", cards[(index + 1) % 3], "--name", "Next")

        stage.step("all come into range")
        sent = [[f"number {count} from {phone.name}" for count in range(MESSAGES)] for phone in phones]
        for count in range(MESSAGES):
            running = [
                phone.start_process("python3", "-m", "relay", "send", "Next", texts[count], "--relay", "ble")
                for phone, texts in zip(phones, sent, strict=True)
            ]
            for process in running:
                assert process.wait(PATIENCE_S) == 0, process.output
        everything = ENVELOPES + MESSAGES * len(phones)
        for relay in relays:
            relay.wait("it holds everything", lambda status: status["store"]["admitted"] >= everything, PATIENCE_S)

        running = [phone.start_process("python3", "-m", "relay", "receive", "--relay", "ble") for phone in phones]
        for process in running:
            assert process.wait(PATIENCE_S) == 0, process.output
        shown = [process.stdout for process in running]
        for index in range(3):
            for text in sent[index - 1]:
                assert text in shown[index]
        numbers = [str(number) for lots in LOTS.values() for lot in lots for number in lot]
        for relay in relays:
            held = relay.run("python3", "-m", "tests.radio.inside.store", "check", hour, *numbers).stdout.split()
            assert held[:2] == ["all", str(ENVELOPES)]
            # The messages; by now some were received, and their receipts are on the way.
            assert int(held[3]) >= MESSAGES * len(phones)
            # Bytes of another stream would not decrypt. On a busy machine a stream may break off before it is open.
            failures = relay.status()["totals"]["handshake_failures"]
            assert {reason for reason, count in failures.items() if count} <= {"truncated"}
            for link in relay.status()["links"]:
                assert not set(link["errors"]) & FOREIGN_BYTES, link
