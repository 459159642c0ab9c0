"""Every list of a contract, and of a manifest, has a bound: what it allows passes, one more is refused."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_uppercase
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.contracts.check import check_contract
from ledger.contracts.types import Contract, Parameter
from ledger.errors import Refused
from ledger.limits import (
    ARTIFACTS_MAX,
    ATTRIBUTES_MAX,
    COUNTRIES_MAX,
    EGRESS_MAX,
    ENVIRONMENT_MAX,
    PARAMETERS_MAX,
    PORTS_MAX,
    RESULTS_MAX,
    ROLES_MAX,
    SECRETS_MAX,
    TAGS_MAX,
    WORKLOADS_MAX,
)
from ledger.manifests.expansion import check_manifest, expand
from ledger.manifests.types import Manifest, Placement, Port, Role
from tests.ledger.contract_samples import (
    AUTHOR,
    BUSYBOX,
    CONSUMER,
    DIGEST,
    ROLES,
    contract,
    expanded,
    workload,
)


def of(**changes: Any) -> Contract:
    return contract(workloads=(workload(**changes),))


def job(**changes: Any) -> Contract:
    return of(kind="job", ports=(), health=None, **changes)


def files(count: int) -> tuple[Any, ...]:
    return (BUSYBOX, *(replace(BUSYBOX, path=f"/f{n}") for n in range(count - 1)))


def ports(count: int) -> tuple[Port, ...]:
    return (Port(name="http", port=8080), *(Port(name=f"p{n}", port=2000 + n) for n in range(count - 1)))


LISTS: tuple[tuple[str, int, Callable[[int], Contract]], ...] = (
    ("tags", TAGS_MAX, lambda n: contract(tags=tuple(f"t{i}" for i in range(n)))),
    ("workloads.web.artifacts", ARTIFACTS_MAX, lambda n: of(artifacts=files(n))),
    ("workloads.web.environment", ENVIRONMENT_MAX, lambda n: of(environment={f"E{i}": "" for i in range(n)})),
    ("workloads.web.ports", PORTS_MAX, lambda n: of(ports=ports(n))),
    ("workloads.web.results", RESULTS_MAX, lambda n: job(results=tuple(f"/result/{i}" for i in range(n)))),
    ("workloads.web.secrets", SECRETS_MAX, lambda n: of(secrets=tuple(f"s{i}" for i in range(n)))),
    ("workloads.web.egress", EGRESS_MAX, lambda n: of(egress=tuple(f"a.example:{i + 1}" for i in range(n)))),
    (
        "workloads.web.placement.attributes",
        ATTRIBUTES_MAX,
        lambda n: of(placement=Placement(attributes={f"a{i}": "x" for i in range(n)})),
    ),
)


@pytest.mark.parametrize(("field", "most", "made"), LISTS, ids=[row[0] for row in LISTS])
def test_one_more_than_the_bound_is_refused(field: str, most: int, made: Callable[[int], Contract]) -> None:
    check_contract(made(most))
    with pytest.raises(Refused) as caught:
        check_contract(made(most + 1))
    assert (caught.value.rule, caught.value.field) == ("contract.too_many", field)


def named(names: list[str]) -> Contract:
    return contract(workloads=tuple(workload(name=name) for name in names))


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        ([], "contract.workloads"),
        (["web", "web"], "contract.duplicate"),
        ([f"w{n}" for n in range(WORKLOADS_MAX + 1)], "contract.too_many"),
    ],
)
def test_workloads_are_some_and_have_names_of_their_own(names: list[str], rule: str) -> None:
    check_contract(named([f"w{n}" for n in range(WORKLOADS_MAX)]))
    with pytest.raises(Refused) as caught:
        check_contract(named(names))
    assert caught.value.rule == rule
    (web,) = expanded().workloads
    with pytest.raises(Refused) as caught:
        check_manifest(replace(expanded(), workloads=tuple(replace(web, name=name) for name in names)))
    assert caught.value.rule == "contract.workloads"


def placed(manifest: Manifest, **place: Any) -> Manifest:
    (web,) = manifest.workloads
    return replace(manifest, workloads=(replace(web, placement=replace(web.placement, **place)),))


NAMES = [f"n{i}" for i in range(65)]
COUNTRIES = [a + b for a in ascii_uppercase for b in ascii_uppercase]
MANIFESTS: tuple[tuple[str, int, Callable[[Manifest, int], Manifest]], ...] = (
    ("parameters", PARAMETERS_MAX, lambda m, n: replace(m, parameters=dict.fromkeys(NAMES[:n], 1))),
    (
        "roles",
        ROLES_MAX,
        lambda m, n: replace(
            m, roles=(*m.roles, *(Role(name=name, keys=(DIGEST,)) for name in NAMES[: n - len(m.roles)]))
        ),
    ),
    ("countries", COUNTRIES_MAX, lambda m, n: placed(m, countries=tuple(COUNTRIES[:n]))),
    ("farms", COUNTRIES_MAX, lambda m, n: placed(m, farms=tuple(NAMES[:n]))),
)  # fmt: skip


@pytest.mark.parametrize(("most", "made"), [row[1:] for row in MANIFESTS], ids=[row[0] for row in MANIFESTS])
def test_a_manifest_keeps_the_same_bounds(most: int, made: Callable[[Manifest, int], Manifest]) -> None:
    manifest = expanded()
    check_manifest(made(manifest, most))
    with pytest.raises(Refused) as caught:
        check_manifest(made(manifest, most + 1))
    assert caught.value.rule == "contract.too_many"


def test_a_contract_within_its_bounds_may_make_too_long_a_manifest() -> None:
    """A few kilobytes of parameters, each of them put in many times."""
    asked = Parameter(name="text", type="string", default="x" * 1_000)
    web = workload(environment={f"E{n}": "${text}" for n in range(ENVIRONMENT_MAX)})
    many = tuple(replace(web, name=f"w{n}") for n in range(2))
    source = contract(parameters=(*contract().parameters, asked), workloads=many)
    check_contract(source)
    with pytest.raises(Refused) as caught:
        expand(source, bytes(32), AUTHOR.public, CONSUMER.public, {}, ROLES)
    assert caught.value.rule == "manifest.too_long"
