# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.radio``: the radios, in the radio lab; prints, and writes build/bench-radio.json.

The air is simulated and has no limit of its own, so the figures are those of the programs, on these processors,
and only the ratios mean anything elsewhere. Raw and relayed runs take turns in the same guests, with frames of the
same size, and of each the best of three counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from relay.core.envelope import SIZES
from tests.guest.uml import GuestError, Parts
from tests.radio import bitchat_lab, bridged
from tests.radio.scene import load_scene
from tests.radio.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.guest.guest import Process
    from tests.radio.stage import Machine

RUNS = 3
PHONES = 3
CHANNEL_BYTES = 1_500_000
GATT_BYTES = 200_000
BRIDGE_BYTES = 100_000_000
#: About what the 100 MB take.
IPERF_S = 3
PATIENCE_S = 120.0
RESTARTS = 3
#: Long enough for garbage of the start to be gone.
IDLE_S = 10.0
BITCHAT_MESSAGES = 60
BITCHAT_PAUSE_S = 0.4
#: Of each of three phones, a second: near what a relay takes.
BITCHAT_RATE = 30
BITCHAT_S = 30
BITCHAT_CROWD = 50
#: As many as the scene has; what they are for a relay is links, and there are eight by default.
BITCHAT_PHONES = 6


class Phones:
    """The three phones of the scene, which do the same at the same time."""

    def __init__(self, stage: Stage) -> None:
        self.relay: Machine = stage.machines["relay"]
        self._phones = [stage.machines[f"phone{number}"] for number in range(1, PHONES + 1)]

    def goodput(self, kind: str, bearer: str, direction: str, size: int, psm: int = 0) -> float:
        """Bytes a second of all phones together."""
        running = []
        for phone in self._phones:
            phone.guest.sh("rm -f /host/go")
            running.append(_start(phone, kind, bearer, direction, str(size), str(psm)))
        for phone in self._phones:
            (phone.guest.share / "go").touch()
        began = time.monotonic()
        # All of them, so that none is left for the next run.
        if failed := [process for process in running if process.wait(PATIENCE_S)]:
            raise RuntimeError(failed[0].describe("failed"))
        assert time.monotonic() - began < PATIENCE_S
        slowest = max(json.loads(process.stdout.splitlines()[-1])["seconds"] for process in running)
        return PHONES * size / slowest

    def raw_goodput(self, bearer: str, direction: str, size: int, psm: int) -> float:
        """The same without the product. Bare GATT loses frames now and then: such a run is none, and done again."""
        for _ in range(RUNS):
            with contextlib.suppress(RuntimeError):
                return self.goodput("raw", bearer, direction, size, psm)
        raise RuntimeError(f"the bare {bearer} lost frames in each of {RUNS} runs {direction}")


def _start(phone: Machine, *arguments: str) -> Process:
    """A phone that is connected. Now and then BlueZ ends a link as soon as it is there: people's clients dial again."""
    left = RUNS
    while True:
        process = phone.guest.python("-m", "bench.guests.phone", phone.name, *arguments)
        try:
            process.wait_output("ready", PATIENCE_S)
        except GuestError as error:
            left -= 1
            if not left:
                raise
            print(f"dialled again, as: {error}".splitlines()[0], flush=True)
        else:
            return process


def measure_streams(stage: Stage, runs: int) -> dict[str, float]:
    """Three phones at once, up and down, over channels and over GATT, against both bare."""
    phones = Phones(stage)
    relay = phones.relay
    best: dict[str, float] = {}
    for _ in range(runs):
        raw = relay.guest.python("-m", "bench.guests.raw")
        raw.wait_output("psm ", PATIENCE_S)
        psm = int(raw.stdout.split("psm ")[1].split()[0])
        for bearer, size in (("channel", CHANNEL_BYTES), ("slot", GATT_BYTES)):
            for direction in ("up", "down"):
                _note(best, f"raw_{bearer}_{direction}", phones.raw_goodput(bearer, direction, size, psm))
        raw.kill()

        # A new store each time, so that all phones fetch the same and no more.
        for bearer, size in (("channel", CHANNEL_BYTES), ("slot", GATT_BYTES)):
            relay.sh("rm -rf store")
            relay.start_relay()
            ble = relay.start("ble")
            relay.wait("Bluetooth is up", _has_bluetooth, PATIENCE_S)
            # What one phone puts all three fetch, three times.
            _note(best, f"relay_{bearer}_up", phones.goodput("relay", bearer, "up", size))
            _check_stored(relay.status(), size)
            _note(best, f"relay_{bearer}_down", phones.goodput("relay", bearer, "down", size))
            ble.stop(PATIENCE_S)
            relay.processes["run"].stop(PATIENCE_S)
    ratio = {
        f"ble_{name}_{direction}_ratio": best[f"relay_{bearer}_{direction}"] / best[f"raw_{bearer}_{direction}"]
        for name, bearer in (("coc", "channel"), ("gatt", "slot"))
        for direction in ("up", "down")
    }
    return {
        **{f"{name}_bytes_per_s": value for name, value in best.items()},
        **ratio,
        "ble_coc_ratio": min(ratio["ble_coc_up_ratio"], ratio["ble_coc_down_ratio"]),
        "ble_gatt_ratio": min(ratio["ble_gatt_up_ratio"], ratio["ble_gatt_down_ratio"]),
    }


