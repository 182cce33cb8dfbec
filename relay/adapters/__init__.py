# SPDX-License-Identifier: GPL-2.0-or-later
"""Bluetooth adapters of this machine, for the programs that are found through them: `relay ble`, `relay bitchat`."""
