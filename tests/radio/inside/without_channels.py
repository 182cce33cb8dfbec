# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: the `relay` command on a phone whose system has no LE channels, so that it takes a slot."""

import errno
import sys

from relay.bluetooth import l2cap
from relay.cli import main


async def connect(*_):
    raise OSError(errno.EPROTONOSUPPORT, "no channels here")


l2cap.connect = connect
sys.exit(main())
