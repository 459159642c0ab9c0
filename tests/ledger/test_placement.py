"""Where slots stand, start order, price caps, replicas that agree: rules C2, C4, C8, C9, R8."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.contracts.language import parse_contract
from ledger.contracts.types import Contract, PriceTemplate, VolumeTemplate, WorkloadTemplate
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import REVEAL_MS, WORKLOADS_MAX
from ledger.manifests.types import Apart, Placement, PriceCaps, Spread
from ledger.text.yaml_tree import ContractError
from ledger.transactions import Claim, Price, Renew, RenewItem
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.contract_samples import SOURCE, expanded
from tests.ledger.contract_samples import contract as sample
from tests.ledger.contract_samples import workload as template
from tests.ledger.invariants import check
from tests.ledger.world import (
    FARMERS,
    NODES,
    World,
    contract,
    job,
    key_of,
    register_node,
    result_file,
    service,
)

A0, A1, B0, B1 = NODES  # two of farm a in BE, two of farm b in NL
THIRD = key_of("node 4")  # of farm a, in CH


def approved(*workloads: WorkloadTemplate, terms: Callable[[Contract], Contract] = lambda c: c) -> Any:
    world = World()
    world.add_nodes()
    world.ok(FARMERS[0], register_node(THIRD, FARMERS[0], "farm-a", "CH"))
    world.ok(THIRD, world.offer(attributes={"gpu": "a100"}))
    deployment = world.ordered(terms(contract(*workloads, budget=100_000_000)))
    world.approve(deployment)
    return world, deployment


def refusals(world: World, deployment: bytes, slot: str) -> dict[Key, str]:
    """Who may not have this slot now, and by which rule."""
    found = {}
    for node in (*NODES, THIRD):
        receipt = world.run(world.tx(node, Claim(deployment, slot, 99))).receipts[0]
        assert receipt.rule == "claim.stale_term"
        tried = World.__new__(World)
        tried.__dict__ |= world.__dict__
        tried.state = world.state.__class__(world.state.entries())
        found[node] = tried.do(node, Claim(deployment, slot, world.slot(deployment, slot).term + 1)).rule
    return {node: rule for node, rule in found.items() if rule}


def test_attributes_of_the_offer() -> None:
    """[C2]"""
    world, deployment = approved(service(placement=Placement(attributes={"gpu": "a100"})))
    assert refusals(world, deployment, "web/0") == dict.fromkeys(NODES, "claim.attribute")
    assert world.refused(A0, Claim(deployment, "web/0", 1)) == "claim.attribute"
    world.ok(A0, world.offer(attributes={"gpu": "a100"}))
    assert world.claimed(deployment, "web/0", [A0]) is A0


def test_distinct_countries() -> None:
    """[C4]"""
    world, deployment = approved(service(placement=Placement(distinct="country")))
    world.claimed(deployment, "web/0", [A0])
    assert refusals(world, deployment, "web/1") == dict.fromkeys((A0, A1), "claim.distinct")


def test_spread_bounds_how_many_share() -> None:
    """[C4]"""
    place = Placement(distinct="none", spread=Spread(by="farm", most=2))
    world, deployment = approved(service(replicas=4, placement=place))
    for slot, node in (("web/0", A0), ("web/1", A0)):
        world.claimed(deployment, slot, [node])
    assert refusals(world, deployment, "web/2") == dict.fromkeys((A0, A1, THIRD), "claim.spread")


def test_min_farms_leaves_room_for_the_farms_that_are_missing() -> None:
    """[C4] Two of three replicas may share a farm, the third may not."""
    world, deployment = approved(service(replicas=3, placement=Placement(min_farms=2)))
    world.claimed(deployment, "web/2", [A0])
    assert refusals(world, deployment, "web/0") == {A0: "claim.distinct"}
    world.claimed(deployment, "web/0", [A1])
    assert refusals(world, deployment, "web/1") == {
        A0: "claim.distinct", A1: "claim.distinct", THIRD: "claim.min_farms"
    }  # fmt: skip


@pytest.mark.parametrize("first", ["web", "db"])
def test_apart_holds_from_both_sides(first: str) -> None:
    """[C4] Whichever is placed first."""
    apart = Placement(distinct="none", apart=Apart(by="farm", workloads=("db",)))
    db = service(name="db", replicas=1, placement=Placement())
    world, deployment = approved(service(placement=apart), db)
    world.claimed(deployment, f"{first}/0", [B0])
    other = {"web": "db", "db": "web"}[first]
    assert refusals(world, deployment, f"{other}/0") == dict.fromkeys((B0, B1), "claim.apart")
    if first == "web":
        assert not refusals(world, deployment, "web/1")  # its own replicas may be near each other


def test_a_window_never_ends_with_two_that_must_be_apart() -> None:
    """[C4] [C6] Both claimed while nobody held anything: selection looks again."""
    apart = Placement(distinct="none", apart=Apart(by="node", workloads=("db",)))
    world, deployment = approved(
        service(replicas=1, placement=apart), service(name="db", replicas=1, placement=Placement())
    )
    world.run(*(world.tx(A0, Claim(deployment, slot, 1)) for slot in ("web/0", "db/0")))
    world.run()
    assert {world.slot(deployment, slot).holder for slot in ("web/0", "db/0")} == {A0.public, b""}


def test_start_order() -> None:
    """[C8] A service runs first, a job succeeds first; nothing stops when they stop."""
    free = Placement(distinct="none")
    load = job(name="load", depends_on=("db",))
    web = service(replicas=1, depends_on=("load", "db"), placement=free)
    world, deployment = approved(web, service(name="db", replicas=1, ports=(), health=None), load)
    assert world.refused(A0, Claim(deployment, "web/0", 1)) == "claim.depends_on"
    assert world.refused(A0, Claim(deployment, "load/0", 1)) == "claim.depends_on"
    db = world.claimed(deployment, "db/0", [A0])
    world.report(deployment, "db/0", db, "fetching", "verified")
    assert world.refused(A1, Claim(deployment, "load/0", 1)) == "claim.depends_on"
    world.report(deployment, "db/0", db, "running")
    loader = world.claimed(deployment, "load/0", [A1])
    world.report(deployment, "load/0", loader, "fetching", "verified", "running")
    assert world.refused(B0, Claim(deployment, "web/0", 1)) == "claim.depends_on"
    world.report(deployment, "load/0", loader, "succeeded")
    front = world.claimed(deployment, "web/0", [B0])
    world.report(deployment, "web/0", front, "fetching", "verified", "running")
    world.report(deployment, "db/0", db, "failed")
    assert world.slot(deployment, "web/0").status == "running"
    check(world.state, world.now_ms)


def test_price_caps() -> None:
    """[C9]"""
    caps = PriceTemplate(cpu_core_hour=40_000, ssd_gib_hour=1_000, hdd_gib_hour=250)
    world, deployment = approved(service(), terms=lambda c: replace(c, terms=replace(c.terms, price=caps)))
    found = world.manifest(deployment).terms.price
    assert found == PriceCaps(cpu_core_hour=40_000, ssd_gib_hour=1_000, hdd_gib_hour=250)
    world.ok(A0, world.offer(price=Price(40_001, 0, 0, 0)))
    world.ok(B0, world.offer(price=Price(0, 20_000, 1_001, 0)))
    world.ok(B1, world.offer(price=Price(0, 0, 0, 251)))
    assert refusals(world, deployment, "web/0") == dict.fromkeys((A0, B0, B1), "claim.price_cap")


def mining(replicas: int, agree: int) -> WorkloadTemplate:
    return job(replicas=replicas, agree=agree, placement=Placement())


def finish(world: World, deployment: bytes, slot: str, node: Key, result: str) -> None:
    """A replica that must agree with others commits, any other tells what it found."""
    world.claimed(deployment, slot, [node])
    world.report(deployment, slot, node, "fetching", "verified", "running")
    if slot.startswith("mine"):
        world.ok(node, world.commit(deployment, slot, node, {WORDS: result * 32}))
    else:
        results = {WORDS: result_file(result * 32)}
        world.ok(node, world.receipt(deployment, slot, node, "succeeded", results=results))


def tell(world: World, deployment: bytes, slot: str, node: Key, result: str) -> None:
    world.ok(node, world.told(deployment, slot, node, {WORDS: result * 32}))


WORDS = "/result/words.tsv"


def test_who_waits_for_a_job_that_agreed_waits_no_longer() -> None:
    """[C8] [R8] Two of three found the same, and the third does not tell what it committed to."""
    web = service(replicas=1, depends_on=("mine",))
    world, deployment = approved(mining(3, 2), web)
    for slot, node in (("mine/0", A0), ("mine/1", A1), ("mine/2", B0)):
        finish(world, deployment, slot, node, "33")
    for slot, node in (("mine/0", A0), ("mine/1", A1)):
        tell(world, deployment, slot, node, "33")
        assert world.refused(B0, Claim(deployment, "web/0", 1)) == "claim.depends_on"
    world.wait(REVEAL_MS + 1_000, step_ms=10_000)
    assert world.claimed(deployment, "web/0", [B0]) is B0


def test_a_life_with_replicas_that_agree_passes_the_audit() -> None:
    """[C8] [R8]"""
    world = ChainWorld()
    world.add_nodes()
    free = Placement(distinct="none")
    source = contract(mining(3, 2), job(name="after", depends_on=("mine",), placement=free), budget=10**8)
    deployment = world.ordered(source)
    world.approve(deployment)
    finish(world, deployment, "mine/0", A0, "33")
    world.claimed(deployment, "mine/2", [A1])
    finish(world, deployment, "mine/1", B0, "33")
    for _ in range(3):
        world.ok(A1, Renew((RenewItem(deployment, "mine/2", 1),)), step_ms=19_000)
    world.wait(10_000, step_ms=10_000)
    world.ok(A1, world.receipt(deployment, "mine/2", A1, "released"))
    tell(world, deployment, "mine/0", A0, "33")
    tell(world, deployment, "mine/1", B0, "33")
    finish(world, deployment, "after/0", B1, "44")
    assert world.deployment(deployment).status == "completed"
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)


@pytest.mark.parametrize(
    ("changes", "rule", "field"),
    [
        ({"depends_on": ("web",)}, "contract.depends_on", "workloads.web.depends_on[0]"),
        ({"depends_on": ("wbe",)}, "contract.depends_on", "workloads.web.depends_on[0]"),
        ({"depends_on": ("db",)}, "contract.depends_on", "workloads.web.depends_on"),  # db waits for web
        ({"placement": Placement(min_farms=5)}, "contract.range", "workloads.web.placement.min_farms"),
        (
            {"placement": Placement(min_farms=2, farms=("a",))},
            "contract.range",
            "workloads.web.placement.min_farms",
        ),
        (
            {"placement": Placement(spread=Spread(by="farm", most=0))},
            "contract.range",
            "workloads.web.placement.spread.most",
        ),
        (
            {"placement": Placement(apart=Apart(by="farm", workloads=()))},
            "contract.depends_on",
            "workloads.web.placement.apart.from",
        ),
        (
            {"placement": Placement(apart=Apart(by="farm", workloads=("nobody",)))},
            "contract.depends_on",
            "workloads.web.placement.apart.from[0]",
        ),
        (
            {"placement": Placement(attributes={"gpu": "${title}"})},
            "contract.attribute",
            "workloads.web.placement.attributes.gpu",
        ),
        ({"agree": 2}, "contract.agree", "workloads.web.agree"),
    ],
)  # fmt: skip
def test_what_is_refused(changes: dict[str, Any], rule: str, field: str) -> None:
    db = template(name="db", depends_on=("web",), replicas=1)
    with pytest.raises(Refused) as caught:
        expanded(sample(workloads=(template(**{"replicas": 4} | changes), db)))
    assert (caught.value.rule, caught.value.field) == (rule, field)


def test_who_is_waited_for_is_named_once() -> None:
    db = template(name="db")
    expanded(sample(workloads=(template(depends_on=("db",)), db)))
    for names in (("db", "db"), tuple(f"n{n}" for n in range(WORKLOADS_MAX + 1))):
        with pytest.raises(Refused) as caught:
            expanded(sample(workloads=(template(depends_on=names), db)))
        assert (caught.value.rule, caught.value.field) == ("contract.depends_on", "workloads.web.depends_on")


@pytest.mark.parametrize(("replicas", "agree"), [(4, 2), (3, 1), (2, 3), ("${replicas}", 1)])
def test_a_minority_never_agrees(replicas: int | str, agree: int) -> None:
    mine = template(
        kind="job", ports=(), health=None, results=("/result/a",), replicas=replicas, agree=agree,
        placement=Placement(),
    )  # fmt: skip
    with pytest.raises(Refused) as caught:
        expanded(sample(workloads=(mine,)))
    assert caught.value.rule == "contract.agree"


@pytest.mark.parametrize(
    "what", [{"kind": "job", "ports": (), "health": None, "results": ()}, {"kind": "service"}]
)
def test_only_results_of_jobs_agree(what: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        expanded(sample(workloads=(template(replicas=3, agree=2, placement=Placement(), **what),)))
    assert (caught.value.rule, caught.value.field) == ("contract.agree", "workloads.web.agree")


def test_one_node_is_one_witness() -> None:
    mine = template(
        kind="job", ports=(), health=None, results=("/result/a",), replicas=3, agree=2,
        placement=Placement(distinct="none"),
    )  # fmt: skip
    with pytest.raises(Refused) as caught:
        expanded(sample(workloads=(mine,)))
    assert caught.value.rule == "contract.agree"


def test_a_default_that_is_written_out_changes_nothing() -> None:
    """A manifest is read back from its bytes, whether `distinct: node` was written or left out."""
    manifests = []
    for placement in ("{distinct: node}", "{}"):
        text = SOURCE.replace('{country: "${country}", distinct: farm}', placement)
        source = parse_contract(text, "c.yaml").contract
        (web,) = source.workloads
        made = replace(sample(), workloads=(replace(sample().workloads[0], placement=web.placement),))
        manifests.append(expanded(made).encode())
    assert manifests[0] == manifests[1]


PLACED = """placement:
      country: [BE, CH]
      distinct: country
      attributes: {gpu: a100}
      spread: {by: farm, most: 2}
      apart: {by: node, from: [db]}
      min_farms: 2
    depends_on: [db]
    recheck: 10s
  db:
    kind: service
    command: [/bin/busybox, httpd]
    artifacts: [{path: /bin/busybox, file: /bin/busybox, executable: true}]
    resources: {cpu: 100m, memory: 64MiB}
