# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: plug simulated Wi-Fi radios in and out (linux/drivers/net/wireless/virtual/mac80211_hwsim.h).

hwsim.py new NAME [KIND...]   a radio NAME with these interface types (all by default)
hwsim.py del                  pulls all radios of this network namespace out
"""

import asyncio
import contextlib
import sys
from pathlib import Path

from relay.net import attributes as nla
from relay.net.errors import KernelRefusedError
from relay.net.generic import Family
from relay.net.wiphy import InterfaceType

NEW_RADIO, DEL_RADIO = 4, 5
RADIOS = Path("/sys/class/ieee80211")
USE_CHANCTX, RADIO_NAME, IFTYPE_SUPPORT = 15, 17, 23


async def pull_out():
    async with Family("MAC80211_HWSIM") as family:
        for radio in sorted(RADIOS.iterdir()):  # noqa: ASYNC240 - nothing else runs
            await family.request("pull out a radio", DEL_RADIO, nla.encode([(RADIO_NAME, radio.name.encode())]))


async def plug_in(name, kinds):
    async with Family("MAC80211_HWSIM") as family:
        # The kernel wants this name without a final zero.
        body = [(RADIO_NAME, name.encode()), nla.flag(USE_CHANCTX)]
        if kinds:
            body.append(nla.u32(IFTYPE_SUPPORT, sum(1 << InterfaceType[kind.upper()] for kind in kinds)))
        # The answer is the radio's number, which looks like an error.
        with contextlib.suppress(KernelRefusedError):
            await family.request("plug in a radio", NEW_RADIO, nla.encode(body))


if sys.argv[1] == "del":
    asyncio.run(pull_out())
else:
    asyncio.run(plug_in(sys.argv[2], sys.argv[3:]))
    print(*(path.name for path in (RADIOS / sys.argv[2] / "device/net").iterdir()))
