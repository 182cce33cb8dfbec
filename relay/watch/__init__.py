# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay targets`: finds relays for a Prometheus that is to watch them."""
