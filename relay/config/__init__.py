# SPDX-License-Identifier: GPL-2.0-or-later
"""relay.toml: its sections, the checks of its settings, and where it is."""
