# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: the `relay` command of somebody who waits 20 s, not a minute, for a relay that is gone."""

import sys

from relay.cli import main
from relay.client.client import Client

PATIENCE_S = 20.0

Client.__init__.__kwdefaults__["patience_s"] = PATIENCE_S
sys.exit(main())
