# SPDX-License-Identifier: GPL-2.0-or-later
"""The appliance: one file on the boot partition in, the settings of the whole machine out.

Everything but :mod:`relay.appliance.apply` and the processes is free of I/O.
"""
