# SPDX-License-Identifier: GPL-2.0-or-later
"""The Bluetooth air: simulated controllers and what lies between them, in a process with bumble (.ci/venv lab).

``__main__`` takes orders, ``medium`` decides who hears whom and when, ``radio`` is one controller, ``capture`` writes
what an eavesdropper with an antenna beside every radio would record.
"""
