"""A small real chain for tests: four validators with weights, headers, batches, Final certificates.

`SmallChain` grows blocks over any Store: with raw state changes (`grow`), or through the machine
with signed transactions (`submit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from ledger.blocks import Batch, Header, batch_digest
from ledger.certificate import (
    VOTE_DOMAIN,
    Certificate,
    Ed25519Scheme,
    Statement,
    Validator,
    ValidatorSet,
    VoteKind,
    vote_message,
)
from ledger.codec import encode, sha256
from ledger.genesis import GenesisValidator, genesis_state
from ledger.keys import Key
from ledger.light import Trust
from ledger.machine import execute
from ledger.outcome import BlockResult, Event, Receipt
from ledger.store import Store
from ledger.stored import CommitData, TxEntry
from ledger.subjects import commit_data
from ledger.transactions import CheckedTx, decode_tx
from tests.ledger.world import World

CHAIN_ID = "test-chain"
VALIDATOR_KEYS = tuple(Key(sha256(b"validator %d" % n)) for n in range(4))
VALIDATORS = ValidatorSet(0, tuple(Validator(k.public, 1, f"v{n}") for n, k in enumerate(VALIDATOR_KEYS)))
GENESIS_HASH = sha256(b"test genesis")
GENESIS_STATE = {b"account/" + bytes([n]): b"%d" % (1000 * n) for n in range(20)}
START_MS = 1_700_000_000_000


def certify(
    kind: VoteKind, header: Header, signers: Sequence[int] = (0, 1, 2), chain_id: str = CHAIN_ID
) -> Certificate:
    """A certificate by some of the validators for a header."""
    statement = Statement(kind, header.epoch, header.view, header.hash)
    message = vote_message(statement)
    votes = {i: VALIDATOR_KEYS[i].sign(VOTE_DOMAIN, chain_id, message) for i in signers}
    return Ed25519Scheme().assemble(statement, votes, len(VALIDATOR_KEYS))


def trust() -> Trust:
    """What a reader of the genesis file knows."""
    return Trust(CHAIN_ID, VALIDATORS)


class SmallChain:
    """Grows a chain over a store. `lag`: how many heights behind its parent a header's state is."""

    def __init__(
        self,
        store: Store,
        genesis_hash: bytes = GENESIS_HASH,
        genesis_state: Mapping[bytes, bytes] = GENESIS_STATE,
        lag: int = 1,
        time_ms: int = START_MS,
    ) -> None:
        self.store = store
        self.lag = lag
        self.time_ms = time_ms
        if store.is_empty:
            store.begin(genesis_hash, genesis_state, time_ms)

    def header(self, batches: tuple[bytes, ...] = (), step_ms: int = 1_000) -> Header:
        """The next header over these encoded batches."""
        tip = self.store.tip
        height = tip.height + 1
        state_height = max(0, tip.height - self.lag)
        root = self.store.root(state_height)
        assert root is not None
        return Header(
            chain_id=self.store.chain_id,
            epoch=0,
            height=height,
            view=tip.view + 1,
            parent_view=tip.view,
            parent_hash=tip.hash,
            time_ms=tip.time_ms + step_ms,
            proposer=VALIDATOR_KEYS[height % 4].public,
            state_height=state_height,
            state_root=root,
            validators=VALIDATORS.hash,
            next_validators=VALIDATORS.hash,
            batches=tuple(batch_digest(b) for b in batches),
        )

    def submit(self, txs: Sequence[bytes], step_ms: int = 1_000, *, certified: bool = True) -> BlockResult:
        """Commit one block that executes these signed transactions through the real machine."""
        batches = (encode(Batch(tuple(txs))),) if txs else ()
        header = self.header(batches, step_ms)
        checked = [decode_tx(tx, self.store.chain_id) for tx in txs]
        result = execute(self.store.state, header, checked)
        certificate = encode(certify(VoteKind.FINAL, header, chain_id=header.chain_id)) if certified else None
        self.store.commit(commit_data(header, batches, certificate, checked, result))
        return result

    def grow(
        self,
        changes: Mapping[bytes, bytes | None],
        txs: Sequence[bytes] = (),
        *,
        certified: bool = True,
        about: tuple[bytes, ...] = (),
        events: tuple[Event, ...] = (),
    ) -> Header:
        """Commit one block with these raw changes; `txs` are opaque bytes, their ids sha256."""
        batches = (encode(Batch(tuple(txs))),) if txs else ()
        header = self.header(batches)
        entries = tuple(TxEntry(sha256(tx), 0, n, about) for n, tx in enumerate(txs))
        receipts = tuple(Receipt(entry.id, True, "", "", ()) for entry in entries)
        certificate = encode(certify(VoteKind.FINAL, header, chain_id=header.chain_id)) if certified else None
        self.store.commit(CommitData(header, batches, certificate, entries, receipts, events, changes))
        return header


class ChainWorld(World):
    """The world of the machine's tests, on a certified chain in a real store."""

    def __init__(self, store: Store | None = None) -> None:
        super().__init__()
        validators = tuple(
            GenesisValidator(key=v.key.hex(), weight=v.weight, moniker=v.moniker) for v in VALIDATORS.members
        )
        self.genesis = replace(self.genesis, validators=validators)
        self.store = store or Store.memory(self.genesis.chain_id)
        self.chain = SmallChain(
            self.store, self.genesis.hash, genesis_state(self.genesis), time_ms=self.genesis.time_ms
        )
        self.state = self.store.state  # type: ignore[assignment]

    def run(self, *txs: CheckedTx, step_ms: int = 1_000) -> BlockResult:
        """Execute one block and commit it, certified."""
        result = self.chain.submit([tx.raw for tx in txs], step_ms)
        self.height, self.now_ms = self.store.tip.height, self.store.tip.time_ms
        self.events.extend(result.events)
        return result
