# SPDX-License-Identifier: GPL-2.0-or-later
"""How much one phone may say, and how much of the air it gets."""

from __future__ import annotations

from typing import Final

from relay.core.rate import Rate

PACKETS_IN: Final = Rate(per_s=40.0, burst=200.0)
"""Packets from one phone. iPhones send a fragment every 25 ms; a phone that joins passes on what it has."""
BYTES_IN: Final = Rate(per_s=20_000.0, burst=128_000.0)
"""Bytes from one phone, once they are decompressed: about what a link of a crowded adapter carries."""
EXPANDED_LIVE: Final = Rate(per_s=1_000_000.0, burst=1_000_000.0)
"""Bytes that live packets of all other relays become when they are decompressed: a tenth of the slowest board. What
they are before is bounded by `relay run`."""
BYTES_OUT: Final = Rate(per_s=16_000.0, burst=16_000.0)
"""Bytes to one phone: its part of the airtime, and a letter of a courier at once."""
ANSWERS: Final = Rate(per_s=8 / 30, burst=8.0)
"""Requests of one phone that are answered: as many as iPhones answer."""
PLANS: Final = Rate(per_s=0.1, burst=2.0)
"""Answers with announces or messages that are begun for one phone: all that is remembered is gone through for each, and
an iPhone asks for these in one of its five requests."""
HANDSHAKES: Final = Rate(per_s=1 / 6, burst=5.0)
"""Handshakes of one phone with us: iPhones allow ten a minute."""
WELCOMES: Final = Rate(per_s=1 / 60, burst=2.0)
"""How often one link is told who is there, as a phone may become another one at any time."""
NEW_PEERS: Final = Rate(per_s=5.0, burst=256.0)
"""Peers that one link makes known: a whole island that comes by it at once, and then those who join."""
OTHER_KEYS: Final = Rate(per_s=1 / 30, burst=2.0)
"""Announces by one link under another signing key than those known of a peer. His own key comes every 15 to 30 s."""
NEW_PEERS_LIVE: Final = Rate(per_s=10.0, burst=512.0)
"""Peers that all other relays make known: so few that who is known has announced himself again, as phones do within
38 s, before a flood of names has pushed him out of memory."""
OTHER_KEYS_LIVE: Final = Rate(per_s=1 / 10, burst=4.0)
"""Other signing keys that come by other relays: fewer in those 38 s than keys are kept of a peer."""
LETTERS_OF_PHONE: Final = Rate(per_s=8 / 3600, burst=8.0)
"""Letters that one phone gives us to keep, each of which becomes envelopes in the store of every relay."""
LETTERS: Final = Rate(per_s=120 / 3600, burst=60.0)
"""Letters that all phones together give us."""
CHECKED_LIVE: Final = Rate(per_s=36_000.0, burst=72_000.0)
"""Bytes, and LIVE_PACKET_COST for each packet, of an island to others. With those below it is within what `relay run`
takes of a gateway, so that what is too much is lost here, where it is known whose it is."""
UNCHECKED_LIVE: Final = Rate(per_s=12_000.0, burst=48_000.0)
"""The same of what nobody can check (Noise, fragments): some 30 messages a second. It is less than a phone of another
island gets of the air, whoever floods it."""
LIVE_PACKET_COST: Final = 250
"""`relay run` takes 100 packets a second, as it takes 64 KiB."""
