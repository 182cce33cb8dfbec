# SPDX-License-Identifier: GPL-2.0-or-later
"""What a stick that somebody plugs in is used for; a word each, so that more can come."""

from __future__ import annotations

import enum


class StickUse(enum.StrEnum):
    """``REPORT``: a report is left on one that asks for it. ``SHELF``: its files are offered to participants.

    ``KEY``: it opens what storage = "durable" keeps. ``UPDATE``: newer software on it is taken, if it is signed.
    """

    REPORT = "report"
    SHELF = "shelf"
    KEY = "key"
    UPDATE = "update"
