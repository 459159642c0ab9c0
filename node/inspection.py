"""What a stopped peer's stores hold, and whether it fits together. Writes nothing of ours; LevelDB itself
moves its log into a table when it opens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ledger import epochs
from ledger.blocks import Header, batch_digest, header_hash
from ledger.codec import decode
from ledger.errors import LocalError, Refused
from ledger.genesis import Genesis
from ledger.proofs.certificate import VoteKind, certificate_signers
from ledger.proofs.light import FINALITY_PATH_MAX, Trust, decode_certificate
from ledger.storage.chain import Chain
from ledger.storage.rollback import saved_window
from ledger.storage.store import FORMAT, KeyValue, Store
from node.home import Home
from node.notary import EPOCHS_READ
from node.voting.safety_store import SafetyStore

NAMES: Final = {
    b"b": "headers", b"h": "header index", b"B": "batches", b"c": "certificates", b"t": "transaction index",
    b"r": "receipts", b"e": "events", b"d": "deployment index", b"k": "kept for audits",
    b"u": "shared batches", b"E": "ended epochs", b"s": "state", b"n": "state tree", b"R": "recent roots",
}  # fmt: skip
CERTIFICATES_SHOWN: Final = 3
PROBLEMS_MAX: Final = 20  # more tell nothing new


class CertificateView(msgspec.Struct, frozen=True):
    """A Final certificate that is held."""

    height: int
    view: int
    signers: list[str]


class SignState(msgspec.Struct, frozen=True):
    """What the validator key promised. `floor`: votes up to that view were forgotten. Views; 0: none."""

    floor: int
    notar: int
    skip: int
    final: int


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `damage` is empty when all that was checked fits."""

    chain_id: str
    genesis: str
    format: int
    height: int
    block_hash: str
    state_root: str
    block_time_ms: int
    view: int
    first_height: int
    kept_blocks: int
    rollback_blocks: int
    sizes: dict[str, int]  # bytes, by namespace
    certificates: list[CertificateView]
    sign_state: SignState | None
    torn_logs: dict[str, int]  # by store: how often a power cut had torn its log, and it was cut
    epoch: int
    checked_from: int
    damage: list[str]


def inspect_home(home: Home, genesis: Genesis, validator: bytes | None, blocks: int) -> Inspection:
    """Look at a stopped home, check its last `blocks`. `validator`: its key, when it votes.

    Raises LocalError when the store cannot be read at all: in use, missing, foreign, or damaged.
    """
    kv = Store.open_raw(home.store_dir, genesis.chain_id, genesis.hash)
    try:
        chain = Chain(kv, genesis.chain_id)  # not to be closed: that would write
        torn = {"chain": kv.torn}
        sign_state, damage = _sign_state(home.data_dir / "sign_state", genesis.chain_id, validator, torn)
        tip = chain.tip
        first = max(chain.first_height, tip.height - blocks + 1)
        trust = Trust.of(genesis)
        damage += _take(check_epochs(chain, trust), PROBLEMS_MAX)
        damage += _take(check_blocks(chain, genesis, trust, first), PROBLEMS_MAX)
        return Inspection(
            chain_id=genesis.chain_id,
            genesis=genesis.hash.hex(),
            format=FORMAT,
            height=tip.height,
            block_hash=tip.hash.hex(),
            state_root=tip.root.hex(),
            block_time_ms=tip.time_ms,
            view=tip.view,
            first_height=chain.first_height,
            kept_blocks=len(chain.retention.kept(0, chain.first_height)),
            rollback_blocks=min(saved_window(kv), tip.height),
            sizes=_sizes(kv),
            certificates=_certificates(chain, trust),
            sign_state=sign_state,
            torn_logs=torn,
            epoch=trust.latest.epoch,
            checked_from=first,
            damage=damage,
        )
    finally:
        kv.close()


