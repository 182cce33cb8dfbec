# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay appliance cards`: the relay.toml of each card of a mesh, so that nobody edits twenty files by hand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from relay.appliance.check import check
from relay.appliance.constants import BOOT_CONFIG
from relay.config.appliance import EXAMPLE
from relay.config.file import parse_config
from relay.config.regulatory import barred_channels
from relay.config.toml_write import write_value
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from pathlib import Path

    from relay.config.file import Problem

#: A mesh of more relays is not put up from one folder.
MAX_CARDS: Final = 1000
README: Final = "KEEP-THIS-SECRET.txt"
#: In the name of an access point or relay: the number of the card.
NUMBER: Final = "{n}"
#: Of a password that is drawn: letters and digits that are not taken for one another, 12 of 31: 59 bits.
PASSWORD_LETTERS: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105 - what one is drawn of
PASSWORD_LENGTH: Final = 12

_KEEP: Final = """\
This folder holds the settings of {count} relays of one mesh. All have the same secret,
which was drawn for this mesh and is nowhere else.

1. Write the image to {count} cards. Copy the relay.toml of a folder here to the drive
   MESH-RELAY of each card, of another folder to each: their names have its number, if they have any.
2. For a relay that comes later, keep one relay.toml: where you keep passwords, or on
   a stick that is locked away, or on paper. It is all that a relay needs to join.
3. Then delete this folder, and empty the bin. Send it to nobody by mail or messenger.

Posters, where there are some beside relay.toml, carry the name and password of the Wi-Fi for
phones: hang them up where those are who may join. They have nothing of the secret.

Whoever has the secret can put up a relay in your mesh. If a card is lost, or a relay is
taken: make new files with `relay appliance cards`, for all cards that are left.
"""


class CardsError(RelayError):
    """The files cannot be written there; the message has the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPoint:
    """A Wi-Fi for phones. ``name``: NUMBER in it is each relay's own; ``password`` "" leaves it open."""

    name: str
    password: str = field(default="", repr=False)

    def name_of(self, number: str) -> str:
        """What the relay of that number calls it."""
        return self.name.replace(NUMBER, number)


class Draw(Protocol):
    """Makes the poster of an access point: file names and contents."""

    def __call__(self, *, name: str, password: str) -> dict[str, bytes]: ...


def write_cards(
    folder: Path,
    *,
    count: int,
    country: str,
    secret: str,
    access_point: AccessPoint | None = None,
    hostname: str = "",
    draw: Draw | None = None,
) -> list[Problem]:
    """Write ``count`` numbered folders with a relay.toml each, for their owner's eyes only; raise RelayError.

    ``hostname``, with NUMBER in it, is each relay's name on a cable, "" leaves them all "relay". With an
    ``access_point`` there is a poster for participants beside each, made by ``draw``.
    Return what still has to be changed in each of them, as the country does not allow it.
    """
    text = EXAMPLE.read_text(encoding="utf-8")
    text = _with(text, "country", '""', write_value(country))
    text = _with(text, "mesh_secret", '""', write_value(secret))
    if access_point is not None:
        text = _with(text, "access_point", "false", "true")
        text = _with(text, "access_point_password", '""', write_value(access_point.password))
    if hostname and count > 1 and NUMBER not in hostname:
        raise CardsError(f'the relays would have one name: write {NUMBER} for the number, as in "gate-{NUMBER}"')

    def text_of(number: str) -> str:
        own = text
        if access_point is not None:
            own = _with(own, "access_point_name", '"Mesh relay"', write_value(access_point.name_of(number)))
        if hostname:
            own = _with(own, "hostname", '"relay"', write_value(hostname.replace(NUMBER, number)))
        return own

    # The longest, before anything is written; raises ConfigError.
    check(text_of(str(count)).encode(), folder / BOOT_CONFIG)
    try:
        folder.mkdir(mode=0o700, parents=True)
        for number in range(1, count + 1):
            card = folder / f"{number:0{len(str(count))}}"
            card.mkdir(mode=0o700)
            _write(card / BOOT_CONFIG, text_of(card.name))
            if access_point is None:
                continue
            name = access_point.name_of(card.name)
            for file, content in draw(name=name, password=access_point.password).items() if draw else ():
                (card / file).touch(mode=0o600)
                (card / file).write_bytes(content)
        _write(folder / README, _KEEP.format(count=count))
    except FileExistsError as error:
        raise CardsError(f"{folder} is there already, maybe with the secret of another mesh; name a new one") from error
    except OSError as error:
        raise CardsError(f"{folder}: {error.strerror}; name another folder") from error
    return barred_channels(parse_config(text.encode(), folder / BOOT_CONFIG, {"HOME": "/"}), text)


def _with(text: str, name: str, old: str, new: str) -> str:
    """The file with another value of a setting that it has once."""
    changed, found = re.subn(rf"^{name} = {re.escape(old)}$", lambda _: f"{name} = {new}", text, flags=re.MULTILINE)
    if found != 1:
        raise CardsError(f"{EXAMPLE} has no line for {name}; install this program anew")
    return changed


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    # Any editor, that of Windows too.
    path.write_text(text, encoding="utf-8", newline="\r\n")
