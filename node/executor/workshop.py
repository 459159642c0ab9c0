"""What all terms on one node share: the parts that they work with, and the node's own proofs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ledger.copy_records import Copies, key_copies
from ledger.manifests.expansion import workload_of
from ledger.manifests.services import features_needed
from ledger.manifests.types import Workload, manifest_digest
from ledger.records import Deployment, Slot, key_deployment, key_node, key_slot
from ledger.records import Node as LedgerNode
from ledger.state import read
from ledger.transition.switch import same_work
from node.config import Node
from node.executor.decide import Opening, SlotId
from node.executor.doors.egress import check_target
from node.executor.drivers.base import Driver, Fingerprint
from node.executor.errors import EgressRefused
from node.executor.held import HeldResults
from node.executor.limits import HINTS_MAX
from node.executor.orders import Orders
from node.executor.quarantine import Quarantine
from node.executor.secrets import SecretsDesk
from node.executor.sender import Sender
from node.executor.task import features
from node.executor.verify import Case, Verdict, update_of, verify
from node.executor.verify_release import verify_release
from node.executor.volumes.volumes import VolumeShelf
from node.files.exchange import Exchange
from node.offer import enforced
from node.seam import PeerSeam


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all tenures of one executor share. `boot_ms`: the boot clock; `wall_ms`: Unix time."""

    peer: PeerSeam
    sender: Sender
    settings: Node
    driver: Driver
    fingerprint: Fingerprint
    exchange: Exchange
    boot_ms: Callable[[], int]
    wall_ms: Callable[[], int]
    orders: Orders
    secrets: SecretsDesk
    quarantine: Quarantine
    volumes: VolumeShelf
    held: HeldResults

    def prove(
        self,
        deployment: bytes,
        name: str,
        work: Workload | None = None,
        papers: dict[bytes, bytes] | None = None,
        *,
        runs: bool = False,
    ) -> Verdict:
        """The node's own proof that a slot may be run now, or, when it `runs`, may go on, by the manifest
        that its next term is of. `work`: what the term is of, when there is one; an update may let it go on
        only when it wants the same of the slot. `papers`: signed orders and updates by id, kept for the whole
        term: all re-checks need them."""
        peer = self.peer
        slot = read(peer.state, Slot, key_slot(deployment, name))
        if slot is None or not slot.next:
            return Verdict(False, ("no manifest has the slot",))
        kept = {} if papers is None else papers
        verdict = verify(self._case(deployment, slot.next, kept, runs=runs))
        if verdict.ok and work is not None and verdict.manifest is not None:
            wanted = workload_of(verdict.manifest, name)
            if not same_work(wanted, work):
                return Verdict(False, ("an update wants something else of the slot",))
        return verdict

    def prove_release(self, deployment: bytes) -> Verdict:
        """The node's own proof that the results of a deployment were released."""
        record = read(self.peer.state, Deployment, key_deployment(deployment))
        if record is None:
            return Verdict(False, ("no such deployment",))
        return verify_release(self._case(deployment, record.manifest, {}))

    def facts(self, record: Deployment, workload: Workload, slot: str, term: int) -> dict[str, Any]:
        """What all receipts of a term state alike: which it is, on which node, and how that runs it."""
        host = self.fingerprint.of(workload.runtime)
        return {
            "chain_id": self.peer.chain_id,
            "deployment": record.id.hex(),
            "contract": record.contract.hex(),
            "slot": slot,
            "term": term,
            "node": self.sender.key.public.hex(),
            "driver": workload.runtime,
            "level": host.isolation.value,
            "isolation": features(host),
        }

    def _case(
        self, deployment: bytes, manifest: bytes, papers: dict[bytes, bytes], *, runs: bool = False
    ) -> Case:
        """What is to be proved, with the signed papers as far as they are here; those join `papers`."""
        peer = self.peer
        update = update_of(peer.state, deployment, manifest)
        for id_ in (deployment, *(() if update is None else (update.tx,))):
            if id_ not in papers and (found := self.orders.get(id_)) is not None:
                papers[id_] = found
        return Case(
            peer.state,
            peer.chain_id,
            deployment,
            papers.get(deployment),
            peer.time_ms,
            runs=runs,
            manifest=manifest,
            update=None if update is None else papers.get(update.tx),
        )

    def unwilling(self, opening: Opening) -> str:
        """Why this node runs nothing of it: what it does not offer, or has quarantined; or ""."""
        workload, offered = opening.workload, enforced(self.settings, self.fingerprint)
        for feature in features_needed(workload):
            if offered.get(feature) != "enforced":
                return (
                    f"driver: {feature} is wanted, and not enforced here: {offered.get(feature, 'unknown')}"
                )
        for target in workload.egress:
            try:
                check_target(target)
            except EgressRefused as error:
                return str(error)
        slot_id = (opening.deployment, opening.slot)
        copies = read(self.peer.state, Copies, key_copies(*slot_id))
        copied = {copy.volume for copy in copies.copies} if copies is not None else set()
        alone = [volume for volume in workload.volumes if volume.name not in copied]
        problem = self.volumes.problem(*slot_id, workload.volumes) or self.volumes.problem(
            *slot_id, alone, were_here=self.is_home(*slot_id)
        )
        return problem or self.quarantine.reason(manifest_digest(opening.manifest.encode()))

    def may_write(self, slot_id: SlotId, work: Workload) -> bool:
        """[C11] Whether what a term writes to its volumes is known to be here: once its `verified` is final.
        Else whoever holds the slot next would begin without it."""
        return not work.volumes or self.is_home(*slot_id)

    def is_home(self, deployment: bytes, name: str) -> bool:
        """Whether a slot's volumes are on this node, as the ledger knows (rule C11)."""
        slot = read(self.peer.state, Slot, key_slot(deployment, name))
        return slot is not None and slot.home == self.sender.key.public

    def holders(self, deployment: bytes) -> list[str]:
        """Addresses of the nodes that hold slots of a deployment: they fetch the same bytes."""
        state, found = self.peer.state, []
        record = read(state, Deployment, key_deployment(deployment))
        for name in record.slots if record else ():
            slot = read(state, Slot, key_slot(deployment, name))
            if slot is not None and slot.holder and slot.holder != self.sender.key.public:
                node = read(state, LedgerNode, key_node(slot.holder))
                if node is not None and node.address:
                    found.append(node.address)
        return sorted(set(found))[:HINTS_MAX]
