# SPDX-License-Identifier: GPL-2.0-or-later
"""A small libp2p host on TCP, for IPFS and Berty on a LAN (docs/libp2p.md)."""
