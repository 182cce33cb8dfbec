# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures for the tests of `relay sniff`: real sessions and real slots, wrapped by scapy as a listener gets them.

Writers of capture files are scapy's, or written from the format's description;
none shares code with the readers.
"""

import random
import struct
import uuid

from scapy.layers import bluetooth as bt
from scapy.layers.bluetooth4LE import BTLE
from scapy.layers.dns import DNS, DNSRR, DNSRRSRV
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from relay.bluetooth import gatt
from relay.bluetooth.slots import Slot
from relay.core.stats import LinkKind
from relay.sniff.capture import Frame, Link
from tests.unit.core.memory import Peer, Relay

PHONE, RELAY = "10.0.0.2", "10.0.0.1"
PHONE_V6, RELAY_V6 = "fe80::2", "fe80::1"
PHONE_MAC, RELAY_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"
PORT = 4270
START_S = 1_700_000_000.0


def conversation(seed=1, *, puts=(), relay=None, **peer):
    """(said by the dialling side, bytes) of a session between a client and a relay, in order; and the client."""
    relay = relay or Relay(seed)
    phone = Peer(seed + 1000, **peer)
    link = relay.node.connect(kind=LinkKind.TCP, interface="eth0", initiator=False, now=0.0)
    said = []
    puts = list(puts)
    for _ in range(1000):
        there = phone.session.data_to_send()
        if there:
            said.append((True, there))
            relay.node.receive(link, there, 0.0)
        relay.work()
        back = relay.node.data_to_send(link, 0.0)
        if back:
            said.append((False, back))
            phone.events += phone.session.receive_data(back, 0.0)
        if there or back:
            continue
        if not puts:
            return said, phone
        phone.session.put(puts.pop(0))
    raise AssertionError("it does not come to rest")


def records(said):
    """(said by the dialling side, length) of each record, by the lengths in the stream alone."""
    found = []
    for side in (True, False):
        stream = b"".join(data for from_phone, data in said if from_phone is side)
        while stream:
            length = int.from_bytes(stream[:2], "big")
            found.append((side, length))
            stream = stream[2 + length :]
    return found


def frames(packets, *, link=Link.ETHERNET, step_s=0.001, start_s=START_S, **more):
    """Scapy packets, or bytes, as captured frames."""
    return [
        Frame(time_s=start_s + step_s * index, link=link, data=bytes(one), wire_bytes=len(bytes(one)), **more)
        for index, one in enumerate(packets)
    ]


# TCP


def segments(said, *, mss=1400, v6=False, port=PORT, client_port=50_000, seed=1, syn=True, close=True):
    """The TCP segments of a conversation, without Ethernet: (from the phone, packet)."""
    rng = random.Random(seed)
    number = {True: rng.getrandbits(32), False: rng.getrandbits(32)}

    def packet(side, flags, data=b""):
        ends = ((PHONE_V6, RELAY_V6) if v6 else (PHONE, RELAY))[:: 1 if side else -1]
        ports = (client_port, port)[:: 1 if side else -1]
        header = (IPv6 if v6 else IP)(src=ends[0], dst=ends[1])
        ack = number[not side] if flags != "S" else 0
        tcp = TCP(sport=ports[0], dport=ports[1], seq=number[side], ack=ack, flags=flags)
        number[side] = (number[side] + len(data) + ("S" in flags or "F" in flags)) % (1 << 32)
        return side, header / tcp / Raw(data) if data else header / tcp

    found = [packet(True, "S"), packet(False, "SA"), packet(True, "A")] if syn else []
    if not syn:
        number = {side: (value + 1) % (1 << 32) for side, value in number.items()}
    for side, data in said:
        found += [packet(side, "PA", data[start : start + mss]) for start in range(0, len(data), mss)]
    return [*found, packet(True, "FA"), packet(False, "FA")] if close else found


def ethernet(found):
    """Segments with an Ethernet header."""
    return [
        Ether(src=PHONE_MAC if side else RELAY_MAC, dst=RELAY_MAC if side else PHONE_MAC) / packet
        for side, packet in found
    ]


def announcement(mac_address, instance, host, *, response=True, known=()):
    service = "_mesh-relay._tcp.local."
    name = f"{instance}.{service}"
    answers = [DNSRRSRV(rrname=name, port=4270, target=f"{host}.local.", ttl=120)] if response else []
    answers += [DNSRR(type="PTR", rrname=service, rdata=f"{one}.{service}") for one in known]
    message = DNS(qr=response, qd=[], an=answers)
    return (
        Ether(src=mac_address, dst="01:00:5e:00:00:fb") / IP(dst="224.0.0.251") / UDP(sport=5353, dport=5353) / message
    )


# Advertisements


def structure(kind, data):
    return bytes([1 + len(data), kind]) + data


def advertisement(salt, digest, *, more=b""):
    """The 31 bytes of docs/ble.md section 2, or more."""
    return (
        structure(0x01, b"\x06")
        + structure(0x07, uuid.UUID(gatt.SERVICE_UUID).bytes[::-1])
        + structure(0xFF, b"\xff\xff" + salt + digest)
        + more
    )


def private_address(rng):
    """A resolvable private address as text: the two top bits are 01."""
    value = bytearray(rng.randbytes(6))
    value[0] = value[0] & 0x3F | 0x40
    return value.hex(":")


def mac(text):
    """An address in the order of Bluetooth packets."""
    return bytes.fromhex(text.replace(":", ""))[::-1]


def report(address, data, *, kind=0, random_address=True):
    """HCI event: LE advertising report. ``kind`` 4 is a scan response."""
    body = bytes([2, 1, kind, random_address]) + mac(address) + bytes([len(data)]) + data + b"\xc0"
    return bytes([4, 0x3E, len(body)]) + body


def extended_report(address, data):
    """HCI event: LE extended advertising report."""
    body = bytes([0x0D, 1]) + struct.pack(
        "<HB6sBBBbbHB6sB", 0x13, 1, mac(address), 1, 0, 0xFF, 127, -60, 0, 0, bytes(6), len(data)
    )
    body += data
    return bytes([4, 0x3E, len(body)]) + body


def advertising_pdu(address, data, *, kind=0):
    """What is on the air: ADV_IND, or a scan response (4)."""
    body = mac(address) + data
    pdu = bytes([0x40 | kind, len(body)]) + body
    return struct.pack("<I", 0x8E89BED6) + pdu + BTLE.compute_crc(pdu)


# Connections


class Host:
    """One host's HCI capture of a connection. ``is_central``: whether the host is the one that dialled."""

    def __init__(self, *, is_central=False, handle=0x40, peer="4a:00:00:00:00:02", mtu=27, adapter=0):
        self.is_central = is_central
        self.handle = handle
        self.peer = peer
        self.mtu = mtu
        self.adapter = adapter
        self.packets = []
        self._identifier = 0

    def event(self, data):
        self.packets.append((False, data))
        return self

    def connected(self):
        role = 0 if self.is_central else 1
        body = struct.pack("<BBHBB6sHHHB", 1, 0, self.handle, role, 1, mac(self.peer), 24, 0, 42, 0)
        return self.event(bytes([4, 0x3E, len(body)]) + body)

    def disconnected(self):
        return self.event(bytes([4, 5, 4, 0]) + struct.pack("<HB", self.handle, 0x13))

    def l2cap(self, cid, data, *, from_central):
        """One packet, cut as the controller takes it."""
        sent = from_central == self.is_central
        packet = struct.pack("<HH", len(data), cid) + data
        for start in range(0, len(packet), self.mtu):
            piece = packet[start : start + self.mtu]
            boundary = 1 if start else 0 if sent else 2
            self.packets.append((sent, b"\x02" + struct.pack("<HH", self.handle | boundary << 12, len(piece)) + piece))
        return self

    def att(self, packet, *, from_central):
        return self.l2cap(4, bytes(packet), from_central=from_central)

    def signal(self, message, *, from_central, identifier=1):
        return self.l2cap(5, bytes(bt.L2CAP_CmdHdr(id=identifier) / message), from_central=from_central)

    def open_channel(self, *, asked_by_central=True, psm=0x80, asker_cid=0x40, answer_cid=0x41, result=0):
        request = bt.L2CAP_LE_Credit_Based_Connection_Request(
            spsm=psm, scid=asker_cid, mtu=8192, mps=247, initial_credits=10
        )
        answer = bt.L2CAP_LE_Credit_Based_Connection_Response(
            dcid=answer_cid, mtu=8192, mps=247, initial_credits=10, result=result
        )
        self.signal(request, from_central=asked_by_central)
        return self.signal(answer, from_central=not asked_by_central)

    def sdu(self, data, cid, *, from_central, mps=247):
        """An SDU in K-frames."""
        whole = struct.pack("<H", len(data)) + data
        for start in range(0, len(whole), mps):
            self.l2cap(cid, whole[start : start + mps], from_central=from_central)
        return self

    def frames(self, *, start_s=START_S, knows_direction=True):
        return [
            Frame(
                time_s=start_s + 0.001 * index,
                link=Link.HCI,
                data=data,
                wire_bytes=len(data),
                sent=sent if knows_direction else None,
                adapter=self.adapter,
            )
            for index, (sent, data) in enumerate(self.packets)
        ]


