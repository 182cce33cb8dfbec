# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay board`: the only process that touches light, button, panic and the boot partition."""
