# SPDX-License-Identifier: GPL-2.0-or-later
"""The Bluetooth bearer (docs/ble.md): a process of its own, which hands streams to `relay run`."""
