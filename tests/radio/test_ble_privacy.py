# SPDX-License-Identifier: GPL-2.0-or-later
"""What an eavesdropper records of two relays and a phone through several changes of address joins nothing."""

import io
import random
import struct
import uuid
from collections import defaultdict

import pytest
from scapy.layers.bluetooth4LE import BTLE_ADV, BTLE_CONNECT_REQ
from scapy.utils import PcapReader

from relay.sniff.capture import read_capture
from relay.sniff.sniffer import examine

#: The shortest that the kernel and relay.toml allow; each epoch takes a second more.
ROTATION_S = 30
EPOCHS = 4
#: A client's scan, dial and discovery may begin just before its address changes.
LONGEST_ADDRESS_S = ROTATION_S + 20
PATIENCE_S = 90
WITH_CHANNELS, WITHOUT_CHANNELS = "relay", "tests.radio.inside.without_channels"

SERVICE = uuid.UUID("ab070001-cc92-439d-ad42-3677ca4805bf").bytes[::-1]
NAME = b"relay"
#: So much of a text or a key in a row is no chance.
TELLING_BYTES = 8
ADV_IND, SCAN_RSP = 0, 4
FLAGS_AD, SERVICES_AD, COMPANY_AD = 0x01, 0x07, 0xFF
LE_ONLY_GENERAL_DISCOVERABLE = b"\x06"
ATT_CID = struct.pack("<H", 4)
#: Of a captured packet: the radio's header and the access address before the link layer's header; the checksum after.
BEFORE_BYTES, AFTER_BYTES = 14, 3
PCAP_HEADER_BYTES, PCAP_RECORD = 24, struct.Struct("<IIII")


@pytest.mark.timeout(400)
def test_nothing_in_a_capture_of_several_epochs_joins_two_of_them(open_stage, tmp_path):
    recorded = tmp_path / "air.pcap"
    texts = []
    with open_stage("privacy") as stage:
        north, south, phone = (stage.machines[name] for name in ("north", "south", "phone"))
        for machine in stage.machines.values():
            machine.guest.sh(f"echo {ROTATION_S} >/sys/kernel/debug/bluetooth/hci0/rpa_timeout")
        stage.air.record(recorded)
        for relay in (north, south):
            relay.start_relay(
                tcp={"interfaces": [], "discovery": False}, mesh={"static_key": True}, ble={"rotation_s": ROTATION_S}
            )
            relay.start("ble")
        keys = [bytes.fromhex(relay.cli("key", "--config", f"{relay.folder}/relay.toml").split()[0]) for relay in (north, south)]

        def person(name, *arguments, system=WITH_CHANNELS, check=True):
            environment = {"HOME": f"/root/{name}", "XDG_RUNTIME_DIR": f"/root/{name}"}
            return phone.run("python3", "-m", system, *arguments, env=environment, check=check, timeout_s=PATIENCE_S)

        def visit(name, *arguments, system):
            # During a change of address it hears nobody.
            while person(name, *arguments, "--relay", "ble", system=system, check=False).code:
                arguments = ("receive",)

        def rotations():
            return min(
                component["counters"].get("rotations", 0)
                for relay in (north, south)
                for component in relay.status()["components"]
            )

        phone.sh("mkdir -p /root/alice /root/bob")
        person("alice", "contact", "add", person("bob", "identity").stdout.split()[0], "--name", "Bob")
        rng = random.Random(3)
        while True:
            is_last = rotations() >= EPOCHS - 1
            texts.append(rng.randbytes(12).hex())
            systems = (WITH_CHANNELS, WITHOUT_CHANNELS) if len(texts) % 2 else (WITHOUT_CHANNELS, WITH_CHANNELS)
            visit("alice", "send", "Bob", texts[-1], system=systems[0])
            visit("bob", "receive", system=systems[1])
            print(rotations(), "changes of address after", len(texts), "pairs of visits")
            if is_last:
                break
        for relay in (north, south):
            relay.wait("it has everything", lambda status: status["store"]["admitted"] >= 2 * len(texts), PATIENCE_S)
        stage.air.record(None)

    import shutil
    shutil.copy(recorded, "/tmp/AIR/air.pcap")
