# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's names for cards, and groups of those names; one private JSON file, replaced as a whole."""

import contextlib
import hashlib
import json
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from relay.client.card import Card, parse_uri
from relay.client.errors import CardError, ContactError, PrivateFileError
from relay.client.files import ensure_private_folder, locked, read_private, replace_private
from relay.client.group import GROUP_ID_BYTES, MAX_CARDS, MAX_VERSION, Group
from relay.process.printable import is_seen

FILE_NAME: Final = "contacts.json"
LOCK_NAME: Final = ".contacts.lock"
FILE_VERSION: Final = 1
MAX_NAME_CHARACTERS: Final = 64
OWN_WORD: Final = "~"
"""Before a name that a card suggested for itself: the user has not said that it is that person's."""
_NUMBER_CHARACTERS: Final = 5
"""Room for a number behind a group's name that is taken."""
_STRANGER_DIGITS: Final = 16
"""64 bits: a key for a name of 32 is found in an hour on a desktop, and some members of a group have no other name."""
MAX_CONTACTS: Final = 4096
"""More than anyone knows; with MAX_GROUPS and full groups the file stays under MAX_FILE_BYTES."""
MAX_GROUPS: Final = 256
MAX_TOLD_GROUPS: Final = 128
"""Of those, under the names that others gave them: nobody's groups keep the user from making one."""
MAX_MEMBERS: Final = MAX_CARDS - 1
"""Others in a group; a message to it is sealed and worked for once for each."""
MAX_CHANGES: Final = 65_536
"""That a member may have missed. Whoever claims more would have the last word for ever."""
MAX_LEFT: Final = 1024
"""Groups that were left and are not made again by who has not heard of it yet, the latest."""
MAX_FILE_BYTES: Final = 32 * 1024 * 1024
"""Full: 256 groups of 254 cards of 90 bytes are 6 MB, 4,096 contacts 1.5 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A card under the user's own name for it, or behind OWN_WORD under the one that it gives itself."""

    name: str
    card: Card

    @property
    def plain_name(self) -> str:
        """The name without OWN_WORD."""
        return self.name.removeprefix(OWN_WORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownGroup:
    """A group under the user's name for it, or behind OWN_WORD under the one that its maker gave it.

    `others` are all members but the user; `version` counts the changes.
    """

    id: bytes
    version: int
    name: str
    others: tuple[Card, ...]

    def to_send(self, own: Card, *, is_left: bool = False) -> Group:
        """Return what a message to the group carries, from the user; with `is_left` as the next to last word."""
        return Group(
            id=self.id,
            version=min(self.version + is_left, MAX_VERSION),
            name=self.name.removeprefix(OWN_WORD),
            # Who is a contact of his own may have put himself in.
            members=(*(() if is_left else (own,)), *(card for card in self.others if card.static != own.static)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNews:
    """What a message to a group told: the `name` to show it by, and whether its members are others `changed` now.

    `group` is the one that answers go to, or None when it is not kept: from a stranger, or left.
    """

    name: str
    group: KnownGroup | None
    changed: bool


def stranger_name(static: bytes) -> str:
    """Return a name, for whom the user has given none, that nobody can choose."""
    return f"stranger {hashlib.sha256(static).hexdigest()[:_STRANGER_DIGITS]}"


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
        self._names: dict[bytes, str] = {}
        self._groups: dict[str, KnownGroup] = {}
        self._left: list[bytes] = []
        self._read()

    def __iter__(self) -> Iterator[Contact]:
        """Contacts in the order of their names."""
        return iter(sorted(self._contacts.values(), key=lambda contact: contact.name.casefold()))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Names of the members by name of the group."""
        groups = sorted(self._groups.values(), key=lambda group: group.name.casefold())
        return {group.name: tuple(self.shown_name(card.static) for card in group.others) for group in groups}

    def group(self, name: str) -> KnownGroup | None:
        """Return the group of that name, or None."""
        return self._groups.get(name_key(name))

    def get(self, name: str) -> Contact:
        """Return the contact of that name; ContactError when there is none."""
        try:
            return self._contacts[name_key(name)]
        except KeyError:
            raise ContactError(f"no contact named {name!r}; see: relay contact list") from None

    def resolve(self, name: str) -> tuple[Contact, ...]:
        """Return the contact of that name, or the members of the group; ContactError when there is neither."""
        if (group := self.group(name)) is not None:
            return tuple(Contact(name=self.shown_name(card.static), card=card) for card in group.others)
        return (self.get(name),)

    def name_of(self, static: bytes) -> str | None:
        """Return the user's name for whoever holds the private half of `static`."""
        return self._names.get(static)

    def shown_name(self, static: bytes) -> str:
        """Return the user's name for whoever holds the private half of `static`, or one that nobody can choose."""
        return self._names.get(static) or stranger_name(static)

    def add(self, card: Card, name: str, *, is_own_word: bool = False) -> Contact:
        """Keep a card under a new name; ContactError when the name or the card is there already.

        `is_own_word`: it is the card that says so, and the name is marked until `rename`.
        """
        with self._change():
            self._require_free(name)
            if (known := self.name_of(card.static)) is not None:
                raise ContactError(
                    f"this card is there already, as {known!r}; for another name: relay contact rename NAME NEW"
                )
            if len(self._contacts) >= MAX_CONTACTS:
                raise ContactError(f"there are {MAX_CONTACTS} contacts already; remove one first")
            contact = Contact(name=OWN_WORD + name if is_own_word else name, card=card)
            self._put(contact)
            for key, group in self._groups.items():
                others = tuple(card if card.static == other.static else other for other in group.others)
                self._groups[key] = replace(group, others=others)
        return contact

    def rename(self, name: str, new_name: str) -> None:
        """Give a contact or a group a name of the user's; ContactError when there is none, or the name is taken."""
        with self._change():
            if (group := self._groups.pop(name_key(name), None)) is not None:
                self._require_free(new_name)
                self._groups[name_key(new_name)] = replace(group, name=new_name)
                return
            contact = self.get(name)
            del self._contacts[name_key(name)]
            self._require_free(new_name)
            self._put(replace(contact, name=new_name))

    def set_group(self, name: str, members: tuple[str, ...]) -> None:
        """Make or replace a group of at least one contact; ContactError for names that do not exist.

        The members hear of it with the next message to it.
        """
        with self._change():
            group = self.group(name)
            if group is None:
                self._require_free(name)
                if len(self._groups) >= MAX_GROUPS:
                    raise ContactError(f"there are {MAX_GROUPS} groups already; remove one first")
                group = KnownGroup(id=secrets.token_bytes(GROUP_ID_BYTES), version=-1, name=name, others=())
            # Members that the user has no name for go by the one that they are shown under.
            others = {self.shown_name(card.static).casefold(): card for card in group.others}
            cards = [others.get(member.casefold()) or self.get(member).card for member in members]
            if not 1 <= len(cards) <= MAX_MEMBERS:
                raise ContactError(f"a group has 1 to {MAX_MEMBERS} members beside you")
            version = min(group.version + 1, MAX_VERSION)
            self._groups[name_key(name)] = replace(group, version=version, others=tuple(dict.fromkeys(cards)))

    def learn_group(self, told: Group, sender: bytes, own: bytes) -> GroupNews:
        """Take in what a message from `sender` says of its group; `own` is the user's static key.

        It counts if he is in the group as it is known, or, where it is not known yet, if he is a contact: a stranger
        cannot have others made one's correspondents. The newest word of a member holds, but not of where another
        one's mail goes: that nobody would see.
        """
        with self._change():
            known = next((group for group in self._groups.values() if group.id == told.id), None)
            members = self._without_diversion(told.members, known.others if known else (), sender)
            others = tuple(card for card in members if card.static != own and not card.is_low_order)
            if known is None:
                return self._learn_new(told, sender, own, others)
            if sender in {card.static for card in known.others}:
                told_of_himself = [card for card in members if card.static == sender]
                known = replace(known, others=self._without_diversion(known.others, told_of_himself, None))
                self._groups[name_key(known.name)] = known
            members = (Card(static=own, rendezvous=b""), *known.others)
            rank = Group(id=known.id, version=known.version, name="", members=members).rank
            is_newer = told.rank > rank and told.version <= known.version + MAX_CHANGES
            if sender not in {card.static for card in known.others} or not is_newer:
                return GroupNews(name=known.name, group=known, changed=False)
            if not others or all(card.static != own for card in told.members):
                self._leave(known)
                return GroupNews(name=known.name, group=None, changed=True)
            changed = replace(known, version=told.version, others=others)
            self._groups[name_key(known.name)] = changed
            return GroupNews(name=known.name, group=changed, changed=set(others) != set(known.others))

    def _without_diversion(
        self, cards: Iterable[Card], known: Iterable[Card], sender: bytes | None
    ) -> tuple[Card, ...]:
        """Return members by the cards that the user has, else by what `sender` says of himself, else by known ones."""
        better = {card.static: card for card in known if card.static != sender}
        better |= {contact.card.static: contact.card for contact in self._contacts.values()}
        return tuple(better.get(card.static, card) for card in cards)

    def _learn_new(self, told: Group, sender: bytes, own: bytes, others: tuple[Card, ...]) -> GroupNews:
        suggested = _usable_name(told.name)
        is_welcome = (
            sender in self._names
            and {sender, own} <= {card.static for card in told.members}
            and told.id not in self._left
            and len(self._groups) < MAX_GROUPS
            and sum(group.name.startswith(OWN_WORD) for group in self._groups.values()) < MAX_TOLD_GROUPS
        )
        if not is_welcome:
            return GroupNews(name=OWN_WORD + suggested, group=None, changed=False)
        names = (suggested, *(f"{suggested} {number}" for number in range(2, MAX_GROUPS + MAX_CONTACTS + 2)))
        name = next(
            name for name in names if name_key(name) not in self._contacts and name_key(name) not in self._groups
        )
        group = KnownGroup(id=told.id, version=told.version, name=OWN_WORD + name, others=others)
        self._groups[name_key(name)] = group
        return GroupNews(name=group.name, group=group, changed=True)

    def leave(self, name: str) -> KnownGroup:
        """Forget a group so that messages of who has not heard of it do not bring it back; ContactError for none."""
        with self._change():
            group = self.group(name)
            if group is None:
                raise ContactError(f"no group named {name!r}; see: relay contact list")
            self._leave(group)
        return group

    def _leave(self, group: KnownGroup) -> None:
        del self._groups[name_key(group.name)]
        self._left = [*self._left, group.id][-MAX_LEFT:]

    def remove(self, name: str) -> None:
        """Forget a contact that is in no group; ContactError otherwise."""
        with self._change():
            if self.group(name) is not None:
                self._leave(self._groups[name_key(name)])
                return
            contact = self.get(name)
            groups = [group.name for group in self._groups.values() if contact.card in group.others]
            if groups:
                raise ContactError(
                    f"{contact.name!r} is in the group {groups[0]!r}; set that group without, or leave it"
                )
            del self._contacts[name_key(name)]
            del self._names[contact.card.static]

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Read afresh under a lock, write at the end: two commands at once lose nothing of each other.

        Only what is not so already: every message to a group comes here.
        """
        ensure_private_folder(self._folder)
        with locked(self._folder / LOCK_NAME):
            self._read()
            before = dict(self._contacts), dict(self._groups), list(self._left)
            try:
                yield
            except ContactError:
                self._read()
                raise
            if before != (self._contacts, self._groups, self._left):
                self._write()

    def _put(self, contact: Contact) -> None:
        self._contacts[name_key(contact.name)] = contact
        self._names[contact.card.static] = contact.name

    def _require_free(self, name: str) -> None:
        require_name(name)
        if name_key(name) in self._contacts or name_key(name) in self._groups:
            raise ContactError(f"the name {name!r} is taken; choose another")

    def _read(self) -> None:
        self._contacts.clear()
        self._names.clear()
        self._groups.clear()
        self._left.clear()
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
            self._put(Contact(name=name, card=parse_uri(uri)[0]))
        for name, group in fields["groups"].items():
            require_name(name.removeprefix(OWN_WORD))
            self._groups[name_key(name)] = KnownGroup(
                id=bytes.fromhex(group["id"]),
                version=int(group["version"]),
                name=name,
                others=tuple(parse_uri(uri)[0] for uri in group["others"]),
            )
        self._left = [bytes.fromhex(left) for left in fields.get("left", [])]

    def _write(self) -> None:
        content = {
            "version": FILE_VERSION,
            "contacts": {contact.name: contact.card.to_uri() for contact in self},
            "groups": {
                group.name: {
                    "id": group.id.hex(),
                    "version": group.version,
                    "others": [card.to_uri() for card in group.others],
                }
                for group in self._groups.values()
            },
            "left": [left.hex() for left in self._left],
        }
        replace_private(self._folder / FILE_NAME, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def name_key(name: str) -> str:
    """What somebody or something is found by: without regard to case, and with the mark or without."""
    return name.removeprefix(OWN_WORD).casefold()


def _usable_name(suggested: str) -> str:
    """Return the name that a group is given by its maker as far as it can be one here."""
    seen = "".join(character if is_seen(character) else " " for character in unicodedata.normalize("NFC", suggested))
    cut = " ".join(seen.split()).lstrip("-~ ")[: MAX_NAME_CHARACTERS - _NUMBER_CHARACTERS].strip()
    return cut or "group"
