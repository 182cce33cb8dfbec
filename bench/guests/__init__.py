# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of the radio benchmark that run inside its guests."""
