# SPDX-License-Identifier: GPL-2.0-or-later
"""A store-and-forward relay for messengers that work without the internet."""

__version__ = "0.1.0"
#: When this version was made (UTC): no expiry and no clock before it is believed.
__released__ = "2026-11-22"
