# SPDX-License-Identifier: GPL-2.0-or-later
"""What a town must come to; every planted defect has to fail one of these."""

from __future__ import annotations

#: Of the letters that some honest relay acknowledged, with two fifths of the time and
#: more to arrive, between people who walk. A thousand relays deliver 0.95, sixty
#: nearly all; a few dozen depend on who happens to walk where.
LEAST_DELIVERED = 0.85
#: Bodies sent to relays for each body stored: an answer that is late crosses another
#: one, and what a broken connection swallowed comes again.
MOST_SENT_FOR_EACH = 1.10
#: Bodies that came although nobody, or somebody else, was asked for them.
MOST_UNWANTED_FOR_EACH = 0.05

#: Of the relays to which working links led when a live datagram was said, with people who walk on while it is
#: under way.
LEAST_REACHED = 0.95


def faults(report: dict, *, least_delivered: float = LEAST_DELIVERED) -> list[str]:
    """Return what is wrong with a report; nothing, if the relays did their job."""
    counters = report["counters"]
    found = list(report["broken_rules"])
    if not report["acknowledged"] or report["delivery_ratio"] < least_delivered:
        found.append(f"delivered only {report['delivered']} of {report['acknowledged']}")
    if report["lacking"]:
        found.append(f"{report['lacking']} envelopes never reached a connected neighbour")
    stored = counters.get("total.accepted", 0)
    sent = counters.get("total.forwarded", 0) - report["taken_by_people"]
    if sent > MOST_SENT_FOR_EACH * stored:
        found.append(f"{sent} bodies were sent to relays for {stored} stored")
    found += live_faults(report["live"])
    unwanted = counters.get("session.unwanted_envelope", 0)
    if unwanted > MOST_UNWANTED_FOR_EACH * stored:
        found.append(f"{unwanted} bodies came unwanted beside {stored} stored")
    return found


def live_faults(live: dict, *, least_reached: float = LEAST_REACHED) -> list[str]:
    """Return what is wrong with how live datagrams went."""
    found = []
    if live["twice"]:
        found.append(f"gateways heard {live['twice']} live datagrams more than once")
    if live["reachable"] and live["reached"] < least_reached * live["reachable"]:
        found.append(f"live datagrams reached {live['reached']} of {live['reachable']} relays")
    return found
