# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay bitchat` (docs/bitchat.md): a process of its own, by which a relay is one of bitchat's mesh."""
