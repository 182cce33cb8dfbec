# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol without I/O, clock or randomness of its own: bytes and `now` in, bytes and events out."""
