# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of hostapd and dnsmasq: the access point, and addresses and names for those who ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.appliance.names import ACCESS_POINT_ADDRESS, ELECTION_OPTION
from relay.appliance.portal import PROBE_NAMES, WINDOWS_NAME
from relay.config.net import BRIDGE

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from relay.appliance.network import Segment
    from relay.config.appliance import ApplianceConfig

#: Of the smallest radio: brcmfmac's firmware refuses more.
MAX_PHONES = 32
#: Short, so that an address is free again soon after its phone walked away.
_LEASE = "30m"
_FIXED = ACCESS_POINT_ADDRESS.ip


def hostapd(appliance: ApplianceConfig, *, protected: bool = True) -> str:
    """hostapd.conf; the interface is named on hostapd's command line.

    ``protected``: phones that can have their management frames protected (802.11w, and all newer ones can),
    so that nobody sends them away in the access point's name.
    """
    lines = [
        "driver=nl80211",
        f"ssid2={appliance.access_point_name.encode().hex()}",
        "utf8_ssid=1",
        f"country_code={appliance.country}",
        "ieee80211d=1",
        "hw_mode=g",
        f"channel={appliance.access_point_channel}",
        "ieee80211n=1",
        "wmm_enabled=1",
        f"max_num_sta={MAX_PHONES}",
        f"ap_isolate={int(appliance.client_isolation)}",
        # Phones sleep; their radio's silence is no reason to throw them out.
        "disassoc_low_ack=0",
        # It would log the hardware address of each phone.
        "logger_syslog=0",
        "logger_stdout=0",
    ]
    if appliance.access_point_password:
        # Not SAE: the radio on the board cannot do it as an access point.
        lines += [
            "wpa=2",
            "wpa_key_mgmt=WPA-PSK",
            "rsn_pairwise=CCMP",
            f"wpa_passphrase={appliance.access_point_password}",
            f"ieee80211w={int(protected)}",
        ]
    if appliance.lan_bridge:
        lines.append(f"bridge={BRIDGE}")
    return "\n".join(lines) + "\n"


def phones_dnsmasq(appliance: ApplianceConfig) -> str:
    """dnsmasq.conf for the own access point; the interface is named on the command line."""
    network = ACCESS_POINT_ADDRESS.network
    lines = [
        *_common(appliance, str(_FIXED)),
        "dhcp-authoritative",
        f"dhcp-range={network[10]},{network[250]},{network.netmask},{_LEASE}",
        # Android leaves a network that names no router.
        f"dhcp-option=option:router,{_FIXED}",
        f"dhcp-option=option:dns-server,{_FIXED}",
    ]
    if not appliance.uplink_forwarding:
        lines += _probes(_FIXED)
    return "\n".join(lines) + "\n"


def segment_dnsmasq(appliance: ApplianceConfig, segment: Segment) -> str:
    """dnsmasq.conf for a segment where nobody else hands out addresses."""
    own = segment.ipv4.ip
    network = segment.ipv4.network
    prefix = segment.ipv6.network.network_address
    lines = [
        *_common(appliance, str(own)),
        f"dhcp-range={network[10]},{network[250]},{network.netmask},{_LEASE}",
        f"dhcp-option=option:router,{own}",
        f"dhcp-option=option:dns-server,{own}",
        # Read by other relays' `relay segment`.
        f"dhcp-option-force={ELECTION_OPTION},{segment.election.hex(':')}",
        "enable-ra",
        f"dhcp-range={prefix},ra-only,64,{_LEASE}",
        # No way out of here (lifetime 0): phones keep their own.
        "ra-param=*,60,0",
    ]
    if appliance.lan_bridge:
        # Phones are on this segment, of our access point and of others'.
        lines += _probes(own)
    return "\n".join(lines) + "\n"


def _probes(portal: IPv4Address) -> list[str]:
    """The names by which phones look for the internet lead to ``portal``."""
    return [*(f"address=/{name}/{portal}" for name in PROBE_NAMES), f"address=/{'/'.join(WINDOWS_NAME)}"]


def _common(appliance: ApplianceConfig, own: str) -> list[str]:
    names = [
        f"address=/relay.local/{own}",
        f"address=/{appliance.hostname}.local/{own}",
    ]
    return [
        "port=53",
        "bind-dynamic",
        "except-interface=lo",
        "no-hosts",
        # Nobody's device name is kept or told to others, and nothing is written down.
        "dhcp-ignore-names",
        "leasefile-ro",
        "quiet-dhcp",
        "quiet-dhcp6",
        "quiet-ra",
        "dhcp-lease-max=240",
        "resolv-file=/run/systemd/resolve/resolv.conf" if appliance.uplink_forwarding else "no-resolv",
        *dict.fromkeys(names),
        *([] if appliance.uplink_forwarding else ["address=/#/"]),
    ]
