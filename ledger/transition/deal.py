"""A deployment while one step changes it: record, manifest, slots. Every change is written at once."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from ledger.errors import LocalError
from ledger.manifests.expansion import decode_manifest, extension_cost, slots, workload_of
from ledger.manifests.types import Manifest, Terms, Workload
from ledger.records import Deployment, Slot, key_deployment, key_manifest, key_slot
from ledger.trade_records import UpdateRecord, key_update
from ledger.transition.env import Env

_CACHED_MAX: Final = 256
Parsed = tuple[Manifest, dict[str, Workload]]
_manifests: dict[bytes, Parsed] = {}  # by digest, so it is right for every chain and fork

RUNS: Final = ("approved", "active")  # statuses in which slots may be held and claimed
ENDED: Final = ("completed", "rejected", "expired", "cancelled", "failed")


class Deal:
    """`record` is always what the state holds."""

    __slots__ = ("_workloads", "env", "id", "manifest", "record")

    def __init__(self, env: Env, record: Deployment) -> None:
        self.env = env
        self.id = record.id
        env.deployments[record.id] = None
        self.record = record
        self.manifest, self._workloads = self.side(record.manifest)

    @classmethod
    def load(cls, env: Env, deployment: bytes, rule: str) -> Deal:
        """The deployment with this id. Raises Refused(rule) when there is none."""
        detail = f"no deployment {deployment.hex()[:64]}"
        return cls(env, env.need(Deployment, key_deployment(deployment), rule, detail, "deployment"))

    @classmethod
    def of(cls, env: Env, deployment: bytes) -> Deal:
        """The deployment that a record of ours names."""
        return cls(env, env.must(Deployment, key_deployment(deployment)))

    def set(self, **changes: Any) -> None:
        """Change fields of the record."""
        self.record = replace(self.record, **changes)
        self.env.write(key_deployment(self.id), self.record)
        if "manifest" in changes:
            self.manifest, self._workloads = self.side(self.record.manifest)

    def side(self, digest: bytes) -> Parsed:
        """A manifest of this deployment, in force or not, and the workload of each of its slots."""
        return _manifest(self.env, digest)

    @property
    def update(self) -> UpdateRecord | None:
        """The update under way ([U1])."""
        if not self.record.updating:
            return None
        return self.env.must(UpdateRecord, key_update(self.id, self.record.updates))

    def set_update(self, **changes: Any) -> UpdateRecord:
        """Change fields of the last update; returns the new record."""
        key = key_update(self.id, self.record.updates)
        update = replace(self.env.must(UpdateRecord, key), **changes)
        self.env.write(key, update)
        return update

    def extended(self, digest: bytes) -> Manifest:
        """A manifest with the term and the funds that the deployment has by now ([D10], [D11]), or would have
        under it."""
        if digest == self.record.manifest:
            return extended(self.manifest, self.record)
        manifest = self.side(digest)[0]
        return extended(manifest, replace(self.record, funded=funds_under(manifest.terms, self.record)))

    @property
    def ends_ms(self) -> int:
        """[O1] Block time at which the term, or the wait for approval, ends as things stand; 0: none."""
        ends_ms = self.record.ends_ms
        return ends_ms and ends_ms + self.env.missed_ms - self.record.missed_ms

    def slot(self, name: str) -> Slot:
        """The record of one of this deployment's slots."""
        return self.env.must(Slot, key_slot(self.id, name))

    def set_slot(self, name: str, **changes: Any) -> Slot:
        """Change fields of a slot; returns the new record."""
        slot = replace(self.slot(name), **changes)
        self.env.write(key_slot(self.id, name), slot)
        return slot

    def workload(self, name: str) -> Workload:
        """The workload that a slot is a replica of in its next term."""
        if not self.record.updating:
            return self._workloads[name]
        return self.side(self.slot(name).next)[1][name]

    def term_workload(self, slot: Slot) -> Workload:
        """The workload that a slot's newest term is of."""
        return self.side(slot.manifest)[1][slot.name]

    def emit(self, kind: str, **fields: str | int) -> None:
        """An event about this deployment."""
        self.env.emit(kind, self.id, **fields)


def extended(manifest: Manifest, record: Deployment) -> Manifest:
    """A deployment's manifest with the term and the funds that it has by now. What shares and prices are
    judged by; never what was approved."""
    terms = manifest.terms
    if record.funded == terms.budget and not record.extended_s:
        return manifest
    now = replace(terms, budget=record.funded, duration_s=terms.duration_s + record.extended_s)
    return replace(manifest, terms=now)


def funds_under(terms: Terms, record: Deployment) -> int:
    """Micro-credits that a deployment would have had for its whole term under these terms, topped up and
    extended as it is."""
    whole = replace(terms, budget=terms.budget + record.topped_up)
    return whole.budget + extension_cost(whole, record.extended_s)


def replicas(workload: Workload) -> tuple[str, ...]:
    """Names of the slots of a workload."""
    return tuple(f"{workload.name}/{index}" for index in range(workload.replicas))


def _manifest(env: Env, digest: bytes) -> Parsed:
    """The manifest, and the workload of each slot."""
    parsed = _manifests.get(digest)
    if parsed is None:
        data = env.state.get(key_manifest(digest))
        if data is None:
            raise LocalError(f"the state holds no manifest {digest.hex()}")
        manifest = decode_manifest(data)
        if len(_manifests) >= _CACHED_MAX:
            _manifests.pop(next(iter(_manifests)))
        workloads = {name: workload_of(manifest, name) for name in slots(manifest)}
        parsed = _manifests[digest] = (manifest, workloads)
    return parsed
