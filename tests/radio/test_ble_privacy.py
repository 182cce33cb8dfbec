# SPDX-License-Identifier: GPL-2.0-or-later
"""What an eavesdropper records of two relays and a phone through several changes of address joins nothing."""

import random
import struct
import uuid
from collections import defaultdict

import pytest
from scapy.layers.bluetooth4LE import BTLE_ADV
from scapy.utils import PcapReader

from relay.sniff.capture import read_capture
from relay.sniff.sniffer import examine
from tests.radio.people import WITH_CHANNELS, WITHOUT_CHANNELS, Person

#: The shortest that the kernel and relay.toml allow; each epoch takes a second more.
ROTATION_S = 30
EPOCHS = 4
#: Of a client, whose scan, dial and discovery may begin just before its address would change.
LONGEST_ADDRESS_S = ROTATION_S + 20
PATIENCE_S = 90
#: bluetoothd would read the names of the phones that visit a relay; nobody needs them.

SERVICE = uuid.UUID("ab070001-cc92-439d-ad42-3677ca4805bf").bytes[::-1]
NAME = b"relay"
#: So much of a text or a key in a row is no chance.
TELLING_BYTES = 8
ADV_IND, SCAN_REQ, SCAN_RSP, CONNECT_IND = 0, 3, 4, 5
#: AD types, and their values in front; the order is bluetoothd's.
STRUCTURES = [(0x07, SERVICE), (0xFF, b"\xff\xff"), (0x01, b"\x06")]
STRUCTURE_BYTES = [16, 8, 1]
ATT, READ, READ_RESPONSE = b"\x04\x00", 0x0A, 0x0B
#: The same on all BlueZ.
GAP_NAME_HANDLE = b"\x03\x00"
#: Directions of link type 256.
FROM_CENTRAL, FROM_PERIPHERAL = 2, 3
ADVERTISING = (0x8E89BED6).to_bytes(4, "little")
#: Of a captured packet: the radio's header and the access address, then the link layer's header; at the end a checksum.
LINK_LAYER, PAYLOAD, CHECKSUM_BYTES = 14, 16, 3
PCAP_HEADER_BYTES, PCAP_RECORD = 24, struct.Struct("<IIII")


@pytest.mark.lasts(120)
@pytest.mark.timeout(400)
def test_nothing_in_a_capture_of_several_epochs_joins_two_of_them(open_stage, tmp_path):
    recorded = tmp_path / "air.pcap"
    rng = random.Random(3)
    texts = [rng.randbytes(12).hex() for _ in range(EPOCHS)]
    with open_stage("privacy") as stage:
        *relays, phone = stage.machines.values()
        for machine in stage.machines.values():
            machine.guest.sh(f"echo {ROTATION_S} >/sys/kernel/debug/bluetooth/hci0/rpa_timeout")
        for relay in relays:
            relay.start_relay(
                tcp={"interfaces": [], "discovery": False}, mesh={"static_key": True}, ble={"rotation_s": ROTATION_S}
            )
        keys = [relay.cli("key", "--config", f"{relay.folder}/relay.toml").split()[0] for relay in relays]
        stage.air.record(recorded)
        for relay in relays:
            relay.start("ble")

        alice, bob = Person(phone, "alice"), Person(phone, "bob")
        alice.run("contact", "add", bob.card(), "--name", "Bob")
        shown = ""
        for epoch, text in enumerate(texts):
            alice.visit("send", "Bob", text, system=(WITH_CHANNELS, WITHOUT_CHANNELS)[epoch % 2])
            if epoch == EPOCHS - 2:
                wait_for(relays, EPOCHS - 1)
                shown = bob.visit("receive", system=WITHOUT_CHANNELS)
            if epoch < EPOCHS - 1:
                for relay in relays:
                    relay.wait("its address changes", lambda status, n=epoch: rotations(status) > n, PATIENCE_S)
        assert all(text in shown for text in texts[: EPOCHS - 1])
        wait_for(relays, EPOCHS)
        stage.air.record(None)

    secrets = [text.encode() for text in texts] + [bytes.fromhex(key) for key in keys]
    heard = Heard(recorded)
    assert heard.problems(secrets) == []
    # ... though there was something to find: epochs, new messages, connections of all, slots and channels.
    assert len(heard.salts) >= len(relays) * EPOCHS
    assert any(len(digests) > 1 for digests in heard.digests.values())
    assert len(heard.dials) > EPOCHS
    assert heard.names
    report = examine(read_capture(recorded), max_address_s=LONGEST_ADDRESS_S)
    assert report.is_clean, [finding.words() for finding in report.findings]
    assert report.epochs >= len(heard.salts)
    assert report.sessions > EPOCHS
    print(f"{report.epochs} epochs, {report.sessions} sessions, {heard.packets} packets: nothing joins them")

    leaks = Leaks(heard)
    for leak, is_sniffed in (
        (leaks.salt_stays, True),
        (leaks.digest_stays, True),
        (leaks.address_stays, True),
        (leaks.address_is_public, True),
        (leaks.scan_response_tells_a_name, True),
        (leaks.gap_name_differs, True),
        (leaks.part_of_a_text_in_the_clear(secrets[0]), False),
    ):
        planted = tmp_path / "planted.pcap"
        rewrite(recorded, planted, leak)
        assert Heard(planted).problems(secrets), leak.__name__
        assert not (is_sniffed and examine(read_capture(planted), max_address_s=LONGEST_ADDRESS_S).is_clean), (
            leak.__name__
        )


