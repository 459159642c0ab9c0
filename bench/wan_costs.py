"""What one validator's work costs on this machine, measured on the production code: the wide network's model
charges it. All in microseconds of one core, but for `sync_us`, which is time on the disk.

`python -m bench.wan_costs` prints them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.catchup import CHAIN_ID, genesis, make_chain
from consensus.messages import Vote, decode_message, encode_message
from ledger.codec import decode
from ledger.keys import Key, tagged, verify_raw
from ledger.proofs.certificate import (
    VOTE_DOMAIN,
    Certificate,
    Ed25519Scheme,
    Statement,
    VoteKind,
    vote_message,
)
from ledger.storage.store import KeyValue, Store
from node.notary import Notary

_ROUNDS = 5
_CALLS = 200


@dataclass(frozen=True, slots=True)
class Costs:
    """The defaults are of a quiet machine with 2 cores (bench/results, "wan"), so that short runs and tests
    need no measurement and repeat exactly.

    `message_us` is what the network layer and the kernel take for one message that travels alone, at each end
    (a batch of messages costs 8 to 17 us each: docs/performance-wan.md); `link_bps` the uplink of a machine.
    """

    sign_us: float = 25.0
    verify_us: float = 55.0
    codec_us: float = 5.0
    sync_us: float = 800.0
    commit_us: float = 1_000.0
    tx_us: float = 150.0
    submit_us: float = 1_500.0
    message_us: float = 150.0
    link_bps: float = 1e9


def measure() -> Costs:
    """Fresh figures of this machine; `message_us`, `submit_us` and the link stay as they are by default."""
    key = Key(b"bench costs".ljust(32, b"."))
    statement = Statement(VoteKind.NOTAR, 0, 1_000, bytes(32))
    message = vote_message(statement)
    signed = tagged(VOTE_DOMAIN, CHAIN_ID, message)
    vote = Vote(statement, 1, key.sign_raw(signed))
    data = encode_message(vote)
    with tempfile.TemporaryDirectory() as folder:
        sync_us = _sync_us(Path(folder))
        commit_us, tx_us = _commit_us(Path(folder))
    return Costs(
        sign_us=_each_us(lambda: key.sign(VOTE_DOMAIN, CHAIN_ID, message)),
        verify_us=_each_us(lambda: verify_raw(key.public, signed, vote.signature)),
        codec_us=_each_us(lambda: decode_message("bench", data)) + _each_us(lambda: encode_message(vote)),
        sync_us=sync_us,
        commit_us=commit_us,
        tx_us=tx_us,
    )


def _each_us(call: Callable[[], object]) -> float:
    """One call, the fastest of a few rounds: what else runs here does not count."""
    rounds = []
    for _ in range(_ROUNDS):
        begin = time.thread_time()
        for _ in range(_CALLS):
            call()
        rounds.append((time.thread_time() - begin) / _CALLS)
    return round(min(rounds) * 1e6, 1)


def _sync_us(folder: Path) -> float:
    """A vote's synced write, the median: a disk has no fastest round that one could count on."""
    kv, taken = KeyValue.open(folder / "sync", "bench"), []
    try:
        for number in range(100):
            begin = time.perf_counter()
            kv.write({b"v/%d" % number: bytes(300)})
            taken.append(time.perf_counter() - begin)
    finally:
        kv.close()
    return round(statistics.median(taken) * 1e6, 1)


def _commit_us(folder: Path) -> tuple[float, float]:
    """A block's synced commit without transactions, and what each transaction adds (checks included)."""
    empty, full, count = _commits_us(folder / "empty", 0), _commits_us(folder / "full", 20), 20
    return round(empty, 1), round(max(0.0, full - empty) / count, 1)


def _commits_us(folder: Path, txs: int) -> float:
    blocks = make_chain(40, txs)
    made = genesis()
    store = Store.open(folder, CHAIN_ID, made.hash)
    taken = []
    try:
        notary = Notary.open(made, store, Ed25519Scheme())
        for block in blocks:
            (covered,) = notary.check_range((block,), store.tip)
            begin = time.perf_counter()
            notary.commit(covered.header, decode(Certificate, block.certificate), block.batches, {})
            taken.append(time.perf_counter() - begin)
    finally:
        store.close()
    return statistics.median(taken) * 1e6


def main() -> None:
    """Print them."""
    for name, value in asdict(measure()).items():
        print(f"{name:12} {value}")


if __name__ == "__main__":
    main()
