# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay.client` exports, in one place that is imported when a name of it is asked for."""

# ruff: noqa: F401

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
