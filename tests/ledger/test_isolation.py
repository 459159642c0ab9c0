"""A contract insists on features of isolation; only nodes whose offers tell of them get its slots: C10."""

from __future__ import annotations

import pytest

from ledger.contracts.check import check_contract
from ledger.contracts.language import parse_contract
from ledger.errors import Refused
from ledger.manifests.services import ISOLATION, features_needed
from ledger.manifests.types import Placement
from ledger.text.yaml_tree import ContractError
from ledger.transactions import Claim
from tests.ledger.contract_samples import SOURCE, expanded, problems
from tests.ledger.contract_samples import contract as sample
from tests.ledger.contract_samples import workload as template
from tests.ledger.test_contract_image import SOURCE as OCI
from tests.ledger.test_contract_image import container
from tests.ledger.test_contract_wasm import program
from tests.ledger.test_placement import A0, B0, approved, refusals
from tests.ledger.world import NODES, service

FREE = Placement(distinct="none")
SEALED = {"landlock": "enforced", "sealed-image": "enforced"}


def test_a_node_without_the_feature_gets_no_slot() -> None:
    """[C10]"""
    world, deployment = approved(service(isolation=("landlock", "sealed-image"), placement=FREE))
    assert set(refusals(world, deployment, "web/0").values()) == {"claim.feature"}
    world.ok(A0, world.offer(attributes={"landlock": "enforced"}))
    assert world.refused(A0, Claim(deployment, "web/0", 1)) == "claim.feature"
    # Why not, as nodes tell it, is no feature either.
    world.ok(B0, world.offer(attributes=SEALED | {"sealed-image": "only root mounts images"}))
    assert world.refused(B0, Claim(deployment, "web/0", 1)) == "claim.feature"
    world.ok(A0, world.offer(attributes=SEALED))
    assert world.claimed(deployment, "web/0", [A0]) is A0


def test_who_asks_for_nothing_gets_any_node() -> None:
    world, deployment = approved(service(placement=FREE))
    found = refusals(world, deployment, "web/0")
    assert not set(found) & set(NODES)


@pytest.mark.parametrize(
    ("isolation", "rule", "field"),
    [
        (("landlok",), "contract.isolation", "workloads.web.isolation[0]"),
        (("landlock", "seccomp"), "contract.isolation", "workloads.web.isolation[1]"),
        (("${level}",), "contract.isolation", "workloads.web.isolation[0]"),
        (("x" * 1_000,), "contract.isolation", "workloads.web.isolation[0]"),
        (("landlock", "landlock"), "contract.duplicate", "workloads.web.isolation[1]"),
    ],
)
def test_what_is_refused(isolation: tuple[str, ...], rule: str, field: str) -> None:
    with pytest.raises(Refused) as caught:
        expanded(sample(workloads=(template(isolation=isolation),)))
    assert (caught.value.rule, caught.value.field) == (rule, field)
    assert len(str(caught.value)) < 500


MADE = {"sandbox": template, "oci": container, "wasm": program}


@pytest.mark.parametrize("level", ISOLATION)
@pytest.mark.parametrize("runtime", MADE)
def test_what_no_node_enforces_for_a_runtime_is_refused(runtime: str, level: str) -> None:
    """[C10] All else a node of that runtime may take: its offer says so under its driver's name."""
    made = sample(workloads=(MADE[runtime](isolation=(level,)),))
    if (runtime, level) != ("oci", "landlock"):
        prefix = "" if runtime == "sandbox" else f"{runtime}."
        assert features_needed(expanded(made).workloads[0]) == (f"{prefix}{level}",)
        return
    for check in (check_contract, expanded):
        with pytest.raises(Refused) as caught:
            check(made)
        assert caught.value.rule == "contract.isolation_runtime"
        assert caught.value.field == f"workloads.{made.workloads[0].name}.isolation[0]"


def test_a_source_is_told_what_to_write_instead() -> None:
    text = OCI.replace("    runtime: oci", "    runtime: oci\n    isolation: [sealed-image, landlock]")
    [found] = problems(text)
    assert (found.rule, found.field) == ("contract.isolation_runtime", "workloads.web.isolation[1]")
    assert "runtime: sandbox" in found.suggestion


def test_a_source_says_it_and_the_manifest_carries_it() -> None:
    text = SOURCE.replace("    recheck: 10s\n", "    recheck: 10s\n    isolation: [sealed-image, landlock]\n")
    made = parse_contract(text, "c.yaml").contract
    assert made.workloads[0].isolation == ("sealed-image", "landlock")
    workload = template(isolation=ISOLATION)
    manifest = expanded(sample(workloads=(workload,)))
    assert features_needed(manifest.workloads[0]) == ISOLATION
    with pytest.raises(ContractError, match="landlok"):
        parse_contract(text.replace("landlock]", "landlok]"), "c.yaml")
