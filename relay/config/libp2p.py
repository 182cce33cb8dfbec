# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: RUF009 - setting() returns a dataclasses.field, which makes the default anew for each instance
"""The section [libp2p] of relay.toml."""

from __future__ import annotations

from dataclasses import dataclass

from relay.config import settings
from relay.config.settings import Address, setting

#: "" in `gateway`: none.
NO_GATEWAY = Address("", 0)


def gateway(value: object) -> Address:
    """Where the gateway over HTTP listens, or "" for nowhere."""
    if value == "":
        return NO_GATEWAY
    return settings.listen(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Libp2pConfig:
    """What `relay libp2p` reads; ``interfaces`` (): all but the loopback interface."""

    enabled: bool = setting(False, settings.boolean)
    interfaces: tuple[str, ...] = setting((), settings.interfaces)
    port: int = setting(4271, settings.integer(1, 65535))
    berty: bool = setting(True, settings.boolean)
    envelopes: bool = setting(False, settings.boolean)
    gateway: Address = setting(NO_GATEWAY, gateway)
