# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that start in three seconds: the image's own root, relay and ways to mount, and nothing else of it.

A hundred starts of the whole image take longer than anybody waits. What systemd does between the kernel and the relay
is done here, in its order, by the same commands: `relay appliance data`, `apply` and `unlock`, then `relay run`. The
card is as always the first disk, and the root lies on it.
"""

from __future__ import annotations

import shlex
import shutil
import threading
from pathlib import Path

from image.layout import layout
from tests.guest.guest import GuestError
from tests.guest.uml import ROOT
from tests.image.appliance import Appliance
from tests.image.seizure import ANSWER_S
from tests.power import cut

INSIDE = Path(__file__).with_name("inside")
PASSPHRASE = "correct horse battery staple, and a lamp post"
STATE = "/run/mesh-relay-data/state.json"
STORE = "/var/lib/private/mesh-relay"
#: There in every mode where messages are kept on the card.
DATABASE = f"{STORE}/store.sqlite"
#: As of mesh-relay.service. cryptsetup waits for udev, of which there is none.
ENVIRONMENT = {
    "STATE_DIRECTORY": STORE,
    "RUNTIME_DIRECTORY": "/run/mesh-relay",
    "CACHE_DIRECTORY": "/var/cache/mesh-relay",
    "CREDENTIALS_DIRECTORY": "/run/mesh-relay-config",
    "DM_DISABLE_UDEV": "1",
}
_INIT = """
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=0755 tmpfs /var
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lab /run/mesh-relay /run/mesh-relay-config /run/cryptsetup /dev/relay
mkdir -p /var/lib/private /var/cache/mesh-relay
mount -t hostfs -o hostfs={folder} none /run/lab
ln -s /dev/ubda1 /dev/relay/card
ip link set lo up
ip link set vec0 name eth0 up || true
exec python3 -I -S /run/lab/agent.py /dev/ttyS0
"""


class Light(Appliance):
    """A guest; the line for marks (inside/watched.py) is ``/dev/ttyS1``, as of card.c.

    :param library: of :func:`tests.power.cut.build`; ``log`` and ``faults`` as of :func:`~tests.power.cut.preloaded`
    """

    def __init__(self, parts, name, card, library, *, log=None, faults=None, cpu=0, arguments=(), network=()):
        before = cut.preloaded(library, card.path, log=log, marks="{1}", faults=faults)
        super().__init__(parts, name, card, cpu=cpu, radios=1, arguments=arguments, network=network[:1], before=before)

    def start(self):
        shutil.copy(ROOT / "tests/guest/agent.py", self.folder)
        shutil.copy(INSIDE / "watched.py", self.share)
        (self.folder / "init").write_text(_INIT.format(folder=self.folder))
        root = layout()["ROOT_A"].number
        script = f"mount -t hostfs -o ro,hostfs={self.folder} none /tmp && exec sh /tmp/init"
        self.boot_kernel(
            f"root=/dev/ubda{root}", "rootfstype=squashfs", *self._arguments, "init=/bin/sh", "--", "-c", f'"{script}"'
        )
        # Somebody has to hear it, or the line is full.
        self._ear = threading.Thread(target=_drain, args=(self.radio_lines[0].dup(),), name=f"ear {self.name}")
        self._ear.start()

    def kill(self):
        super().kill()
        self._ear.join()

    def prepare(self):
        """The partition for data, then the settings; return what became of it."""
        self.run("relay", "appliance", "data", env=ENVIRONMENT, timeout_s=ANSWER_S)
        self.run("relay", "appliance", "apply", "--data", STATE, env=ENVIRONMENT)
        return self.sh(f"cat {STATE}")

    def unlock(self, passphrase=PASSPHRASE):
        """As an operator; return what he is told, "" if it is open."""
        command = f"printf %s {shlex.quote(passphrase)} | relay appliance unlock --serve 2>&1"
        return self.sh(command, env=ENVIRONMENT, timeout_s=ANSWER_S)

    def relay(self, sync="full"):
        """Begin the relay, watched; return its process."""
        words = ("relay", "run", "--config", "/run/mesh-relay-config/relay.toml")
        program = ("/run/lab/share/watched.py", "/dev/ttyS1", sync, *words[1:])
        self.process = self.start_process("python3", "-I", *program, env=ENVIRONMENT)
        return self.process

    def explain(self):
        """What its kernel said last."""
        try:
            return self.sh("dmesg | tail -n 40; ls -l /data /run/mesh-relay-config; mount")
        except GuestError as error:
            return str(error)


def _drain(line):
    with line:
        while line.recv(65536):
            pass
