"""A small real chain for tests: four validators with weights, headers, batches, Final certificates.

`SmallChain` grows blocks over any Store: with raw state changes (`grow`), or through the machine
with signed transactions (`submit`). It ends an epoch as consensus would (docs/adr/0018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from ledger.blocks import Batch, Header, batch_digest, decode_header, validators_hash
from ledger.codec import encode, sha256
from ledger.epochs import current, is_ending, sign_change
from ledger.genesis import GenesisValidator, genesis_state
from ledger.keys import Key
from ledger.machine import execute
from ledger.outcome import BlockResult, Event, Receipt
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
from ledger.proofs.light import Trust
from ledger.records import KEY_NEXT_VALIDATORS
from ledger.storage.store import Store
from ledger.storage.stored import CommitData, TxEntry
from ledger.storage.subjects import commit_data
from ledger.transactions import ChangeValidators, CheckedTx, decode_tx
from tests.ledger.world import World, key_of

CHAIN_ID = "test-chain"
MORE_KEYS = tuple(Key(sha256(b"validator %d" % n)) for n in range(20))
VALIDATOR_KEYS = MORE_KEYS[:4]
KEY_OF = {key.public: key for key in MORE_KEYS}
VALIDATORS = ValidatorSet(0, tuple(Validator(k.public, 1, f"v{n}") for n, k in enumerate(VALIDATOR_KEYS)))
GENESIS_HASH = sha256(b"test genesis")
GENESIS_STATE = {b"account/" + bytes([n]): b"%d" % (1000 * n) for n in range(20)}
START_MS = 1_700_000_000_000


def certify(
    kind: VoteKind,
    header: Header,
    signers: Sequence[int] = (0, 1, 2),
    chain_id: str = CHAIN_ID,
    members: ValidatorSet = VALIDATORS,
) -> Certificate:
    """A certificate by some of the validators for a header."""
    statement = Statement(kind, header.epoch, header.view, header.hash)
    message = vote_message(statement)
    votes = {i: KEY_OF[members.members[i].key].sign(VOTE_DOMAIN, chain_id, message) for i in signers}
    return Ed25519Scheme().assemble(statement, votes, len(members.members))


def enough(members: ValidatorSet) -> range:
    """As few of the members, from the first on, as are a BFT quorum."""
    count = next(n for n in range(len(members.members) + 1) if members.reached(range(n)))
    return range(count)


def trust() -> Trust:
    """What a reader of the genesis file knows."""
    return Trust(CHAIN_ID, VALIDATORS)


class SmallChain:
    """Grows a chain over a store. `lag`: how many heights behind its parent a header's state is. `validators`
    sign the next block; `tail`: how many empty blocks stand above an epoch's last one."""

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
        self.validators = VALIDATORS
        self.tail = 0
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
            epoch=self.validators.epoch,
            height=height,
            view=tip.view + 1,
            parent_view=tip.view,
            parent_hash=tip.hash,
            time_ms=tip.time_ms + step_ms,
            proposer=self.validators.members[height % len(self.validators.members)].key,
            state_height=state_height,
            state_root=root,
            validators=self.validators.hash,
            next_validators=self._pending(state_height) or self.validators.hash,
            batches=tuple(batch_digest(b) for b in batches),
        )

    def submit(
        self, txs: Sequence[bytes], step_ms: int = 1_000, *, certified: bool = True, outage: bool = False
    ) -> BlockResult:
        """Commit one block that executes these signed transactions through the real machine. As if blocks had
        come meanwhile: a long step is no outage, unless told."""
        batches = (encode(Batch(tuple(txs))),) if txs else ()
        header = self.header(batches, step_ms)
        checked = [decode_tx(tx, self.store.chain_id) for tx in txs]
        parent_ms = self.store.tip.time_ms if outage else header.time_ms
        result = execute(self.store.state, header, checked, parent_ms)
        path, certificate = self.finality(header) if certified else ((), None)
        self._commit(commit_data(header, batches, certificate, checked, result, path))
        return result

    def finality(self, header: Header) -> tuple[tuple[bytes, ...], bytes]:
        """The headers above an epoch's last block, and the Final certificate of the topmost."""
        path: tuple[bytes, ...] = ()
        if is_ending(header):
            for _ in range(self.tail):
                header = above(header)
                path = (*path, header.encode())
        members = self.validators
        found = certify(VoteKind.FINAL, header, enough(members), header.chain_id, members)
        return path, encode(found)

    def _pending(self, height: int) -> bytes | None:
        if self.store.state.get(KEY_NEXT_VALIDATORS) is None:
            return None
        data = self.store.at(height).get(KEY_NEXT_VALIDATORS)
        return None if data is None else validators_hash(data)

    def _commit(self, data: CommitData) -> None:
        self.store.commit(data)
        if is_ending(data.header):
            self.validators = current(self.store.state)

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
        path, certificate = self.finality(header) if certified else ((), None)
        data = CommitData(header, batches, certificate, entries, receipts, events, changes, path)
        self._commit(data)
        return header


def above(header: Header) -> Header:
    """An empty child of a header."""
    return replace(
        header,
        height=header.height + 1,
        view=header.view + 1,
        parent_view=header.view,
        parent_hash=header.hash,
        batches=(),
    )


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

    def run(self, *txs: CheckedTx, step_ms: int = 1_000, outage: bool = False) -> BlockResult:
        """Execute one block and commit it, certified."""
        result = self.chain.submit([tx.raw for tx in txs], step_ms, outage=outage)
        self.height, self.now_ms = self.store.tip.height, self.store.tip.time_ms
        self.events.extend(result.events)
        return result

    def live_entries(self) -> dict[bytes, bytes]:
        """The state without the replay guard."""
        return {k: v for k, v in self.state.scan(b"") if not k.startswith(b"seen/")}

    # --- epochs ----------------------------------------------------------------------------------

    @property
    def validators(self) -> ValidatorSet:
        """The set in force."""
        return self.chain.validators

    def change(self, members: Sequence[Validator], signers: Sequence[int] | None = None) -> ChangeValidators:
        """A change to these members, signed by a quorum of the current ones (or by `signers`)."""
        now = self.validators
        next_ = encode(ValidatorSet(now.epoch + 1, tuple(members)))
        by = enough(now) if signers is None else signers
        chain_id = self.store.chain_id
        until_ms = self.store.tip.time_ms + 3_600_000
        signers = ((i, KEY_OF[now.members[i].key]) for i in by)
        signatures = tuple((i, sign_change(key, chain_id, next_, until_ms)) for i, key in signers)
        return ChangeValidators(next_, until_ms, signatures)

    def turn(self, members: Sequence[Validator], tail: int = 0) -> Header:
        """Change the set and grow until the epoch has ended. Returns its last block's header."""
        epoch, self.chain.tail = self.validators.epoch, tail
        result = self.run(self.tx(key_of("anybody"), self.change(members)))
        assert result.receipts[0].ok, result.receipts[0]
        while self.validators.epoch == epoch:
            self.run()
        data = self.store.header(self.store.tip.height)
        assert data is not None
        return decode_header(data)


def member(number: int, weight: int = 1) -> Validator:
    """A validator whose key is here."""
    return Validator(MORE_KEYS[number].public, weight, f"v{number}")
