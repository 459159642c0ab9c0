"""Expansion: the same bytes everywhere, nothing out of bounds, and a value never more than a value."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.contracts.parameters import parameters_from_text
from ledger.contracts.types import (
    Contract,
    ContractRole,
    Parameter,
    PriceTemplate,
    ResourcesTemplate,
    TermsTemplate,
)
from ledger.errors import Refused
from ledger.limits import MANIFEST_BYTES_MAX
from ledger.manifests.expansion import (
    check_manifest,
    cost,
    decode_manifest,
    expand,
    slot_rate,
    slots,
    workload_of,
)
from ledger.manifests.types import Artifact, Policies, Port, Resources, Role, Rule
from ledger.transactions import Price
from tests.ledger.contract_samples import (
    AUTHOR,
    BUDGET,
    BUSYBOX,
    CONSUMER,
    DIGEST,
    ROLES,
    contract,
    expanded,
    workload,
)


def refused(template: Contract | None = None, **given_: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        expanded(template, **given_)
    return caught.value


def test_parameters_take_their_places() -> None:
    manifest = expanded(parameters={"replicas": 3, "title": "a b", "budget": "7.5 credits"})
    web = manifest.workloads[0]
    assert (web.replicas, web.placement.countries) == (3, ("BE",))
    assert web.environment == {"TITLE": "site: a b"}
    assert manifest.terms.budget == 7_500_000
    assert manifest.parameters == {"replicas": 3, "country": "BE", "title": "a b", "budget": 7_500_000}
    assert (manifest.author, manifest.consumer) == (AUTHOR.public.hex(), CONSUMER.public.hex())
    assert slots(manifest) == ("web/0", "web/1", "web/2")
    assert workload_of(manifest, "web/2") is web


@pytest.mark.parametrize("slot", ["web/3", "web/-1", "web/00", "web", "other/0", "web/0/0", ""])
def test_unknown_slots(slot: str) -> None:
    with pytest.raises(Refused, match=r"manifest\.unknown_slot"):
        workload_of(expanded(parameters={"replicas": 3}), slot)


@pytest.mark.parametrize(
    ("parameters", "rule", "field"),
    [
        ({"replicas": 5}, "parameter.range", "parameters.replicas"),
        ({"replicas": 0}, "parameter.range", "parameters.replicas"),
        ({"replicas": True}, "parameter.type", "parameters.replicas"),
        ({"replicas": "2"}, "parameter.type", "parameters.replicas"),
        ({"replicas": 2**63}, "parameter.type", "parameters.replicas"),
        ({"country": "Belgium"}, "parameter.type", "parameters.country"),
        ({"country": "be"}, "parameter.type", "parameters.country"),
        ({"title": 3}, "parameter.type", "parameters.title"),
        ({"title": "x" * 41}, "parameter.length", "parameters.title"),
        ({"budget": "99 credits"}, "parameter.range", "parameters.budget"),
        ({"budget": "lots"}, "parameter.type", "parameters.budget"),
        ({"replica": 2}, "parameter.unknown", "parameters.'replica'"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], rule: str, field: str) -> None:
    error = refused(parameters=parameters)
    assert (error.rule, error.field) == (rule, field)
    assert ("did you mean 'replicas'?" in error.detail) == (rule == "parameter.unknown")


@pytest.mark.parametrize(
    ("kind", "bounds", "given", "words"),
    [
        ("money", (1_000_000, 2_500_000), 5, "0.000005 credits is not in 1 credits to 2.5 credits"),
        ("duration", (600, None), "5m", "300 s is not in 600 s to any"),
        ("size", (None, 4096), 8192, "8192 B is not in any to 4096 B"),
        ("integer", (1, 4), 9, "9 is not in 1 to 4"),
    ],
)
def test_a_number_out_of_its_range_is_told_in_its_unit(
    kind: Any, bounds: tuple[int | None, int | None], given: Any, words: str
) -> None:
    asked = Parameter(name="much", type=kind, min=bounds[0], max=bounds[1])
    template = contract(parameters=(*contract().parameters, asked))
    assert refused(template, parameters={"much": given}).detail == words


def test_a_role_that_is_not_asked_for_is_told_with_those_that_are() -> None:
    error = refused(roles={**ROLES, "nobody": ROLES["legal"]})
    assert (error.rule, error.field) == ("role.unknown", "roles.nobody")
    assert error.detail == "the order names holders of: budget, it-expert, legal"


def test_a_parameter_without_default_must_be_given() -> None:
    template = contract(parameters=(*contract().parameters, Parameter(name="owner", type="string")))
    assert refused(template).rule == "parameter.missing"
    assert expanded(template, {"owner": "me"}).parameters["owner"] == "me"


@pytest.mark.parametrize(
    "value",
    [
        "a\nb",
        "a\0b",
        "\x1b[2J",
        "a\u202eb",
        "a\u200bb",
        "\ufeffa",
        "a\u2028b",
        "a\x85b",
        "\ud800",
        "\U000e0041",
    ],
)
def test_control_and_invisible_characters_are_refused(value: str) -> None:
    assert refused(parameters={"title": value}).rule == "parameter.character"


@pytest.mark.parametrize(
    "value",
    ["; rm -rf /", "$(reboot)", "`id`", "${budget}", "$${x}", "a b\u00a0c", '","x":"', "--evil", "É日本"],
)
def test_a_value_stays_one_value(value: str) -> None:
    """No value adds an argument or a variable, and none is read again for references."""
    template = contract(
        workloads=(workload(command=("/bin/busybox", "echo", "title=${title}", "end")),),
    )
    web = expanded(template, {"title": value}).workloads[0]
    assert web.command == ("/bin/busybox", "echo", f"title={value}", "end")
    assert web.environment == {"TITLE": f"site: {value}"}
    assert web.artifacts == (BUSYBOX,)


def test_a_value_never_becomes_an_option() -> None:
    template = contract(workloads=(workload(command=("/bin/busybox", "echo", "${title}")),))
    assert expanded(template, {"title": "x-y"}).workloads[0].command[2] == "x-y"
    error = refused(template, parameters={"title": "-rf"})
    assert (error.rule, error.field) == ("manifest.option_injection", "workloads.web.command[2]")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"command": ("${title}",)}, "contract.parameter_in_path"),
        ({"command": ("/bin/${title}",)}, "contract.parameter_in_path"),
        ({"command": ("/bin/busybox", "sh", "-c", "echo ${title}")}, "contract.shell_parameter"),
        ({"command": ("/bin/busybox", "sh", "-euc", "echo ${title}")}, "contract.shell_parameter"),
        ({"environment": {"${title}": "x"}}, "contract.environment_name"),
        ({"environment": {"A=B": "x"}}, "contract.environment_name"),
        (
            {"artifacts": (msgspec.structs.replace(BUSYBOX, path="/x/${title}"),)},
            "contract.parameter_in_path",
        ),
        (
            {"kind": "job", "ports": (), "health": None, "results": ("/result/${title}",)},
            "contract.parameter_in_path",
        ),
        ({"environment": {"A": "${= 1 +}"}}, "contract.expression"),
        ({"environment": {"A": "${nobody}"}}, "contract.unknown_parameter"),
        ({"environment": {"A": "${title"}}, "contract.reference"),
        ({"replicas": "${title}"}, "contract.reference_type"),
        ({"replicas": "1${replicas}"}, "contract.reference"),
        ({"replicas": "many"}, "contract.type"),
        ({"replicas": 65}, "contract.range"),
    ],
)
def test_where_parameters_may_not_stand(changes: dict[str, Any], rule: str) -> None:
    assert refused(contract(workloads=(workload(**changes),)), parameters={"title": "ok"}).rule == rule


def test_an_escape_is_a_plain_dollar_brace() -> None:
    template = contract(
        workloads=(
            workload(command=("/bin/busybox", "sh", "-c", "echo $HOME"), environment={"A": "$${title}"}),
        )
    )
    assert expanded(template).workloads[0].environment == {"A": "${title}"}


@pytest.mark.parametrize(
    ("roles", "rule"),
    [
        ({}, "role.unbound"),
        ({**ROLES, "boss": [BUDGET.public.hex()]}, "role.unknown"),
        ({**ROLES, "budget": []}, "contract.role_keys"),
        ({**ROLES, "budget": ["xx"]}, "contract.role_keys"),
        ({**ROLES, "budget": [BUDGET.public.hex().upper()]}, "contract.role_keys"),
        ({**ROLES, "budget": [BUDGET.public.hex()] * 2}, "contract.duplicate"),
        ({**ROLES, "budget": [AUTHOR.public.hex()]}, "manifest.policy_unreachable"),
        ({name: [BUDGET.public.hex()] for name in ROLES}, "manifest.policy_unreachable"),
    ],
)
def test_roles_are_checked(roles: dict[str, Any], rule: str) -> None:
    assert refused(roles=roles).rule == rule


def test_fixed_roles_cannot_be_taken_over_by_the_order() -> None:
    fixed = ContractRole(name="budget", bind="author", keys=(BUDGET.public.hex(),))
    template = contract(roles=(fixed, *contract().roles[:2]))
    assert refused(template).rule == "role.fixed"
    rest = {name: keys for name, keys in ROLES.items() if name != "budget"}
    assert expanded(template, roles=rest).roles[0] == Role(name="budget", keys=fixed.keys)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (Rule(role="boss"), "policy.unknown_role"),
        (Rule(role="budget", count=2), "manifest.policy_unreachable"),
        (Rule(role="budget", count=0), "policy.count"),
        (Rule(any=(Rule(role="budget"),), count=2), "policy.count"),
        (Rule(all=(Rule(role="budget"),), count=2), "policy.count"),
        (Rule(), "policy.rule"),
        (Rule(role="budget", all=(Rule(role="legal"),)), "policy.rule"),
        (Rule(all=(Rule(role="budget"),) * 200), "policy.too_large"),
    ],
)
def test_policies_are_checked(rule: Rule, name: str) -> None:
    assert refused(contract(policies=Policies(deploy=None, signoff=rule))).rule == name


def test_a_deep_policy_is_refused_and_not_followed() -> None:
    rule = Rule(role="budget")
    for _ in range(20):
        rule = Rule(all=(rule,))
    assert refused(contract(policies=Policies(deploy=rule, signoff=None))).rule == "policy.too_large"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"command": ("/bin/other",)}, "contract.command_artifact"),
        ({"command": ()}, "contract.command"),
        ({"artifacts": (BUSYBOX, BUSYBOX)}, "contract.path_overlap"),
        ({"artifacts": (msgspec.structs.replace(BUSYBOX, path="/proc/x"),)}, "contract.path_reserved"),
        ({"artifacts": (msgspec.structs.replace(BUSYBOX, path="/bin/../x"),)}, "contract.path"),
        ({"artifacts": (msgspec.structs.replace(BUSYBOX, path="bin/x"),)}, "contract.path"),
        ({"artifacts": (msgspec.structs.replace(BUSYBOX, sha256="AB" * 32),)}, "contract.digest"),
        ({"artifacts": (msgspec.structs.replace(BUSYBOX, size_bytes=-1),)}, "contract.range"),
        ({"artifacts": (msgspec.structs.replace(BUSYBOX, executable=False),)}, "contract.command_artifact"),
        ({"ports": (Port(name="http", port=80),)}, "contract.range"),
        ({"ports": (), "health": workload().health}, "contract.unknown_port"),
        ({"results": ("/result/x",)}, "contract.service_results"),
        ({"kind": "job"}, "contract.job_ports"),
        ({"recheck_s": 0}, "contract.range"),
        (
            {"resources": ResourcesTemplate(cpu_millis=1, memory_bytes=64 << 20, disk_bytes=0, pids=1)},
            "contract.range",
        ),
        (
            {"resources": ResourcesTemplate(cpu_millis=100, memory_bytes=64, disk_bytes=0, pids=1)},
            "contract.range",
        ),
    ],
)
def test_workloads_are_checked(changes: dict[str, Any], rule: str) -> None:
    assert refused(contract(workloads=(workload(**changes),))).rule == rule


def test_limits_of_the_whole() -> None:
    many = tuple(workload(name=f"w{n}", replicas=64) for n in range(5))
    assert refused(contract(workloads=many)).rule == "manifest.slots"
    assert refused(contract(workloads=())).rule == "contract.workloads"
    assert refused(contract(workloads=(workload(), workload()))).rule == "contract.duplicate"
    fee = TermsTemplate(duration_s=3_600, budget="${budget}", fee=8_000_000)
    assert refused(contract(terms=fee)).rule == "manifest.fee"
    assert refused(contract(summary="x" * 70_000)).rule == "contract.too_long"
    # A contract may be short and its manifest long: each reference grows.
    parameters = (*contract().parameters, Parameter(name="long", type="string", max=1_000))
    environment = {f"E{n}": "${long}${long}" for n in range(64)}
    wide = contract(parameters=parameters, workloads=(workload(environment=environment),))
    assert refused(wide, parameters={"long": "x" * 1_000}).rule == "manifest.too_long"


def test_decode_is_strict() -> None:
    data = expanded().encode()
    assert decode_manifest(data).encode() == data
    for bad, rule in [
        (data + b" ", "manifest.not_canonical"),
        (data.replace(b'"gridpact":1', b'"gridpact":2'), "manifest.malformed"),
        (data.replace(b'"name":"site"', b'"name":"x","name":"site"'), "manifest.not_canonical"),
        (data[:-1] + b',"zz":1}', "manifest.malformed"),
        (data.replace(b'"replicas":2,"res', b'"replicas":65,"res'), "contract.range"),
        (data.replace(b'"countries":["BE"]', b'"countries":["be"]'), "manifest.value"),
        (b"", "manifest.malformed"),
        (b"[" * 60_000, "manifest.malformed"),
        (b" " * (MANIFEST_BYTES_MAX + 1), "manifest.too_long"),
    ]:
        with pytest.raises(Refused) as caught:
            decode_manifest(bad)
        assert caught.value.rule == rule


def test_values_typed_on_a_command_line() -> None:
    typed = parameters_from_text(contract(), {"replicas": "3", "country": "DE", "budget": "2 credits"})
    assert typed == {"replicas": 3, "country": "DE", "budget": 2_000_000}
    assert parameters_from_text(contract(), {"title": "12"}) == {"title": "12"}
    for name, text in (("replicas", "3.5"), ("replicas", "²"), ("nobody", "1")):
        with pytest.raises(Refused, match=r"parameter\."):
            parameters_from_text(contract(), {name: text})


def test_rates_round_up_and_never_lose_a_slot() -> None:
    gib = 2**30
    web = msgspec.structs.replace(
        expanded().workloads[0],
        resources=Resources(cpu_millis=1500, memory_bytes=2 * gib, disk_bytes=gib // 2, pids=1),
    )
    assert slot_rate(web, Price(100, 10, 2, 0)) == 150 + 20 + 1
    assert slot_rate(web, Price(1, 0, 0, 0)) == 2
    assert slot_rate(web, Price(0, 0, 0, 0)) == 0
    assert cost(3_600_000, 0, 1) == 1
    assert cost(1, 0, 1) == 1
    assert cost(100, 0, 3_600_000) == 100
    assert cost(100, 5, 5) == cost(100, 9, 5) == 0


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_splitting_a_stretch_costs_at_most_one_more_each(rate: int, start: int, a: int, b: int) -> None:
    whole = cost(rate, start, start + a + b)
    parts = cost(rate, start, start + a) + cost(rate, start + a, start + a + b)
    assert whole <= parts <= whole + 1


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(max_size=50),
    st.sampled_from(["BE", "3 credits", "64MiB", "x", "", 1, 2, 4]),
)


@given(
    st.dictionaries(st.sampled_from(["replicas", "country", "title", "budget", "x"]), VALUES),
    st.dictionaries(
        st.sampled_from(["it-expert", "legal", "budget", "x"]),
        st.lists(st.sampled_from([DIGEST, "11" * 32, "22" * 32, "", "zz"]), max_size=3),
    ),
)
def test_same_input_same_bytes_or_refused(parameters: dict[str, Any], roles: dict[str, list[str]]) -> None:
    def run(order: int) -> bytes | str:
        shuffled = dict(list(parameters.items())[::order])
        swapped = {name: keys[::order] for name, keys in list(roles.items())[::order]}
        try:
            return expand(contract(), b"c" * 32, AUTHOR.public, CONSUMER.public, shuffled, swapped)
        except Refused as error:
            return error.rule if len({*parameters, *roles}) < 2 else "refused"

    first = run(1)
    assert run(-1) == first
    if isinstance(first, bytes):
        manifest = decode_manifest(first)
        check_manifest(manifest)
        assert len(first) <= MANIFEST_BYTES_MAX
        assert manifest.terms.budget <= 9_000_000


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["${title}", "${replicas}", "/bin/busybox", "web", "-c", "sh", "${", "1.0.0", "BE", "/result/x", DIGEST]
)
NUMBERS = st.integers(-3, 100) | st.integers(-(2**70), 2**70)


@settings(max_examples=150)
@given(st.data())
def test_any_contract_expands_or_is_refused(data: st.DataObject) -> None:
    """Random changes anywhere in a contract never raise anything but Refused."""
    value = msgspec.to_builtins(contract())

    def paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = (
            node.items()
            if isinstance(node, dict)
            else enumerate(node)
            if isinstance(node, list | tuple)
            else ()
        )
        return [at, *(path for key, child in items for path in paths(child, (*at, key)))]

    value = msgspec.json.decode(msgspec.json.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(value)[1:]))
        node = value
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = data.draw(TEXTS | NUMBERS | st.none() | st.booleans() | st.lists(TEXTS, max_size=3))
        try:
            template = msgspec.convert(value, Contract)
        except msgspec.ValidationError:
            return
        try:
            manifest = expanded(template)
        except Refused:
            continue
        check_manifest(manifest)
        assert all(isinstance(artifact, Artifact) for w in manifest.workloads for artifact in w.artifacts)


def test_every_number_of_the_terms_takes_a_parameter() -> None:
    """None of them stops the ledger with a KeyError (extension, top_up and grace did)."""
    time = Parameter(name="time", type="duration", default=60)
    asked = (*contract().parameters, time, Parameter(name="money", type="money", default=7))
    terms = TermsTemplate(
        duration_s="${time}", budget="${money}", fee="${money}", extension_s="${time}", top_up="${money}",
        grace_s="${time}",
        price=PriceTemplate(**dict.fromkeys(PriceTemplate.__struct_fields__, "${money}")),
    )  # fmt: skip
    made = expanded(contract(parameters=asked, terms=terms)).terms
    assert {made.duration_s, made.extension_s, made.grace_s} == {60}
    assert {made.budget, made.fee, made.top_up, *msgspec.structs.astuple(made.price)} == {7}
    for field in TermsTemplate.__struct_fields__:
        if field != "price":
            broken = msgspec.structs.replace(terms, **{field: ""})
            error = refused(contract(parameters=asked, terms=broken))
            assert error.rule == "contract.type", field


def test_a_role_stands_in_a_manifest_once() -> None:
    manifest = expanded()
    twice = msgspec.structs.replace(manifest, roles=(*manifest.roles, manifest.roles[0]))
    with pytest.raises(Refused, match=r"contract\.duplicate at roles: "):
        decode_manifest(twice.encode())


def test_a_value_is_read_as_what_its_place_wants() -> None:
    asked = (*contract().parameters, Parameter(name="cores", type="string"))
    need = msgspec.structs.replace(workload().resources, cpu_millis="${cores}")
    template = contract(parameters=asked, workloads=(workload(resources=need),))
    assert expanded(template, {"cores": "1.5"}).workloads[0].resources.cpu_millis == 1_500
    error = refused(template, parameters={"cores": "many"})
    assert (error.rule, error.field) == ("manifest.value", "workloads.web.resources.cpu")


def test_a_text_does_not_grow_without_bound() -> None:
    asked = (*contract().parameters, Parameter(name="long", type="string", default="x" * 1_000))
    four, five = (workload(environment={"A": "${long}" * count}) for count in (4, 5))
    assert len(expanded(contract(parameters=asked, workloads=(four,))).workloads[0].environment["A"]) == 4_000
    error = refused(contract(parameters=asked, workloads=(five,)))
    assert (error.rule, error.field) == ("manifest.value", "workloads.web.environment.A")


def test_the_order_of_keys_changes_nothing() -> None:
    two = ["22" * 32, "11" * 32]
    assert expanded(roles={**ROLES, "legal": two}) == expanded(roles={**ROLES, "legal": two[::-1]})


def test_a_value_within_its_parameter_may_still_be_out_of_the_limits() -> None:
    wide = (Parameter(name="replicas", type="integer", default=2), *contract().parameters[1:])
    with pytest.raises(Refused, match=r"contract\.range at workloads\.web\.replicas"):  # by expand itself
        expand(contract(parameters=wide), b"c" * 32, AUTHOR.public, CONSUMER.public, {"replicas": 65}, ROLES)
    assert len(slots(expanded(contract(parameters=wide), {"replicas": 64}))) == 64


@pytest.mark.parametrize("replicas", [1, 4])
def test_bounds_are_inclusive(replicas: int) -> None:
    assert expanded(parameters={"replicas": replicas}).workloads[0].replicas == replicas


@pytest.mark.parametrize(
    ("changes", "good", "bad", "rule"),
    [
        ({"pattern": "[a-z]{2,4}"}, "abcd", "abcde", "parameter.pattern"),
        ({"choices": ("red", "green")}, "green", "blue", "parameter.choices"),
        ({"min": 3}, "abc", "ab", "parameter.length"),
    ],
)
def test_text_is_held_to_its_parameter(changes: dict[str, Any], good: str, bad: str, rule: str) -> None:
    asked = Parameter(name="word", type="string", **changes)
    template = contract(parameters=(*contract().parameters, asked))
    assert expanded(template, {"word": good}).parameters["word"] == good
    error = refused(template, parameters={"word": bad})
    assert (error.rule, error.field) == (rule, "parameters.word")


@pytest.mark.parametrize("paths", [("/a", "/a/b"), ("/a/b", "/a")])
def test_artifacts_never_lie_in_each_other(paths: tuple[str, str]) -> None:
    more = tuple(msgspec.structs.replace(BUSYBOX, path=path) for path in paths)
    assert (
        refused(contract(workloads=(workload(artifacts=(BUSYBOX, *more)),))).rule == "contract.path_overlap"
    )
    beside = msgspec.structs.replace(BUSYBOX, path="/bin/busybox2")
    assert (
        len(expanded(contract(workloads=(workload(artifacts=(BUSYBOX, beside)),))).workloads[0].artifacts)
        == 2
    )


def test_a_policy_asks_for_a_bounded_number_of_signatures() -> None:
    rule = Rule(all=(Rule(role="budget", count=64),) * 5)
    assert refused(contract(policies=Policies(deploy=rule, signoff=None))).rule == "policy.too_large"
