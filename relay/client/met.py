# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays met before, so that they are not asked for everything again within a day.

Kept as salted hashes, and for that day: who takes the file can tell whether one was at a
relay whose address or key he guesses, but there is no list to read. Relays met on Bluetooth have no name; all
of them are one here.
"""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any, Final

from relay.client.errors import PrivateFileError
from relay.client.files import ensure_private_folder, locked, read_private, replace_private
from relay.core.messages import Window
from relay.links.address import RelayAddress

FILE_NAME: Final = "relays.json"
LOCK_NAME: Final = ".relays.lock"
MAX_FILE_BYTES: Final = 65_536
MAX_RELAYS: Final = 256
"""The latest; 140 bytes each."""
DAY_S: Final = 86_400
_SALT_BYTES: Final = 16
_COLLECTED: Final = "collected"


class RelaysMet:
    """What was last done when with which relay. Times are Unix seconds (UTC)."""

    def __init__(self, folder: Path) -> None:
        """Keep the file in `folder`."""
        ensure_private_folder(folder)
        self._path = folder / FILE_NAME
        self._lock = folder / LOCK_NAME

    def window(self, address: RelayAddress, now_s: float) -> Window:
        """Return which arrivals to ask for: those of a day, if all was read from this relay within a day.

        So a relay that is another one than its address says withholds no mail for longer. By Bluetooth nobody
        knows which relay it is.
        """
        read_s = self.read_all_s(address)
        return Window.ALL if read_s is None or not 0 <= now_s - read_s < DAY_S else Window.DAY

    def read_all_s(self, address: RelayAddress) -> float | None:
        """Return when everything was read from this relay, up to what had arrived by then."""
        return None if address.is_bluetooth else self._time_of(address, _COLLECTED)

    def note_read_all(self, address: RelayAddress, began_s: float) -> None:
        """Note that everything was read from this relay that had arrived by `began_s`."""
        self._note(address, _COLLECTED, began_s)

    def forget(self) -> None:
        """Ask every relay for all there is again, as for the first time."""
        with locked(self._lock):
            self._path.unlink(missing_ok=True)

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
                if any(now_s - DAY_S < other for other in times.values())
            },
        }
        replace_private(self._path, json.dumps(content, indent=1).encode() + b"\n")

    def _read(self) -> tuple[str, dict[str, dict[str, int]]]:
        """Return salt and relays; a damaged file is as good as none, since it only saves traffic."""
        try:
            fields: Any = json.loads(read_private(self._path, MAX_FILE_BYTES) or b"{}")
            relays = {
                str(name): {what: int(times[what]) for what in (_COLLECTED,) if what in times}
                for name, times in fields["relays"].items()
            }
            return str(fields["salt"]), relays
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PrivateFileError):
            return secrets.token_hex(_SALT_BYTES), {}


def _name(salt: str, address: RelayAddress) -> str:
    what = address.pinned.hex() if address.pinned else str(address)
    return hashlib.sha256(f"{salt} {what}".encode()).hexdigest()[:32]
