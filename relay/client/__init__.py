# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference client: identities, contacts, sealed messages and what is kept of them on disk.

For other programs, `__all__` is the library (docs/client.md); everything below this package may change at any time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.client.bulletin import Bulletin, parse_bulletin_uri
    from relay.client.bulletin_book import BulletinBook, KnownBulletin
    from relay.client.card import Card, parse_uri
    from relay.client.client import Client, RelayOutcome
    from relay.client.collection import Collected
    from relay.client.contacts import Contact, ContactBook, GroupNews
    from relay.client.delivery import Delivered
    from relay.client.errors import (
        BulletinError,
        CardError,
        ClientError,
        ContactError,
        DatabaseError,
        PrivateFileError,
        SendError,
        TakenError,
    )
    from relay.client.files import config_folder, data_folder
    from relay.client.finding import NoRelayError, RelayFinder
    from relay.client.group import Group
    from relay.client.identity import Identity
    from relay.client.inbox import Message, Partial
    from relay.client.outbox import Progress, Sent
    from relay.client.pieces import Kind
    from relay.client.post import PostKind
    from relay.client.posts import Post
    from relay.client.saving import SaveError
    from relay.client.text import rows, safe_text
    from relay.links.address import AddressError, RelayAddress, parse_address
    from relay.links.client_session import Failure, RelayConnectionError

__all__ = [
    "AddressError",
    "Bulletin",
    "BulletinBook",
    "BulletinError",
    "Card",
    "CardError",
    "Client",
    "ClientError",
    "Collected",
    "Contact",
    "ContactBook",
    "ContactError",
    "DatabaseError",
    "Delivered",
    "Failure",
    "Group",
    "GroupNews",
    "Identity",
    "Kind",
    "KnownBulletin",
    "Message",
    "NoRelayError",
    "Partial",
    "Post",
    "PostKind",
    "PrivateFileError",
    "Progress",
    "RelayAddress",
    "RelayConnectionError",
    "RelayFinder",
    "RelayOutcome",
    "SaveError",
    "SendError",
    "Sent",
    "TakenError",
    "config_folder",
    "data_folder",
    "parse_address",
    "parse_bulletin_uri",
    "parse_uri",
    "rows",
    "safe_text",
]


def __getattr__(name: str) -> Any:
    """Return a name of the library (PEP 562), imported when asked for: `relay contact` needs a sixth."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from relay.client import library  # noqa: PLC0415

    return getattr(library, name)
