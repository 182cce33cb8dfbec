# SPDX-License-Identifier: GPL-2.0-or-later
"""A scene come true: guests, namespaces, radios and cables, and the product's processes on its machines."""

from __future__ import annotations

import json
import time
from dataclasses import replace

from tests.guest.uml import GuestError
from tests.radio.lab import PRIVATE, Lab
from tests.radio.scene import Conditions
from tests.waiting import wait_until

#: Namespace of each guest that holds its Ethernet switches.
SWITCH = "switch"
HWSIM = "/sys/kernel/debug/ieee80211"
#: Start-up imports zeroconf and aiohttp, on a machine that may be busy with other tests.
READY_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 60.0
#: Of a status that is waited for.
POLL_S = 0.2
#: Neighbours before duplicate address detection has run its two seconds.
QUIET_IPV6 = "for s in all default; do sysctl -qw net.ipv6.conf.$s.accept_dad=0; done"
PERFECT = {"loss": 0.0, "latency_s": 0.0, "bytes_per_s": None}


class Stage:
    """A context manager; ``machines`` by name, ``air`` for what no scene's file says."""

    def __init__(self, parts, scene, *, main_conf=PRIVATE):
        self.scene = scene
        self.machines = {}
        self._main_conf = main_conf
        self._steps = list(scene.steps)
        self._bluetooth = Conditions(hears=None, **PERFECT)
        self._wifi = Conditions(hears=None, **PERFECT)
        self._lab = Lab(parts)

    def __enter__(self):
        self._lab.__enter__()
        try:
            self._build()
        except BaseException as error:
            self._lab.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, *error):
        for machine in self.machines.values():
            if error[0] is not None:
                machine.print_output()
        self._lab.__exit__(*error)

    @property
    def air(self):
        return self._lab.air

    def step(self, name):
        """Do the next step of the scene, which has to have this name."""
        step = self._steps.pop(0)
        if step.name != name:
            raise GuestError(f"the next step of scene {self.scene.name} is {step.name!r}, not {name!r}")
        print(f"-- {name}")
        if step.bluetooth is not None:
            self._bluetooth = _changed(self._bluetooth, step.bluetooth)
            self._apply_bluetooth()
        if step.wifi is not None:
            self._wifi = _changed(self._wifi, step.wifi)
            self.apply_wifi()
        for what, cables in (("down", step.unplug), ("up", step.plug)):
            for machine, segment in cables:
                self.machines[machine].guest.run("ip", "-n", SWITCH, "link", "set", _port(machine, segment), what)

    # -- building ---------------------------------------------------------

    def _build(self):
        scene = self.scene
        for name, memory_mib in scene.guests.items():
            inside = [machine for machine in scene.machines.values() if machine.guest == name]
            self._lab.guest(
                name,
                radios=sum(machine.bluetooth for machine in inside),
                memory_mib=memory_mib,
                arguments=(f"mac80211_hwsim.radios={sum(machine.wifi for machine in inside)}",),
            )
        for name, guest in self._lab.guests.items():
            inside = [machine for machine in scene.machines.values() if machine.guest == name]
            # Who has Bluetooth lives in the guest's first namespace, where its sockets are.
            inside.sort(key=lambda machine: not machine.bluetooth)
            script = [QUIET_IPV6, f"ip netns add {SWITCH}"]
            phy = 0
            for machine in inside:
                netns = None if machine.bluetooth else machine.name
                radios = range(phy, phy + machine.wifi)
                phy += machine.wifi
                self.machines[machine.name] = Machine(machine, guest, netns, radios)
                if netns is not None:
                    script += [
                        f"ip netns add {netns}",
                        f"ip -n {netns} link set lo up",
                        f"ip netns exec {netns} sh -c '{QUIET_IPV6}'",
                    ]
                    for index, number in enumerate(radios):
                        script += [
                            f"iw phy phy{number} set netns name {netns}",
                            f"ip -n {netns} link set wlan{number} name wlan{index}",
                        ]
            script += self._cable_script(inside)
            guest.sh("\n".join(script))
        stations = [machine for machine in scene.machines.values() if machine.bluetooth]
        for machine in stations:
            self.machines[machine.name].station = self._lab.station(
                machine.name, self.machines[machine.name].guest, machine.bluetooth, self._main_conf
            )
        self._apply_bluetooth()
        self.step("")

    def _cable_script(self, inside):
        segments = self.scene.segments()
        script = []
        for number, segment in enumerate(segments, 1):
            members = [machine for machine in inside if segment in machine.ethernet]
            if not members:
                continue
            script += [
                f"ip -n {SWITCH} link add {segment} type bridge mcast_snooping 0 forward_delay 0",
                f"ip netns exec {SWITCH} sysctl -qw net.ipv6.conf.{segment}.disable_ipv6=1",
                f"ip -n {SWITCH} link set {segment} up",
            ]
            for host, machine in enumerate(members, 1):
                own = self.machines[machine.name]
                here = f"ip -n {own.netns}" if own.netns else "ip"
                interface = f"eth{machine.ethernet.index(segment)}"
                port = _port(machine.name, segment)
                own.ipv4[segment] = f"10.0.{number}.{host}"
                script += [
                    f"ip -n {SWITCH} link add {port} type veth peer name {interface}x",
                    f"ip -n {SWITCH} link set {interface}x netns {own.netns or 1}",
                    f"{here} link set {interface}x name {interface}",
                    f"{here} address add {own.ipv4[segment]}/24 dev {interface}",
                    f"ip -n {SWITCH} link set {port} master {segment} up",
                    f"{here} link set {interface} up",
                ]
        return script

    # -- the air ----------------------------------------------------------

    def _apply_bluetooth(self):
        air = self._bluetooth
        self.air.conditions(loss=air.loss, latency_s=air.latency_s, bytes_per_s=air.bytes_per_s)
        if air.hears is None:
            self.air.heard(None)
            return
        radios = {name: self.machines[name].station.radios() for pair in air.hears for name in pair}
        self.air.heard([pair for a, b in air.hears for x in radios[a] for y in radios[b] for pair in ((x, y), (y, x))])

    def apply_wifi(self):
        """Have the Wi-Fi as the scene says; again after a test or the product made new interfaces."""
        air = self._wifi
        owners = {name: machine for name, machine in self.machines.items() if machine.phys}
        masks = dict.fromkeys(owners, 0)
        for bit, pair in enumerate(sorted(air.hears) if air.hears is not None else []):
            for name in pair:
                masks[name] |= 1 << bit
        limits = f"loss {air.loss:.4%} delay {air.latency_s * 1e3:.3f}ms"
        if air.bytes_per_s is not None:
            limits += f" rate {int(air.bytes_per_s * 8)}bit"
        limit = f"tc qdisc replace dev $i root netem {limits}"
        if not air.loss and not air.latency_s and air.bytes_per_s is None:
            limit = "tc qdisc delete dev $i root 2>/dev/null || true"
        for name, machine in owners.items():
            mask = 1 if air.hears is None else masks[name]
            # debugfs is not to be seen from a namespace, and its interfaces only from there.
            machine.guest.sh("; ".join(f"echo {mask} >{HWSIM}/phy{phy}/hwsim/group" for phy in machine.phys))
            machine.sh(f"for d in /sys/class/net/*/phy80211; do i=$(basename $(dirname $d)); {limit}; done")


