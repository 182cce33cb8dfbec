# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's names for cards, and groups of those names; one private JSON file, replaced as a whole."""

import contextlib
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.client.card import Card, parse_uri
from relay.client.errors import CardError, ContactError, PrivateFileError
from relay.client.files import ensure_private_folder, locked, read_private, replace_private
from relay.client.text import is_seen

FILE_NAME: Final = "contacts.json"
LOCK_NAME: Final = ".contacts.lock"
FILE_VERSION: Final = 1
MAX_NAME_CHARACTERS: Final = 64
OWN_WORD: Final = "~"
"""Before a name that a card suggested for itself: the user has not said that it is that person's."""
MAX_CONTACTS: Final = 4096
"""More than anyone knows; with MAX_GROUPS and full groups the file stays under MAX_FILE_BYTES."""
MAX_GROUPS: Final = 256
MAX_MEMBERS: Final = 256
"""A message to a group is sealed and worked for once per member."""
MAX_FILE_BYTES: Final = 32 * 1024 * 1024
"""Full: 256 groups of 256 names of 64 characters, 4 bytes each at worst, are 17 MB, 4,096 contacts 1.5 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A card under the user's own name for it, or behind OWN_WORD under the one that it gives itself."""

    name: str
    card: Card

    @property
    def plain_name(self) -> str:
        """The name without OWN_WORD."""
        return self.name.removeprefix(OWN_WORD)


def require_name(name: str) -> str:
    """Return `name`; ContactError when a terminal or a person could mistake it for something else."""
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise ContactError(f"a name has 1 to {MAX_NAME_CHARACTERS} characters, this one {len(name)}")
    # No control characters, line ends, nor invisible and direction-changing ones; nor spaces that look like the end.
    if not all(map(is_seen, name)) or name != " ".join(name.split()) or name.startswith(("-", OWN_WORD)):
        raise ContactError(
            f"a name must not begin with a dash or {OWN_WORD}, begin or end with a space, have two in a row, "
            "or hold invisible characters"
        )
    if name != unicodedata.normalize("NFC", name):
        raise ContactError("the name is not in Unicode normal form C; type it instead of copying it")
    return name


