# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay run`: one asyncio process around the sans-IO core."""