def _check_stored(status: dict, size: int) -> None:
    """Nothing lost, nothing twice."""
    wanted = PHONES * -(-size // SIZES[-1])
    totals = status["totals"]["total"]
    if totals["accepted"] != wanted or status["store"]["envelopes"] != wanted or totals["duplicate"]:
        raise RuntimeError(f"{wanted} envelopes were sent: {totals}")


def _note(best: dict[str, float], name: str, value: float) -> None:
    best[name] = max(best.get(name, 0.0), value)
    print(f"  {name:<28} {value / 1e3:>10,.1f} kB/s", flush=True)


def _has_bluetooth(status: dict) -> bool:
    return any(part["name"] == "ble" and part["up"] for part in status["components"])


def measure_bridge(stage: Stage, runs: int) -> dict[str, float]:
    """100 MB between two programs on the Ethernets of two relays that bridge them, against iperf3 on that path."""
    best: dict[str, float] = {}
    north, south = stage.machines["north"], stage.machines["south"]
    for kind in bridged.KINDS:
        bridged.bridge(stage, kind)
        offer = bridged.start_offer(north, 1, BRIDGE_BYTES)
        for _ in range(runs):
            server = south.start_process("iperf3", "-s", "-1", "--forceflush")
            server.wait_output("listening", PATIENCE_S)
            # By time: it would count the time for a number of bytes in whole seconds.
            shown = north.run("iperf3", "-c", bridged.address(south), "-t", str(IPERF_S), "-J", timeout_s=PATIENCE_S)
            _note(best, f"raw_bridge_{kind}", json.loads(shown.stdout)["end"]["sum_received"]["bits_per_second"] / 8)
            server.wait(PATIENCE_S)
            told = bridged.fetched(bridged.start_fetch(south, north))
            if told["bytes"] != BRIDGE_BYTES:
                raise RuntimeError(f"{told['bytes']} bytes arrived, not {BRIDGE_BYTES}")
            _note(best, f"apps_bridge_{kind}", told["bytes"] / told["seconds"])
        offer.kill()
        for name in ("relay_a", "relay_b"):
            stage.machines[name].processes["net"].stop(PATIENCE_S)
    ratio = {
        f"lan_bridge_{kind}_ratio": best[f"apps_bridge_{kind}"] / best[f"raw_bridge_{kind}"] for kind in bridged.KINDS
    }
    return {
        **{f"{name}_bytes_per_s": value for name, value in best.items()},
        **ratio,
        "lan_bridge_ratio": min(ratio.values()),
    }


def measure_processes(stage: Stage, _: int) -> dict[str, float]:
    """Memory of the idle processes, and how soon Bluetooth is back after bluetoothd was killed."""
    relay = stage.machines["relay"]
    relay.sh("rm -rf store")
    relay.start_relay()
    relay.start("ble")
    relay.configure(**{"net": {"country": "DE"}, "net.radios.mesh": {"interface": "wlan0"}})
    relay.start("net").wait_output("has joined", PATIENCE_S)
    relay.wait("Bluetooth is up", _has_bluetooth, PATIENCE_S)
    time.sleep(IDLE_S)
    found = _memory(relay)

    seconds = []
    for _ in range(RESTARTS):
        relay.station.bluetoothd.kill()
        relay.wait("the loss was noticed", lambda status: not _has_bluetooth(status), PATIENCE_S)
        began = time.monotonic()
        relay.station.start_bluetoothd()
        relay.wait("Bluetooth is up again", _has_bluetooth, PATIENCE_S)
        seconds.append(time.monotonic() - began)
    found["bluetoothd_restart_recovery_s"] = statistics.median(seconds)
    return found


def _memory(relay: Machine) -> dict[str, float]:
    """MiB of the three processes: proportional set size, in which a page that several have mapped is shared out."""
    found: dict[str, float] = {}
    for part in ("run", "ble", "net"):
        pid = relay.guest.sh(f"pgrep -f '^python3 -m relay {part} '").split()[0]
        shown = relay.guest.sh(f"grep '^Pss:' /proc/{pid}/smaps_rollup")
        found[f"pss_{part}_mib"] = int(shown.split()[1]) / 1024
    return found | {"pss_total_mib": sum(found.values())}


def measure_clients(stage: Stage, _: int) -> dict[str, float]:
    """How many clients of those that try are served at the same time, with the default settings."""
    relay, crowd = stage.machines["relay"], stage.machines["crowd"]
    relay.start_relay()
    relay.start("ble")
    relay.wait("Bluetooth is up", _has_bluetooth, PATIENCE_S)
    shown = crowd.run("python3", "-m", "bench.guests.crowd", timeout_s=PATIENCE_S).stdout
    told = json.loads(shown.splitlines()[-1])
    return {"ble_clients": told["served"], "ble_clients_busy": told["busy"]}


def measure_bitchat(stage: Stage, _: int) -> dict[str, float]:
    """Islands of phones with bitchat: delay, packets a second, memory, and CPU while fifty announce themselves."""
    islands = bitchat_lab.Islands(stage)
    islands.start()
    phones = list(islands.phones.values())
    ana, near, far = phones[0], phones[:3], phones[3:]
    # An iPhone's screen shows one message a second of a sender, and loses the rest.
    listeners = [phone for phone in far if phone.kind == "android"]
    for phone in phones:
        phone.wait_names(*(other.name for other in phones if other is not phone))
    said = {}
    for number in range(BITCHAT_MESSAGES):
        text = f"message {number}"
        said[text] = ana.say(text)
        time.sleep(BITCHAT_PAUSE_S)
    delays = []
    for phone in listeners:
        shown = phone.wait_shows(text)["shown_at"]
        delays += [shown[text] - at_s for text, at_s in said.items() if text in shown]
    if len(delays) < 0.99 * len(listeners) * len(said):
        raise RuntimeError(f"{len(delays)} of {len(listeners) * len(said)} messages arrived")
    found = {
        "bitchat_delay_median_s": statistics.median(delays),
        "bitchat_delay_p99_s": statistics.quantiles(delays, n=100)[-1],
    }

    before = {phone.name: len(phone.state()["shown"]) for phone in listeners}
    for phone in near:
        phone.ask(f"talk {BITCHAT_RATE} {BITCHAT_S}")
    time.sleep(BITCHAT_S + 5)
    crossed = [len(phone.state()["shown"]) - before[phone.name] for phone in listeners]
    found["bitchat_packets_per_s"] = min(crossed) / BITCHAT_S

    process = islands.relay_a.processes["bitchat"]
    cpu_s = _cpu_s(islands.relay_a, process.pid)
    ana.ask(f"crowd {BITCHAT_CROWD} {BITCHAT_S}")
    time.sleep(BITCHAT_S)
    found["bitchat_cpu_share_50"] = (_cpu_s(islands.relay_a, process.pid) - cpu_s) / BITCHAT_S
    shown = islands.relay_a.guest.sh(f"grep '^Pss:' /proc/{process.pid}/smaps_rollup")
    found["pss_bitchat_mib"] = int(shown.split()[1]) / 1024

    islands.place(**dict.fromkeys(islands.at, "a"))
    for phone in far:
        phone.ask("away")
        phone.ask("back 0")
    status = islands.relay_a.wait("all are at one relay", _has_all_phones, PATIENCE_S)
    return found | {"bitchat_phones": bitchat_lab.part(status)["gauges"]["clients"]}


def _has_all_phones(status: dict) -> bool:
    return bitchat_lab.part(status)["gauges"].get("clients") == BITCHAT_PHONES


def _cpu_s(machine: Machine, pid: int) -> float:
    fields = machine.guest.sh(f"cat /proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


PARTS: dict[str, tuple[str, Callable[[Stage, int], dict[str, float]]]] = {
    "streams": ("phones", measure_streams),
    "processes": ("phones", measure_processes),
    "bridge": ("bridge", measure_bridge),
    "clients": ("crowd", measure_clients),
    "bitchat": ("islands", measure_bitchat),
}


def _measure(parts: Parts, name: str, runs: int) -> dict[str, float]:
    scene, measure = PARTS[name]
    with Stage(parts, load_scene(scene)) as stage:
        return measure(stage, runs)


def main() -> None:
    """Measure the parts named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.radio", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; everything by default")
    parser.add_argument("--runs", type=int, default=RUNS, help="the best of so many counts (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/bench-radio.json"))
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs: one at least")
    parts = Parts.find()
    # Parts measured at another time keep their figures.
    figures: dict[str, float] = {}
    if arguments.parts and arguments.output.exists():
        figures = json.loads(arguments.output.read_text())
    for name in arguments.parts or PARTS:
        print(f"\n{name}: {(PARTS[name][1].__doc__ or '').strip().splitlines()[0]}", flush=True)
        try:
            found = _measure(parts, name, arguments.runs)
        except GuestError as error:
            # What a guest that died was measured for is nothing, and done again; one that dies twice is a failure.
            print(f"once more, as: {error}", flush=True)
            found = _measure(parts, name, arguments.runs)
        for key, value in found.items():
            print(f"  {key:<34} {value:>14,.3f}", flush=True)
        figures.update(found)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
