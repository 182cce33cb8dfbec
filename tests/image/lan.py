# SPDX-License-Identifier: GPL-2.0-or-later
"""A switch with cables to booted images. Needs the network namespace of .ci/netns."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import subprocess

#: The driver of User-Mode Linux names its interface vec0; on a Raspberry Pi the cable is eth0.
_RULE = 'ACTION=="add", SUBSYSTEM=="net", KERNEL=="vec0", NAME="eth0"\n'


_NUMBERS = itertools.count()


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


class Lan:
    """A bridge; a context manager. The tests are on it, too, with an IPv6 link-local address."""

    def __init__(self):
        # Tests that run at the same time share a namespace.
        self.name = f"lan{os.getpid()}x{next(_NUMBERS)}"
        self._numbers = itertools.count()
        self._ports = []

    def __enter__(self):
        ip("link", "add", self.name, "type", "bridge", "mcast_snooping", "0")
        # The guests' driver says that it takes many segments at once, and loses what does not fit into one: TCP then
        # gets through at 30 kB/s.
        ip("link", "set", self.name, "gso_max_segs", "1")
        ip("link", "set", self.name, "up")
        return self

    def __exit__(self, *_):
        for port in self._ports:
            # Gone already with a guest that was killed.
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("link", "delete", port)
        ip("link", "delete", self.name)

    def port(self):
        """A new cable; return the kernel's arguments for the guest at its other end."""
        port = f"{self.name}p{next(self._numbers)}"
        ip("tuntap", "add", port, "mode", "tap")
        ip("link", "set", port, "master", self.name, "up")
        self._ports.append(port)
        rule = base64.b64encode(_RULE.encode()).decode()
        return (
            f"vec0:transport=tap,ifname={port},depth=64,gro=0",
            f"systemd.set_credential_binary=udev.rules.05-cable:{rule}",
        )
