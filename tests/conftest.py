# SPDX-License-Identifier: GPL-2.0-or-later
import resource
import signal

import pytest
from hypothesis import HealthCheck, settings

# Whoever runs us in the background without job control has us ignore Ctrl-C, and so would all that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is. What is too slow in the product is counted in steps.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture
def open_files():
    """Room for both ends of a thousand connections: Debian lets a process have 1,024 files unless it asks."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
