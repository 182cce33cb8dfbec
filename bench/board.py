# SPDX-License-Identifier: GPL-2.0-or-later
"""``make bench-board``: a relay on a small board, by a tenth and a twentieth of one core of this machine.

The relay runs in a control group (bench.cgroups) with that much processor and 448 MiB, its clients outside of it; once
on a fast disk, once on a cheap card (bench.slow_card). Prints each figure with its goal, if it has one, and writes
build/bench-board.json.

How the factor was chosen: the processor of a Raspberry Pi Zero 2 W (Cortex-A53, 1 GHz) is without ARM's instructions
for SHA-256 and AES (sbc-bench, results/ARMv8-Crypto-Extensions.md), and takes Python's bytecode in order. The first
part says what this machine does of SHA-256, ChaCha20-Poly1305 and bare Python by the same share: compare with the same
three on the board, and interpolate.

Processor time (`*_cpu_*`) does not depend on what else this machine does; seconds do.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.cgroups import Cage, CgroupError, Limits, SlowDevice, cage
from bench.hop import measure_one
from bench.ingest import put_all
from bench.pages import first_bytes_ms
from bench.relays import BareClient, RelayProcess, relay
from bench.slow_card import slow_card
from bench.store_input import make_envelopes
from relay.core.noise import CipherState

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_BYTES: Final = 448 << 20
SHARES: Final = {"tenth": 2000, "twentieth": 1000}
SMALL: Final = 10_000
LARGE: Final = 1_000
SESSIONS: Final = 11
IDLE_S: Final = 60.0
#: After the last envelope: garbage, announcements of DNS-SD, the log of the store.
SETTLE_S: Final = 10.0
HOPS: Final = 200
HOPS_PER_S: Final = 10
#: Bytes hashed and encrypted, and turns of an empty loop, to compare processors by.
YARDSTICK_BYTES: Final = 4 << 20
YARDSTICK_TURNS: Final = 1_000_000
PROCESSES_S: Final = 300.0
#: By name: the goal, at a tenth and on a fast disk; at most, or at least if the name says "per second".
GOALS: Final = {
    "first_put_s": 4.0,
    "processes_s": 12.0,
    "put_1k_per_s": 4000.0,
    "scrape_ms": 15.0,
    "hop_median_ms": 20.0,
    "idle_share_percent": 2.0,
    "peak_mib": 448.0,
}
#: What the other processes of a relay load. Without radios they have nothing more to do.
OTHERS: Final = ("relay.ble.app", "relay.net.app", "relay.board.app")


def measure(folder: Path, share: str, slow: SlowDevice | None) -> dict[str, float]:
    """All figures of one relay with one share of the processor, its store below ``folder``."""
    limits = Limits(quota_us=SHARES[share], memory_bytes=MEMORY_BYTES)
    with cage(share, limits, slow) as caged:
        first, *small = make_envelopes(SMALL + 1)
        found: dict[str, float] = {}
        with relay(folder / share, http=True, discovery=True, command=caged.command, first_put=first) as process:
            found |= {"first_put_s": process.first_put_s, "start_s": process.start_s, "start_cpu_s": caged.cpu_s()}
            found |= _puts(process, caged, small, "1k")
            found |= _puts(process, caged, make_envelopes(LARGE, 2, seed=2), "16k")
            found |= _sessions(process)
            for path, (ms, _) in first_bytes_ms(process.http_port, ("/", "/metrics")).items():
                found["page_ms" if path == "/" else "scrape_ms"] = ms
            found |= measure_one(process, make_envelopes(HOPS, seed=3), HOPS_PER_S)
            if slow is None:
                found |= _idle(caged, limits)
            else:
                found |= _waiting(process, make_envelopes(LARGE, seed=4))
            found |= {"rss_mib": process.rss_mib(), "peak_mib": caged.peak_mib(), "throttled_s": caged.throttled_s()}
    if slow is None:
        with cage(f"{share}-all", limits) as caged:
            found |= _processes(folder / f"{share}-all", caged)
    return found


def _puts(process: RelayProcess, caged: Cage, envelopes: list[bytes], name: str) -> dict[str, float]:
    client = BareClient(process.port)
    before_s = caged.cpu_s()
    took_s = put_all(client, envelopes)
    client.close()
    return {
        f"put_{name}_per_s": len(envelopes) / took_s,
        f"put_{name}_cpu_us": (caged.cpu_s() - before_s) / len(envelopes) * 1e6,
    }


def _sessions(process: RelayProcess) -> dict[str, float]:
    times = []
    for _ in range(SESSIONS):
        began = time.perf_counter()
        client = BareClient(process.port)
        times.append(time.perf_counter() - began)
        client.close()
    return {"session_ms": 1000 * statistics.median(times)}


def _idle(caged: Cage, limits: Limits) -> dict[str, float]:
    time.sleep(SETTLE_S)
    before_s = caged.cpu_s()
    time.sleep(IDLE_S)
    return {"idle_share_percent": 100 * (caged.cpu_s() - before_s) / IDLE_S / limits.share}


def _waiting(process: RelayProcess, envelopes: list[bytes]) -> dict[str, float]:
    """How long others wait while the card is busy: a session that opens meanwhile needs the loop and no disk."""
    client = BareClient(process.port)
    times = []
    for some in (envelopes[at : at + LARGE // SESSIONS] for at in range(0, len(envelopes), LARGE // SESSIONS)):
        for envelope in some:
            client.session.put(envelope)
        client.flush()
        began = time.perf_counter()
        other = BareClient(process.port)
        times.append(time.perf_counter() - began)
        other.close()
    client.close()
    return {"session_busy_ms": 1000 * statistics.median(times), "session_busy_worst_ms": 1000 * max(times)}


def _processes(folder: Path, caged: Cage) -> dict[str, float]:
    """All processes of a relay at once, as at a board's start; the others as far as they get without a radio."""
    began = time.perf_counter()
    others = [
        subprocess.Popen(
            caged.command(sys.executable, "-c", f"import relay.cli, {module}"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for module in OTHERS
    ]
    try:
        with relay(folder, http=True, discovery=True, command=caged.command):
            loaded = sum(other.wait(PROCESSES_S) == 0 for other in others)
            took_s = time.perf_counter() - began
    finally:
        for other in others:
            other.kill()
            other.wait()
    # Bluetooth's libraries are the system's: where they are missing it is not counted, and that is said.
    return {"processes_s": took_s, "processes_cpu_s": caged.cpu_s(), "processes_counted": 1 + loaded}


def yardsticks() -> dict[str, float]:
    """Return what this process does by itself: MB/s of SHA-256 and ChaCha20-Poly1305 in 1 KiB, million turns/s."""
    kib = bytes(1024)
    cipher = CipherState(bytes(32))
    rounds = YARDSTICK_BYTES // len(kib)
    began = time.process_time()
    for _ in range(rounds):
        hashlib.sha256(kib).digest()
    hashed = time.process_time()
    for _ in range(rounds):
        cipher.encrypt(kib)
    encrypted = time.process_time()
    for _ in range(YARDSTICK_TURNS):
        pass
    turned = time.process_time()
    return {
        "sha256_mb_per_s": YARDSTICK_BYTES / (hashed - began) / 1e6,
        "chacha_mb_per_s": YARDSTICK_BYTES / (encrypted - hashed) / 1e6,
        "python_mturns_per_s": YARDSTICK_TURNS / (turned - encrypted) / 1e6,
    }


def _verdict(name: str, value: float) -> str:
    goal = GOALS.get(name)
    if goal is None:
        return ""
    is_rate = name.endswith("_per_s")
    is_reached = value >= goal if is_rate else value <= goal
    return f"goal: {'at least' if is_rate else 'at most'} {goal:,g}{'' if is_reached else ', MISSED'}"


def _show(title: str, found: dict[str, float], *, has_goals: bool) -> None:
    print(f"\n{title}")
    for name, value in found.items():
        print(f"  {name:<24} {value:>12,.2f}  {_verdict(name, value) if has_goals else ''}".rstrip(), flush=True)


@contextlib.contextmanager
def _place(folder: Path, kind: str) -> Iterator[tuple[Path, SlowDevice | None]]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        if kind == "card":
            with slow_card(Path(place)) as card:
                yield card
        else:
            yield Path(place), None


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.board", description=__doc__)
    parser.add_argument("shares", nargs="*", choices=[*SHARES, []], help="how much of a core; both by default")
    parser.add_argument("--disk", choices=["fast", "card"], action="append", help="where the store is; both by default")
    # Not /tmp, which is memory on many machines: syncs there cost nothing.
    parser.add_argument(
        "--folder", type=Path, default=Path.home() / ".cache/mesh-relay", help="a folder on a real disk"
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench-board.json"))
    arguments = parser.parse_args()
    # So that groups and mounts go, too, when somebody ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, load {load:.1f}")
    bare = yardsticks()
    _show("this machine by itself, on one core", bare, has_goals=False)
    figures: dict[str, dict[str, float]] = {"machine": bare | {"load": load}}
    try:
        for disk in arguments.disk or ["fast", "card"]:
            for share in arguments.shares or SHARES:
                with _place(arguments.folder, disk) as (place, slow):
                    found = measure(place, share, slow)
                _show(f"a {share} of a core, {disk}", found, has_goals=(share, disk) == ("tenth", "fast"))
                figures[f"{share}_{disk}"] = found
    except CgroupError as error:
        raise SystemExit(str(error)) from error
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
