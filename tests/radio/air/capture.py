# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes over the air as a pcap file of Bluetooth LE link layer packets (link type 256), as sniffers write them.

Layout: Core Specification 6.0, volume 6, part B, sections 2.3 (advertising) and 2.4 (data). The checksum is zeros.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

LINKTYPE_BLUETOOTH_LE_LL_WITH_PHDR = 256
#: Flags of the header that this link type adds: not scrambled, the access address is known, and what it is.
FLAGS, ADVERTISING, FROM_CENTRAL, FROM_PERIPHERAL = 0x0001 | 0x0010, 0 << 7, 2 << 7, 3 << 7
#: The first advertising channel; a data channel, as the air has no hopping.
ADVERTISING_CHANNEL, DATA_CHANNEL = 37, 1
UNKNOWN_DBM = -128
ADVERTISING_ACCESS_ADDRESS = 0x8E89BED6
ADV_IND, ADV_NONCONN_IND, SCAN_REQ, SCAN_RSP, CONNECT_IND, ADV_SCAN_IND = 0, 2, 3, 4, 5, 6
#: Link layer data: the rest of a higher packet, its beginning, and control.
CONTINUATION, START, CONTROL = 1, 2, 3
TERMINATE_IND = 0x02


class Capture:
    """Writes to nowhere until :meth:`open`."""

    def __init__(self):
        self._file = None

    def open(self, path):
        self.close()
        self._file = Path(path).open("wb")  # noqa: SIM115 - until close()
        self._file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, LINKTYPE_BLUETOOTH_LE_LL_WITH_PHDR))

    def flush(self):
        if self._file is not None:
            self._file.flush()

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    def advertisement(self, kind, address, data):
        """ADV_IND, ADV_NONCONN_IND, ADV_SCAN_IND or SCAN_RSP."""
        self._advertising(kind, address, None, _six(address) + data)

    def scan_request(self, scanner, advertiser):
        self._advertising(SCAN_REQ, scanner, advertiser, _six(scanner) + _six(advertiser))

    def connect_indication(self, initiator, advertiser, *, access_address, interval, latency, timeout):
        data = struct.pack("<I3xBHHHH", access_address, 1, 0, interval, latency, timeout)
        self._advertising(
            CONNECT_IND, initiator, advertiser, _six(initiator) + _six(advertiser) + data + b"\xff\xff\xff\xff\x1f\x05"
        )

    def data(self, access_address, kind, payload, *, from_central):
        if self._file is not None:
            side = FROM_CENTRAL if from_central else FROM_PERIPHERAL
            self._write(DATA_CHANNEL, side, access_address, bytes((kind, len(payload))) + payload)

    def _advertising(self, kind, sender, receiver, payload):
        if self._file is not None:
            header = kind | (not sender.is_public) << 6 | (receiver is not None and not receiver.is_public) << 7
            packet = bytes((header, len(payload))) + payload
            self._write(ADVERTISING_CHANNEL, ADVERTISING, ADVERTISING_ACCESS_ADDRESS, packet)

    def _write(self, channel, kind, access_address, packet):
        now = time.time()
        radio = struct.pack("<BbbBIH", channel, UNKNOWN_DBM, UNKNOWN_DBM, 0, access_address, FLAGS | kind)
        packet = radio + struct.pack("<I", access_address) + packet + bytes(3)
        self._file.write(struct.pack("<IIII", int(now), int(now % 1 * 1e6), len(packet), len(packet)) + packet)


def _six(address):
    return bytes(address)[:6]
