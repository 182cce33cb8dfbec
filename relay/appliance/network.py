# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of systemd-networkd (systemd.network(5)): who has which address, and who asks whom for one."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING

from relay.appliance.constants import ACCESS_POINT_ADDRESS, ELECTION_BYTES, SEGMENT_PREFIX
from relay.config.net import BATMAN, BRIDGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.config.appliance import ApplianceConfig

#: Says nothing of who asks (RFC 7844), and takes nothing that a stranger could mislead with:
#: no time, no name, no time zone.
_DHCP = """\
[DHCPv4]
Anonymize=yes
UseNTP=no
UseHostname=no
UseTimezone=no
UseDomains=no
"""
_ASK = f"""\
{_DHCP}
[IPv6AcceptRA]
DHCPv6Client=no
UseDomains=no
"""
#: The bridge reaches beyond the cable, to whoever is in the mesh: it is given an address, so that people find the
#: relay, and no way out, which would lead all that the relay sends beyond its segment through a stranger.
_ASK_BRIDGE = f"""\
{_DHCP}\
UseDNS=no
UseGateway=no
UseRoutes=no
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What this relay has and hands out where it serves; drawn anew at each start, so that two relays seldom agree.

    ``election``: lower goes first where relays meet (relay.appliance.segment).
    """

    ipv4: IPv4Interface
    ipv6: IPv6Interface
    election: bytes


def draw_segment(random_bytes: Callable[[int], bytes]) -> Segment:
    """One of 2,048 networks of 10.128.0.0/9, which is beside the fixed address, and a /64 of fd00::/8 (RFC 4193)."""
    second, third = random_bytes(2)
    prefix = b"\xfd" + random_bytes(7)
    return Segment(
        ipv4=IPv4Interface((bytes((10, 128 | second, third & 0xF0, 1)), SEGMENT_PREFIX)),
        ipv6=IPv6Interface((prefix + bytes(7) + b"\x01", 64)),
        election=random_bytes(ELECTION_BYTES),
    )


def networkd_files(appliance: ApplianceConfig, segment: Segment) -> dict[str, str]:
    """File names and contents, for /run/systemd/network."""
    own = (segment.ipv4, segment.ipv6) if appliance.hands_out else ()
    files = {}
    if appliance.lan_bridge:
        # `relay net` makes the bridge and puts the interfaces in.
        files["20-relay-port.network"] = _match("Type=ether", "Kind=!*") + "[Link]\nUnmanaged=yes\n"
        fixed = (ACCESS_POINT_ADDRESS,) if appliance.serves_phones else ()
        files["10-relay-bridge.network"] = _match(f"Name={BRIDGE}") + _asking(appliance, (*own, *fixed), _ASK_BRIDGE)
    else:
        files["20-relay-ethernet.network"] = _match("Type=ether", "Kind=!*") + _asking(appliance, own)
    if appliance.serves_phones and not appliance.lan_bridge:
        forwarding = "IPv4Forwarding=yes\n" if appliance.uplink_forwarding else ""
        files["10-relay-phones.network"] = (
            _match(f"Name={appliance.access_point_interface}")
            + "[Network]\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\n"
            + f"Address={ACCESS_POINT_ADDRESS}\nConfigureWithoutCarrier=yes\n{forwarding}"
        )
    # Radios, their mesh and the rest belong to `relay net`; networkd would take their addresses away.
    files["30-relay-radios.network"] = _match("Type=wlan") + "[Link]\nUnmanaged=yes\n"
    files["30-relay-batman.network"] = _match(f"Name={BATMAN}") + "[Link]\nUnmanaged=yes\n"
    return files


def _match(*conditions: str) -> str:
    return "\n".join(["[Match]", *conditions, "", ""])


def _asking(appliance: ApplianceConfig, own: tuple[IPv4Interface | IPv6Interface, ...], ask: str = _ASK) -> str:
    """An interface that asks for an address unless it only serves; ``own`` addresses besides. ``ask``: for what."""
    asks = appliance.ethernet != "server"
    lines = [
        "[Network]",
        f"DHCP={'ipv4' if asks else 'no'}",
        f"IPv6AcceptRA={'yes' if asks and ask is _ASK else 'no'}",
        # With a cable between two machines there may be nothing else.
        "LinkLocalAddressing=yes",
        "IPv6PrivacyExtensions=yes",
        "LLMNR=no",
        "MulticastDNS=no",
        "LLDP=no",
        "EmitLLDP=no",
        *(f"Address={address}" for address in own),
    ]
    if appliance.uplink_forwarding:
        lines.append("IPv4Forwarding=yes")
    return "\n".join(lines) + "\n\n" + (ask if asks else "")
