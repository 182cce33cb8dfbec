# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.libp2p``: `relay libp2p` beside stock nodes; prints, and writes build/bench-libp2p.json.

In a network namespace of its own (`make bench-libp2p`), where one interface has all of them. The stock nodes are those
of the tests, in Go; ratios are to the same between two of them, in turns, and of each the best of five counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.relays import BareClient, RelayProcess
from relay.core.envelope import SIZES, cid, envelope_id
from relay.libp2p.cid import parse_cid, raw
from relay.libp2p.multiaddr import TcpAddress
from tests.libp2p.peers import PeerError, ours, peer
from tests.netns.rawclient import make_envelopes
from tests.programs.test_berty import Member
from tests.waiting import until_true

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.libp2p.peers import Peer

INTERFACE, ADDRESS = "bench0", "10.9.0.1"
RUNS = 5
BLOCKS, BLOCK_BYTES = 1000, SIZES[2]
PEERS, TOPICS_EACH = 50, 20
#: Of one address the relay takes eight.
PEERS_OF_ADDRESS = 7
MESSAGES = 100
#: Imports are done, multicast DNS has announced, and garbage of the start is gone.
SETTLE_S = 20.0
PATIENCE_S = 120.0


class Beside:
    """A `relay run` and the `relay libp2p` beside it."""

    def __init__(self, folder: Path) -> None:
        self.relay = RelayProcess(folder)
        with self.relay.config.open("a") as config:
            config.write(f'[libp2p]\nenabled = true\nenvelopes = true\ninterfaces = ["{INTERFACE}"]\n')
        self.process = subprocess.Popen([sys.executable, "-m", "relay", "libp2p", "--config", str(self.relay.config)])

    def part(self) -> dict[str, Any]:
        """Return what the relay's status says of it."""
        parts = self.relay.status()["components"]
        return next((part for part in parts if part["name"] == "libp2p"), {})

    async def up(self) -> None:
        """Wait until it listens."""
        await until_true("relay libp2p works", lambda: self.part().get("state") == "up", PATIENCE_S)

    def pss_mib(self) -> float:
        """Return its proportional set size in MiB."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024

    def stop(self) -> None:
        """End both."""
        self.process.terminate()
        self.process.wait(10)
        self.relay.stop()


@contextlib.asynccontextmanager
async def beside(folder: Path) -> AsyncIterator[Beside]:
    """Run both for the length of a block."""
    made = Beside(folder)
    try:
        await made.up()
        yield made
    finally:
        made.stop()


async def measure_memory(folder: Path, _: Path) -> dict[str, float]:
    """Memory (PSS) of `relay libp2p` without anybody (limit: 40), and with 50 peers and 1,000 topics of Berty's."""
    async with beside(folder / "rest") as made, contextlib.AsyncExitStack() as stack:
        await asyncio.sleep(SETTLE_S)
        rest = made.pss_mib()
        members = []
        for number in range(PEERS):
            member = Member()
            stack.push_async_callback(member.close)
            local = f"127.0.1.{1 + number // PEERS_OF_ADDRESS}"
            await member.host.dial(TcpAddress(ADDRESS, 4271), local=local)
            for topic in range(TOPICS_EACH):
                member.router.subscribe(f"/orbitdb/bench/{number}/{topic}_wesh_group_messages")
            member.pubsub.flush()
            members.append(member)

        def is_met() -> bool:
            return all(member.router.subscribers(topic) for member in members for topic in member.router.topics)

        await until_true("the relay subscribes to all of it", is_met, PATIENCE_S)
        await asyncio.sleep(SETTLE_S)
        return {"libp2p_rest_pss_mib": rest, "libp2p_busy_pss_mib": made.pss_mib()}


async def _stock_gets(reader: Peer, cids: list[str]) -> float:
    # By its own clock: what it takes to be told which is not counted.
    got = await reader.ask("get_many", cids=cids, seconds=60)
    assert got["blocks"] == BLOCKS, got
    return BLOCKS / float(got["seconds"])


async def _stock_has(server: Peer) -> list[str]:
    cids: list[str] = (await server.ask("put_many", count=BLOCKS, bytes=BLOCK_BYTES))["cids"]
    return cids


async def _between_stock(folder: Path) -> float:
    async with peer(folder) as server, peer(folder) as reader:
        await reader.ask("connect", addr=(await server.ask("info"))["addrs"][0])
        return await _stock_gets(reader, await _stock_has(server))


async def _out(folder: Path) -> float:
    """A stock node gets blocks of our host."""
    async with ours() as us, peer(folder) as reader:
        await us.met(reader)
        blocks = [secrets.token_bytes(BLOCK_BYTES) for _ in range(BLOCKS)]
        us.blocks.blocks = {hashlib.sha256(block).digest(): block for block in blocks}
        return await _stock_gets(reader, [str(raw(digest)) for digest in us.blocks.blocks])


