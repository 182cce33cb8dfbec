# SPDX-License-Identifier: GPL-2.0-or-later
"""What a booted image listens on, and what README.md says that it does."""

import re

from tests.guest.uml import ROOT


def readme_ports():
    """The first column of README's table of ports."""
    rows = re.findall(r"^\| ((?:\d+/(?:tcp|udp)(?:, )?)+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    return {port for row in rows for port in row.split(", ")}


def listening(appliance):
    """Ports that others may reach, packet filter aside; fail if README does not list one."""
    found = set()
    for line in appliance.sh("ss --no-header -tuln").splitlines():
        protocol, _, _, _, local, *_ = line.split()
        address, _, port = local.rpartition(":")
        if not address.startswith(("127.", "[::1]")):
            found.add(f"{port}/{protocol}")
    assert found <= readme_ports(), appliance.sh("ss -tulnp")
    return found
