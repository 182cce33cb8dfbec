# SPDX-License-Identifier: GPL-2.0-or-later
import signal

from hypothesis import HealthCheck, settings

# Whoever runs us in the background without job control has us ignore Ctrl-C, and so would all that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is. What is too slow in the product is counted in steps.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
