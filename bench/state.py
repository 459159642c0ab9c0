"""How long it takes to hand a whole state to a peer that has none: `python -m bench.state`.

One store holds a state of many records; another peer, at genesis, takes it in chunks from four sources (the
same server, called directly) into LevelDB, and installs it. Prints a table and writes a result file.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from bench.catchup import CHAIN_ID, VALIDATORS, genesis, next_header
from bench.common import machine, save, show
from ledger.codec import encode
from ledger.errors import Refused
from ledger.proofs.certificate import VOTE_DOMAIN, Ed25519Scheme, Statement, VoteKind, vote_message
from ledger.storage.store import Store
from ledger.storage.stored import CommitData
from node.notary import Notary
from node.sync.follower import Follower
from node.sync.ranges import answer_range
from node.sync.snapshots import Snapshots
from node.sync.state_sync import StateSync
from p2p.errors import Refused as RequestRefused

EVERY = 4  # blocks between states on offer
RECORD_BYTES = 120


def fill(notary: Notary, snapshots: Snapshots, records: int) -> None:
    """Blocks that write so many records, and a few more so that a header names that state."""
    per_block = -(-records // (2 * EVERY))
    for block in range(3 * EVERY):
        first = block * per_block
        names = range(first, min(records, first + per_block))
        changes = {b"account/" + n.to_bytes(32, "big"): n.to_bytes(RECORD_BYTES, "big") for n in names}
        header = next_header(notary, ())
        statement = Statement(VoteKind.FINAL, 0, header.view, header.hash)
        votes = {i: VALIDATORS[i].sign(VOTE_DOMAIN, CHAIN_ID, vote_message(statement)) for i in range(3)}
        certificate = encode(Ed25519Scheme().assemble(statement, votes, 4))
        notary.store.commit(CommitData(header, (), certificate, (), (), (), changes))
        snapshots.take(header)


@dataclass
class Sources:
    """A network of neighbours that are all one server."""

    server: Notary
    snapshots: Snapshots
    peer_id: str = "me"
    sent_bytes: int = 0
    answers: dict[str, int] = field(default_factory=dict)

    async def request(self, peer_id: str, method: str, body: bytes, timeout_s: float) -> bytes:
        """As node.handlers answers."""
        self.answers[method] = self.answers.get(method, 0) + 1
        try:
            if method == "blocks":
                data = answer_range(self.server.store, body)
            else:
                data = await self.snapshots.methods()[method](peer_id, body)
        except Refused as error:
            raise RequestRefused(f"{error.rule}: {error.detail}") from None
        self.sent_bytes += len(data)
        return data

    def penalise(self, peer_id: str, rule: str, points: int) -> None:
        """Never here."""
        raise AssertionError(f"{peer_id} {rule} {points}")


async def fetch(sources: Sources, client: Notary) -> dict[str, float]:
    """From the first question to the installed state. Returns seconds."""
    follower = Follower(client, sources, False, lambda header, certificate: None, {})  # type: ignore[arg-type]
    sync = StateSync(client, sources, follower, Snapshots(client.store), lambda: None)  # type: ignore[arg-type]
    for name in "abcd":
        follower.came(name, sources.server.store.tip.height)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sources.snapshots.run)
        begin, cpu = time.perf_counter(), time.process_time()
        assert await sync.attempt(0)
        took_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        nursery.cancel_scope.cancel()
    return {"seconds": took_s, "cpu_seconds": cpu_s}


def measure(records: int) -> dict[str, Any]:
    """One state. Returns its figures."""
    made = genesis()
    with tempfile.TemporaryDirectory() as folder:
        server = Notary.open(made, Store.open(Path(folder) / "server", CHAIN_ID, made.hash), Ed25519Scheme())
        snapshots = Snapshots(server.store, Path(folder), every_blocks=EVERY)
        fill(server, snapshots, records)
        client = Notary.open(made, Store.open(Path(folder) / "client", CHAIN_ID, made.hash), Ed25519Scheme())
        sources = Sources(server, snapshots)
        found = trio.run(functools.partial(fetch, sources, client))
        begin = time.perf_counter()
        client.store.close()
        Store.open(Path(folder) / "client", CHAIN_ID, made.hash).close()
        reopen_s = time.perf_counter() - begin
        server.store.close()
    return {
        "records": records,
        "mib": round(sources.sent_bytes / 2**20, 1),
        "chunk_requests": sources.answers["state/chunk"],
        "seconds": round(found["seconds"], 2),
        "cpu_seconds": round(found["cpu_seconds"], 2),
        "mib_per_s": round(sources.sent_bytes / 2**20 / found["seconds"], 1),
        "records_per_s": round(records / found["seconds"]),
        "reopen_seconds": round(reopen_s, 2),
    }


def main() -> None:
    """Print and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.state", description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    shape = machine()
    figures = {str(records): measure(records) for records in options.records}
    rows = [
        (
            f"{name} records",
            f"{f['mib']} MiB in {f['seconds']} s: {f['records_per_s']} records/s",
        )
        for name, f in figures.items()
    ]
    show("a whole state from four sources, server and client in one process", rows)
    print(save("state", "python -m bench.state", shape, figures))


if __name__ == "__main__":
    main()
