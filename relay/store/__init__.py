# SPDX-License-Identifier: GPL-2.0-or-later
"""Durable storage of what the core admitted.

``database`` is the store, ``committer`` its bridge to asyncio, ``check`` and
``salvage`` look after damaged ones. Who is admitted, evicted or expired is
decided in ``relay.core``; what is written here is what it decided.
"""
