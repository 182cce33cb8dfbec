# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: plug simulated Wi-Fi radios in and out (linux/drivers/net/wireless/virtual/mac80211_hwsim.h).

hwsim.py new NAME [KIND...]   a radio NAME with these interface types (all by default)
hwsim.py del                  pulls all radios of this network namespace out

Generic netlink by hand (linux/netlink.h, linux/genetlink.h): to import pyroute2 takes a guest five times as long as
all the rest.
"""

import os
import socket
import struct
import sys
from pathlib import Path

from relay.net.wiphy import InterfaceType
from relay.process import netlink_attributes as nla

NEW_RADIO, DEL_RADIO = 4, 5
RADIOS = Path("/sys/class/ieee80211")
USE_CHANCTX, RADIO_NAME, IFTYPE_SUPPORT = 15, 17, 23

NETLINK_GENERIC, CONTROLLER, GET_FAMILY = 16, 16, 3
FAMILY_ID, FAMILY_NAME = 1, 2
MESSAGE, COMMAND, ERROR = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=i")
IS_ERROR, REQUEST_AND_ACK = 2, 5
BUFFER_BYTES = 65536


def request(sock, family, command, attributes):
    """Return the attributes of the answer, if there are any; OSError."""
    body = COMMAND.pack(command, 1, 0) + nla.encode(attributes)
    sock.send(MESSAGE.pack(MESSAGE.size + len(body), family, REQUEST_AND_ACK, 0, 0) + body)
    answer = b""
    while True:
        received = sock.recv(BUFFER_BYTES)
        _, kind, *_ = MESSAGE.unpack_from(received)
        if kind != IS_ERROR:
            answer = received[MESSAGE.size + COMMAND.size :]
            continue
        (code,) = ERROR.unpack_from(received, MESSAGE.size)
        # A new radio's number looks like an error, but for its sign.
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        return nla.Attributes(answer)


def main(verb, name="", *kinds):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as sock:
        asked = [(FAMILY_NAME, b"MAC80211_HWSIM\0")]
        hwsim = request(sock, CONTROLLER, GET_FAMILY, asked).unsigned(FAMILY_ID)
        if verb == "del":
            for radio in sorted(RADIOS.iterdir()):
                request(sock, hwsim, DEL_RADIO, [(RADIO_NAME, radio.name.encode())])
            return
        # The kernel wants this name without a final zero.
        wanted = [(RADIO_NAME, name.encode()), nla.flag(USE_CHANCTX)]
        if kinds:
            wanted.append(nla.u32(IFTYPE_SUPPORT, sum(1 << InterfaceType[kind.upper()] for kind in kinds)))
        request(sock, hwsim, NEW_RADIO, wanted)
    print(*(path.name for path in (RADIOS / name / "device/net").iterdir()))


main(*sys.argv[1:])
