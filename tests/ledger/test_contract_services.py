"""The contract language for secrets and egress: in sources, in built contracts and in manifests alike."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ledger.contracts.check import check_contract
from ledger.contracts.language import parse_contract
from ledger.contracts.types import VolumeTemplate
from ledger.errors import Refused
from ledger.limits import EGRESS_MAX, MIB, SECRETS_MAX, VOLUMES_MAX
from ledger.manifests.expansion import check_manifest, decode_manifest, expand, slot_rate
from ledger.manifests.services import features_needed, split_target
from ledger.manifests.types import Disk, Manifest, Volume
from ledger.transactions import Price
from tests.ledger.contract_samples import SOURCE, problems
from tests.ledger.world import AUTHOR, CONSUMER, contract, job, service


def manifest(**changes: object) -> Manifest:
    made = contract(service(**changes))
    return decode_manifest(expand(made, bytes(32), AUTHOR.public, CONSUMER.public, {}, {}))


def source_rule(line: str) -> tuple[str, str]:
    first = problems(SOURCE.replace("recheck: 10s", f"recheck: 10s\n    {line}"))[0]
    return first.rule, first.field


BAD = [
    ("secrets", ("Token",), "contract.name", "[0]"),
    ("secrets", ("../token",), "contract.name", "[0]"),
    ("secrets", ("a/b",), "contract.name", "[0]"),
    ("secrets", ("${name}",), "contract.name", "[0]"),
    ("secrets", ("token", "token"), "contract.duplicate", "[1]"),
    ("secrets", tuple(f"s{n}" for n in range(SECRETS_MAX + 1)), "contract.too_many", ""),
    ("egress", ("a.example",), "contract.egress", "[0]"),
    ("egress", ("a.example:0",), "contract.egress", "[0]"),
    ("egress", ("a.example:65536",), "contract.egress", "[0]"),
    ("egress", ("a.example:080",), "contract.egress", "[0]"),
    ("egress", ("A.example:80",), "contract.egress", "[0]"),
    ("egress", ("localhost:80",), "contract.egress", "[0]"),
    ("egress", ("*.example:80",), "contract.egress", "[0]"),
    ("egress", ("a..example:80",), "contract.egress", "[0]"),
    ("egress", ("-a.example:80",), "contract.egress", "[0]"),
    ("egress", ("a.example.:80",), "contract.egress", "[0]"),
    ("egress", ("1.2.3:80",), "contract.egress", "[0]"),
    ("egress", ("1.2.3.04:80",), "contract.egress", "[0]"),
    ("egress", ("1.2.3.0x4:80",), "contract.egress", "[0]"),
    ("egress", ("2001:db8::1:80",), "contract.egress", "[0]"),
    ("egress", ("[2001:DB8::1]:80",), "contract.egress", "[0]"),
    ("egress", ("[2001:db8:0::1]:80",), "contract.egress", "[0]"),
    ("egress", ("[1.2.3.4]:80",), "contract.egress", "[0]"),
    ("egress", ("[::ffff:102:304]:80",), "contract.egress", "[0]"),
    ("egress", ("[::ffff:1.2.3.4]:80",), "contract.egress", "[0]"),
    ("egress", ("a.example:${port}",), "contract.egress", "[0]"),
    ("egress", ("a.example:80\n",), "contract.egress", "[0]"),
    ("egress", (f"{'a' * 64}.example:80",), "contract.egress", "[0]"),
    ("egress", (f"{'a.' * 126}example:80",), "contract.egress", "[0]"),
    ("egress", ("a.example:8080",), "contract.egress_port", "[0]"),
    ("egress", ("a.example:80", "a.example:80"), "contract.duplicate", "[1]"),
    ("egress", tuple(f"a.example:{n + 1}" for n in range(EGRESS_MAX + 1)), "contract.too_many", ""),
]


@pytest.mark.parametrize(("field", "value", "rule", "where"), BAD)
def test_what_does_not_fit_is_refused_in_contracts_and_manifests(
    field: str, value: tuple[str, ...], rule: str, where: str
) -> None:
    with pytest.raises(Refused) as caught:
        check_contract(contract(service(**{field: value})))
    assert (caught.value.rule, caught.value.field) == (rule, f"workloads.web.{field}{where}")
    sound = manifest()
    web = replace(sound.workloads[0], **{field: value})
    with pytest.raises(Refused) as caught:
        check_manifest(replace(sound, workloads=(web, *sound.workloads[1:])))
    assert caught.value.rule == rule


def test_a_source_says_them_as_lists_of_text() -> None:
    lines = 'secrets: [token, tls-key]\n    egress: ["a.example:443", "1.2.3.4:53", "[2001:db8::1]:80"]'
    source = parse_contract(SOURCE.replace("recheck: 10s", f"recheck: 10s\n    {lines}"), "contract.yaml")
    web = source.contract.workloads[0]
    assert web.secrets == ("token", "tls-key")
    assert [split_target(target) for target in web.egress] == [
        ("a.example", 443),
        ("1.2.3.4", 53),
        ("2001:db8::1", 80),
    ]
    assert source_rule("secrets: token") == ("contract.type", "workloads.web.secrets")
    assert source_rule("secrets: [A]") == ("contract.name", "workloads.web.secrets[0]")
    assert source_rule("egress: [everything]") == ("contract.egress", "workloads.web.egress[0]")


def test_they_stand_in_the_manifest_and_nothing_of_them_by_default() -> None:
    made = manifest(secrets=("token",), egress=("a.example:443",)).workloads[0]
    assert (made.secrets, made.egress) == (("token",), ("a.example:443",))
    assert features_needed(made) == ("secrets", "egress")
    plain = manifest().workloads[0]
    assert (plain.secrets, plain.egress, features_needed(plain)) == ((), (), ())


@pytest.mark.parametrize("path", ["/secrets", "/secrets/token"])
def test_nothing_stands_where_secrets_come(path: str) -> None:
    artifact = replace(service().artifacts[0], path=path, executable=False)
    with pytest.raises(Refused) as caught:
        check_contract(contract(service(artifacts=(*service().artifacts, artifact))))
    assert caught.value.rule == "contract.path_reserved"


@pytest.mark.parametrize("path", ["/etc", "/etc/hosts", "/etc/hosts/x"])
def test_nothing_stands_where_the_node_writes_addresses(path: str) -> None:
    artifact = replace(service().artifacts[0], path=path, executable=False)
    changes = {"artifacts": (*service().artifacts, artifact)}
    check_contract(contract(service(**changes)))
    with pytest.raises(Refused) as caught:
        check_contract(contract(service(egress=("a.example:443",), **changes)))
    assert caught.value.rule == "contract.path_reserved"


def volume(**changes: object) -> VolumeTemplate:
    fields: dict[str, object] = {"name": "data", "path": "/data", "size_bytes": 16 * MIB}
    return VolumeTemplate(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "rule", "where"),
    [
        ({"name": "Data"}, "contract.name", "Data"),
        ({"path": "data"}, "contract.path", "data.path"),
        ({"path": "/${name}"}, "contract.parameter_in_path", "data.path"),
        ({"path": "/tmp/data"}, "contract.path_reserved", "data.path"),
        ({"path": "/etc"}, "contract.path_reserved", "data.path"),
        ({"path": "/bin"}, "contract.path_overlap", "data.path"),
        ({"size_bytes": 16 * MIB - 1}, "contract.range", "data.size"),
        ({"size_bytes": "${missing}"}, "contract.unknown_parameter", "data.size"),
    ],
)
def test_a_volume_that_does_not_fit_is_refused(changes: dict[str, object], rule: str, where: str) -> None:
    with pytest.raises(Refused) as caught:
        check_contract(contract(service(volumes=(volume(**changes),))))
    assert (caught.value.rule, caught.value.field) == (rule, f"workloads.web.volumes.{where}")


def test_volumes_are_bounded_apart_and_of_services_alone() -> None:
    two = (volume(), volume(name="more", path="/data/more"))
    many = tuple(volume(name=f"v{n}", path=f"/v{n}") for n in range(VOLUMES_MAX + 1))
    for workloads, rule in (
        ((service(volumes=two),), "contract.path_overlap"),
        ((service(volumes=(volume(), volume(path="/other"))),), "contract.duplicate"),
        ((service(volumes=many),), "contract.too_many"),
        ((service(), job(volumes=(volume(),))), "contract.job_volumes"),
    ):
        with pytest.raises(Refused) as caught:
            check_contract(contract(*workloads))
        assert caught.value.rule == rule


@pytest.mark.parametrize(("kind", "price"), [("ssd", 1_000), ("hdd", 250)])
def test_a_volume_counts_and_costs_as_its_kind_of_disk(kind: Disk, price: int) -> None:
    plain = manifest().workloads[0]
    kept = manifest(volumes=(volume(storage=kind, size_bytes=2**30),)).workloads[0]
    assert kept.volumes == (Volume(name="data", path="/data", size_bytes=2**30, storage=kind),)
    scratch = plain.resources.disk_bytes
    assert (plain.needs.ssd_bytes, plain.needs.hdd_bytes) == (scratch, 0)
    found = {"ssd": kept.needs.ssd_bytes - scratch, "hdd": kept.needs.hdd_bytes}
    assert found == dict.fromkeys(found, 0) | {kind: 2**30}
    offer = Price(0, 0, 1_000, 250)
    assert slot_rate(kept, offer) - slot_rate(plain, offer) == price
    assert features_needed(kept) == ("volumes",)


def test_a_source_says_volumes_by_name() -> None:
    lines = "volumes: {data: {path: /data, size: 1GiB, class: hdd, if_lost: empty}, "
    lines += "more: {path: /m, size: 32MiB}}"
    source = parse_contract(SOURCE.replace("recheck: 10s", f"recheck: 10s\n    {lines}"), "contract.yaml")
    assert source.contract.workloads[0].volumes == (
        VolumeTemplate(name="data", path="/data", size_bytes=2**30, storage="hdd", if_lost="empty"),
        VolumeTemplate(name="more", path="/m", size_bytes=32 * MIB),
    )
    assert source_rule("volumes: {data: {path: /data}}") == (
        "contract.missing_field",
        "workloads.web.volumes.data.size",
    )
    assert source_rule("volumes: {data: {path: /data, size: 1GiB, if_lost: cry}}")[0] == "contract.choice"
    wrong = source_rule("volumes: {data: {path: /data, size: 1GiB, class: nvme}}")
    assert wrong == ("contract.choice", "workloads.web.volumes.data.class")