def wait_for(relays, envelopes):
    for relay in relays:
        relay.wait(f"it has {envelopes}", lambda status: status["store"]["admitted"] >= envelopes, PATIENCE_S)


def rotations(status):
    return sum(component["counters"].get("rotations", 0) for component in status["components"])


class Heard:
    """What a capture says to a listener who has scapy and docs/ble.md, and nothing else of ours."""

    def __init__(self, path):
        self.packets = 0
        #: By address of a relay: what it advertised, when.
        self.salts = defaultdict(set)
        self.digests = defaultdict(set)
        self.times_s = defaultdict(list)
        #: (initiator, advertiser).
        self.dials = []
        self.names = []
        self._oddities = set()
        self._everything = bytearray()
        self._asked = {}
        with PcapReader(str(path)) as packets:
            for packet in packets:
                self.packets += 1
                self._packet(packet)

    def problems(self, secrets):
        """Return what joins two epochs, or should not be there at all."""
        found = sorted(self._oddities)
        for what, by_address in (("salt", self.salts), ("digest", self.digests)):
            every = [value for values in by_address.values() for value in values]
            found += [f"{what} {value.hex()} under two addresses" for value in set(every) if every.count(value) > 1]
        found += [f"{address} has two salts" for address, salts in self.salts.items() if len(salts) > 1]
        for address, times_s in self.times_s.items():
            if times_s[-1] - times_s[0] > ROTATION_S:
                found.append(f"{address} is advertised for too long")
        found += [f"{name} is no relay's name" for name in self.names if name != NAME]
        for secret in secrets:
            parts = [secret[start : start + TELLING_BYTES] for start in range(len(secret) - TELLING_BYTES + 1)]
            if any(part in self._everything for part in parts):
                found.append("a secret in the clear")
        return found

    def _packet(self, packet):
        payload = packet.original[PAYLOAD:-CHECKSUM_BYTES]
        self._everything += payload
        if BTLE_ADV not in packet:
            self._attribute(packet.reference_access_address, packet.type, payload)
            return
        header = packet[BTLE_ADV]
        sender = self._address(payload[:6], is_random=header.TxAdd)
        if header.PDU_type == ADV_IND:
            self._advertisement(sender, payload[6:], float(packet.time))
        elif header.PDU_type == SCAN_RSP:
            if payload[6:]:
                self._oddities.add("a scan response that says something")
        elif header.PDU_type in (CONNECT_IND, SCAN_REQ):
            other = self._address(payload[6:12], is_random=header.RxAdd)
            if header.PDU_type == CONNECT_IND:
                self.dials.append((sender, other))
        else:
            self._oddities.add(f"a packet of kind {header.PDU_type}")

    def _address(self, octets, *, is_random):
        if not is_random or octets[5] >> 6 != 0b01:
            self._oddities.add("an address that is not resolvable and private")
        return octets[::-1].hex(":")

    def _advertisement(self, address, data, time_s):
        structures = []
        while data:
            structures.append((data[1], data[2 : 1 + data[0]]))
            data = data[1 + data[0] :]
        alike = [(kind, value[: len(known[1])]) for (kind, value), known in zip(structures, STRUCTURES, strict=False)]
        if alike != STRUCTURES or [len(value) for _, value in structures] != STRUCTURE_BYTES:
            self._oddities.add("an advertisement that says something else")
            return
        news = structures[1][1][2:]
        self.salts[address].add(news[:3])
        self.digests[address].add(news[3:])
        self.times_s[address].append(time_s)

    def _attribute(self, connection, sender, payload):
        if payload[2:4] != ATT or len(payload) < 5:
            return
        if payload[4] == READ:
            self._asked[connection, sender] = payload[5:7]
        elif payload[4] == READ_RESPONSE:
            asker = FROM_CENTRAL if sender == FROM_PERIPHERAL else FROM_PERIPHERAL
            if self._asked.pop((connection, asker), None) == GAP_NAME_HANDLE:
                self.names.append(payload[5:])


