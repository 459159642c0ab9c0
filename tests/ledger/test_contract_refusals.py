"""Rules of contracts that a builder keeps by itself, and that a stranger's contract may break."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.contracts.check import check_contract
from ledger.contracts.types import Contract, Parameter
from ledger.errors import Refused
from ledger.manifests.types import Placement, UpdateStrategy
from tests.ledger.contract_samples import BUSYBOX, SOURCE, contract, problems, workload


def placed(*countries: str) -> Contract:
    return contract(workloads=(workload(placement=Placement(countries=countries)),))


def asking(**changes: Any) -> Contract:
    """With the first parameter changed; it stands for a number of replicas."""
    first, *others = contract().parameters
    return contract(parameters=(replace(first, **changes), *others))


def more(**fields: Any) -> Contract:
    """With one more parameter."""
    return contract(parameters=(*contract().parameters, Parameter(name="more", **fields)))


TREE = replace(BUSYBOX, path="/www", kind="tree")


@pytest.mark.parametrize(
    ("built", "rule", "field"),
    [
        (placed("Belgium"), "contract.country", "workloads.web.placement.country"),
        (placed("be"), "contract.country", "workloads.web.placement.country"),
        (
            contract(workloads=(workload(artifacts=(BUSYBOX, TREE)),)),
            "contract.executable",
            "workloads.web.artifacts[1].executable",
        ),
        (asking(min=3, max=1), "parameter.bounds", "parameters.replicas.min"),
        (asking(pattern="[0-9]"), "parameter.bounds", "parameters.replicas.pattern"),
        (more(type="boolean", min=1), "parameter.bounds", "parameters.more.min"),
        (more(type="country", max=1), "parameter.bounds", "parameters.more.max"),
        (more(type="money", default="5 credits"), "parameter.not_canonical", "parameters.more.default"),
        (more(type="size", choices=("1KiB",)), "parameter.not_canonical", "parameters.more.choices[0]"),
        (contract(workloads=(workload(time_limit_s=60),)), "contract.time_limit", "workloads.web.time_limit"),
        (
            contract(workloads=(workload(update=UpdateStrategy(min_healthy_s=60, deadline_s=60)),)),
            "contract.update",
            "workloads.web.update.deadline",
        ),
    ],
)
def test_a_built_contract_is_refused_by_name(built: Contract, rule: str, field: str) -> None:
    check_contract(contract())
    with pytest.raises(Refused) as caught:
        check_contract(built)
    assert (caught.value.rule, caught.value.field) == (rule, field)


@pytest.mark.parametrize(
    ("old", "new", "rule", "field"),
    [
        (
            "  signoff: none",
            "  release: {key: " + "ab" * 32 + "}\n  signoff: none",
            "contract.release",
            "approval.release",
        ),
        ("cpu: 100m", "cpu: [100m]", "contract.type", "workloads.web.resources.cpu"),
        ("kind: ser", "runtime: vm\n    kind: ser", "contract.choice", "workloads.web.runtime"),
        ("tree: www}", "tree: www, file: www}", "contract.artifact", "workloads.web.artifacts[1]"),
        ("path: /www, tree: www", "path: /www", "contract.artifact", "workloads.web.artifacts[1]"),
        (
            "tree: www}",
            "tree: www, executable: true}",
            "contract.executable",
            "workloads.web.artifacts[1].executable",
        ),
    ],
)
def test_a_source_is_refused_by_name(old: str, new: str, rule: str, field: str) -> None:
    assert SOURCE.count(old) == 1
    first = problems(SOURCE.replace(old, new))[0]
    assert (first.rule, first.field) == (rule, field)
