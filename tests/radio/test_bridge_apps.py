# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that know nothing of relays, on the Ethernets of two: they find each other, and bytes go both ways."""

import hashlib
import random

import pytest

from tests.radio import bridged

#: Each way, both at once. The first of them is the promise of issue 3; the other one proves that batman-adv,
#: which splits and forwards by itself, gets every byte across as well.
BYTES = {"80211s_sae": 50_000_000, "batman_over_ibss": 10_000_000}
PIECE_BYTES = 1 << 20


def sha256(seed, size):
    source = random.Random(seed)
    digest = hashlib.sha256()
    for start in range(0, size, PIECE_BYTES):
        digest.update(source.randbytes(min(PIECE_BYTES, size - start)))
    return digest.hexdigest()


@pytest.mark.lasts(45)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", BYTES)
def test_two_programs_find_each_other_and_exchange_files_across_two_relays(open_stage, kind):
    size = BYTES[kind]
    with open_stage("bridge") as stage:
        bridged.bridge(stage, kind)
        machines = [stage.machines[name] for name in ("north", "south")]
        for seed, machine in enumerate(machines):
            bridged.start_offer(machine, seed, size)
        running = [bridged.start_fetch(machines[1 - seed], machine) for seed, machine in enumerate(machines)]
        for seed, process in enumerate(running):
            told = bridged.fetched(process)
            print(f"found in {told['found_s']:.1f} s, {told['bytes'] / told['seconds'] / 1e6:.1f} MB/s")
            assert told["bytes"] == size
            assert told["sha256"] == sha256(seed, size)