approval:"""


def test_a_source_says_all_of_it() -> None:
    text = SOURCE.replace(
        'placement: {country: "${country}", distinct: farm}\n    recheck: 10s\napproval:', PLACED
    )
    text = text.replace(
        '"${budget}", fee: 1000}', '"${budget}", fee: 1000, price: {cpu: 0.04 credits, ssd: 5, hdd: 2}}'
    )
    made = parse_contract(text, "c.yaml").contract
    assert made.workloads[0].placement == Placement(
        countries=("BE", "CH"), distinct="country", attributes={"gpu": "a100"}, min_farms=2,
        spread=Spread(by="farm", most=2), apart=Apart(by="node", workloads=("db",)),
    )  # fmt: skip
    assert made.workloads[0].depends_on == ("db",)
    assert made.terms.price == PriceTemplate(cpu_core_hour=40_000, ssd_gib_hour=5, hdd_gib_hour=2)
    with pytest.raises(ContractError) as caught:
        parse_contract(text.replace("from: [db]", "from: [dbb]").replace("by: farm", "by: form"), "c.yaml")
    told = str(caught.value)
    assert "workloads.web.placement.spread.by: contract.choice: 'form' is none of" in told
    assert "workloads.web.placement.apart.from[0]: contract.depends_on" in told and "mean 'db'?" in told


@pytest.mark.parametrize(("field", "value"), [("secrets", ("token",)), ("egress", ("a.example:443",))])
def test_a_node_enforces_what_the_workload_asks_for(field: str, value: tuple[str, ...]) -> None:
    """[C10] Also at selection: an offer may have changed since the claim."""
    world, deployment = approved(service(replicas=1, placement=Placement(distinct="none"), **{field: value}))
    for node, said in ((A0, {}), (A1, {field: "switched off"}), (B0, {field: "enforced"})):
        world.ok(node, world.offer(attributes=said))
    assert refusals(world, deployment, "web/0") == dict.fromkeys((A0, A1, B1, THIRD), "claim.feature")
    world.run(world.tx(B0, Claim(deployment, "web/0", 1)), world.tx(B0, world.offer(attributes={})))
    world.run()
    assert world.slot(deployment, "web/0").holder == b""


@pytest.mark.parametrize("if_lost", ["wait", "empty"])
def test_a_slot_goes_back_to_the_node_that_has_its_volumes(if_lost: str) -> None:
    """[C11] From `verified` on, since a workload may have written then; and a volume that may be lost is."""
    data = VolumeTemplate(name="data", path="/data", size_bytes=16 << 20, if_lost=if_lost)  # type: ignore[arg-type]
    web = service(replicas=1, placement=Placement(distinct="none"), volumes=(data,))
    world, deployment = approved(web)
    for node in (A0, A1):
        world.ok(node, world.offer(attributes={"volumes": "enforced"}))
    used = world.node(A0).used_ssd_bytes
    world.claimed(deployment, "web/0", [A0])
    assert world.node(A0).used_ssd_bytes == used + web.resources.disk_bytes + (16 << 20)
    world.report(deployment, "web/0", A0, "fetching")
    assert world.slot(deployment, "web/0").home == b""
    world.ok(A0, world.receipt(deployment, "web/0", A0, "released"))
    assert not {A0, A1} & set(refusals(world, deployment, "web/0"))  # nobody has begun with them
    world.claimed(deployment, "web/0", [A0])
    world.report(deployment, "web/0", A0, "fetching", "verified", "running")
    assert world.slot(deployment, "web/0").home == A0.public
    world.ok(A0, world.receipt(deployment, "web/0", A0, "released"))
    assert world.node(A0).used_ssd_bytes == used
    found = {node: rule for node, rule in refusals(world, deployment, "web/0").items() if node in (A0, A1)}
    assert found == ({A1: "claim.volume"} if if_lost == "wait" else {})
    world.claimed(deployment, "web/0", [A0])
    check(world.state, world.now_ms)
