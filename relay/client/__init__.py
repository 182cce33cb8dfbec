# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference client: identities, contacts, sealed messages and what is kept of them on disk.

For other programs, `__all__` is the library (docs/client.md); everything below this package may change at any time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from relay.client.card import Card, parse_uri
    from relay.client.client import Client, RelayOutcome
    from relay.client.collection import Collected
    from relay.client.contacts import Contact, ContactBook
    from relay.client.delivery import Delivered
    from relay.client.errors import CardError, ClientError, ContactError, DatabaseError, PrivateFileError, SendError
    from relay.client.files import config_folder, data_folder
    from relay.client.finding import NoRelayError, RelayFinder
    from relay.client.identity import Identity
    from relay.client.inbox import Message, Partial
    from relay.client.outbox import Progress, Sent
    from relay.client.pieces import Kind
    from relay.client.saving import SaveError
    from relay.client.text import safe_text
    from relay.links.address import AddressError, RelayAddress, parse_address
    from relay.links.client_session import Failure, RelayConnectionError

__all__ = [
    "AddressError",
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
    "Identity",
    "Kind",
    "Message",
    "NoRelayError",
    "Partial",
    "PrivateFileError",
    "Progress",
    "RelayAddress",
    "RelayConnectionError",
    "RelayFinder",
    "RelayOutcome",
    "SaveError",
    "SendError",
    "Sent",
    "config_folder",
    "data_folder",
    "parse_address",
    "parse_uri",
    "safe_text",
]

_HOMES: Final = {
    "AddressError": "relay.links.address",
    "Card": "relay.client.card",
    "CardError": "relay.client.errors",
    "Client": "relay.client.client",
    "ClientError": "relay.client.errors",
    "Collected": "relay.client.collection",
    "Contact": "relay.client.contacts",
    "ContactBook": "relay.client.contacts",
    "ContactError": "relay.client.errors",
    "DatabaseError": "relay.client.errors",
    "Delivered": "relay.client.delivery",
    "Failure": "relay.links.client_session",
    "Identity": "relay.client.identity",
    "Kind": "relay.client.pieces",
    "Message": "relay.client.inbox",
    "NoRelayError": "relay.client.finding",
    "Partial": "relay.client.inbox",
    "PrivateFileError": "relay.client.errors",
    "Progress": "relay.client.outbox",
    "RelayAddress": "relay.links.address",
    "RelayConnectionError": "relay.links.client_session",
    "RelayFinder": "relay.client.finding",
    "RelayOutcome": "relay.client.client",
    "SaveError": "relay.client.saving",
    "SendError": "relay.client.errors",
    "Sent": "relay.client.outbox",
    "config_folder": "relay.client.files",
    "data_folder": "relay.client.files",
    "parse_address": "relay.links.address",
    "parse_uri": "relay.client.card",
    "safe_text": "relay.client.text",
}
"""Where each name comes from. Imported when it is asked for: `relay contact` needs a sixth of all this."""


def __getattr__(name: str) -> Any:
    """Return a name of the library (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
