# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay.toml that the services get: the operator's own sections, and what [appliance] means for them."""

from __future__ import annotations

import hashlib
import hmac
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from relay.appliance.check import ACKNOWLEDGED
from relay.config.net import BATMAN
from relay.config.run import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.appliance.check import Checked
    from relay.appliance.data_state import DataState
    from relay.config.appliance import ApplianceConfig

#: A store in memory shares it with everything else; a Zero 2 W has 512 MiB in all.
VOLATILE_BYTES = 64 * 1024 * 1024
VOLATILE_ENVELOPES = 20_000
#: Where every process looks for them, whatever its own runtime folder is.
LINK_SOCKET = "/run/mesh-relay/link.sock"
CONTROL_SOCKET = "/run/mesh-relay/control.sock"
#: The least that a store can be told to hold (relay.config.run), and so what a partition must have room for.
LEAST_BYTES = 1024 * 1024
#: What it holds at the most on a partition of its own, unless its operator says more.
MOST_BYTES = 4 * GIB
#: Of a store on a partition of its own: write-ahead log, and what is being written anew.
OVERHEAD_BYTES = 32 * 1024 * 1024
#: In memory: systemd's RuntimeDirectory of mesh-relay.service, which goes when that is stopped and stays when it
#: is started again.
VOLATILE_PATH = "/var/cache/mesh-relay"


def fitting_bytes(partition_bytes: int) -> int:
    """What a store may hold on a partition of that size: the rest is its log, its index and the file system."""
    return max(partition_bytes * 7 // 10 - OVERHEAD_BYTES, 0)


def store_on(checked: Checked, size_bytes: int | None) -> dict[str, Any] | None:
    """The section [store] where it is on a partition of that size (None: any); None if it has to be in memory."""
    if checked.storage == "volatile":
        return None
    store = {**checked.document.get("store", {}), "storage": ACKNOWLEDGED[checked.storage]}
    return store if size_bytes is None else on_partition(store, size_bytes)


def on_partition(store: dict[str, Any], size_bytes: int) -> dict[str, Any] | None:
    """The section with what fits on a partition of that size; None if that is too little for a store."""
    fits = fitting_bytes(size_bytes)
    if fits < LEAST_BYTES:
        return None
    # Full before the partition is, so that the cheapest goes and not the newest.
    # Nobody is there to mend a card: from memory if need be (relay.run.storing).
    in_memory = {"fallback": VOLATILE_PATH}
    return in_memory | store | {"max_bytes": min(store.get("max_bytes") or MOST_BYTES, fits)}


def _store_in_memory(checked: Checked) -> dict[str, Any]:
    store = dict(checked.document.get("store", {}))
    if checked.storage != "volatile":
        # What was written there is about a card.
        for name in ("path", "max_bytes", "max_envelopes"):
            store.pop(name, None)
    in_memory = {"path": VOLATILE_PATH, "max_bytes": VOLATILE_BYTES, "max_envelopes": VOLATILE_ENVELOPES}
    return in_memory | store | {"storage": "volatile"}


def effective(checked: Checked, data: DataState | None = None) -> dict[str, Any]:
    """The document for the services; what the operator wrote in their sections stays as it is.

    ``data``: the partition for the store; None where that is not on one.
    """
    document: dict[str, Any] = {
        name: deepcopy(table) for name, table in checked.document.items() if name != "appliance"
    }
    appliance = checked.appliance

    def default(section: str, **values: object) -> None:
        table = document.setdefault(section, {})
        for name, value in values.items():
            table.setdefault(name, value)

    document["store"] = store_on(checked, None if data is None else data.size_bytes) or _store_in_memory(checked)
    if appliance.mesh_secret:
        default("mesh", secret=appliance.mesh_secret)
    _radios(appliance, document)
    # The other processes of the relay have users of their own, in the group of the sockets.
    default("unix", path=LINK_SOCKET, access="group")
    default("control", path=CONTROL_SOCKET, access="group")
    if appliance.update_relays != "off":
        default("updates", relays=True, restart=_restart(appliance.update_relays, checked.storage, document["store"]))
    if appliance.status_page != "off":
        # The packet filter says from where; see firewall.py.
        names = dict.fromkeys(("relay.local", f"{appliance.hostname}.local"))
        default("http", listen="[::]:9470", hosts=list(names))
        if appliance.status_page == "ethernet":
            # With a token the page can be had on the access point, too, by whoever knows it.
            default("http", strangers=[appliance.access_point_interface] if appliance.access_point_interface else [])
    return document


def _restart(word: str, storage: str, store: dict[str, Any]) -> str:
    """When it may start anew for newer software by itself.

    With "durable" nobody gets at what is kept until it was opened again, so a neighbour is to hold that as well.
    """
    if word == "wait":
        return "never"
    return "quiet" if storage == "plain" and store["storage"] == "durable" else "held"


def _radios(appliance: ApplianceConfig, document: dict[str, Any]) -> None:
    """Fill in [net], unless the operator wrote radios of their own there."""
    net = document.setdefault("net", {})
    net.setdefault("country", appliance.country)
    if not appliance.country:
        # No radio goes on the air without rules to keep.
        net.pop("radios", None)
        net.pop("bridge", None)
        return
    if "radios" not in net and appliance.joins_mesh:
        net["radios"] = {
            "mesh": {
                "interface": appliance.mesh_interface,
                "mesh_id": appliance.mesh_name,
                "secret": sae_secret(appliance.mesh_secret),
            }
        }
    if appliance.serves_phones:
        net.setdefault("access_point", appliance.access_point_interface)
        net.setdefault("access_point_channel", appliance.access_point_channel)
    if appliance.lan_bridge and "bridge" not in net:
        net["bridge"] = list(dict.fromkeys(_ports(appliance, net)))


def _ports(appliance: ApplianceConfig, net: dict[str, Any]) -> Iterator[str]:
    yield appliance.ethernet_interface
    for radio in net.get("radios", {}).values():
        yield BATMAN if radio.get("batman") else radio.get("interface", appliance.mesh_interface)
    if appliance.serves_phones:
        yield appliance.access_point_interface


def sae_secret(secret: str) -> str:
    """The password of the Wi-Fi mesh: another one than that of the relays' sessions, from the same secret.

    Whoever takes it from the memory of wpa_supplicant gets into the Wi-Fi, and no further.
    """
    return hmac.digest(secret.lower().encode(), b"mesh-relay/1 sae", hashlib.sha256)[:16].hex() if secret else ""
