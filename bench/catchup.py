"""How fast a peer that is behind catches up by blocks: `python -m bench.catchup`.

A chain is made once; sources hand out its blocks from memory, so that what is measured is the peer that
follows: requests, proofs, execution, state tree, store. Prints a table and writes a result file.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from bench.common import machine, percentile, save, show
from ledger import transactions as t
from ledger.blocks import Batch, Header, batch_digest
from ledger.codec import decode, encode
from ledger.genesis import Genesis, GenesisValidator
from ledger.keys import Key
from ledger.proofs.certificate import VOTE_DOMAIN, Ed25519Scheme, Statement, VoteKind, vote_message
from ledger.storage.store import Store
from ledger.storage.stored import StoredBlock
from node.notary import Notary
from node.sync.follower import Follower
from node.wire import RangeRequest

CHAIN_ID = "bench"
VALIDATORS = [Key(f"bench validator {n}".encode().ljust(32, b".")) for n in range(4)]
SENDER = Key(b"bench sender".ljust(32, b"."))


def genesis() -> Genesis:
    """Four validators and one account."""
    members = tuple(
        GenesisValidator(key=key.public.hex(), weight=1, moniker=f"v{n}") for n, key in enumerate(VALIDATORS)
    )
    return Genesis(
        chain_id=CHAIN_ID,
        time_ms=1_700_000_000_000,
        validators=members,
        accounts={SENDER.public.hex(): 10**12},
    )


def make_chain(blocks: int, txs: int) -> list[StoredBlock]:
    """`blocks` certified blocks of `txs` transfers each, to ever new accounts."""
    notary = Notary.open(genesis(), Store.memory(CHAIN_ID), Ed25519Scheme())
    made: list[StoredBlock] = []
    for number in range(blocks):
        batches = (_batch(notary.store.tip.height, number, txs),) if txs else ()
        header = next_header(notary, batches)
        statement = Statement(VoteKind.FINAL, 0, header.view, header.hash)
        message = vote_message(statement)
        votes = {i: VALIDATORS[i].sign(VOTE_DOMAIN, CHAIN_ID, message) for i in range(3)}
        certificate = Ed25519Scheme().assemble(statement, votes, 4)
        notary.commit(header, certificate, batches, {})
        made.append(StoredBlock(header.encode(), batches, encode(certificate)))
    return made


def _batch(height: int, number: int, txs: int) -> bytes:
    raws = []
    for index in range(txs):
        salt = (number * txs + index).to_bytes(8, "big")
        to = salt.rjust(32, b"a")
        tx = t.Tx(CHAIN_ID, SENDER.public, height + 500, salt, t.Transfer(to, 1))
        raws.append(t.sign_tx(SENDER, tx))
    return encode(Batch(tuple(raws)))


def next_header(notary: Notary, batches: Sequence[bytes]) -> Header:
    """A child of the tip that names these batches."""
    tip = notary.store.tip
    state_height = max(0, tip.height - 1)
    root = notary.store.root(state_height)
    assert root is not None
    return Header(
        chain_id=CHAIN_ID,
        epoch=0,
        height=tip.height + 1,
        view=tip.view + 1,
        parent_view=tip.view,
        parent_hash=tip.hash,
        time_ms=tip.time_ms + 1,
        proposer=VALIDATORS[0].public,
        state_height=state_height,
        state_root=root,
        validators=notary.validators.hash,
        next_validators=notary.validators.hash,
        batches=tuple(map(batch_digest, batches)),
    )


@dataclass
class Sources:
    """A network whose neighbours all hold the chain and answer after `delay_s`; some never do."""

    blocks: list[StoredBlock]
    delay_s: float
    stalled: frozenset[str] = frozenset()
    peer_id: str = "me"
    asked: dict[str, int] = field(default_factory=dict)

    async def request(self, peer_id: str, method: str, body: bytes, timeout_s: float) -> bytes:
        """The next blocks that fit, whole."""
        assert method == "blocks"
        self.asked[peer_id] = self.asked.get(peer_id, 0) + 1
        if peer_id in self.stalled:
            await trio.sleep(timeout_s)
            from p2p.errors import RequestTimeout

            raise RequestTimeout("no answer")
        await trio.sleep(self.delay_s)
        request = decode(RangeRequest, body)
        left, last = request.size_bytes_max, request.first - 1
        count_max = getattr(request, "blocks_max", 0) or len(self.blocks)
        while last < min(len(self.blocks), request.first - 1 + count_max):
            block = self.blocks[last]
            left -= len(block.header) + len(block.certificate) + sum(map(len, block.batches)) + 16
            if left < 0:
                break
            last += 1
        return encode(tuple(self.blocks[request.first - 1 : last]))

    def penalise(self, peer_id: str, rule: str, points: int) -> None:
        """Never here."""
        raise AssertionError(f"{peer_id} {rule} {points}")


async def catch_up(notary: Notary, sources: Sources, names: Sequence[str]) -> dict[str, float]:
    """Follow from genesis to the end. Returns seconds and the longest hold of the event loop in ms."""
    done = trio.Event()
    height = len(sources.blocks)
    follower = Follower(notary, sources, False, lambda header, certificate: None, {})  # type: ignore[arg-type]

    def committed(result: object) -> None:
        follower.committed()
        if notary.store.tip.height >= height:
            done.set()

    notary.on_commit.append(committed)
    holds: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, holds)
        for name in names:
            follower.came(name, height)
        begin = time.perf_counter()
        nursery.start_soon(follower.run)
        await done.wait()
        took_s = time.perf_counter() - begin
        nursery.cancel_scope.cancel()
    return {
        "seconds": took_s,
        "hold_p99_ms": percentile(holds, 0.99) * 1000,
        "hold_max_ms": max(holds) * 1000,
    }


async def _watch(holds: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await trio.lowlevel.checkpoint()
        holds.append(time.perf_counter() - begin)
        await trio.sleep(0.001)


def measure(
    blocks: list[StoredBlock], *, disk: bool, sources: int, delay_s: float, stalled: int = 0
) -> dict[str, Any]:
    """One run. Returns its figures."""
    names = [f"peer{n}" for n in range(sources)]
    network = Sources(blocks, delay_s, frozenset(names[:stalled]))
    with tempfile.TemporaryDirectory() as folder:
        made = genesis()
        store = Store.open(Path(folder) / "store", CHAIN_ID, made.hash) if disk else Store.memory(CHAIN_ID)
        try:
            notary = Notary.open(made, store, Ed25519Scheme())
            cpu = time.process_time()
            found = trio.run(functools.partial(catch_up, notary, network, names))
            cpu = time.process_time() - cpu
        finally:
            store.close()
    return {
        "blocks_per_s": round(len(blocks) / found["seconds"]),
        "cpu_us_per_block": round(cpu * 1e6 / len(blocks)),
        "hold_p99_ms": round(found["hold_p99_ms"], 1),
        "hold_max_ms": round(found["hold_max_ms"], 1),
        "requests": network.asked,
    }


CASES: dict[str, dict[str, Any]] = {
    "memory, 1 source": {"disk": False, "sources": 1, "delay_s": 0.0},
    "memory, 4 sources, 20 ms away": {"disk": False, "sources": 4, "delay_s": 0.02},
    "disk, 1 source": {"disk": True, "sources": 1, "delay_s": 0.0},
    "disk, 4 sources, 20 ms away": {"disk": True, "sources": 4, "delay_s": 0.02},
    "disk, 4 sources, 1 stalls": {"disk": True, "sources": 4, "delay_s": 0.02, "stalled": 1},
}


def main() -> None:
    """Print and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.catchup", description=__doc__)
    parser.add_argument("--blocks", type=int, default=4000)
    parser.add_argument("--txs", type=int, default=1, help="in each block")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--label", default="", help="part of the result file's name")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    shape = machine()
    blocks = make_chain(options.blocks, options.txs)
    figures: dict[str, Any] = {"blocks": options.blocks, "txs_per_block": options.txs}
    rows = []
    for name, case in CASES.items():
        if options.only not in name:
            continue
        runs = [measure(blocks, **case) for _ in range(options.rounds)]
        best = max(runs, key=lambda run: run["blocks_per_s"])
        figures[name] = {"best": best, "blocks_per_s": [run["blocks_per_s"] for run in runs]}
        rows.append((name, f"{best['blocks_per_s']} blocks/s, {best['cpu_us_per_block']} us of CPU a block"))
    show(f"catch-up by blocks, {options.txs} transactions each", rows)
    label = f"catchup-{options.label}" if options.label else "catchup"
    print(save(label, f"python -m bench.catchup --txs {options.txs}", shape, figures))


if __name__ == "__main__":
    main()
