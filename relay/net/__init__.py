# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay net`: ad-hoc Wi-Fi, batman-adv and the LAN bridge, all by netlink; the only part with CAP_NET_ADMIN."""
