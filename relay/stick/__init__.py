# SPDX-License-Identifier: GPL-2.0-or-later
"""What somebody plugs in: read by this process alone, as little of it as there is a use for."""
