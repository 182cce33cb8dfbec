# SPDX-License-Identifier: GPL-2.0-or-later
"""The section [appliance] of relay.toml: what the machine as a whole is to be."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path

from relay.config import settings
from relay.config.countries import country
from relay.config.passwords import why_trivial
from relay.config.settings import BadValueError, setting
from relay.config.sticks import StickUse

#: The commented section that the image brings along; the other sections follow it there.
EXAMPLE = Path(__file__).with_name("appliance.toml")

#: IEEE 802.11: the name of a network, and the passphrase of WPA.
MAX_NETWORK_NAME_BYTES = 32
PASSPHRASE_CHARS = range(8, 64)
#: Phones on one access point at once. What the driver of the recommended radios has room for (MT76x02_N_WCIDS in Linux'
#: drivers/net/wireless/mediatek/mt76/mt76x02.h); the radio on the board holds far fewer (relay.net.suitability).
MAX_PHONES = 128
#: An access point on any other of 5 GHz would have to look out for radars first, for a minute or more. Which of these
#: a country allows, the kernel knows (`relay net` asks it).
CHANNELS_2_4_GHZ = range(1, 14)
CHANNELS_5_GHZ = (36, 40, 44, 48, 149, 153, 157, 161, 165)
#: What an operator without a terminal writes in place of a mesh secret (appliance.toml).
DRAW = "draw"
#: RFC 1123, one label; mDNS adds `.local`.
_HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: Operators of one box. With the largest RSA key (16384 bits, 3 KiB of text): 96 KiB.
MAX_SSH_KEYS = 32
MAX_SSH_KEY_CHARS = 3072
#: Beside those of the releases.
MAX_UPDATE_KEYS = 8
#: DSA and SHA-1 certificates are refused by the server of the image as well.
SSH_KEY_TYPES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)


def _hostname(value: object) -> str:
    """One label, in lower case."""
    if not isinstance(value, str) or not _HOST_LABEL.fullmatch(value.lower()):
        raise BadValueError("write letters, digits and hyphens, at most 63, without dots and spaces")
    return value.lower()


def _network_name(value: object) -> str:
    """The name of a Wi-Fi network."""
    if (
        not isinstance(value, str)
        or not 1 <= len(value.encode("utf-8", "replace")) <= MAX_NETWORK_NAME_BYTES
        or not value.isprintable()
    ):
        raise BadValueError(f"write a name of 1 to {MAX_NETWORK_NAME_BYTES} characters (fewer if they are not Latin)")
    return value


def _passphrase(value: object) -> str:
    """A passphrase of WPA, or "" for an open network."""
    fits = isinstance(value, str) and len(value) in PASSPHRASE_CHARS and value.isascii() and value.isprintable()
    if value != "" and not fits:
        raise BadValueError('write 8 to 63 letters, digits and signs of a US keyboard; "" leaves the network open')
    if value != "" and (why := why_trivial(str(value))):
        raise BadValueError(f'{why}; write another; "" leaves the network open')
    return str(value)


def _mesh_secret(value: object) -> str:
    """The mesh secret, or DRAW, which is refused with a secret to be copied."""
    if value == DRAW:
        raise BadValueError(
            f'"{DRAW}" is no secret yet: start a relay with this card, and relay-status.txt on it has one that was '
            "drawn, to be written here and on all cards; `relay appliance cards` draws one, too"
        )
    return settings.drawn_secret(value)


def _interface(value: object) -> str:
    """The name of one interface, or "" for none."""
    if value == "":
        return ""
    return settings.interfaces([value])[0]


def _access_point_channel(value: object) -> int:
    if type(value) is not int or value not in (*CHANNELS_2_4_GHZ, *CHANNELS_5_GHZ):
        raise BadValueError(
            f"write a channel without radars: 1 to {CHANNELS_2_4_GHZ[-1]}, or for 5 GHz "
            f"one of {', '.join(map(str, CHANNELS_5_GHZ))}"
        )
    return value


def _ssh_keys(value: object) -> tuple[str, ...]:
    """Public keys as `type base64`; comments, which name people and machines, are left behind."""
    remedy = 'write a list such as ["ssh-ed25519 AAAA... name"]: the one line of the file that ends in .pub'
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise BadValueError(remedy)
    if len(value) > MAX_SSH_KEYS:
        raise BadValueError(f"at most {MAX_SSH_KEYS} keys")
    return tuple(_ssh_key(line) for line in value)


def _ssh_key(line: str) -> str:
    if "PRIVATE KEY" in line:
        raise BadValueError("that is a private key: make a new pair, and write the public one, from the file *.pub")
    words = line.split()
    if len(words) < 2 or words[0] not in SSH_KEY_TYPES or len(line) > MAX_SSH_KEY_CHARS:
        raise BadValueError(f"a key begins with one of {', '.join(SSH_KEY_TYPES)}, and is the line of a file *.pub")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except ValueError as error:  # binascii.Error is one; letters beyond ASCII are another
        raise BadValueError(
            f"the {words[0]} key is cut off or broken; copy the whole line of the file *.pub"
        ) from error
    # RFC 4253 section 6.6: the blob names its type again, and then there is the key itself.
    name = words[0].encode()
    if not blob.startswith(len(name).to_bytes(4, "big") + name) or len(blob) <= 4 + len(name):
        raise BadValueError(f"the {words[0]} key is cut off or broken; copy the whole line of the file *.pub")
    return f"{words[0]} {words[1]}"


def _update_keys(value: object) -> tuple[str, ...]:
    """Public keys of minisign."""
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise BadValueError('write a list such as ["RWQ..."]: the second line of a file that ends in .pub')
    if len(value) > MAX_UPDATE_KEYS:
        raise BadValueError(f"at most {MAX_UPDATE_KEYS} keys")
    for key in value:
        try:
            raw = base64.b64decode(key, validate=True)
        except ValueError as error:
            raise BadValueError(f"{key} is no key of minisign, or cut off") from error
        # Two letters, a number of eight bytes, the key (relay.board.signature).
        if not raw.startswith(b"Ed") or len(raw) != 2 + 8 + 32:
            raise BadValueError(f"{key} is no key of minisign, or cut off")
    return tuple(value)


def _sticks(value: object) -> tuple[StickUse, ...]:
    """What sticks are used for, each once."""
    words = [str(use) for use in StickUse]
    if not isinstance(value, list) or not all(word in words for word in value):
        raise BadValueError(f"write a list of {' and '.join(words)}, such as {json.dumps(words)}; [] reads no stick")
    return tuple(StickUse(word) for word in dict.fromkeys(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplianceConfig:
    """What the operator writes; each setting is explained in appliance.toml."""

    country: str = setting("", country)
    hostname: str = setting("relay", _hostname)
    mesh_name: str = setting("mesh-relay", _network_name)
    mesh_secret: str = setting("", _mesh_secret, secret=True)
    mesh_interface: str = setting("wifi1", _interface)
    access_point: bool = setting(False, settings.boolean)
    access_point_name: str = setting("Mesh relay", _network_name)
    access_point_password: str = setting("", _passphrase, secret=True)
    access_point_interface: str = setting("wifi0", _interface)
    access_point_channel: int = setting(1, _access_point_channel)
    client_isolation: bool = setting(True, settings.boolean)
    ethernet_interface: str = setting("eth0", _interface)
    ethernet: str = setting("auto", settings.one_of("auto", "client", "server"))
    lan_bridge: bool = setting(False, settings.boolean)
    uplink_forwarding: bool = setting(False, settings.boolean)
    status_page: str = setting("ethernet", settings.one_of("off", "ethernet", "everywhere"))
    storage: str = setting("amnesic", settings.one_of("amnesic", "durable", "plain", "volatile"))
    ssh_keys: tuple[str, ...] = setting((), _ssh_keys)
    update_keys: tuple[str, ...] = setting((), _update_keys)
    update_relays: str = setting("on", settings.one_of("on", "wait", "off"))
    sticks: tuple[StickUse, ...] = setting((StickUse.REPORT, StickUse.UPDATE), _sticks)

    @property
    def wifi(self) -> bool:
        """Whether radios may be used at all: no country, no rules to keep."""
        return bool(self.country)

    @property
    def serves_phones(self) -> bool:
        """Whether there is an access point."""
        return self.wifi and self.access_point and bool(self.access_point_interface)

    @property
    def joins_mesh(self) -> bool:
        """Whether a radio is to join the ad-hoc Wi-Fi."""
        return self.wifi and bool(self.mesh_interface)

    @property
    def hands_out(self) -> bool:
        """Whether it gives addresses to others on its cable (and bridge), where nobody else does."""
        return self.ethernet != "client"

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """Settings that do not go together: the one to change, and the remedy."""
        found = {}
        if self.access_point and not self.country:
            found["access_point"] = 'an access point needs the country you are in: country = "DE"'
        if self.access_point and self.access_point_interface and self.access_point_interface == self.mesh_interface:
            found["mesh_interface"] = (
                'one radio cannot be both; set access_point_interface or mesh_interface to another radio, or to ""'
            )
        if self.lan_bridge and self.uplink_forwarding:
            found["uplink_forwarding"] = "with lan_bridge the uplink is part of the same network already; choose one"
        if self.lan_bridge and not self.ethernet_interface:
            found["ethernet_interface"] = 'lan_bridge needs the cable\'s name, such as "eth0"'
        if self.lan_bridge and not (self.joins_mesh or self.serves_phones):
            found["lan_bridge"] = (
                "there is nothing to bridge the cable with; set country, and mesh_interface or access_point"
            )
        return [(("appliance", name), f"appliance.{name}: {remedy}") for name, remedy in found.items()]
