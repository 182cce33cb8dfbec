# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays met before, so that they are not offered everything again, and not asked for everything again.

Kept as salted hashes, for as long as an envelope can live: who takes the file can tell whether one was at a
relay whose address or key he guesses, but there is no list to read. Relays met on Bluetooth have no name; all
of them are one here.
"""

import enum
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any, Final

from relay.client.errors import PrivateFileError
from relay.client.files import ensure_private_folder, locked, read_private, replace_private
from relay.core.envelope import MAX_LIFETIME_HOURS
from relay.core.messages import ALL_HOURS
from relay.links.address import RelayAddress

FILE_NAME: Final = "relays.json"
LOCK_NAME: Final = ".relays.lock"
MAX_FILE_BYTES: Final = 65_536
MAX_RELAYS: Final = 256
"""The latest; 140 bytes each."""
KEEP_S: Final = MAX_LIFETIME_HOURS * 3600
OFFER_AGAIN_S: Final = 86_400
"""A relay that acknowledged an envelope may have evicted it by then."""
HOURS_LADDER: Final = (1, 6, 24)
"""Asked instead of the exact time, which would show a client again that comes with fresh keys."""
MARGIN_S: Final = 900
"""Clocks of client and relay do not run at quite the same speed."""
_SALT_BYTES: Final = 16
_DELIVERED: Final = "delivered"
_COLLECTED: Final = "collected"


class Given(enum.Enum):
    """When a relay was last offered everything, and acknowledged or refused each of it."""

    NEVER = "never"
    BEFORE = "before"
    """So long ago that it may have evicted some."""
    TODAY = "today"


class RelaysMet:
    """What was last done when with which relay. Times are Unix seconds (UTC)."""

    def __init__(self, folder: Path) -> None:
        """Keep the file in `folder`."""
        ensure_private_folder(folder)
        self._path = folder / FILE_NAME
        self._lock = folder / LOCK_NAME

    def given(self, address: RelayAddress, now_s: float) -> Given:
        """Return when everything was last offered to this relay."""
        given_s = self._time_of(address, _DELIVERED)
        if given_s is None:
            return Given.NEVER
        return Given.TODAY if 0 <= now_s - given_s < OFFER_AGAIN_S else Given.BEFORE

    def hours_to_read(self, address: RelayAddress, now_s: float) -> int:
        """Return how many hours of arrivals to ask for: all, unless the relay is known by its key."""
        read_s = self._time_of(address, _COLLECTED) if address.pinned else None
        if read_s is None or now_s < read_s:
            return ALL_HOURS
        since_hours = (now_s - read_s + MARGIN_S) / 3600
        return next((hours for hours in HOURS_LADDER if since_hours <= hours), ALL_HOURS)

    def note_given(self, address: RelayAddress, now_s: float) -> None:
        """Note that this relay has been offered everything."""
        self._note(address, _DELIVERED, now_s)

    def note_read(self, address: RelayAddress, began_s: float) -> None:
        """Note that everything was read from this relay that had arrived by `began_s`."""
        self._note(address, _COLLECTED, began_s)

    def _time_of(self, address: RelayAddress, what: str) -> float | None:
        salt, relays = self._read()
        time_s = relays.get(_name(salt, address), {}).get(what)
        return float(time_s) if isinstance(time_s, int) else None

    def _note(self, address: RelayAddress, what: str, time_s: float) -> None:
        with locked(self._lock):
            salt, relays = self._read()
            name = _name(salt, address)
            relays[name] = relays.pop(name, {}) | {what: int(time_s)}
            self._write(salt, relays, time_s)

    def _write(self, salt: str, relays: dict[str, dict[str, int]], now_s: float) -> None:
        content = {
            "version": 1,
            "salt": salt,
            "relays": {
                key: times
                for key, times in list(relays.items())[-MAX_RELAYS:]
                if any(now_s - KEEP_S < other for other in times.values())
            },
        }
        replace_private(self._path, json.dumps(content, indent=1).encode() + b"\n")

    def _read(self) -> tuple[str, dict[str, dict[str, int]]]:
        """Return salt and relays; a damaged file is as good as none, since it only saves traffic."""
        try:
            fields: Any = json.loads(read_private(self._path, MAX_FILE_BYTES) or b"{}")
            relays = {
                str(name): {what: int(times[what]) for what in (_DELIVERED, _COLLECTED) if what in times}
                for name, times in fields["relays"].items()
            }
            return str(fields["salt"]), relays
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PrivateFileError):
            return secrets.token_hex(_SALT_BYTES), {}


def _name(salt: str, address: RelayAddress) -> str:
    what = address.pinned.hex() if address.pinned else str(address)
    return hashlib.sha256(f"{salt} {what}".encode()).hexdigest()[:32]
