# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay appliance screen`: the status on the console, for whoever plugs a screen in."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING, Final

from relay import __version__
from relay.appliance.addresses import own_addresses
from relay.appliance.constants import HOST_KEY
from relay.control.control_client import ControlClient, ControlError
from relay.control.notices import read_notices
from relay.control.text import status_text

if TYPE_CHECKING:
    from pathlib import Path

#: Nothing of it is written anywhere, so the card sleeps on.
INTERVAL_S: Final = 60.0
#: A relay that is starting is looked at more often.
STARTING_INTERVAL_S: Final = 5.0
#: Cursor home and erase below; the console does not go dark by itself.
_CLEAR: Final = "\x1b[9;0]\x1b[H\x1b[J"
_WIDTH: Final = 78


def run(control: Path) -> int:
    """Show it for ever."""
    while True:
        text, started = picture(control)
        print(_CLEAR + text, flush=True)  # noqa: T201 - a person reads it
        time.sleep(INTERVAL_S if started else STARTING_INTERVAL_S)


def _host_key() -> str:
    try:
        return HOST_KEY.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def picture(control: Path) -> tuple[str, bool]:
    """What to show, and whether the relay answered."""
    try:
        with ControlClient(control) as client:
            status = client.read_status()
        text = "\n".join([status_text(status), *(f"{'page':<10} {address}" for address in own_addresses())])
        started = True
        if key := _host_key():
            text += f"\n{'ssh key':<10} {key}"
    except ControlError:
        text = f"relay      {__version__}, starting"
        started = False
        # What `relay run` would have told.
        text = "\n".join([text, *(f"{'note':<11}{notice.text}" for notice in read_notices())])
    lines = [line for row in text.splitlines() for line in textwrap.wrap(row, _WIDTH, subsequent_indent=" " * 11)]
    return "\n".join(lines), started
