# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user can tell the client once instead of each time: `client.toml` in the folder of the configuration.

secret = "the mesh's secret"      # only in a closed mesh

[[relay]]
address = "192.0.2.1:4270"
key = "64 hexadecimal digits"     # optional: the relay must have this key, and is known again by it
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from relay.client.errors import ClientError
from relay.client.files import read_private
from relay.core.noise import KEY_BYTES
from relay.core.secret import SecretError, mesh_secret
from relay.links.address import AddressError, RelayAddress, parse_address

FILE_NAME: Final = "client.toml"
MAX_FILE_BYTES: Final = 65_536
"""Some hundred relays; whatever is larger is something else."""

_KEYS: Final = frozenset({"secret", "relay"})
_RELAY_KEYS: Final = frozenset({"address", "key"})


class SettingsError(ClientError):
    """A `client.toml` that cannot be used; the text names the place and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The relays to use (none: look for one) and the mesh's secret (32 bytes)."""

    relays: tuple[RelayAddress, ...] = ()
    secret: bytes | None = field(default=None, repr=False)

    def pin(self, addresses: Sequence[RelayAddress]) -> tuple[RelayAddress, ...]:
        """Return addresses given otherwise, with the keys noted for them here."""
        keys = {str(relay): relay.pinned for relay in self.relays}
        return tuple(replace(address, pinned=keys.get(str(address))) for address in addresses)


def load_settings(folder: Path) -> Settings:
    """Read `client.toml` in `folder`, or return the defaults when there is none; SettingsError, PrivateFileError."""
    path = folder / FILE_NAME
    content = read_private(path, MAX_FILE_BYTES)
    if content is None:
        return Settings()
    try:
        values = tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if unknown := sorted(values.keys() - _KEYS):
        raise SettingsError(f"{path}: unknown setting {unknown[0]}; there are: secret, and [[relay]] with address, key")
    secret = values.get("secret", "")
    if not isinstance(secret, str):
        raise SettingsError(f"{path}: write the secret in quotes")
    relays = values.get("relay", [])
    if not isinstance(relays, list):
        raise SettingsError(f"{path}: write [[relay]] in double brackets, and address = ... below")
    try:
        key = mesh_secret(secret)
    except SecretError as error:
        raise SettingsError(f"{path}: {error}") from None
    return Settings(relays=tuple(_relay(path, relay) for relay in relays), secret=key)


def _relay(path: Path, values: Any) -> RelayAddress:
    if not isinstance(values, dict) or not isinstance(values.get("address"), str) or values.keys() - _RELAY_KEYS:
        raise SettingsError(f'{path}: each [[relay]] has address = "HOST:PORT" and may have key = "..."')
    key = values.get("key", "")
    try:
        pinned = bytes.fromhex(key)
    except (TypeError, ValueError):
        pinned = b"?"
    if len(pinned) not in {0, KEY_BYTES}:
        raise SettingsError(f"{path}: the key of a relay has {2 * KEY_BYTES} hexadecimal digits, in quotes")
    try:
        return replace(parse_address(values["address"]), pinned=pinned or None)
    except AddressError as error:
        raise SettingsError(f"{path}: {error}") from None
