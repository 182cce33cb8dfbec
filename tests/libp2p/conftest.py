# SPDX-License-Identifier: GPL-2.0-or-later
import os
import subprocess
from pathlib import Path

import pytest

from tests.netns.lab import Lab

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folder():
    """Where the stock nodes are; built at the first call, which takes minutes."""
    known = os.environ.get("LIBP2P_PEERS")
    return Path(known or subprocess.check_output([ROOT / ".ci" / "libp2p-peers"], text=True).strip())


#: The oldest that it was seen to run on, and what Debian 13 has.
HELIA_NODE = 20


@pytest.fixture(scope="session")
def helia():
    """Where a stock helia is; fetched at the first call."""
    # What Debian 12 has is 18, on which helia itself does not start.
    shown = subprocess.check_output(["node", "--version"], text=True)
    if int(shown.lstrip("v").partition(".")[0]) < HELIA_NODE:
        pytest.skip(f"helia needs Node {HELIA_NODE}, and this is {shown.strip()}")
    known = os.environ.get("HELIA")
    return Path(known or subprocess.check_output([ROOT / ".ci" / "helia"], text=True).strip())


@pytest.fixture
def lab():
    with Lab() as made:
        yield made
