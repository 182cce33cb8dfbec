# SPDX-License-Identifier: GPL-2.0-or-later
"""People who share a machine: each has keys and messages of their own, and the `relay` command."""

from tests.guest.uml import GuestError

#: What runs the command: as it is, and as on a system that cannot open LE channels and so takes a slot.
WITH_CHANNELS, WITHOUT_CHANNELS = "relay", "tests.radio.inside.without_channels"
PATIENCE_S = 90


class Person:
    def __init__(self, machine, name):
        self._machine = machine
        self.folder = f"/root/{name}"
        machine.guest.run("mkdir", "-p", self.folder)

    def run(self, *arguments, system=WITH_CHANNELS, check=True):
        """Run a `relay` command to its end."""
        argv = ("env", "-C", self.folder, "python3", "-m", system, *arguments)
        environment = {"HOME": self.folder, "XDG_RUNTIME_DIR": self.folder}
        return self._machine.run(*argv, env=environment, check=check, timeout_s=PATIENCE_S)

    def card(self):
        return self.run("identity").stdout.split()[0]

    def visit(self, *arguments, system=WITH_CHANNELS, tries=4):
        """Send or receive by Bluetooth, again if no relay could be reached; return what was shown."""
        for _ in range(tries):
            process = self.run(*arguments, "--relay", "ble", system=system, check=False)
            if process.code == 0:
                return process.stdout
            print(f"{self.folder}: {arguments[0]} again, after: {process.output.strip()[-300:]}")
            # What was to be sent is kept, and leaves now.
            arguments = ("receive",)
        raise GuestError(process.describe(f"failed {tries} times"))
