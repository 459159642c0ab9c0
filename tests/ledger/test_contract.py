"""The contract language: each mistake is told with file, line, column, field, rule and a way out."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.contracts.check import decode_contract
from ledger.contracts.language import parse_contract
from ledger.contracts.rule_names import CONTRACT_RULES, SUGGESTIONS
from ledger.contracts.source import ContractSource
from ledger.errors import LocalError, Refused
from ledger.limits import CONTRACT_BYTES_MAX
from ledger.manifests.types import Policies, Rule
from ledger.text.yaml_tree import ContractError
from tests.ledger.contract_samples import BUSYBOX, SOURCE, TWO_OF_THREE, problems

ONE_ROLE = Rule(role="legal")


def parse(text: str) -> ContractSource:
    return parse_contract(text, "contract.yaml")


def changed(old: str, new: str) -> str:
    assert SOURCE.count(old) == 1, old
    return SOURCE.replace(old, new)


def line_of(text: str, piece: str) -> int:
    return text[: text.index(piece)].count("\n") + 1


def test_a_good_source() -> None:
    source = parse(SOURCE)
    contract = source.contract
    assert (contract.name, contract.version, contract.tags) == ("site", "1.0.0", ("web",))
    assert [p.default for p in contract.parameters] == [2, "NO", "hello", 5_000_000]
    web = contract.workloads[0]
    assert web.command == ("/bin/busybox", "httpd", "-f", "-p", "8080")
    assert (web.resources.cpu_millis, web.resources.memory_bytes) == (100, 64 * 2**20)
    assert (web.replicas, web.placement.countries, web.recheck_s) == ("${replicas}", ("${country}",), 10)
    assert contract.policies == Policies(deploy=TWO_OF_THREE, signoff=None, validity_s=72 * 3600)
    assert contract.terms.duration_s == 3_600
    assert [(a.workload, a.path, a.kind, a.source, a.executable) for a in source.artifacts] == [
        ("web", "/bin/busybox", "file", "/bin/busybox", True),
        ("web", "/www", "tree", "www", False),
    ]


def test_the_built_form_round_trips() -> None:
    source = parse(changed("      - {path: /www, tree: www}\n", ""))
    built = source.built({("web", "/bin/busybox"): BUSYBOX})
    assert decode_contract(built.encode()) == built
    with pytest.raises(LocalError):
        source.built({})
    for bad in (built.encode() + b" ", b"{}", b"\xff", built.encode().replace(b'"web"', b'"Web"')):
        with pytest.raises(Refused, match=r"contract\."):
            decode_contract(bad)


@pytest.mark.parametrize(
    ("old", "new", "field", "rule", "hint"),
    [
        ("kind: service", "kind: servce", "workloads.web.kind", "contract.choice", "did you mean 'service'?"),
        (
            "    command:",
            "    comand:",
            "workloads.web.comand",
            "contract.unknown_field",
            "did you mean 'command'?",
        ),
        ("version: 1.0.0", "version: 1.0", "version", "contract.version", "1.0.0"),
        ("name: site", "name: Site", "name", "contract.name", "lower-case"),
        ("name: site", "nane: site", "nane", "contract.unknown_field", "did you mean 'name'?"),
        ("kind: service", "image: nginx", "workloads.web.image", "contract.unknown_field", "known: "),
        ("title: A site", "title: [A, site]", "title", "contract.type", "text wanted"),
        ("gridpact: 1", "gridpact: 2", "gridpact", "contract.language", "version 2"),
        ("memory: 64MiB", "memory: 64MB1", "workloads.web.resources.memory", "contract.value", "64MiB"),
        ("memory: 64MiB", "memory: 64", "workloads.web.resources.memory", "contract.range", "4MiB"),
        ("cpu: 100m", "cpu: fast", "workloads.web.resources.cpu", "contract.value", "100m"),
        ("{http: 8080}", "{http: 80}", "workloads.web.ports.http", "contract.range", "1024"),
        (
            "port: http",
            "port: htp",
            "workloads.web.health.port",
            "contract.unknown_port",
            "did you mean 'http'?",
        ),
        ("health: {http: /,", "health: {", "workloads.web.health", "contract.health", "tcp: true"),
        (
            "${replicas}",
            "${replica}",
            "workloads.web.replicas",
            "contract.unknown_parameter",
            "did you mean 'replicas'?",
        ),
        ("${replicas}", "${title}", "workloads.web.replicas", "contract.reference_type", "integer"),
        (
            "file: /bin/busybox",
            "file: ../busybox",
            "workloads.web.artifacts[0].file",
            "contract.source_path",
            "inside",
        ),
        (
            "file: /bin/busybox",
            'file: "${title}"',
            "workloads.web.artifacts[0].file",
            "contract.source_path",
            "inside",
        ),
        (
            "executable: true",
            "executable: yes",
            "workloads.web.artifacts[0].executable",
            "contract.type",
            "true or false",
        ),
        ("path: /www", "path: /tmp/www", "workloads.web.artifacts[1].path", "contract.path_reserved", "/tmp"),
        (
            "[/bin/busybox",
            "[/bin/busybix",
            "workloads.web.command[0]",
            "contract.command_artifact",
            "artifact",
        ),
        ("default: 2", "default: 9", "parameters.replicas.default", "parameter.range", "1 to 4"),
        ("fee: 1000", "fee: 10 credits", "terms.fee", "manifest.fee", "more than the budget of 9"),
        ("type: integer", "type: number", "parameters.replicas.type", "contract.choice", "integer"),
        ("default: NO", "default: Norway", "parameters.country.default", "contract.value", "capital letters"),
        (
            "role: budget",
            "role: budgt",
            "approval.deploy.all[0].role",
            "policy.unknown_role",
            "did you mean 'budget'?",
        ),
        (
            "count: 1, of",
            "count: 3, of",
            "approval.deploy.all[1].any.count",
            "policy.count",
            "can never be met",
        ),
        ("signoff: none", "signoff: maybe", "approval.signoff", "policy.rule", "'none'"),
        ("  signoff: none\n", "", "approval.signoff", "contract.missing_field", "missing"),
        ("legal: {bind: order}", "legal: {bind: later}", "roles.legal.bind", "contract.choice", "order"),
        ("legal: {bind: order}", "legal: {keys: [abc]}", "roles.legal.keys[0]", "contract.role_keys", "64"),
        ("legal: {bind: order}", "legal: {}", "roles.legal", "contract.role", "bind: order"),
        ("duration: 1h", "duration: 1 hour", "terms.duration", "contract.value", "30s, 5m"),
        ("fee: 1000", "fee: 1.5", "terms.fee", "contract.value", "credits"),
        (
            'TITLE: "site: ${title}"',
            "TI-TLE: x",
            "workloads.web.environment.TI-TLE",
            "contract.environment_name",
            "letters",
        ),
    ],
)
def test_each_mistake_is_told(old: str, new: str, field: str, rule: str, hint: str) -> None:
    text = changed(old, new)
    found = problems(text)
    problem = next((p for p in found if p.field == field), None)
    assert problem is not None, [p.text("contract.yaml") for p in found]
    assert problem.rule == rule
    told = problem.text("contract.yaml")
    assert hint in told, told
    assert all(p.suggestion for p in found), [p.text("contract.yaml") for p in found]
    assert told.startswith(f"contract.yaml:{problem.mark.line}:{problem.mark.column}: {field}: {rule}: ")
    if new:
        first = line_of(text, new.strip("\n"))
        assert problem.mark.line == first, told


@pytest.mark.parametrize(
    ("old", "new", "way"),
    [
        ("memory: 64MiB", "memory: 256M", "did you mean 256MiB?"),
        ("memory: 64MiB", "memory: 64", "as in 4MiB"),
        ("cpu: 100m", "cpu: 0.5 cores", "did you mean 0.5?"),
        ("duration: 1h", "duration: 1 hour", "did you mean 1h?"),
        ("duration: 1h", "duration: 2 weeks", "did you mean 14d?"),
        ("duration: 1h", "duration: 1 month", "did you mean 30d?"),
        ("duration: 1h", "duration: 500ms", "as in 72h"),
        ("duration: 1h", "duration: 30s", "as in 60s"),
        ("duration: 1h", "duration: " + "9" * 5_000 + " weeks", "as in 72h"),
        ("fee: 1000", "fee: 1.5", "did you mean 1.5 credits?"),
        ("default: NO", "default: no", "did you mean NO?"),
        ("executable: true", "executable: yes", "did you mean true?"),
        ("{http: 8080}", "{http: 80}", "as in 8080"),
        ("name: site", "name: My Site!", "did you mean my-site?"),
        ("version: 1.0.0", "version: v01.0", "did you mean 1.0.0?"),
        ("tags: [web]", "tags: web", "did you mean [web]?"),
        ("  signoff: none\n", "", "signoff: none"),
        ("cpu: 100m, ", "cpu: 100m, cpuu: 1, ", "did you mean 'cpu'? it is there already"),
        ("cpu: 100m, ", "", "as in cpu: 250m"),
        ("legal: {bind: order}", "legal: [order]", "as in {name: value}"),
    ],
)
def test_the_way_out_is_near_to_what_was_meant(old: str, new: str, way: str) -> None:
    found = problems(changed(old, new))
    assert any(way in problem.suggestion for problem in found), found


def test_every_rule_that_a_source_can_break_has_a_way_out() -> None:
    mine = {rule for rule in CONTRACT_RULES if rule.startswith(("contract.", "parameter.", "policy."))}
    built = {f"contract.{name}" for name in ("malformed", "not_canonical", "digest")}
    others = {f"parameter.{name}" for name in ("not_canonical", "unknown", "missing")}
    assert mine - set(SUGGESTIONS) == built | others
    assert {rule.partition(".")[0] for rule in set(SUGGESTIONS) - mine} == {"manifest"}


def test_line_and_column_are_exact() -> None:
    (problem,) = problems(changed("kind: service", "kind: servce"))
    assert (problem.mark.line, problem.mark.column) == (line_of(SOURCE, "kind: service"), 11)


def test_several_mistakes_are_told_at_once_in_order() -> None:
    text = (
        changed("version: 1.0.0", "version: one")
        .replace("cpu: 100m", "cpu: x")
        .replace("role: legal", "role: law")
    )
    found = problems(text)
    assert [p.rule for p in found] == ["contract.version", "contract.value", "policy.unknown_role"]
    with pytest.raises(ContractError) as caught:
        parse(text)
    assert str(caught.value).count("\n") == 2
    assert isinstance(caught.value, Refused)
    assert caught.value.field == "version"


@pytest.mark.parametrize(
    ("text", "rule", "detail"),
    [
        (SOURCE + "name: again\n", "contract.duplicate_key", "first in line 2"),
        (changed("cpu: 100m", "cpu: 100m, cpu: 200m"), "contract.duplicate_key", "'cpu' is there twice"),
        (changed("title: A site", "title: &a A site"), "contract.yaml_feature", "anchors"),
        (changed("title: A site", "title: *a"), "contract.yaml_feature", "anchors"),
        (changed("title: A site", "title: !!python/object:os.system x"), "contract.yaml_feature", "tags"),
        (changed("title: A site", "title: !!str x"), "contract.yaml_feature", "tags"),
        (changed("tags: [web]", "<<: {a: b}"), "contract.yaml_feature", "a key is plain text"),
        (changed("tags: [web]", "? [a]\n: b"), "contract.yaml_feature", "a key is plain text"),
        (SOURCE + "---\nname: x\n", "contract.yaml_feature", "one document"),
        ("", "contract.yaml", "empty"),
        ("a: [", "contract.yaml", ""),
        ("a: b: c", "contract.yaml", ""),
        ("a: \x07", "contract.yaml", "U+0007"),
        ("- a\n- b\n", "contract.type", "a mapping wanted"),
        ("[" * 30_000, "contract.too_deep", "levels"),
        ("{a: " * 5_000, "contract.too_deep", "levels"),
        ("a: [" + "x," * 12_000 + "]", "contract.too_many", "values"),
        ("# " + "x" * CONTRACT_BYTES_MAX, "contract.too_long", "at most"),
    ],
)
def test_what_is_not_our_yaml(text: str, rule: str, detail: str) -> None:
    started = time.monotonic()
    found = problems(text)
    assert found[0].rule == rule, found[0]
    assert detail in found[0].detail
    assert time.monotonic() - started < 20, "the work is bounded"


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("cpu: 100m", "cpu: 100m, cpu: 200m", "workloads.web.resources.cpu"),
        ("- {path: /www, tree: www}", "- {path: &a /www, tree: www}", "workloads.web.artifacts[1].path"),
        ("title: A site", "title: !!str x", "title"),
        ("{http: 8080}", "{http: 8080", "workloads.web.ports"),
    ],
)
def test_where_reading_stops_the_field_is_told(old: str, new: str, field: str) -> None:
    assert problems(changed(old, new))[0].field.startswith(field)


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (problem,) = problems(bomb)
    assert (problem.rule, problem.mark.line) == ("contract.yaml_feature", 1)


def test_a_reference_in_flow_style_gets_a_hint() -> None:
    (problem,) = problems(changed('country: "${country}"', "country: ${country}"))
    assert problem.rule == "contract.yaml"
    assert "in quotes" in problem.suggestion


def test_no_is_a_country_and_not_false() -> None:
    country = next(p for p in parse(SOURCE).contract.parameters if p.name == "country")
    assert country.default == "NO"


@pytest.mark.parametrize(
    ("form", "rule"),
    [
        ("{role: legal}", ONE_ROLE),
        ("{role: legal, count: 2}", Rule(role="legal", count=2)),
        ("{all: [{role: legal}]}", Rule(all=(ONE_ROLE,))),
        ("{any: {count: 1, of: [{role: legal}]}}", Rule(any=(ONE_ROLE,))),
        ("none", None),
    ],
)
def test_forms_of_a_rule(form: str, rule: Rule | None) -> None:
    assert parse(changed("signoff: none", f"signoff: {form}")).contract.policies.signoff == rule


@pytest.mark.parametrize(
    "form",
    ["{}", "[]", "legal", "~", "{role: legal, all: []}", "{all: []}", "{any: {count: 1, of: []}}",
     "{all: [{role: legal}], count: 1}", "{role: [legal]}", "{any: [{role: legal}]}", "{roles: legal}"],
)  # fmt: skip
def test_wrong_forms_of_a_rule(form: str) -> None:
    found = problems(changed("signoff: none", f"signoff: {form}"))
    assert all(p.field.startswith("approval.signoff") for p in found), found


@given(st.text(alphabet="gridpact: 1\n-[]{}\"'#&*!|>%@`~\t,?a", max_size=80))
def test_random_text_is_told_and_never_crashes(text: str) -> None:
    assert problems(text)


@given(st.integers(0, len(SOURCE) - 1), st.text(max_size=4))
def test_a_random_edit_parses_or_is_told(at: int, piece: str) -> None:
    try:
        parse(SOURCE[:at] + piece + SOURCE[at + len(piece) :])
    except ContractError as error:
        assert all(p.mark.line >= 1 for p in error.problems)


def test_the_examples_are_good_contracts(checkout: Path) -> None:
    names = sorted(path.parent.name for path in (checkout / "examples").glob("*/contract.yaml"))
    assert names == ["ai-mining", "archive", "bank", "crm", "mining", "primes", "site", "site-image"]
    for name in names:
        path = checkout / "examples" / name / "contract.yaml"
        assert parse_contract(path.read_text(), str(path)).contract.name == name
        assert len((path.parent / "README.md").read_text().splitlines()) <= 30
