"""`python -m bench.epochs [--short]`: the way from genesis to the tip over many epochs, and the state tree.

Epochs: a proof file over 1,000 changes of the set, in which one validator in turn is replaced, checked from
genesis alone. Tree: what one changed key costs at 1,000 and at 100,000 keys, by how many change at once.
Times are of the processor, so that whatever else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from bench.common import machine, save, show
from ledger.blocks import Header
from ledger.codec import encode, sha256
from ledger.genesis import Genesis, GenesisValidator
from ledger.keys import Key
from ledger.proofs import tree
from ledger.proofs.certificate import (
    VOTE_DOMAIN,
    Certificate,
    Ed25519Scheme,
    Statement,
    Validator,
    ValidatorSet,
    VoteKind,
    vote_message,
)
from ledger.proofs.light import EpochProof, FinalityProof, QueryProof
from ledger.proofs.proof_file import make_proof_file, verify_proof_file

CHAIN = "bench"
BEGIN_MS = 1_790_000_000_000
KEYS = (1_000, 100_000)
CHANGED = (1, 10, 100, 1_000)


def key_of(number: int) -> Key:
    """A validator's key that its number alone decides."""
    return Key(sha256(b"bench validator %d" % number))


def certified(header: Header, members: ValidatorSet) -> FinalityProof:
    """The header with a Final certificate by as few as are a quorum; all weigh the same."""
    statement = Statement(VoteKind.FINAL, header.epoch, header.view, header.hash)
    message = vote_message(statement)
    keys = [key_of(int(member.moniker)) for member in members.members[: members.quorum]]
    votes = {i: key.sign(VOTE_DOMAIN, CHAIN, message) for i, key in enumerate(keys)}
    certificate: Certificate = Ed25519Scheme().assemble(statement, votes, len(members.members))
    return FinalityProof(header.encode(), (), encode(certificate))


def header_at(members: ValidatorSet, following: bytes, root: bytes, parent: bytes) -> Header:
    """A header that ends, or is in, the epoch of `members`. An epoch is a day here."""
    height = 100 * (members.epoch + 1)
    return Header(
        chain_id=CHAIN,
        epoch=members.epoch,
        height=height,
        view=height,
        parent_view=height - 1,
        parent_hash=parent,
        time_ms=BEGIN_MS + members.epoch * 86_400_000,
        proposer=members.members[0].key,
        state_height=height - 2,
        state_root=root,
        validators=members.hash,
        next_validators=following,
        batches=(),
    )


def sets(size: int, epochs: int) -> Iterator[ValidatorSet]:
    """One for each epoch; each time the oldest validator makes room for a new one."""
    for epoch in range(epochs + 1):
        numbers = range(epoch, epoch + size)
        yield ValidatorSet(epoch, tuple(Validator(key_of(n).public, 1, str(n)) for n in numbers))


def ended(before: ValidatorSet, after: ValidatorSet) -> EpochProof:
    """An epoch whose last block the Final certificate names."""
    last = header_at(before, after.hash, bytes(32), bytes(32))
    parent = replace(
        last,
        next_validators=before.hash,
        height=last.height - 1,
        view=last.view - 1,
        parent_view=last.view - 2,
    )
    last = replace(last, parent_hash=parent.hash)
    return EpochProof(encode(after), parent.encode(), certified(last, before))


def walk(size: int, epochs: int) -> dict[str, Any]:
    """Bytes of a proof file over so many epochs, and the time to check it."""
    known = list(sets(size, epochs))
    genesis = Genesis(
        chain_id=CHAIN,
        time_ms=BEGIN_MS,
        validators=tuple(
            GenesisValidator(key=v.key.hex(), weight=1, moniker=v.moniker) for v in known[0].members
        ),
        accounts={},
    )
    state, nodes = grown(1_000)
    proofs = [ended(before, after) for before, after in pairwise(known)]
    tip = header_at(known[-1], known[-1].hash, tree.root_of(nodes.get), bytes(32))
    wanted = next(iter(state))
    query = QueryProof(wanted, state[wanted], tree.prove(nodes.get, wanted), certified(tip, known[-1]))
    data = make_proof_file(CHAIN, genesis.hash, proofs, query)
    times = []
    for _ in range(3):
        begin = time.process_time()
        fact = verify_proof_file(data, genesis, tip.time_ms)
        times.append(time.process_time() - begin)
        assert fact.value == state[wanted]
    return {
        "bytes": len(data),
        "bytes_an_epoch": round(sum(len(encode(proof)) for proof in proofs) / epochs),
        "signatures": sum(known[0].quorum for _ in range(epochs + 1)),
        "s": round(min(times), 3),
        "ms_an_epoch": round(1_000 * min(times) / epochs, 3),
    }


def grown(keys: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """A state of so many records of 100 bytes, and its tree's nodes by path."""
    state = {b"account/" + sha256(b"%d" % n): bytes(100) for n in range(keys)}
    _, found = tree.update(lambda path: None, state)
    return state, {path: record for path, record in found.items() if record is not None}


def tree_costs(keys: int, rounds: int) -> dict[str, Any]:
    """Microseconds, node records and bytes for each changed key, by how many change at once."""
    state, nodes = grown(keys)
    names, chance = list(state), random.Random(1)
    out: dict[str, Any] = {}
    for changed in (n for n in CHANGED if n <= keys):
        spent, records, size = [], 0, 0
        for number in range(rounds):
            changes: dict[bytes, bytes | None] = {
                key: b"%d" % number + bytes(96) for key in chance.sample(names, changed)
            }
            begin = time.process_time()
            _, found = tree.update(nodes.get, changes)
            spent.append(time.process_time() - begin)
            records += len(found)
            size += sum(len(path) + len(record or b"") for path, record in found.items())
            nodes.update((path, record) for path, record in found.items() if record is not None)
        total = changed * rounds
        out[str(changed)] = {
            "us_a_key": round(1e6 * sum(spent) / total, 1),
            "nodes_a_key": round(records / total, 1),
            "bytes_a_key": round(size / total),
        }
    proof = tree.prove(nodes.get, names[0])
    out["proof_bytes"] = len(encode(proof))
    return out


def main() -> int:
    """0 when all was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.epochs")
    parser.add_argument("--short", action="store_true", help="a quick look; nothing is written")
    short = parser.parse_args().short
    shape = machine()
    epochs = 50 if short else 1_000
    walks = {str(size): walk(size, epochs) for size in (4, 16)}
    trees = {str(keys): tree_costs(keys, 3 if short else 20) for keys in (KEYS[:1] if short else KEYS)}
    rows = []
    for size, found in walks.items():
        text = f"{found['s']} s CPU, {found['bytes'] / 1e6:.2f} MB"
        rows.append((f"genesis to tip, {epochs} epochs of {size} validators", text))
        rows.append(("    an epoch", f"{found['ms_an_epoch']} ms, {found['bytes_an_epoch']} bytes"))
    for keys, costs in trees.items():
        for changed in CHANGED:
            cost = costs.get(str(changed))
            if cost is not None:
                text = f"{cost['us_a_key']} µs, {cost['nodes_a_key']} nodes, {cost['bytes_a_key']} bytes"
                rows.append((f"tree of {keys} keys, {changed} changed at once: a key", text))
        rows.append(("    a proof of one key", f"{costs['proof_bytes']} bytes"))
    show("epochs and state tree, one core", rows)
    if not short:
        figures = {"epochs": epochs, "walk_by_validators": walks, "tree_by_keys": trees}
        print(f"written: {save('epochs', 'python -m bench.epochs', shape, figures).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
