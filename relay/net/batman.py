# SPDX-License-Identifier: GPL-2.0-or-later
"""batman-adv by generic netlink (linux/batman_adv.h)."""

from __future__ import annotations

from typing import Final

from relay.net.generic import Family
from relay.process import netlink_attributes as nla

_SET_MESH: Final = 15
_MESH_IFINDEX: Final = 3
_BRIDGE_LOOP_AVOIDANCE: Final = 46
_ORIG_INTERVAL: Final = 57

#: How often each relay tells that it is there; the kernel's default is 1000. A lost or new way is noticed
#: after a few of these. Each costs about 1 ms of air at the lowest rate, and 20 relays in
#: reach of each other hear 20 x 20 of them a second, several to a frame.
ORIGINATOR_INTERVAL_MS: Final = 500
#: What batman-adv adds to a frame of 1500 bytes; with less it splits frames in two.
LOWER_MTU_BYTES: Final = 1532


async def set_up(index: int, *, avoid_loops: bool) -> None:
    """Choose the parameters of an interface of batman-adv; raise KernelRefusedError.

    ``avoid_loops``: needed where bat0 and an Ethernet that other relays share are in one
    bridge; batman-adv carries no spanning tree. In return no broadcast passes for the
    first 25 s (measured; three periods of 10 s in the kernel), so it is off elsewhere.
    """
    body = [
        nla.u32(_MESH_IFINDEX, index),
        nla.u8(_BRIDGE_LOOP_AVOIDANCE, int(avoid_loops)),
        nla.u32(_ORIG_INTERVAL, ORIGINATOR_INTERVAL_MS),
    ]
    async with Family("batadv") as family:
        await family.request("set up batman-adv", _SET_MESH, nla.encode(body))
