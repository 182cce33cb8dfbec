# SPDX-License-Identifier: GPL-2.0-or-later
"""The packet filter (nftables): in comes what is listed here, through goes what was asked for, and nothing else."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from relay.appliance import mdns
from relay.appliance.constants import ACCESS_POINT_ADDRESS, ETHERNET, LEASE_S, MAX_LEASES, PORTAL_PORT
from relay.config.libp2p import NO_GATEWAY
from relay.config.net import BATMAN, BRIDGE
from relay.process.ports import MDNS_PORT
from relay.process.reports import DHCP_REFUSALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.config.appliance import ApplianceConfig
    from relay.config.file import Config

#: By its number (IANA, Protocol Numbers): its name is in /etc/protocols, which a Debian has only with netbase.
ICMPV6 = 58
#: Mark of packets that came into the bridge by the cable, or by the own access point.
_BY_CABLE = 1
_BY_ACCESS_POINT = 2
_FIXED = ACCESS_POINT_ADDRESS.ip
#: Questions for addresses, by the hardware address of the frame: all of them in a minute; those of clients that were
#: not here for LEASE_S. A phone asks three times as it joins; some repeaters ask for all who are behind them.
ASKS_PER_MINUTE = 60
NEWCOMERS_PER_MINUTE, NEWCOMERS_BURST = 6, 4
#: Clients that were not here for LEASE_S, of all: a crowd that comes at once, and from then on. Whoever makes up a
#: client after the other has at most 200 + 3 x 600 s = 2,000 addresses of 3,800, and each is free 600 s later.
CROWD_PER_SECOND, CROWD_BURST = 3, 200
#: Elements of the two sets of rates, 100 bytes each. Where they are full, the bounds for all hold alone.
_RATES = 4096
#: Bits of a DHCP message behind the eight bytes of UDP (RFC 2131 section 2): kind and length of the hardware
#: address (Ethernet, 6), and the first six bytes of it.
_KIND, _CLIENT = "@th,72,16", "@th,288,48"


def firewall(appliance: ApplianceConfig, config: Config) -> str:
    """The rules, for `nft -f`; they replace those of an earlier call and no others."""
    tables = [_inet(appliance, config)]
    if appliance.lan_bridge:
        tables.append(_bridge(appliance))
    return "\n".join(["# Made from relay.toml at each start.", *tables, ""])


def _table(family: str, lines: Iterator[str]) -> str:
    # Named and deleted first: `delete` of a table that is not there is an error.
    return "\n".join([f"table {family} relay", f"delete table {family} relay", f"table {family} relay {{", *lines, "}"])


def _chain(name: str, lines: list[str], hook: str = "") -> Iterator[str]:
    yield f"  chain {name} {{"
    if hook:
        yield f"    {hook}"
    yield from (f"    {line}" for line in lines)
    yield "  }"


def _inet(appliance: ApplianceConfig, config: Config) -> str:
    everywhere = [
        # Neighbour discovery, path MTU and errors; without them IPv6 does not work.
        f"meta l4proto {ICMPV6} icmpv6 type != {{ echo-request }} accept",
        f"meta l4proto {{ icmp, {ICMPV6} }} limit rate 10/second burst 20 packets accept",
        "ip daddr 224.0.0.0/24 ip protocol igmp accept",
    ]
    if config.tcp.enabled:
        everywhere.append(f"tcp dport {config.tcp.port} accept")
        if config.tcp.discovery:
            everywhere += _multicast_dns()
    everywhere += _libp2p(config)
    if config.http.enabled and appliance.status_page == "everywhere":
        everywhere.append(f"tcp dport {config.http.listen.port} accept")
    serving = ["udp dport 53 accept", "tcp dport 53 accept", "udp dport 67 jump addresses"]

    def lines() -> Iterator[str]:
        yield from _addresses()
        if appliance.lan_bridge and appliance.hands_out:
            yield from _chain("serving", [*serving, *_portal("")])
        yield from _chain("everywhere", everywhere)
        yield from _chain("cable", _cable(appliance, config, serving))
        if appliance.serves_phones:
            yield from _chain("phones", [*serving, *_portal(f"ip daddr {_FIXED} "), *_page_by_token(appliance, config)])
        # Else whoever has an address is "established" by asking once, and is let past the bounds.
        yield from _chain(
            "untracked", ["udp dport 67 notrack"], "type filter hook prerouting priority raw; policy accept;"
        )
        yield from _chain("input", _input(appliance), "type filter hook input priority filter; policy drop;")
        yield from _chain("forward", _forward(appliance), "type filter hook forward priority filter; policy drop;")
        if appliance.uplink_forwarding:
            yield from _chain(
                "uplink",
                [f'iifname {{ {_inside(appliance)} }} oifname "{name}" masquerade' for name in _cables(appliance)],
                "type nat hook postrouting priority srcnat; policy accept;",
            )

    return _table("inet", lines())


def _multicast_dns(where: str = "") -> list[str]:
    groups = (f"ip daddr {mdns.GROUP}", "ip6 daddr ff02::fb")
    return [f"{where}{group} udp dport {MDNS_PORT} accept" for group in groups]


def _libp2p(config: Config) -> list[str]:
    """Peers of libp2p, how they find it, and its gateway: on its interfaces and no others, each where it is on."""
    libp2p = config.libp2p
    if not libp2p.enabled:
        return []
    names = ", ".join(f'"{name}"' for name in libp2p.interfaces)
    where = f"iifname {{ {names} }} " if names else ""
    rules = [f"{where}tcp dport {libp2p.port} accept", *_multicast_dns(where)]
    if libp2p.gateway != NO_GATEWAY:
        address = ipaddress.ip_address(libp2p.gateway.host)
        to = "" if address.is_unspecified else f"{'ip' if address.version == 4 else 'ip6'} daddr {address} "
        rules.append(f"{where}{to}tcp dport {libp2p.gateway.port} accept")
    return rules


def _portal(to: str) -> list[str]:
    """Port 80. Nobody answers on 443, and a phone that asks there, too, learns it at once."""
    return [f"{to}tcp dport {PORTAL_PORT} accept", f"{to}tcp dport 443 reject with tcp reset"]


def _page_by_token(appliance: ApplianceConfig, config: Config) -> list[str]:
    """The operator's page for phones: where there is a token, which `relay run` then asks of them ([http] strangers).

    In a bridge it cannot tell by the interface who comes from where, so there the page stays on the cable.
    """
    if appliance.lan_bridge or not config.http.token or appliance.status_page != "ethernet":
        return []
    return [f"ip daddr {_FIXED} tcp dport {config.http.listen.port} accept"]


def _addresses() -> Iterator[str]:
    """Who is given an address: so that nobody takes all of them, by making up clients or changing his own address.

    A client is known by the pair of the frame's address and the one that the message names, which is what dnsmasq goes
    by. So each that somebody makes up is of use only as long as he comes back with the address that he had then,
    for which an access point wants him to join anew. No more are known at once than there are addresses,
    and none is known for less than it has one: so dnsmasq always has one left.
    """
    for name in DHCP_REFUSALS:
        yield f"  counter {name} {{ }}"
    pair = f"ether saddr . {_CLIENT}"
    yield f"  set clients {{ typeof {pair}; size {MAX_LEASES}; flags dynamic,timeout; timeout {LEASE_S}s; }}"
    for name in ("askers", "newcomers"):
        yield f"  set {name} {{ type ether_addr; size {_RATES}; flags dynamic,timeout; timeout 1m; }}"
    often = f"limit rate over {ASKS_PER_MINUTE}/minute burst {ASKS_PER_MINUTE} packets"
    new = f"limit rate over {NEWCOMERS_PER_MINUTE}/minute burst {NEWCOMERS_BURST} packets"
    crowd = f"limit rate {CROWD_PER_SECOND}/second burst {CROWD_BURST} packets"
    yield from _chain(
        "addresses",
        [
            # An address of another length could be many clients with the same first six bytes.
            f"{_KIND} != 0x0106 counter name dhcp_other_hardware drop",
            f"update @askers {{ ether saddr {often} }} counter name dhcp_too_often drop",
            f"{pair} @clients update @clients {{ {pair} }} accept",
            f"update @newcomers {{ ether saddr {new} }} counter name dhcp_newcomers drop",
            f"{crowd} add @clients {{ {pair} }} accept",
            "counter name dhcp_crowd drop",
        ],
    )


def _cables(appliance: ApplianceConfig) -> tuple[str, ...]:
    """Names and patterns of wired interfaces."""
    return tuple(dict.fromkeys(name for name in (*ETHERNET, appliance.ethernet_interface) if name))


def _cable(appliance: ApplianceConfig, config: Config, serving: list[str]) -> list[str]:
    rules = ["udp sport 67 udp dport 68 accept"]
    if appliance.hands_out:
        rules += serving
    if appliance.ssh_keys:
        rules.append("tcp dport 22 ct state new limit rate 10/minute burst 10 packets accept")
    if config.http.enabled and appliance.status_page == "ethernet":
        rules.append(f"tcp dport {config.http.listen.port} accept")
    return rules


def _input(appliance: ApplianceConfig) -> list[str]:
    rules = [
        "iif lo accept",
        # Linux answers for each of its addresses on each of its interfaces: who is on one would reach what is
        # for another, and find out that both are of one machine.
        "fib daddr . iif type != { local, broadcast, multicast } drop",
    ]
    # Before what belongs to a connection, as a redirect claims to. A router is heard on cables; in the bridge only
    # `relay segment` hears it, which then hands out nothing.
    heard = _cables(appliance) if not appliance.lan_bridge else (*_cables(appliance), BRIDGE)
    rules += [f'iifname "{name}" icmpv6 type nd-router-advert accept' for name in heard]
    rules += ["icmpv6 type { nd-router-advert, nd-redirect } drop", "icmp type redirect drop"]
    rules += ["ct state established,related accept", "ct state invalid drop", "jump everywhere"]
    if appliance.lan_bridge:
        rules.append(f'iifname "{BRIDGE}" meta mark {_BY_CABLE} jump cable')
        if appliance.serves_phones:
            rules.append(f'iifname "{BRIDGE}" meta mark {_BY_ACCESS_POINT} jump phones')
        if appliance.hands_out:
            # One relay serves all who are in the bridge, also those beyond other relays.
            rules.append(f'iifname "{BRIDGE}" jump serving')
        return rules
    rules += [f'iifname "{name}" jump cable' for name in _cables(appliance)]
    if appliance.serves_phones:
        rules.append(f'iifname "{appliance.access_point_interface}" jump phones')
    return rules


def _forward(appliance: ApplianceConfig) -> list[str]:
    if not appliance.uplink_forwarding:
        return []
    inside = _inside(appliance)
    return [
        *(f'iifname {{ {inside} }} oifname "{name}" accept' for name in _cables(appliance)),
        *(
            f'iifname "{name}" oifname {{ {inside} }} ct state established,related accept'
            for name in _cables(appliance)
        ),
    ]


def _inside(appliance: ApplianceConfig) -> str:
    """The interfaces whose people may use the uplink."""
    names = [BATMAN]
    if appliance.joins_mesh:
        names.append(appliance.mesh_interface)
    if appliance.serves_phones:
        names.append(appliance.access_point_interface)
    return ", ".join(f'"{name}"' for name in names)


def _bridge(appliance: ApplianceConfig) -> str:
    """Mark where packets come from, and keep the fixed address, which every relay has, on the own access point."""
    marks = [f'iifname "{name}" meta mark set {_BY_CABLE}' for name in _cables(appliance)]
    came = left = ""
    if appliance.serves_phones:
        own = appliance.access_point_interface
        marks.append(f'iifname "{own}" meta mark set {_BY_ACCESS_POINT}')
        came, left = f'iifname != "{own}" ', f'oifname != "{own}" '
    chains = {"prerouting": marks}
    for hook, where in (("input", came), ("forward", ""), ("output", left)):
        chains[hook] = [
            f"{where}{field} {_FIXED} drop" for field in ("arp daddr ip", "arp saddr ip", "ip daddr", "ip saddr")
        ]

    def lines() -> Iterator[str]:
        for hook, rules in chains.items():
            yield from _chain(hook, rules, f"type filter hook {hook} priority filter; policy accept;")

    return _table("bridge", lines())
