# SPDX-License-Identifier: GPL-2.0-or-later
"""What a listener sees of relays: `relay sniff` (docs/sniff.md).

Captured frames come in (`capture`), events go out (`events`); `linkable` tells
whether anything in them joins what should be apart. Only this package uses scapy.
"""