#: Handles as a relay's GATT database might have them.
INFO_HANDLE, SLOT_HANDLE, RX_HANDLE, TX_HANDLES = 0x12, 0x14, 0x16, tuple(range(0x18, 0x30, 3))


def discover(host):
    """The central learns the characteristics (Read By Type of declarations)."""
    found = [(gatt.INFO_UUID, INFO_HANDLE), (gatt.SLOT_UUID, SLOT_HANDLE), (gatt.RX_UUID, RX_HANDLE)]
    found += zip(gatt.TX_UUIDS, TX_HANDLES, strict=True)
    for kind, handle in found:
        host.att(struct.pack("<BHHH", 0x08, handle - 1, 0xFFFF, 0x2803), from_central=True)
        entry = struct.pack("<HBH", handle - 1, 2, handle) + uuid.UUID(kind).bytes[::-1]
        host.att(bytes([0x09, len(entry)]) + entry, from_central=False)
    return host


def read(host, handle, value):
    host.att(struct.pack("<BH", 0x0A, handle), from_central=True)
    return host.att(b"\x0b" + value, from_central=False)


def slot_talk(host, said, *, rx=RX_HANDLE, tx=TX_HANDLES[0], lose=(), frame_bytes=100, nonce=7):
    """A conversation through a slot: two real ends. ``lose``: which frames do not arrive, by their number."""
    ends = {
        True: Slot(is_central=True, nonce=nonce, frame_bytes=frame_bytes),
        False: Slot(is_central=False, nonce=nonce, frame_bytes=frame_bytes),
    }
    ends[True].open(0.0)
    now, number = 0.0, 0
    todo = list(said)
    waiting = {True: b"", False: b""}
    expected = {side: sum(len(data) for one, data in said if one is not side) for side in (True, False)}
    got = {True: 0, False: 0}
    for _ in range(20_000):
        # In order, but not in turns: what one says does not wait for the other's answer here.
        while todo:
            side, data = todo.pop(0)
            waiting[side] += data
        for side, end in ends.items():
            if room := end.room:
                end.write(waiting[side][:room])
                waiting[side] = waiting[side][room:]
            for value in end.frames(now):
                opcode, handle = (0x52, rx) if side else (0x1B, tx)
                host.att(struct.pack("<BH", opcode, handle) + value, from_central=side)
                number += 1
                if number not in lose:
                    ends[not side].receive(value, now)
            got[side] += len(end.read(now))
        if got == expected:
            return host
        now += 0.1
    raise AssertionError("the slot does not get through")


