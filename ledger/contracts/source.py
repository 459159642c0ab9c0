"""What a contract's source comes to when it is read: all but its artifacts, and where these are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from ledger.contracts.check import check_contract
from ledger.contracts.reader import place_of
from ledger.contracts.types import Contract, WorkloadTemplate
from ledger.errors import LocalError, Refused
from ledger.manifests.types import Artifact, ArtifactKind
from ledger.text.yaml_tree import ContractError, Mark, Problem


@dataclass(frozen=True, slots=True)
class SourceArtifact:
    """An artifact as its author names it: a file or tree on their machine."""

    workload: str
    path: str
    kind: ArtifactKind
    source: str  # relative to the contract's folder, or absolute
    executable: bool
    field: str  # that says so


def _settled(workload: WorkloadTemplate, containers: Mapping[str, Container]) -> dict[str, Any]:
    return containers[workload.name]._asdict() if workload.runtime == "oci" else {"working_dir": "/"}


class Container(NamedTuple):
    """What a container runs, all of it: as its source says, and where that is silent, its image."""

    command: tuple[str, ...]
    environment: dict[str, str]
    working_dir: str
    user: str


@dataclass(frozen=True, slots=True)
class ContractSource:
    """A checked source: the contract but for its artifacts, and where these are."""

    contract: Contract
    artifacts: tuple[SourceArtifact, ...]
    marks: dict[str, Mark] = field(default_factory=dict)  # where each field stands in the source

    def located(self, filename: str, error: Refused, way_out: str = "") -> ContractError:
        """What was found wrong with one of its fields later on, with the place in the source."""
        problem = Problem(place_of(self.marks, error.field), error.field, error.rule, error.detail, way_out)
        return ContractError(filename, [problem])

    def built(
        self,
        artifacts: Mapping[tuple[str, str], Artifact],
        containers: Mapping[str, Container] = MappingProxyType({}),
    ) -> Contract:
        """The contract with the artifact of each (workload, path), and what each container's image adds to
        its workload. Raises Refused as `check_contract`."""
        missing = [a for a in self.artifacts if (a.workload, a.path) not in artifacts]
        if missing:
            raise LocalError(f"artifact {missing[0].path} of {missing[0].workload} was not built")
        workloads = tuple(
            msgspec.structs.replace(
                workload,
                artifacts=tuple(
                    artifacts[a.workload, a.path] for a in self.artifacts if a.workload == workload.name
                ),
                **_settled(workload, containers),
            )
            for workload in self.contract.workloads
        )
        contract = msgspec.structs.replace(self.contract, workloads=workloads)
        check_contract(contract)
        return contract
