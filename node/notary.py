"""The peer's copy of the notary: executes final blocks and commits each in one atomic write.

Both ways to a block end here: consensus (a validator) and range sync (everybody). Nothing is
executed that no Final certificate covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog

from ledger.blocks import Header, batch_digest, decode_batch, decode_header, header_hash
from ledger.codec import decode, encode
from ledger.epochs import is_ending
from ledger.errors import Refused
from ledger.genesis import Genesis, genesis_state
from ledger.machine import Context, execute
from ledger.outcome import BlockResult
from ledger.proofs.certificate import Certificate, Scheme, ValidatorSet, VoteKind
from ledger.proofs.light import FinalityProof, Trust, decode_certificate, verify_final
from ledger.storage.store import Store
from ledger.storage.stored import StoredBlock, Tip, TxEntry
from ledger.storage.subjects import commit_data
from ledger.transactions import VerifiedTx, decode_tx, verified
from node.errors import StateDiffers

log = structlog.get_logger("notary")

EPOCHS_READ: Final = 256  # proofs read at once at the start: some 10 MB with the largest sets


@dataclass(frozen=True, slots=True)
class Committed:
    """A block that was just committed."""

    header: Header
    hash: bytes
    root: bytes
    result: BlockResult
    certificate: Certificate
    entries: tuple[TxEntry, ...]  # where each receipt's transaction stands


class Covered(NamedTuple):
    """A proved foreign block: its header, the certificate that makes it final, and, of an epoch's last block,
    the headers above it up to the one that the certificate names."""

    header: Header
    certificate: Certificate
    path: tuple[bytes, ...]


def stored_trust(genesis: Genesis, store: Store) -> Trust:
    """The sets of all epochs that the store has proofs of. Raises LocalError when they do not fit."""
    trust = Trust.of(genesis)
    while found := store.epochs.proofs(trust.latest.epoch, EPOCHS_READ):
        trust.resume(found)
    return trust


@dataclass(slots=True)
class Notary:
    """Store and state machine together. Callers are on one task; `on_commit` is called after each block."""

    genesis: Genesis
    store: Store
    trust: Trust  # the sets of all epochs so far
    scheme: Scheme
    on_commit: list[Callable[[Committed], None]] = field(default_factory=list)
    wrong_roots: int = 0  # certified headers whose state root is not ours
    differs: int = 0  # a height at which our state is known to be wrong; 0: none is (node.sync.repair)

    @classmethod
    def open(cls, genesis: Genesis, store: Store, scheme: Scheme) -> Notary:
        """Over an opened store; a new one gets the genesis state."""
        if store.is_empty:
            store.begin(genesis.hash, genesis_state(genesis), genesis.time_ms)
        return cls(genesis, store, stored_trust(genesis, store), scheme)

    @property
    def validators(self) -> ValidatorSet:
        """The set that votes on the tip's child."""
        return self.trust.latest

    def validators_of(self, epoch: int) -> ValidatorSet:
        """The set of an epoch. Raises Refused("light.unknown_epoch")."""
        return self.trust.validators(epoch)

    @property
    def next_context(self) -> Context:
        """The context that a transaction submitted now would meet at the earliest."""
        tip = self.store.tip
        return Context(self.genesis.chain_id, tip.height + 1, tip.time_ms, tip.hash)

    def tip_header(self) -> Header:
        """The header of the tip; for genesis, one that stands for block 0 (never sent, never hashed)."""
        tip = self.store.tip
        data = self.store.header(tip.height)
        if data is not None:
            return decode(Header, data)
        none = bytes(32)
        set_hash = self.genesis.validator_set.hash
        chain_id = self.genesis.chain_id
        return Header(
            chain_id=chain_id,
            epoch=0,
            height=0,
            view=0,
            parent_view=0,
            parent_hash=none,
            time_ms=tip.time_ms,
            proposer=none,
            state_height=0,
            state_root=none,
            validators=set_hash,
            next_validators=set_hash,
            batches=(),
        )

    def recent_roots(self, count: int) -> dict[int, bytes]:
        """State roots by height for the last `count` heights that are held."""
        height = self.store.tip.height
        roots = {h: self.store.root(h) for h in range(max(0, height - count + 1), height + 1)}
        return {h: root for h, root in roots.items() if root is not None}

    def commit(
        self,
        header: Header,
        certificate: Certificate,
        batches: Sequence[bytes],
        known: Mapping[bytes, VerifiedTx],
        path: tuple[bytes, ...] = (),
        txs: Sequence[VerifiedTx] | None = None,
    ) -> Committed:
        """Execute and store the tip's child. `certificate` (verified by the caller) finalizes it or a
        descendant; `known` are transactions checked before, `txs` what `transactions`
        finds in these batches, if it is known. Raises LocalError: the peer must stop; and
        StateDiffers, before anything is executed, when a quorum's state root is not ours: one of us has
        executed wrongly, and nothing that this peer shows can be proved any more.

        At an epoch's last block `certificate` names it or the last header of `path`, which begins with a
        child of it; from then on `validators` is the next epoch's set."""
        self._check_root(header)
        if txs is None:
            txs = self.transactions(batches, known)
        result = execute(self.store.state, header, txs, self.store.tip.time_ms)
        block_hash = header.hash
        named = header_hash(path[-1]) if path else block_hash
        names_it = encode(certificate) if certificate.statement.block == named else None
        data = commit_data(header, batches, names_it, txs, result, path)
        root = self.store.commit(data)
        if is_ending(header):
            self.trust.resume(self.store.epochs.proofs(header.epoch, 1))
        done = Committed(header, block_hash, root, result, certificate, data.txs)
        for listener in self.on_commit:
            listener(done)
        return done

    def _check_root(self, header: Header) -> None:
        if self.differs:
            raise StateDiffers(self.differs)
        ours = self.store.root(header.state_height)
        if ours is not None and ours != header.state_root:
            self.wrong_roots += 1
            self.differs = header.state_height
            log.error("state_root_differs", height=header.state_height, count=self.wrong_roots)
            raise StateDiffers(header.state_height)

    def transactions(self, batches: Sequence[bytes], known: Mapping[bytes, VerifiedTx]) -> list[VerifiedTx]:
        """All transactions that are signed, in block order. Others are skipped by all peers alike (T1).
        Raises Refused for bytes that are no batch. May run in a thread."""
        txs: list[VerifiedTx] = []
        for data in batches:
            for raw in decode_batch(data).txs:
                try:
                    tx = decode_tx(raw, self.genesis.chain_id)
                    before = known.get(tx.id)
                    txs.append(before if before is not None and before.raw == raw else verified(tx))
                except Refused:
                    continue
        return txs

    def check_range(self, blocks: Sequence[StoredBlock], tip: Tip) -> list[Covered]:
        """Headers of foreign blocks that follow `tip`, each with the certificate that covers it.

        A block without batches may name some: they are fetched and checked by digest later. Stops after an
        epoch's last block: who signs what follows is known when that is executed. Reads nothing but the
        current set, so it may run in a thread. Raises Refused: all are proved, or none is used.
        """
        parent, height = tip.hash, tip.height
        members = self.trust.validators_at(height + 1)  # not the newest: the tip may have moved on since
        found: list[tuple[Header, bytes]] = []
        set_hash = members.hash
        for block in blocks:
            header = decode_header(block.header)
            if header.chain_id != self.genesis.chain_id or header.validators != set_hash:
                raise Refused("range.foreign", f"height {header.height}: another chain or validator set")
            if header.height != height + 1 or header.parent_hash != parent:
                raise Refused("range.order", f"height {header.height} does not follow {height}")
            if block.batches and tuple(batch_digest(data) for data in block.batches) != header.batches:
                raise Refused("range.batches", f"height {header.height}: not the batches of the header")
            parent, height = header_hash(block.header), header.height
            found.append((header, parent))
            if is_ending(header):
                break
            if block.path:
                raise Refused("range.path", f"height {header.height} does not end its epoch")
        return self._cover(blocks[: len(found)], found, members)

    def _cover(
        self, blocks: Sequence[StoredBlock], found: list[tuple[Header, bytes]], members: ValidatorSet
    ) -> list[Covered]:
        covered: list[Covered] = []
        certificate: Certificate | None = None
        for block, (header, block_hash) in zip(reversed(blocks), reversed(found), strict=True):
            if block.path:
                finality = FinalityProof(block.header, block.path, block.certificate)
                verify_final(self.genesis.chain_id, members, finality)
                certificate = decode_certificate(block.certificate)
            elif block.certificate:
                certificate = decode_certificate(block.certificate)
                statement = certificate.statement
                if statement.kind is not VoteKind.FINAL or statement.block != block_hash:
                    raise Refused("range.certificate", f"height {header.height}: not its Final certificate")
                self.scheme.verify(self.genesis.chain_id, members, certificate)
            if certificate is None:
                raise Refused("range.certificate", f"height {header.height}: nothing makes it final")
            covered.append(Covered(header, certificate, block.path))
        covered.reverse()
        return covered
