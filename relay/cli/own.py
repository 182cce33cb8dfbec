# SPDX-License-Identifier: GPL-2.0-or-later
"""What is the user's own: identity, relays, and the client with both."""
# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from relay.client.client import Client
    from relay.client.finding import RelayFinder
    from relay.client.identity import Identity


def own_identity(folder: Path) -> Identity:
    """Return the identity in `folder`, made now if there is none yet, which is said on standard error."""
    import secrets

    from relay.client.identity import Identity

    identity = Identity.load(folder)
    if identity is None:
        identity, is_new = Identity.generate(secrets.token_bytes).save_first(folder)
        if not is_new:
            return identity
        print(
            f"Made your keys in {folder}; nobody else may have that folder, and you may want a backup of it.\n",
            file=sys.stderr,
        )
    return identity


def finder(relays: Iterable[str]) -> RelayFinder:
    """Return what finds the relays that were given, or those of the settings."""
    from relay.client.files import config_folder
    from relay.client.finding import RelayFinder
    from relay.client.settings import load_settings
    from relay.links.address import parse_address

    settings = load_settings(config_folder(os.environ))
    texts = list(relays) or [text for text in os.environ.get("MESH_RELAY", "").split(",") if text.strip()]
    named = settings.pin([parse_address(text) for text in texts]) or settings.relays
    return RelayFinder(named, secret=settings.secret)


def open_client(relays: Iterable[str], *, receipts_at_once: bool = False) -> Client:
    """Return the user's client, to be entered; ClientError."""
    from relay.client.client import Client
    from relay.client.files import config_folder, data_folder

    own_identity(config_folder(os.environ))
    client = Client(
        config_folder(os.environ), data_folder(os.environ), finder(relays), receipts_at_once=receipts_at_once
    )
    if warning := client.clock_warning():
        print(f"Warning: {warning}.", file=sys.stderr)
    return client
