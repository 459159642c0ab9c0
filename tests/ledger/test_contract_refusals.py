"""Rules of contracts that a builder keeps by itself, and that a stranger's contract may break."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.contracts.check import check_contract
from ledger.contracts.types import Contract, Parameter, TermsTemplate
from ledger.documents import open_document, sign_contract
from ledger.errors import Refused
from ledger.limits import ARGUMENT_CHARS_MAX, TITLE_CHARS_MAX
from ledger.manifests.types import Placement, Port, UpdateStrategy
from ledger.transactions import PublishContract
from tests.ledger.contract_samples import BUSYBOX, SOURCE, contract, problems, workload
from tests.ledger.world import AUTHOR, World


def placed(*countries: str) -> Contract:
    return contract(workloads=(workload(placement=Placement(countries=countries)),))


def asking(**changes: Any) -> Contract:
    """With the first parameter changed; it stands for a number of replicas."""
    first, *others = contract().parameters
    return contract(parameters=(replace(first, **changes), *others))


def more(**fields: Any) -> Contract:
    """With one more parameter."""
    return contract(parameters=(*contract().parameters, Parameter(name="more", **fields)))


def of(**changes: Any) -> Contract:
    return contract(workloads=(workload(**changes),))


TREE = replace(BUSYBOX, path="/www", kind="tree")
HTTP = Port(name="http", port=8080)
# Nothing in it is too long by itself, and its envelope is not.
TOO_LONG = of(command=("/bin/busybox", "echo", *("x" * ARGUMENT_CHARS_MAX,) * 17))


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
        (more(type="boolean", default="true"), "parameter.type", "parameters.more.default"),
        (more(type="string", default=1), "parameter.type", "parameters.more.default"),
        (more(type="string", pattern="[a-"), "parameter.pattern", "parameters.more.pattern"),
        (contract(title="x" * (TITLE_CHARS_MAX + 1)), "contract.too_long", "title"),
        (TOO_LONG, "contract.too_long", ""),
        (contract(terms=TermsTemplate(duration_s=60, budget=999, fee=1_000)), "manifest.fee", "terms.fee"),
        (of(environment={"A": "${Title}"}), "contract.reference", "workloads.web.environment.A"),
        (of(ports=(HTTP, replace(HTTP, port=9090))), "contract.duplicate", "workloads.web.ports.http"),
        (of(ports=(HTTP, replace(HTTP, name="web"))), "contract.duplicate", "workloads.web.ports.web"),
        (
            of(kind="job", ports=(), health=None, results=("/result/a",) * 2),
            "contract.duplicate",
            "workloads.web.results[1]",
        ),
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


def test_a_contract_whose_envelope_is_short_enough_may_be_too_long() -> None:
    envelope = sign_contract(AUTHOR, TOO_LONG)
    assert open_document(envelope, "contract").predicate.contract == TOO_LONG
    assert World().refused(AUTHOR, PublishContract(envelope)) == "contract.too_long"


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
        ("  signoff: none", "  signoff: none\n  on_revoked: go", "contract.choice", "approval.on_revoked"),
        (
            "legal: {bind: order}",
            f"legal: {{bind: order, keys: [{'ab' * 32}]}}",
            "contract.role",
            "roles.legal",
        ),
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


def test_a_role_inside_an_organisation_stands_beside_it() -> None:
    for given in ("bind: order", f"keys: [{'ab' * 32}]"):
        source = SOURCE.replace("legal: {bind: order}", f"legal: {{{given}, role: board}}")
        assert ("contract.role", "roles.legal.role") in {(p.rule, p.field) for p in problems(source)}
