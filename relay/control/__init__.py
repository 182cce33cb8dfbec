# SPDX-License-Identifier: GPL-2.0-or-later
"""What operators and other programs see of a running relay: status, notices, and how to ask for them."""
