# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay appliance cards`: the relay.toml of each card of a mesh, so that nobody edits twenty files by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from relay.appliance.constants import BOOT_CONFIG
from relay.config.appliance import EXAMPLE
from relay.config.file import parse_config
from relay.config.regulatory import barred_channels
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from pathlib import Path

    from relay.config.file import Problem

#: A mesh of more relays is not put up from one folder.
MAX_CARDS: Final = 1000
README: Final = "KEEP-THIS-SECRET.txt"

_KEEP: Final = """\
This folder holds the settings of {count} relays of one mesh. All have the same secret,
which was drawn for this mesh and is nowhere else.

1. Write the image to {count} cards. Copy the relay.toml of one of the folders here to the
   drive MESH-RELAY of each card; they are alike, the numbers are for you to count.
2. For a relay that comes later, keep one relay.toml: where you keep passwords, or on
   a stick that is locked away, or on paper. It is all that a relay needs to join.
3. Then delete this folder, and empty the bin. Send it to nobody by mail or messenger.

Whoever has the secret can put up a relay in your mesh. If a card is lost, or a relay is
taken: make new files with `relay appliance cards`, for all cards that are left.
"""


class CardsError(RelayError):
    """The files cannot be written there; the message has the remedy."""


def write_cards(folder: Path, *, count: int, country: str, secret: str) -> list[Problem]:
    """Write ``count`` numbered folders with a relay.toml each, for their owner's eyes only; raise CardsError.

    Return what still has to be changed in each of them, as the country does not allow it.
    """
    text = EXAMPLE.read_text(encoding="utf-8")
    for name, value in (("country", country), ("mesh_secret", secret)):
        text, found = re.subn(rf'^{name} = ""$', f'{name} = "{value}"', text, flags=re.MULTILINE)
        if found != 1:
            raise CardsError(f"{EXAMPLE} has no line for {name}; install this program anew")
    try:
        folder.mkdir(mode=0o700, parents=True)
        for number in range(1, count + 1):
            card = folder / f"{number:0{len(str(count))}}"
            card.mkdir(mode=0o700)
            _write(card / BOOT_CONFIG, text)
        _write(folder / README, _KEEP.format(count=count))
    except FileExistsError as error:
        raise CardsError(f"{folder} is there already, maybe with the secret of another mesh; name a new one") from error
    except OSError as error:
        raise CardsError(f"{folder}: {error.strerror}; name another folder") from error
    return barred_channels(parse_config(text.encode(), folder / BOOT_CONFIG, {"HOME": "/"}), text)


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    # Any editor, that of Windows too.
    path.write_text(text, encoding="utf-8", newline="\r\n")
