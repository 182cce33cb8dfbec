# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay identity` and `relay contact`: keys and names, without any network."""

# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from relay.cli.cards import add_svg, chosen_name, given_uri, opened_svg, show_card
from relay.cli.own import open_client, own_identity
from relay.cli.terminal import say

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

    from relay.client.contacts import ContactBook


def add_parsers(sub: _SubParsersAction[ArgumentParser]) -> None:
    """Add the commands; each sets `func`, which returns the exit status or raises ClientError."""
    identity = sub.add_parser("identity", help="show your contact card, as a QR code too; first make your keys")
    identity.add_argument("--name", default="", help="name to suggest to those who add the card")
    add_svg(identity)
    identity.set_defaults(func=_identity)

    contact = sub.add_parser("contact", help="people and groups to send to")
    actions = contact.add_subparsers(required=True, metavar="ACTION")

    add = actions.add_parser("add", help="add a person by contact URI")
    add.add_argument(
        "uri", metavar="URI", nargs="+", help="mesh-relay:contact/..., or - to read it from standard input"
    )
    add.add_argument("--name", help="your name for the person (default: the one the card suggests, marked with ~)")
    add.set_defaults(func=_contact_add)

    show = actions.add_parser("show", help="show a contact's card, or each in a group, to pass on or to compare")
    show.add_argument("name", metavar="NAME")
    show.add_argument("--qr", action="store_true", help="also as a QR code")
    add_svg(show)
    show.set_defaults(func=_contact_show)

    listing = actions.add_parser("list", help="list contacts and groups")
    listing.set_defaults(func=_contact_list)

    group = actions.add_parser("group", help="make a group of contacts, or set who is in it")
    group.add_argument("name", metavar="GROUP")
    group.add_argument("members", metavar="NAME", nargs="+")
    group.set_defaults(func=_contact_group)

    leave = actions.add_parser("leave", help="leave a group, and have its members told")
    leave.add_argument("name", metavar="GROUP")
    leave.set_defaults(func=_contact_leave)

    rename = actions.add_parser("rename", help="give a contact or a group another name")
    rename.add_argument("name", metavar="NAME")
    rename.add_argument("new_name", metavar="NEW")
    rename.set_defaults(func=_contact_rename)

    remove = actions.add_parser("remove", help="remove a contact or a group")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(func=_contact_remove)


def _identity(arguments: Namespace) -> int:
    from relay.client.card import Card
    from relay.client.contacts import require_name
    from relay.client.files import config_folder

    # One that nobody could add is of no use on a printed card.
    name = require_name(arguments.name) if arguments.name else ""
    card = Card.of(own_identity(config_folder(os.environ)))
    with opened_svg(arguments.svg) as svg:
        show_card(card.to_uri(name), card.fingerprint, with_qr=True, svg=svg)
    return 0


def _contact_add(arguments: Namespace) -> int:
    from relay.client.card import parse_uri
    from relay.client.contacts import OWN_WORD

    uri = given_uri(arguments.uri)
    card, suggested_name = parse_uri(uri)
    name, is_own_word = chosen_name(arguments.name, suggested_name)
    contact = _book().add(card, name, is_own_word=is_own_word)
    say(f"Added {contact.name}.")
    if is_own_word:
        say(f"{OWN_WORD} marks a name that the card gives itself. For one of your own: relay contact rename NAME NEW")
    print(f"Fingerprint: {card.fingerprint}")
    print("Compare it by voice: a card that came over a channel that others can change may be theirs.")
    return 0


def _contact_show(arguments: Namespace) -> int:
    from relay.client.errors import ContactError

    book = _book()
    if (group := book.group(arguments.name)) is not None:
        if arguments.svg is not None:
            raise ContactError(f"{arguments.name} is a group; write the card of one member with --svg")
        # So that a member who is none can be made a contact.
        for card in group.others:
            say(f"{book.shown_name(card.static)}\n{card.to_uri()}\nFingerprint: {card.fingerprint}")
        return 0
    contact = book.get(arguments.name)
    uri = contact.card.to_uri(contact.plain_name)
    with opened_svg(arguments.svg) as svg:
        show_card(uri, contact.card.fingerprint, with_qr=arguments.qr, svg=svg)
    return 0


def _contact_list(_: Namespace) -> int:
    book = _book()
    for contact in book:
        say(f"{contact.name}\t{contact.card.fingerprint}")
    for name, members in book.groups.items():
        say(f"{name}\tgroup of {', '.join(members)}")
    return 0


def _contact_group(arguments: Namespace) -> int:
    _book().set_group(arguments.name, tuple(arguments.members))
    say(f"The group {arguments.name}: you and {', '.join(arguments.members)}.")
    print("With the first message to it the members get each other's cards, and can answer all.")
    return 0


def _contact_leave(arguments: Namespace) -> int:
    import asyncio

    return asyncio.run(_leave(arguments.name))


async def _leave(name: str) -> int:

    async with open_client(()) as client:
        names = list(await client.leave_group(name, "(has left the group)"))
    told = f"These are told with the next `relay send` or `relay receive`: {', '.join(names)}"
    say(f"You left. {told if names else 'Nobody else was in it.'}")
    return 0


def _contact_rename(arguments: Namespace) -> int:
    _book().rename(arguments.name, arguments.new_name)
    say(f"{arguments.name} is called {arguments.new_name} now.")
    return 0


def _contact_remove(arguments: Namespace) -> int:
    _book().remove(arguments.name)
    say(f"Removed {arguments.name}. What was sent and received stays.")
    return 0


def _book() -> ContactBook:
    from relay.client.contacts import ContactBook
    from relay.client.files import config_folder

    return ContactBook(config_folder(os.environ))
