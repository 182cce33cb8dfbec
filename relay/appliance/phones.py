# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of hostapd and dnsmasq: the access point, and addresses and names for those who ask."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from relay.appliance.checks import read_checks
from relay.appliance.constants import ACCESS_POINT_ADDRESS, ELECTION_OPTION, LEASE_S, MAX_LEASES
from relay.config.appliance import CHANNELS_2_4_GHZ, MAX_PHONES
from relay.config.net import BRIDGE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv6Address

    from relay.appliance.network import Segment
    from relay.config.appliance import ApplianceConfig

_FIXED = ACCESS_POINT_ADDRESS.ip
#: The first address that is given to a phone: behind the fixed one, and all of them in one piece.
_FIRST_PHONE = IPv4Address("10.42.71.1")


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
        f"hw_mode={'g' if appliance.access_point_channel in CHANNELS_2_4_GHZ else 'a'}",
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
        *_common(appliance, _FIXED),
        "dhcp-authoritative",
        f"dhcp-range={_FIRST_PHONE},{network[-2]},{network.netmask},{LEASE_S}",
        # Android leaves a network that names no router.
        f"dhcp-option=option:router,{_FIXED}",
        f"dhcp-option=option:dns-server,{_FIXED}",
    ]
    if not appliance.uplink_forwarding:
        lines += _checks(_FIXED)
    return "\n".join(lines) + "\n"


def segment_dnsmasq(appliance: ApplianceConfig, segment: Segment) -> str:
    """dnsmasq.conf for a segment where nobody else hands out addresses."""
    own = segment.ipv4.ip
    network = segment.ipv4.network
    prefix = segment.ipv6.network.network_address
    lines = [
        *_common(appliance, own),
        f"dhcp-range={network[16]},{network[-2]},{network.netmask},{LEASE_S}",
        f"dhcp-option=option:router,{own}",
        f"dhcp-option=option:dns-server,{own}",
        # Read by other relays' `relay segment`.
        f"dhcp-option-force={ELECTION_OPTION},{segment.election.hex(':')}",
        "enable-ra",
        f"dhcp-range={prefix},ra-only,64,{LEASE_S}",
        # No way out of here (lifetime 0): phones keep their own.
        "ra-param=*,60,0",
    ]
    if appliance.lan_bridge:
        # Phones are on this segment, of our access point and of others'.
        lines += _checks(own)
    return "\n".join(lines) + "\n"


def _checks(portal: IPv4Address) -> list[str]:
    """The names by which phones look for the internet lead to ``portal``.

    A name in no table is as unknown as all others: whoever asks for it knows at once that there is no internet, and
    shows no login page. Were all names led here, phones would send in the clear what was meant for others, and
    would not learn from the names that are there to be unknown (use-application-dns.net, mask.icloud.com).
    """
    checks = read_checks()
    lines = [line for host in checks.hosts for line in _name(host, [portal])]
    return lines + [line for name in checks.names for line in _name(name.host, name.addresses)]


def _name(name: str, addresses: Iterable[IPv4Address | IPv6Address]) -> list[str]:
    """The lines for a name: ``local``, as without it all other questions about the name are answered "no such name".

    (AAAA and HTTPS are, of which musl takes the first for the whole answer; or they are passed on to the internet.)
    """
    return [f"local=/{name}/", *(f"address=/{name}/{address}" for address in addresses)]


def _common(appliance: ApplianceConfig, own: IPv4Address) -> list[str]:
    names = dict.fromkeys(("relay.local", f"{appliance.hostname}.local"))
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
        f"dhcp-lease-max={MAX_LEASES}",
        # Who asks is known by his hardware address alone, as in the packet filter's bound, so that nobody gets an
        # address for each identifier that he thinks of.
        "dhcp-ignore-clid",
        # Else it waits up to three seconds for an echo before it offers an address, and serves nobody else: a crowd
        # of 190 took 19 s and not one. Nobody else is in these networks, and they are others each start.
        "no-ping",
        "resolv-file=/run/systemd/resolve/resolv.conf" if appliance.uplink_forwarding else "no-resolv",
        *(line for name in names for line in _name(name, [own])),
        *([] if appliance.uplink_forwarding else ["address=/#/"]),
    ]
