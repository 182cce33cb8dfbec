# SPDX-License-Identifier: GPL-2.0-or-later
"""What a town must come to; every planted defect has to fail one of these."""

from __future__ import annotations

#: Of the letters that some honest relay acknowledged, with a fifth of an hour and
#: more to arrive, between people who walk; measured 0.97 to 1 over ten seeds.
LEAST_DELIVERED = 0.85
#: Bodies received by honest relays for each body stored: a late answer and an
#: offerer's replacement may both arrive, a broken connection's half comes again.
MOST_BODIES_FOR_EACH = 1.10


def faults(report: dict) -> list[str]:
    """Return what is wrong with a report; nothing, if the relays did their job."""
    counters = report["counters"]
    found = list(report["broken_rules"])
    if not report["acknowledged"] or report["delivery_ratio"] < LEAST_DELIVERED:
        found.append(f"delivered only {report['delivered']} of {report['acknowledged']}")
    if report["lacking"]:
        found.append(f"{report['lacking']} envelopes never reached a connected neighbour")
    accepted = counters.get("total.accepted", 0)
    bodies = accepted + counters.get("total.duplicate", 0) + counters.get("session.unwanted_envelope", 0)
    if bodies > MOST_BODIES_FOR_EACH * accepted:
        found.append(f"{bodies} bodies were received for {accepted} stored")
    return found
