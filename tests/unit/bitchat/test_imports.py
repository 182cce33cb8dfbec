# SPDX-License-Identifier: GPL-2.0-or-later
"""relay/bitchat/ does no I/O and knows no time or randomness of its own, as relay/core does not."""

from pathlib import Path

from tests.unit.core.test_imports import offences

BITCHAT = Path(__file__).parents[3] / "relay" / "bitchat"


def test_it_does_not_read_the_world():
    assert len(list(BITCHAT.rglob("*.py"))) > 10
    assert offences(BITCHAT) == []


def test_the_core_knows_nothing_of_bitchat():
    sources = (BITCHAT.parent / "core").rglob("*.py")
    assert [path.name for path in sources if "bitchat" in path.read_text(encoding="utf-8").partition('"""\n')[2]] == []


def test_the_mesh_s_time_reaches_no_other_clock():
    """Nothing here even knows the relay's clock: of its module an hour's seconds are used, and no more."""
    used = [
        f"{path.name}: {line.strip()}"
        for path in sorted(BITCHAT.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "core.clock" in line or "core import clock" in line
    ]
    assert used == ["couriers.py: from relay.core.clock import HOUR_S"]
