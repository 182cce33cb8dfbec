# SPDX-License-Identifier: GPL-2.0-or-later
"""What every process of the relay needs of the system: logs, service manager, sockets, restarts, reports."""
