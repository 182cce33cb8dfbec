# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/vectors/bitchat.json: bytes and verdicts of both apps' own code; its "sources" says of which versions."""

import json
from pathlib import Path

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "bitchat.json").read_text())
IDENTITIES = VECTORS["android"]["identities"]
FRAGMENTS = VECTORS["android"]["fragments"]
#: Every packet of both apps, by name.
PACKETS = {
    **VECTORS["android"]["packets"],
    "long_message": FRAGMENTS["original"],
    **{f"fragment_{n}": packet for n, packet in enumerate(FRAGMENTS["fragments"])},
    **{f"ios_{name}": packet for name, packet in VECTORS["ios"]["ios_packets"].items()},
}
DECISIONS = {**VECTORS["android"]["android_decisions"], **VECTORS["ios"]["ios_decisions"]}


def wire(name):
    return bytes.fromhex(PACKETS[name]["wire_unpadded"])


def secret(who, what):
    return bytes.fromhex(IDENTITIES[who][what])
