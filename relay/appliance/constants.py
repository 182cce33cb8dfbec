# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are on the appliance, and which addresses it has."""

from __future__ import annotations

from ipaddress import IPv4Interface
from pathlib import Path

#: Everything that `relay appliance apply` makes, but for what systemd-networkd reads.
OUTPUT = Path("/run/mesh-relay-config")
NETWORKD = Path("/run/systemd/network")
#: The FAT partition that a computer shows as a drive, and the two files that matter there. Not found by its name, which
#: a stick can have, too: by the disk of the root (files/59-relay-stick.rules).
BOOT_DEVICE = Path("/dev/relay/card")
BOOT_CONFIG = "relay.toml"
BOOT_STATUS = "relay-status.txt"
#: The folder there with what participants are offered (relay.process.shelf).
BOOT_SHELF = "shelf"

#: What this image is and whom it trusts (relay.board.manifest.Own), on its checked root.
RELEASE = Path("/usr/share/mesh-relay/release.json")

#: Public keys of the operator's for updates, beside those, one a line.
UPDATE_KEYS = OUTPUT / "update-keys"

#: Where the partition for the store is mounted.
DATA = Path("/data")
#: The section [store] as it is to be once that is open (JSON); there only where it is not.
STORE_WHEN_OPEN = OUTPUT / "store-when-open"
#: Left by a start that went on with an erase (relay.board.panic): a line for each part of the card that resists.
ERASURE = Path("/run/mesh-relay-erasure/left")

#: What sticks are used for, a relay.config.sticks.StickUse a line; there if they are used at all.
STICKS = OUTPUT / "sticks"
#: Left by files/usb-network: there if a network adapter was plugged in after the start, and is not used.
REFUSED_ADAPTER = Path("/run/mesh-relay-usb/refused")
#: What `relay segment` needs; one of them is there where addresses are handed out.
SEGMENT_SETTINGS = (OUTPUT / "segment-cable", OUTPUT / "segment-bridge")

BOARD_SOCKET = Path("/run/mesh-relay-board/board.sock")
#: One word of relay.pages.participant.Works, left by `relay board` for the page on the access point.
WORKS = BOARD_SOCKET.with_name("works")

#: Of SSH's host key, for who logs in to compare; left by `relay board` for the screen, where there is one.
HOST_KEY = BOARD_SOCKET.with_name("host-key")

#: The same on every relay, so that it can stand on a printed card. So it must never be
#: seen beyond the own access point; see firewall.py. Phones get addresses of the rest of this network
#: (10.42.64.0 to 10.42.95.255).
ACCESS_POINT_ADDRESS = IPv4Interface("10.42.70.1/19")
#: Of what a relay hands out on a cable or bridge: 4,094 addresses.
SEGMENT_PREFIX = 20
#: How long an address is somebody's, and how many have one at once at most: as many as ask within that time
#: (relay.appliance.firewall), which is less than there are addresses. Short, so that those of phones that walked
#: away, and those that somebody took to have them all, are soon free again. A phone asks anew after half of it.
LEASE_S = 600
MAX_LEASES = 3800
#: What Linux calls wired interfaces.
ETHERNET = ("eth*", "en*")
PORTAL_PORT = 80
#: DHCP options 224 to 254 are private (RFC 3942); ours says that the server is a relay.
ELECTION_OPTION = 224
ELECTION_BYTES = 8
