# SPDX-License-Identifier: GPL-2.0-or-later
"""Bluetooth as a library (docs/ble.md): BlueZ, channels, slots; for `relay ble`, the client and the sniffer."""
