"""Results on a simulated 3node: what a job leaves behind, commitments to it that are told when it is time,
and what is handed out once it is released. The rules are those of `node.executor.reveals`, the proof before
results are handed out is production's (`node.executor.verify_release`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.codec import sha256
from ledger.commitments import commitment_of
from ledger.documents import sign_receipt
from ledger.manifests.expansion import decode_manifest
from ledger.predicates import ReceiptPredicate, ResultFile
from ledger.records import Deployment, Slot, key_deployment, key_manifest, key_slot
from ledger.state import read
from ledger.trade_records import Agreement, key_agreement
from ledger.transactions import Report
from ledger.transition.deal import ENDED
from node.executor.decide import SlotId
from node.executor.verify_release import verify_release
from tests.ledger.world import result_file

if TYPE_CHECKING:
    from tests.sim.market_node import MarketNode
    from tests.sim.market_tenure import MarketTenure

GOOD: Final = "33" * 32
ODD, SILENT, LIES = 0.15, 0.25, 0.35  # of all commitments: to something else; never told; told otherwise


@dataclass(slots=True)
class Kept:
    """What will be told of a term. `tx`: the report of it that is under way."""

    manifest: bytes
    receipt: ReceiptPredicate
    is_silent: bool = False
    tx: bytes = b""


class Desk:
    """What a node keeps on its disk of terms that are over: it survives a crash."""

    def __init__(self, node: MarketNode) -> None:
        self.node = node
        self.kept: dict[tuple[SlotId, int], Kept] = {}
        self.held: dict[SlotId, int] = {}  # terms whose results wait for their release

    def results(self, tenure: MarketTenure, digest: str = GOOD) -> dict[str, ResultFile]:
        """What the job left behind; held back where the contract says so."""
        data = self.node.replica.state.get(key_manifest(tenure.record.manifest))
        assert data is not None
        if decode_manifest(data).policies.release is not None:
            self.held[tenure.id] = tenure.term
        return dict.fromkeys(tenure.workload.results, result_file(digest))

    def commit(self, tenure: MarketTenure) -> str:
        """Keep what will be told; the commitment to it. Not every node is honest."""
        fate = self.node.market.rng.random()
        nonce = sha256(self.node.key.public + tenure.id[0] + tenure.id[1].encode() + bytes([tenure.term]))
        own = sha256(nonce).hex()
        found = self.results(tenure, own if fate < ODD else GOOD)
        receipt = tenure.receipt("succeeded", results=found, nonce=nonce.hex())
        digests = {path: file.sha256 for path, file in found.items()}
        key, chain_id = self.node.key.public, receipt.chain_id
        bound = commitment_of(chain_id, *tenure.id, tenure.term, key, nonce, digests)
        if SILENT <= fate < LIES:
            receipt = tenure.receipt("succeeded", results=self.results(tenure, own), nonce=nonce.hex())
        self.kept[tenure.id, tenure.term] = Kept(tenure.record.manifest, receipt, ODD <= fate < SILENT)
        return bound.hex()

    def look(self) -> None:
        """At each new height."""
        for key, kept in list(self.kept.items()):
            said = self._standing(*key)
            if said == "over":
                del self.kept[key]
            elif said == "now" and not kept.is_silent:
                self._tell(kept)
        for slot_id in list(self.held):
            self._hand_out(slot_id)

    def _tell(self, kept: Kept) -> None:
        node = self.node
        if kept.tx and (node.place(kept.tx) is not None or kept.tx in node.pending):
            return
        kept.tx = node.send(Report(sign_receipt(node.key, kept.receipt, kept.manifest)))

    def _standing(self, slot_id: SlotId, term: int) -> str:
        """As `node.executor.reveals` has it."""
        state = self.node.replica.state
        record, slot = self.record(slot_id[0]), read(state, Slot, key_slot(*slot_id))
        assert slot is not None
        if record.status in ENDED or slot.term > term:
            return "over"
        if slot.status == "committed":
            found = read(state, Agreement, key_agreement(slot_id[0], slot_id[1].partition("/")[0]))
            return "now" if found is not None and found.reveals else "wait"
        return "wait" if slot.holder == self.node.key.public and slot.term == term else "over"

    def record(self, deployment: bytes) -> Deployment:
        """As this node knows it."""
        found = read(self.node.replica.state, Deployment, key_deployment(deployment))
        assert found is not None
        return found

    def is_committed(self, slot_id: SlotId) -> bool:
        """Whether the slot's newest term has committed, and not told."""
        slot = read(self.node.replica.state, Slot, key_slot(*slot_id))
        return slot is not None and slot.status == "committed"

    def _hand_out(self, slot_id: SlotId) -> None:
        record = self.record(slot_id[0])
        if record.released_ms:
            del self.held[slot_id]
            if self.released(record):
                self.node.market.handed_out(self.node, record.id, record.results)

    def released(self, record: Deployment) -> bool:
        """The node's own proof that it may hand them out."""
        return verify_release(self.node.case(record.id, record.manifest)).ok
