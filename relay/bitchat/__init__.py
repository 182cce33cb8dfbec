# SPDX-License-Identifier: GPL-2.0-or-later
"""bitchat's mesh, as bytes and decisions (docs/bitchat.md).

As in relay.core: bytes, events and `now` come in; bytes, events and the next deadline go out; no I/O, clock or
randomness of its own. Nothing here may be logged or written to a card: phones broadcast lasting keys and nicknames.
"""
