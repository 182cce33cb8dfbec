# SPDX-License-Identifier: GPL-2.0-or-later
"""Coverage-guided fuzzing with atheris (libFuzzer): `python -m tests.fuzz --help`.

Committed inputs are in tests/fuzz/corpus and replayed by every test run; what a
run finds anew goes to build/fuzz, and with --merge the little of it that reaches
new code goes into the corpus.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
PROJECT = Path(__file__).parents[2]
BUILD = Path("build/fuzz")
#: An input that takes longer is a finding: the slowest takes milliseconds.
TIMEOUT_S = 10
MEMORY_MIB = 1024
#: Python, imports and instrumentation, before the first input of a target.
START_S = 1.5
#: Modules of the core whose branches --coverage lists.
DECODING = (
    *("codec", "envelope", "exchange", "frames", "messages", "node", "noise"),
    *("reconcile", "reconcile_wire", "riblt", "session"),
)
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000_000, help="inputs in all, at least")
    parser.add_argument("--seconds", type=float, help="instead: seconds in all, for a look in CI")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the first run's is the time")
    parser.add_argument("--merge", action="store_true", help="no fuzzing: add what is new in build/fuzz to the corpus")
    parser.add_argument("--coverage", action="store_true", help="no fuzzing: branches that the corpus reaches")
    arguments = parser.parse_args()
    if arguments.merge:
        return merge(arguments.targets)
    if arguments.coverage:
        return coverage()
    return fuzz(arguments)


def fuzz(arguments):
    names, began = arguments.targets, time.monotonic()
    print(f"seed {arguments.seed}, {arguments.jobs} at a time", flush=True)
    total = sum(TARGETS[name].weight for name in names)

    def limits(name):
        part = TARGETS[name].weight / total
        if arguments.seconds is None:
            return [f"-runs={int(arguments.inputs * part) + 1}"]
        return [f"-max_total_time={max(1, int(arguments.seconds * arguments.jobs / len(names) - START_S))}"]

    with ThreadPoolExecutor(arguments.jobs) as pool:
        # The longest first, so that the end is not one of them alone.
        order = sorted(names, key=lambda name: -TARGETS[name].weight)
        results = list(pool.map(lambda name: run(name, arguments.seed, limits(name)), order))
    executed = sum(count for count, _ in results)
    failed = [name for name, (_, code) in zip(order, results, strict=True) if code]
    print(f"{executed:,} inputs in {time.monotonic() - began:.0f} s")
    for name in failed:
        print(f"{name}: see build/fuzz/{name}.log; the input is build/fuzz/{name}-*")
    return 1 if failed else 0


def run(name, seed, limits, *, corpus=CORPUS, build=BUILD):
    """Fuzz one target; return how many inputs it got and libFuzzer's exit code."""
    found = build / name
    found.mkdir(parents=True, exist_ok=True)
    committed = corpus / name
    began = time.monotonic()
    log = build / f"{name}.log"
    with log.open("w+", encoding="utf-8", errors="replace") as output:
        code = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.child", name),
                *limits,
                f"-seed={seed & 0x7FFFFFFF}",
                f"-max_len={TARGETS[name].max_bytes if name in TARGETS else 64}",
                f"-timeout={TIMEOUT_S}",
                f"-rss_limit_mb={MEMORY_MIB}",
                f"-artifact_prefix={build / name}-",
                *("-print_final_stats=1", "-verbosity=1"),
                *map(str, (found, *([committed] if committed.is_dir() else []))),
            ],
            stdout=output,
            stderr=output,
            check=False,
        ).returncode
        output.seek(0)
        match = _EXECUTED.search(output.read())
    count = int(match[1]) if match else 0
    seconds = time.monotonic() - began
    print(f"{name:14} {count:>12,} inputs {seconds:7.0f} s {'' if not code else 'FAILED'}", flush=True)
    return count, code


def merge(names):
    """Keep of the corpus and of what was found the smallest inputs that reach each step from line to line."""
    for name in names:
        paths = [path for folder in (CORPUS / name, BUILD / name) for path in folder.glob("*")]
        chosen, reached = [], set()
        for data in sorted({path.read_bytes() for path in paths}, key=lambda data: (len(data), data)):
            new = steps(TARGETS[name].run, data) - reached
            if new:
                chosen.append(data)
                reached |= new
        shutil.rmtree(CORPUS / name, ignore_errors=True)
        (CORPUS / name).mkdir(parents=True)
        for data in chosen:
            (CORPUS / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        print(f"{name:14} {len(chosen):4} inputs {sum(map(len, chosen)):7} bytes", flush=True)
    return 0


def steps(run, data):
    """Pairs of lines of this project that follow each other while a target takes an input."""
    found = set()

    def trace(frame, event, _):
        if event == "call" and not frame.f_code.co_filename.startswith(str(PROJECT)):
            return None
        last = [0]

        def line(frame, event, _):
            if event == "line":
                found.add((frame.f_code, last[0], frame.f_lineno))
                last[0] = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return found


def coverage():
    """Replay the corpus under coverage.py; print branches by module."""
    python, data = sys.executable, BUILD / "coverage"
    BUILD.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *(python, "-m", "coverage", "run", "--branch", f"--data-file={data}", "--source=relay.core,relay.client"),
            *("-m", "tests.fuzz.replay"),
        ],
        check=True,
    )
    report = [python, "-m", "coverage", "report", f"--data-file={data}", "--show-missing", "--skip-empty"]
    files = [f"relay/core/{module}.py" for module in DECODING] + ["relay/client/card.py", "relay/client/pieces.py"]
    return subprocess.run([*report, f"--include={','.join(files)}"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
