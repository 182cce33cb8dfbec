# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's names for notice boards, with their keys; one private JSON file, replaced as a whole."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.client.bulletin import Bulletin, parse_bulletin_uri
from relay.client.contacts import OWN_WORD, name_key, require_name
from relay.client.errors import BulletinError, CardError, ContactError, PrivateFileError
from relay.client.files import ensure_private_folder, locked, read_private, replace_private

FILE_NAME: Final = "bulletins.json"
LOCK_NAME: Final = ".bulletins.lock"
FILE_VERSION: Final = 1
MAX_BULLETINS: Final = 64
"""Each costs a decryption (0.1 ms at worst) for a quarter of all envelopes, and up to 4 MiB on disk."""
MAX_FILE_BYTES: Final = 131_072
"""Full: 64 names of 64 characters and URIs of 92 are under 30 kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBulletin:
    """A notice board under the user's own name for it, or behind OWN_WORD under the one that its card suggests."""

    name: str
    bulletin: Bulletin

    @property
    def plain_name(self) -> str:
        """The name without OWN_WORD."""
        return self.name.removeprefix(OWN_WORD)


class BulletinBook:
    """Notice boards by name without regard to case; changes are on disk when a call returns."""

    def __init__(self, folder: Path) -> None:
        """Read `folder`; PrivateFileError when the file there is damaged or open to others."""
        self._folder = folder
        self._known: dict[str, KnownBulletin] = {}
        self.state: tuple[int, ...] | None = None
        """Another one whenever something has changed."""
        self.refresh()

    def __iter__(self) -> Iterator[KnownBulletin]:
        """In the order of their names."""
        return iter(sorted(self._known.values(), key=lambda known: known.name.casefold()))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._known)

    def get(self, name: str) -> KnownBulletin:
        """Return the one of that name; BulletinError when there is none."""
        try:
            return self._known[name_key(name)]
        except KeyError:
            raise BulletinError(f"no bulletin named {name!r}; see: relay bulletin list") from None

    def name_of(self, public: bytes) -> str | None:
        """Return the user's name for the one with that posting public key, or None."""
        return next((known.name for known in self._known.values() if known.bulletin.public == public), None)

    def add(self, bulletin: Bulletin, name: str, *, is_own_word: bool = False) -> tuple[KnownBulletin, bool]:
        """Keep one under a new name; return it, and whether it was not read before. BulletinError, ContactError.

        One that is there already keeps its name, and gets its posting key if that comes now. `is_own_word`: it is the
        card that says so, and the name is marked.
        """
        with self._change():
            there = next((known for known in self._known.values() if known.bulletin.public == bulletin.public), None)
            if there is not None and bulletin.read_key != there.bulletin.read_key:
                raise BulletinError(
                    f"{there.name!r} has this posting key with another read key: one of the two cards is false"
                )
            if there is not None and (bulletin.seed is None or there.bulletin.seed is not None):
                raise BulletinError(f"this bulletin is there already, as {there.name!r}")
            if there is not None:
                known = KnownBulletin(name=there.name, bulletin=bulletin)
            else:
                require_name(name)
                if name_key(name) in self._known:
                    remedy = "give another with --name NAME" if is_own_word else "choose another"
                    raise BulletinError(f"the name {name!r} is taken; {remedy}")
                if len(self._known) >= MAX_BULLETINS:
                    raise BulletinError(f"there are {MAX_BULLETINS} bulletins already; leave one first")
                known = KnownBulletin(name=OWN_WORD + name if is_own_word else name, bulletin=bulletin)
            self._known[name_key(known.name)] = known
        return known, there is None

    def leave(self, name: str, *, with_posting_key: bool = False) -> KnownBulletin:
        """Forget one; BulletinError when there is none, or when its posting key is here and is not to be forgotten."""
        with self._change():
            known = self.get(name)
            if known.bulletin.seed is not None and not with_posting_key:
                raise BulletinError(
                    f"you hold the posting key of {known.name!r}, which nobody can make anew; save it with: relay "
                    "bulletin card NAME --posting-key, then leave with --forget-posting-key"
                )
            del self._known[name_key(name)]
        return known

    def refresh(self) -> bool:
        """Read again what another command has changed; whether it has."""
        if self.is_current():
            return False
        self._read()
        return True

    def is_current(self) -> bool:
        """Whether the file is the one that was read."""
        return self.state is not None and self.state == self._file_state()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Read afresh under a lock, write at the end: two commands at once lose nothing of each other."""
        ensure_private_folder(self._folder)
        with locked(self._folder / LOCK_NAME):
            self._read()
            yield
            self._write()
            self.state = self._file_state()

    def _file_state(self) -> tuple[int, ...]:
        try:
            status = (self._folder / FILE_NAME).stat()
        except FileNotFoundError:
            return ()
        # Each change is another file, which is in place at once.
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> None:
        path = self._folder / FILE_NAME
        # First: what is replaced meanwhile is read again.
        state = self._file_state()
        content = read_private(path, MAX_FILE_BYTES)
        try:
            # In place at once: another thread may be reading.
            self._known = {} if content is None else self._load(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CardError, ContactError):
            raise PrivateFileError(f"{path} is damaged; restore it from a backup, or move it away") from None
        self.state = state

    def _load(self, fields: Any) -> dict[str, KnownBulletin]:
        if (version := fields["version"]) != FILE_VERSION:
            path = self._folder / FILE_NAME
            raise PrivateFileError(f"{path} has version {version!r}, this program reads {FILE_VERSION}; update it")
        known = {}
        for name, uri in fields["bulletins"].items():
            require_name(name.removeprefix(OWN_WORD))
            known[name_key(name)] = KnownBulletin(name=name, bulletin=parse_bulletin_uri(uri)[0])
        return known

    def _write(self) -> None:
        content = {
            "version": FILE_VERSION,
            "bulletins": {known.name: known.bulletin.to_uri() for known in self},
        }
        replace_private(self._folder / FILE_NAME, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