class ContactBook:
    """Contacts and groups, both found by name without regard to case; changes are on disk when a call returns."""

    def __init__(self, folder: Path) -> None:
        """Read `folder`; PrivateFileError when the file there is damaged or open to others."""
        self._folder = folder
        self._contacts: dict[str, Contact] = {}
        self._groups: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._read()

    def __iter__(self) -> Iterator[Contact]:
        """Contacts in the order of their names."""
        return iter(sorted(self._contacts.values(), key=lambda contact: contact.name.casefold()))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Names of the members by name of the group."""
        return dict(sorted(self._groups.values()))

    def get(self, name: str) -> Contact:
        """Return the contact of that name; ContactError when there is none."""
        try:
            return self._contacts[_key(name)]
        except KeyError:
            raise ContactError(f"no contact named {name!r}; see: relay contact list") from None

    def resolve(self, name: str) -> tuple[Contact, ...]:
        """Return the contact of that name, or the members of the group; ContactError when there is neither."""
        if (group := self._groups.get(name.casefold())) is not None:
            return tuple(self.get(member) for member in group[1])
        return (self.get(name),)

    def name_of(self, static: bytes) -> str | None:
        """Return the user's name for whoever holds the private half of `static`."""
        for contact in self._contacts.values():
            if contact.card.static == static:
                return contact.name
        return None

    def add(self, card: Card, name: str, *, is_own_word: bool = False) -> Contact:
        """Keep a card under a new name; ContactError when the name or the card is there already.

        `is_own_word`: it is the card that says so, and the name is marked until `rename`.
        """
        with self._change():
            self._require_free(name)
            if (known := self.name_of(card.static)) is not None:
                raise ContactError(f"this card is there already, as {known!r}")
            if len(self._contacts) >= MAX_CONTACTS:
                raise ContactError(f"there are {MAX_CONTACTS} contacts already; remove one first")
            contact = Contact(name=OWN_WORD + name if is_own_word else name, card=card)
            self._contacts[_key(name)] = contact
        return contact

    def rename(self, name: str, new_name: str) -> None:
        """Give a contact or a group a name of the user's; ContactError when there is none, or the name is taken."""
        with self._change():
            if (group := self._groups.get(name.casefold())) is not None:
                self._rename_group(group, new_name)
                return
            contact = self.get(name)
            del self._contacts[_key(name)]
            self._require_free(new_name)
            self._contacts[_key(new_name)] = Contact(name=new_name, card=contact.card)
            for key, (group_name, members) in self._groups.items():
                renamed = tuple(new_name if member == contact.name else member for member in members)
                self._groups[key] = (group_name, renamed)

    def _rename_group(self, group: tuple[str, tuple[str, ...]], new_name: str) -> None:
        del self._groups[group[0].casefold()]
        self._require_free(new_name)
        self._groups[new_name.casefold()] = (new_name, group[1])

    def set_group(self, name: str, members: tuple[str, ...]) -> None:
        """Make or replace a group of at least one contact; ContactError for names that do not exist."""
        with self._change():
            if name.casefold() not in self._groups:
                self._require_free(name)
                if len(self._groups) >= MAX_GROUPS:
                    raise ContactError(f"there are {MAX_GROUPS} groups already; remove one first")
            if not 1 <= len(members) <= MAX_MEMBERS:
                raise ContactError(f"a group has 1 to {MAX_MEMBERS} members")
            names = dict.fromkeys(self.get(member).name for member in members)
            self._groups[name.casefold()] = (name, tuple(names))

    def remove(self, name: str) -> None:
        """Forget a group, or a contact that is in no group; ContactError otherwise."""
        with self._change():
            if self._groups.pop(name.casefold(), None) is not None:
                return
            contact = self.get(name)
            groups = [group for group, members in self._groups.values() if contact.name in members]
            if groups:
                raise ContactError(f"{contact.name!r} is in the group {groups[0]!r}; set that group without it first")
            del self._contacts[_key(name)]

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Read afresh under a lock, write at the end: two commands at once lose nothing of each other."""
        ensure_private_folder(self._folder)
        with locked(self._folder / LOCK_NAME):
            self._read()
            try:
                yield
            except ContactError:
                self._read()
                raise
            self._write()

    def _require_free(self, name: str) -> None:
        require_name(name)
        if name.casefold() in self._contacts or name.casefold() in self._groups:
            raise ContactError(f"the name {name!r} is taken; choose another")

    def _read(self) -> None:
        self._contacts.clear()
        self._groups.clear()
        path = self._folder / FILE_NAME
        content = read_private(path, MAX_FILE_BYTES)
        if content is None:
            return
        try:
            self._load(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CardError, ContactError):
            raise PrivateFileError(f"{path} is damaged; restore it from a backup, or move it away") from None

    def _load(self, fields: Any) -> None:
        if (version := fields["version"]) != FILE_VERSION:
            path = self._folder / FILE_NAME
            raise PrivateFileError(f"{path} has version {version!r}, this program reads {FILE_VERSION}; update it")
        for name, uri in fields["contacts"].items():
            require_name(name.removeprefix(OWN_WORD))
            self._contacts[_key(name)] = Contact(name=name, card=parse_uri(uri)[0])
        for name, members in fields["groups"].items():
            self._groups[require_name(name).casefold()] = (name, tuple(self.get(member).name for member in members))

    def _write(self) -> None:
        content = {
            "version": FILE_VERSION,
            "contacts": {contact.name: contact.card.to_uri() for contact in self},
            "groups": self.groups,
        }
        replace_private(self._folder / FILE_NAME, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def _key(name: str) -> str:
    """What a contact is found by: without regard to case, and with the mark or without."""
    return name.removeprefix(OWN_WORD).casefold()