def air(host, *, own, access=0x12345678, is_public=False):
    """(direction of link type 256, PDU) of a host's connection, and of the request that began it.

    ``own``: the host's address; ``is_public``: that of the central.
    """
    central, peripheral = (own, host.peer) if host.is_central else (host.peer, own)
    request = mac(central) + mac(peripheral) + struct.pack("<I", access) + bytes(18)
    pdu = bytes([0x85 if is_public else 0xC5, len(request)]) + request
    yield 0, struct.pack("<I", 0x8E89BED6) + pdu + BTLE.compute_crc(pdu)
    for sent, packet in host.packets:
        if packet[0] != 2:
            continue
        boundary, body = packet[2] >> 4 & 3, packet[5:]
        pdu = bytes([1 if boundary == 1 else 2, len(body)]) + body
        yield (2 if sent == host.is_central else 3), struct.pack("<I", access) + pdu + BTLE.compute_crc(pdu)


# Files


def btsnoop(datalink, packets):
    """(flags, data) of each packet in a btsnoop file."""
    # As BlueZ has it: 2000-01-01.
    epoch_us = 0x00E03AB44A676000 - 946_684_800_000_000
    content = b"btsnoop\x00" + struct.pack(">II", 1, datalink)
    for index, (flags, data) in enumerate(packets):
        stamp = epoch_us + int(START_S * 1e6) + 1000 * index
        content += struct.pack(">IIIIq", len(data), len(data), flags, 0, stamp) + data
    return content


def pcap(linktype, packets, *, endian="<", magic=0xA1B2C3D4, unit_s=1e-6):
    """A pcap file; ``packets`` of bytes, or (captured bytes, bytes on the wire)."""
    content = struct.pack(endian + "IHHIIII", magic, 2, 4, 0, 0, 65535, linktype)
    for index, one in enumerate(packets):
        data, length = one if isinstance(one, tuple) else (one, len(one))
        fraction = round(0.001 * index / unit_s)
        content += struct.pack(endian + "IIII", int(START_S), fraction, len(data), length) + data
    return content
