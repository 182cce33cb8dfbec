# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m relay` is the `relay` command."""

import sys

from relay.cli import main

sys.exit(main())
