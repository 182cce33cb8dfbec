# SPDX-License-Identifier: GPL-2.0-or-later
"""A booted image: the guest of tests/guest with a card for a disk, and systemd for process 1.

The image is booted as it is. What runs the tests' commands in it is handed to
systemd with the kernel's command line, as a unit of that boot.
"""

from __future__ import annotations

import base64
import shutil
import socket
import threading

from image.layout import layout
from tests.guest.guest import Guest
from tests.guest.uml import ROOT, GuestError, Uml
from tests.waiting import wait_until

#: As much as a Raspberry Pi Zero 2 W leaves when the firmware has its share.
MEMORY_MIB = 448
#: On a busy machine; alone it takes seven seconds.
BOOT_TIMEOUT_S = 180.0
#: A command in it, beside all that an appliance starts, and others' guests on the same processor.
COMMAND_TIMEOUT_S = 120.0
#: For all of a slot to be copied, with the start; alone it takes half a minute.
FILLED_S = 700.0

_AGENT = """\
[Unit]
Description=Commands of the tests
DefaultDependencies=no
[Service]
ExecStartPre=mkdir -p /run/lab
ExecStartPre=mount -t hostfs -o hostfs={folder} none /run/lab
ExecStart=python3 -I -S /run/lab/agent.py /dev/ttyS0
"""


class Appliance(Guest):
    """``card`` is written to. Ends like pulling the plug, unless :meth:`shut_down`.

    :param cpu: of the host, as of :class:`~tests.guest.uml.Uml`
    :param radios: serial lines for Bluetooth controllers, as of :class:`Guest`
    :param network: arguments from :meth:`tests.image.lan.Lan.port`
    :param before: as of :class:`~tests.guest.uml.Uml`
    """

    def __init__(self, parts, name, card, *, cpu=0, radios=0, arguments=(), network=(), before=()):
        super().__init__(parts, name, radios=radios, memory_mib=MEMORY_MIB, cpu=cpu, arguments=(*network, *arguments))
        self.card = card
        self._before = before

    def start(self):
        # A link would lead to nowhere in there.
        shutil.copy(ROOT / "tests/guest/agent.py", self.folder)
        # As U-Boot does it, which these guests have not.
        chosen = self.card.start()
        self.slot = next(slot for slot in chosen.slots if self.card.is_loaded(slot))
        boot = self.card.boot_settings(self.slot)
        device = f"/dev/ubda{layout()[f'ROOT_{self.slot}'].number}"
        trial = ["relay.trial=1"] if chosen.on_trial else []
        unit = base64.b64encode(_AGENT.format(folder=self.folder).encode()).decode()
        verity = (
            f"vroot,,,ro,0 {boot['rootsectors']} verity 1 {device} {device} 4096 4096 {boot['rootblocks']} "
            f"{boot['roothashstart']} sha256 {boot['roothash']} {boot['rootsalt']} 1 panic_on_corruption"
        )
        self.boot_kernel(
            "root=/dev/dm-0",
            f'dm-mod.create="{verity}"',
            "systemd.wants=lab.service",
            f"systemd.set_credential_binary=systemd.extra-unit.lab.service:{unit}",
            *trial,
            *self._arguments,
        )

    def boot_kernel(self, *arguments):
        """Start the kernel with the card for its first disk."""
        pairs = [socket.socketpair() for _ in range(1 + self._radios)]
        self._line, *self.radio_lines = (pair[0] for pair in pairs)
        self._uml = Uml(
            self._parts.kernel,
            self.folder,
            [f"ubd0={self.card.path}", "ro", "quiet", "console=tty0", "panic=-1", *arguments],
            memory_mib=self._memory_mib,
            lines=[pair[1] for pair in pairs],
            cpu=self._cpu,
            before=self._before,
        )
        self._reader = threading.Thread(target=self._read, args=(self._line.dup(),), name=f"appliance {self.name}")
        self._reader.start()

    def run(self, *argv, timeout_s=COMMAND_TIMEOUT_S, **options):
        return super().run(*argv, timeout_s=timeout_s, **options)

    def wait_ready(self):
        self.wait_for(lambda: self._ready, BOOT_TIMEOUT_S, lambda: f"{self.name} did not boot")

    def wait_booted(self):
        """Wait until systemd has started all there is; return its word for the result."""
        waiting = self.start_process("systemctl", "is-system-running", "--wait")
        try:
            waiting.wait(BOOT_TIMEOUT_S)
        except GuestError as error:
            jobs = self.sh("systemctl list-jobs; journalctl --no-pager -p warning -n 40 -o cat")
            raise GuestError(f"{error}\n{jobs}") from error
        return waiting.stdout.strip()

    def wait_slots(self):
        """Wait until `relay slot` has nothing more to do: this start is well, and there is another slot."""

        def is_done():
            is_settled = self.run("test", "-e", "/run/mesh-relay-slot/settled", check=False).code == 0
            found = self.show("relay-slot.service", "ActiveState", "Result")
            return is_settled and found == {"ActiveState": "inactive", "Result": "success"}

        wait_until(lambda: f"{self.journal('relay-slot.service')}\n{self.explain()}", is_done, FILLED_S, pause_s=1)

    def wait_dead(self, timeout_s):
        """Wait for the kernel's end; return whether it came."""
        return self._uml.wait(timeout_s)

    def close(self):
        """Pull the plug, and remove all that it left on the host."""
        if self._uml is not None and self._line.fileno() >= 0:
            self.kill()
        for line in self.radio_lines:
            line.close()
        shutil.rmtree(self.folder)

    def shut_down(self):
        """Power off in order."""
        self.start_process("systemctl", "poweroff")
        if not self._uml.wait(BOOT_TIMEOUT_S):
            raise GuestError(f"{self.name} does not power off; console:\n{self._uml.console_tail()}")

    def failed_units(self):
        return self.sh("systemctl list-units --failed --plain --no-legend | cut -d' ' -f1").split()

    def explain(self):
        """What failed, and what it said; then what anything said last, as what does not happen need not fail."""
        return self.sh(
            "for unit in $(systemctl list-units --failed --plain --no-legend | cut -d' ' -f1); do "
            "echo; echo $unit; journalctl --no-pager -o cat -n 20 -u $unit; done; "
            "echo; journalctl --no-pager -o short-monotonic -n 60"
        )

    def journal(self, unit):
        return self.sh(f"journalctl --no-pager -o cat -u {unit}")

    def show(self, unit, *properties):
        """Properties of a unit, by name."""
        lines = self.sh(f"systemctl show '{unit}' -p {','.join(properties)}").splitlines()
        return dict(line.split("=", 1) for line in lines)