def check_epochs(chain: Chain, trust: Trust) -> Iterator[str]:
    """Walks `trust`, which begins at genesis, over all ended epochs, signatures included, and tells what does
    not fit: then what follows cannot be checked."""
    try:
        while found := chain.epochs.proofs(trust.latest.epoch, EPOCHS_READ):
            for proof in found:
                trust.advance(proof)
        if trust.latest != epochs.current(chain.state):
            yield f"the state's validator set is not that of epoch {trust.latest.epoch}"
    except (Refused, LocalError, msgspec.MsgspecError) as error:
        yield f"the end of epoch {trust.latest.epoch}: {error}"


def check_blocks(chain: Chain, genesis: Genesis, trust: Trust, first: int) -> Iterator[str]:
    """What does not fit in the blocks from `first` to the tip: chain of hashes, batches, receipts, indexes,
    roots, certificates."""
    tip = chain.tip
    parent = chain.header(first - 1)
    expected = genesis.hash if first == 1 else None if parent is None else header_hash(parent)
    for height in range(first, tip.height + 1):
        try:
            block = chain.block(height)
            if block is None:
                yield f"height {height}: no header"
                expected = None
                continue
            yield from _check_block(chain, trust, height, expected)
            expected = header_hash(block.header)
        except (LocalError, Refused, msgspec.MsgspecError) as error:
            yield f"height {height}: {error}"
            expected = None
    if tip.height >= first and expected is not None and expected != tip.hash:
        yield f"the tip {tip.hash.hex()} is not the block at height {tip.height}"


def _check_block(chain: Chain, trust: Trust, height: int, parent: bytes | None) -> Iterator[str]:
    block = chain.block(height)
    assert block is not None
    header, its_hash = decode(Header, block.header), header_hash(block.header)
    if header.height != height or header.chain_id != trust.chain_id:
        yield f"height {height}: the header of another block"
    if parent is not None and header.parent_hash != parent:
        yield f"height {height}: not the child of the block before it"
    if chain.height_of(its_hash) != height:
        yield f"height {height}: not in the index of headers"
    if tuple(map(batch_digest, block.batches)) != header.batches:
        yield f"height {height}: not the batches of the header"
    root = chain.root(header.state_height)
    if root is not None and root != header.state_root:
        yield f"height {height}: its state root is not ours of height {header.state_height}"
    for receipt in chain.receipts(height):
        found = chain.tx(receipt.id)
        if found is None or found.receipt.id != receipt.id:
            yield f"height {height}: transaction {receipt.id.hex()} is not in the index"
    finality = chain.finality(height)
    if finality is not None and block.certificate:
        trust.final(finality)
    elif finality is None and height < chain.tip.height - FINALITY_PATH_MAX:
        yield f"height {height}: nothing makes it final"


def _take(problems: Iterator[str], most: int) -> list[str]:
    found = []
    for problem in problems:
        found.append(problem)
        if len(found) == most:
            break
    return found


def _sizes(kv: KeyValue) -> dict[str, int]:
    return {name: kv.size_bytes(space) for space, name in NAMES.items()}


def _certificates(chain: Chain, trust: Trust) -> list[CertificateView]:
    found: list[CertificateView] = []
    for height in range(chain.tip.height, max(0, chain.tip.height - 64), -1):
        data = chain.certificate(height)
        if data is None or len(found) == CERTIFICATES_SHOWN:
            continue
        try:
            certificate = decode_certificate(data)
            members = trust.validators(certificate.statement.epoch).members
            signers = certificate_signers(certificate, len(members))
        except Refused:
            continue  # told as damage
        names = [members[index].moniker for index in signers]
        found.append(CertificateView(height, certificate.statement.view, names))
    return found


def _sign_state(
    path: Path, chain_id: str, validator: bytes | None, torn: dict[str, int]
) -> tuple[SignState | None, list[str]]:
    if validator is None:
        return None, []
    try:
        safety = SafetyStore.open(path, chain_id, validator, create=False)
    except LocalError as error:
        return None, [f"sign state: {error}"]
    try:
        torn["sign state"] = safety.torn
        highest = safety.highest()
        views = [highest.get(kind, 0) for kind in (VoteKind.NOTAR, VoteKind.SKIP, VoteKind.FINAL)]
        return SignState(safety.floor, *views), []
    finally:
        safety.close()
