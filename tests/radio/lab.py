# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests with bluetoothd, joined by one air."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.guest.guest import Guest
from tests.guest.uml import ROOT, GuestError

BLUETOOTHD = "/usr/libexec/bluetooth/bluetoothd"
#: Resolvable private addresses, as the product wants it on every machine.
PRIVATE = "[General]\nPrivacy = device\nReverseServiceDiscovery = false\n"
#: The kernel sees a controller, or bluetoothd has it powered: well under a second each on an idle machine.
ADAPTER_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 30.0
ANSWER_BYTES = 65536


class Air:
    """The air's process (tests/radio/air), and its orders."""

    def __init__(self, parts, *, seed=1):
        self.folder = Path(tempfile.mkdtemp(prefix="air-"))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ANSWER_TIMEOUT_S)
        self._log = self.folder / "log.txt"
        with self._log.open("wb") as log:
            # It ends with this socket, and so with whoever holds it.
            self._process = subprocess.Popen(
                [parts.air_python, "-m", "tests.radio.air", str(theirs.fileno()), str(seed)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, start_new_session=True,
            )  # fmt: skip
        theirs.close()
        self._names = []

    def close(self):
        """End it; fail if it complained."""
        self._control.close()
        self._process.wait(ANSWER_TIMEOUT_S)
        log = self.log_text()
        shutil.rmtree(self.folder)
        if log:
            raise GuestError(f"the air complained: {log[-4000:]}")

    def log_text(self):
        return self._log.read_text(errors="replace")

    def add(self, name, line, address, **options):
        """A controller at the serial line ``line`` (Guest.radio_lines)."""
        self._order("add", fd=line.fileno(), name=name, address=address, **options)
        self._names.append(name)

    def unplug(self, name):
        self._order("unplug", name=name)

    def plug(self, name, address):
        self._order("plug", name=name, address=address)

    def remove(self, name):
        self._order("remove", name=name)
        self._names.remove(name)

    def groups(self, *groups):
        """Only those within one of these groups of names hear each other; without any, all hear all."""
        pairs = {pair for group in groups for pair in itertools.permutations(group, 2)}
        self.heard(sorted(pairs) if groups else None)

    def heard(self, pairs):
        """Only these (speaker, listener) are in range; None for all."""
        self._order("heard", pairs=pairs)

    def conditions(self, *, loss=0.0, latency_s=0.0, bytes_per_s=None):
        """How good the air is, for all."""
        self._order("conditions", loss=loss, latency_s=latency_s, bytes_per_s=bytes_per_s)

    def record(self, path):
        """From now on an eavesdropper writes all he hears to a pcap file; None ends it."""
        self._order("record", path=None if path is None else str(path))

    def flush(self):
        """Have what was recorded so far in the file."""
        self._order("flush")

    def _order(self, do, *, fd=None, **arguments):
        order = json.dumps({"do": do} | arguments).encode()
        try:
            socket.send_fds(self._control, [order], [] if fd is None else [fd])
            answer = json.loads(self._control.recv(ANSWER_BYTES))
        except (OSError, ValueError) as error:
            raise GuestError(f"the air does not answer ({error!r}): {self.log_text()[-4000:]}") from error
        if "error" in answer:
            raise GuestError(f"the air refused {do}: {answer['error']}")


class Station:
    """A guest with Bluetooth: its controllers and its bluetoothd."""

    def __init__(self, name, guest, air, addresses, main_conf):
        self.name = name
        self.guest = guest
        self._air = air
        self._addresses = dict(enumerate(addresses))
        self._attached = {}
        self.bluetoothd = None
        self.main_conf = main_conf

    def radio(self, index=0):
        """The name of one of its controllers on the air."""
        return self.name if index == 0 else f"{self.name}.{index}"

    def radios(self):
        """The names of all of them."""
        return [self.radio(index) for index in self._addresses]

    def start(self):
        """Controllers, then bluetoothd, then power."""
        for index, address in self._addresses.items():
            self._air.add(self.radio(index), self.guest.radio_lines[index], address)
            self._attach(index)
        self.start_bluetoothd()
        self.wait_powered()

    def start_bluetoothd(self):
        self.guest.write("/etc/bluetooth/main.conf", self.main_conf + "[Policy]\nAutoEnable = true\n")
        self.bluetoothd = self.guest.start_process(BLUETOOTHD, "-n")

    def wait_powered(self, index=0):
        """Wait until bluetoothd has the adapter up."""
        self.guest.sh(
            f"for i in $(seq {int(ADAPTER_TIMEOUT_S * 10)}); do "
            f"busctl_get() {{ dbus-send --system --print-reply --dest=org.bluez /org/bluez/hci{index} "
            "org.freedesktop.DBus.Properties.Get string:org.bluez.Adapter1 string:Powered; }; "
            "if busctl_get 2>/dev/null | grep -q 'boolean true'; then exit 0; fi; sleep 0.1; done; exit 1",
            timeout_s=2 * ADAPTER_TIMEOUT_S,
        )

    def unplug(self, index=0):
        """Pull the adapter out of its socket."""
        self._attached.pop(index).kill()
        self._air.unplug(self.radio(index))

    def plug(self, index=0, *, address=None):
        """Put it in again, or another one."""
        self._addresses[index] = address or self._addresses[index]
        self._air.plug(self.radio(index), self._addresses[index])
        self._attach(index)

    def _attach(self, index):
        self._attached[index] = self.guest.start_process("btattach", "-B", f"/dev/ttyS{1 + index}", "-P", "h4", "-N")
        self.guest.sh(
            f"for i in $(seq {int(ADAPTER_TIMEOUT_S * 20)}); do "
            f"[[ $(ls /sys/class/bluetooth | wc -l) -ge {len(self._attached)} ]] && exit 0; sleep 0.05; done; exit 1"
        )


class Lab:
    """Stations on one air, and whatever else a test needs; a context manager that leaves nothing behind."""

    def __init__(self, parts, *, seed=1):
        self._parts = parts
        # Of several test processes each begins with another one.
        self._cpus = itertools.count(os.getpid())
        self._addresses = itertools.count(1)
        self.guests = {}
        self.stations = {}
        self.air = Air(parts, seed=seed)

    def __enter__(self):
        return self

    def __exit__(self, kind, _error, _traceback):
        for guest in self.guests.values():
            if kind is not None:
                print(f"-- console of {guest.name}:\n{guest.console_text()[-2000:]}")
            guest.close()
        self.air.close()

    def guest(self, name, *, radios=0, **options):
        """Another guest; boots while the test goes on."""
        guest = Guest(self._parts, name, radios=radios, cpu=next(self._cpus), **options)
        self.guests[name] = guest
        guest.start()
        return guest

    def start_stations(self, *names, radios=1, main_conf=PRIVATE, **options):
        """Guests with Bluetooth, booted side by side; return their :class:`Station` objects when all are on the air."""
        guests = [self.guest(name, radios=radios, **options) for name in names]
        return [self.station(guest.name, guest, radios, main_conf) for guest in guests]

    def station(self, name, guest, radios=1, main_conf=PRIVATE):
        """Put a guest on the air, and start its bluetoothd."""
        addresses = [f"02:00:00:00:00:{next(self._addresses):02X}" for _ in range(radios)]
        self.stations[name] = Station(name, guest, self.air, addresses, main_conf)
        self.stations[name].start()
        return self.stations[name]