class Machine:
    """A machine of the scene: a namespace of a guest, and what runs there."""

    def __init__(self, plan, guest, netns, phys):
        self.name = plan.name
        self.guest = guest
        self.netns = netns
        #: Numbers of its Wi-Fi radios; wlan0, wlan1, ... are its interfaces.
        self.phys = list(phys)
        #: Address by segment.
        self.ipv4 = {}
        self.station = None
        self.folder = f"/root/{self.name}"
        self.processes = {}
        self._started = []

    # -- commands ---------------------------------------------------------

    def start_process(self, *argv, env=None):
        """Begin a command here; a :class:`tests.guest.guest.Process`."""
        process = self.guest.start_process(
            "env",
            "-C",
            self.folder,
            *argv,
            env={"HOME": self.folder, "XDG_RUNTIME_DIR": f"{self.folder}/run"} | (env or {}),
            netns=self.netns,
        )
        self._started.append(process)
        return process

    def run(self, *argv, timeout_s=COMMAND_TIMEOUT_S, env=None, check=True):
        """Run a command here to its end; fail if it does."""
        self.guest.run("mkdir", "-p", f"{self.folder}/run")
        process = self.start_process(*argv, env=env)
        process.wait(timeout_s)
        if check and process.code:
            raise GuestError(process.describe("failed"))
        return process

    def sh(self, script, **options):
        """Run a script of bash here; return what it printed."""
        return self.run("bash", "-euo", "pipefail", "-c", script, **options).output

    def cli(self, *arguments, timeout_s=COMMAND_TIMEOUT_S):
        """Run a `relay` command here; return its standard output."""
        began = time.monotonic()
        shown = self.run("python3", "-m", "relay", *arguments, timeout_s=timeout_s).stdout
        print(f"{self.name}: relay {arguments[0]} took {time.monotonic() - began:.1f} s")
        return shown

    # -- the relay --------------------------------------------------------

    def configure(self, **sections):
        """Write relay.toml; takes effect when a process starts."""
        own = {
            "store": {"path": f"{self.folder}/store"},
            "unix": {"path": f"{self.folder}/link.sock"},
            "control": {"path": f"{self.folder}/control.sock"},
            "log": {"level": "info"},
        }
        text = ""
        for name in own | sections:
            settings = own.get(name, {}) | sections.get(name, {})
            # JSON strings, numbers, booleans and lists of them are TOML.
            text += f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
        self.guest.write(f"{self.folder}/relay.toml", text)

    def start(self, part, *arguments):
        """Start `relay run`, `relay ble` or `relay net` with this machine's relay.toml; return the process."""
        process = self.start_process(
            "python3", "-m", "relay", part, "--config", f"{self.folder}/relay.toml", *arguments
        )
        self.processes[part] = process
        return process

    def start_relay(self, **sections):
        """Configure and start `relay run`, and wait until it serves."""
        self.configure(**sections)
        self.start("run")
        self.wait("it is ready", lambda status: status["ready"], READY_TIMEOUT_S)

    def status(self):
        """The status of `relay run` as `relay status --json` prints it; None while nobody answers."""
        answer = self.guest.ask(f"{self.folder}/control.sock", json.dumps({"v": 1, "op": "status"}))
        return json.loads(answer)["result"] if answer else None

    def wait(self, what, condition, timeout_s):
        """Return the first status of `relay run` that meets ``condition``; fail with ``what`` after ``timeout_s``."""
        status = None

        def look():
            nonlocal status
            if self.processes["run"].poll() is not None:
                raise GuestError(self.processes["run"].describe(f"ended before {what}"))
            status = self.status()
            return status if status is not None and condition(status) else None

        def describe():
            links = status and {key: status.get(key) for key in ("store", "links", "totals")}
            return self.processes["run"].describe(f"{what}; {links}")

        return wait_until(describe, look, timeout_s, pause_s=POLL_S)

    def print_output(self):
        """For a test that failed."""
        for process in self._started:
            print(f"-- {process.describe('')}")


def _changed(before, change):
    settings = {name: getattr(change, name) for name in change.__slots__ if getattr(change, name) is not None}
    return replace(before, **settings)


def _port(machine, segment):
    """A name for the switch's end of a cable; interfaces have at most 15 characters."""
    return f"{machine[:7]}-{segment[:7]}"