def rewrite(source, target, change):
    """Copy a capture; ``change`` is given the link layer's packets as bytearrays, to do with them what it likes."""
    content = source.read_bytes()
    offset = PCAP_HEADER_BYTES
    with target.open("wb") as file:
        file.write(content[:offset])
        while offset < len(content):
            seconds, microseconds, length, _ = PCAP_RECORD.unpack_from(content, offset)
            offset += PCAP_RECORD.size
            packet = bytearray(content[offset : offset + length])
            offset += length
            layer = packet[LINK_LAYER:-CHECKSUM_BYTES]
            change(layer, is_advertising=packet[LINK_LAYER - 4 : LINK_LAYER] == ADVERTISING)
            layer[1] = len(layer) - 2
            packet[LINK_LAYER:-CHECKSUM_BYTES] = layer
            file.write(PCAP_RECORD.pack(seconds, microseconds, len(packet), len(packet)) + packet)


class Leaks:
    """Mistakes that relays could make, planted in a capture where they made none."""

    def __init__(self, heard):
        by_time = sorted(heard.times_s, key=lambda address: heard.times_s[address][0])
        first = by_time[0]
        second = next(address for address in by_time if heard.times_s[address][0] > heard.times_s[first][-1])
        self._first, self._second = (bytes.fromhex(address.replace(":", ""))[::-1] for address in (first, second))
        self._salt, self._digest = min(heard.salts[first]), min(heard.digests[first])

    def salt_stays(self, layer, *, is_advertising):
        if is_advertising and layer[0] & 0x0F == ADV_IND and layer[2:8] == self._second:
            layer[30:33] = self._salt

    def digest_stays(self, layer, *, is_advertising):
        if is_advertising and layer[0] & 0x0F == ADV_IND and layer[2:8] == self._second:
            layer[33:36] = self._digest

    def address_stays(self, layer, *, is_advertising):
        if is_advertising:
            layer[:] = layer.replace(self._second, self._first)

    def address_is_public(self, layer, *, is_advertising):
        if is_advertising and layer[0] & 0x0F == ADV_IND and layer[2:8] == self._first:
            layer[0] &= ~0x40

    def scan_response_tells_a_name(self, layer, *, is_advertising):
        if is_advertising and layer[0] & 0x0F == SCAN_RSP:
            layer += b"\x08\x09kitchen"

    def gap_name_differs(self, layer, *, is_advertising):
        if not is_advertising:
            layer[:] = layer.replace(bytes((READ_RESPONSE,)) + NAME, bytes((READ_RESPONSE,)) + b"attic")

    @staticmethod
    def part_of_a_text_in_the_clear(text):
        rest = [text[5 : 5 + TELLING_BYTES]]

        def part_of_a_text_in_the_clear(layer, *, is_advertising):
            if not is_advertising and rest:
                layer += rest.pop()

        return part_of_a_text_in_the_clear