async def _in(folder: Path) -> float:
    """Our host gets blocks of a stock node."""
    async with ours() as us, peer(folder) as server:
        await us.met(server)
        cids = [parse_cid(text) for text in await _stock_has(server)]
        began = time.perf_counter()
        got = await asyncio.gather(*(us.bitswap.fetch(each, timeout_s=60) for each in cids))
        took_s = time.perf_counter() - began
        assert all(block is not None and len(block) == BLOCK_BYTES for block in got)
        return BLOCKS / took_s


async def _envelopes(cids: list[str], folder: Path) -> float:
    """A stock node gets envelopes of the store, by `relay libp2p`."""
    async with peer(folder, "-mdns", "-listen", f"/ip4/{ADDRESS}/tcp/0") as reader:
        await _met(reader)
        return await _stock_gets(reader, cids)


async def _met(node: Peer) -> float:
    """Wait until a node has found the relay by multicast DNS; when (seconds)."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for each in (await node.ask("peers"))["peers"]:
                with contextlib.suppress(PeerError):
                    if (await node.ask("identified", peer=each))["agent"] == "mesh-relay":
                        return time.perf_counter()
            await asyncio.sleep(0.02)


async def measure_blocks(folder: Path, peers: Path) -> dict[str, float]:
    """1,000 blocks of 4 KiB: of our host, to it, and envelopes by `relay libp2p`; as parts of stock boxo (goal 0.3)."""
    envelopes = make_envelopes(5, BLOCKS, BLOCK_BYTES)
    cids = [cid(envelope_id(envelope)) for envelope in envelopes]
    found: dict[str, list[float]] = {"stock": [], "out": [], "in": [], "envelopes": []}
    async with beside(folder / "blocks") as made:
        client = BareClient(made.relay.port)
        for envelope in envelopes:
            client.session.put(envelope)
            client.flush()
        await until_true("it holds them", lambda: made.relay.status()["store"]["envelopes"] == BLOCKS, PATIENCE_S)
        client.close()
        for _ in range(RUNS):
            found["stock"].append(await _between_stock(peers))
            found["out"].append(await _out(peers))
            found["in"].append(await _in(peers))
            found["envelopes"].append(await _envelopes(cids, peers))
    best = {name: max(rates) for name, rates in found.items()}
    return {
        "libp2p_stock_blocks_per_s": best["stock"],
        "libp2p_out_ratio": best["out"] / best["stock"],
        "libp2p_in_ratio": best["in"] / best["stock"],
        "libp2p_envelopes_ratio": best["envelopes"] / best["stock"],
    }


async def measure_backlog(folder: Path, peers: Path) -> dict[str, float]:
    """Somebody left 100 messages and went; from when another is connected and subscribes to when he has all."""
    options = ["-mdns", "-listen", f"/ip4/{ADDRESS}/tcp/0", "-group", "g", "-keep"]
    async with beside(folder / "backlog") as made:
        async with peer(peers, *options, folder / "of-ana") as ana:
            await _met(ana)
            for number in range(MESSAGES):
                await ana.ask("say", text=f"message {number}")

            def kept() -> int:
                count: int = made.part()["counters"].get("blocks_kept", 0)
                return count

            # Counted in steps of ten.
            await until_true("it keeps them", lambda: kept() >= MESSAGES, PATIENCE_S)
            for each in (await ana.ask("peers"))["peers"]:
                await ana.ask("give", peer=each)
        async with peer(peers, *options, folder / "of-ben") as ben:
            began = await _met(ben)
            for number in range(MESSAGES):
                await ben.event("text", text=f"message {number}", timeout_s=PATIENCE_S)
            return {"libp2p_backlog_s": time.perf_counter() - began}


PARTS = {"memory": measure_memory, "blocks": measure_blocks, "backlog": measure_backlog}


def main() -> None:
    """Measure the parts named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.libp2p", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all by default")
    parser.add_argument("--output", type=Path, default=Path("build/bench-libp2p.json"))
    arguments = parser.parse_args()
    peers = Path(os.environ["LIBP2P_PEERS"])
    for words in (
        f"link add {INTERFACE} type veth peer name {INTERFACE}-far",
        f"link set {INTERFACE}-far up",
        f"link set {INTERFACE} up",
        f"address add {ADDRESS}/24 dev {INTERFACE}",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    figures: dict[str, float] = {}
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory() as place:
            print(f"\n{name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
            found = asyncio.run(PARTS[name](Path(place), peers))
        for key, value in found.items():
            print(f"  {key:<28} {value:>14,.3f}", flush=True)
        figures.update(found)
    print(f"\nload {os.getloadavg()[0]:.1f}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
