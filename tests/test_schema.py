"""The published JSON Schema: current, from the reader itself, and never at odds with the validator."""

import copy
import importlib.util
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.contracts.language import parse_contract
from ledger.text.yaml_tree import ContractError, Mapping, Node, Scalar, Sequence, load
from scripts import schema as generator
from scripts import schema_words
from tests.ledger.contract_samples import SOURCE
from tests.schema_judge import accepts

SCHEMA = generator.schema()
# What the schema must refuse, too: the form of one field.
FORMAL = {
    "contract.unknown_field", "contract.missing_field", "contract.type", "contract.choice",
    "contract.value",
}  # fmt: skip


def plain(node: Node) -> Any:
    """The tree as JSON."""
    if isinstance(node, Mapping):
        return {key: plain(item) for key, item in node.entries.items()}
    return [plain(item) for item in node.items] if isinstance(node, Sequence) else node.value


def sources(checkout: Path) -> Iterator[str]:
    yield SOURCE
    for path in sorted((checkout / "examples").glob("*/contract.yaml")):
        yield path.read_text(encoding="utf-8")


def test_it_is_current(checkout: Path) -> None:
    published = checkout / "docs" / "schema" / "contract-1.json"
    assert published.read_text(encoding="utf-8") == generator.text(), "run make docs"


def test_a_field_that_the_sample_forgets_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = generator.EVERYTHING.read_text()
    assert text.count("      min_farms: 1\n") == 1
    changed = tmp_path / "sample.yaml"
    changed.write_text(text.replace("      min_farms: 1\n", ""))
    monkeypatch.setattr(generator, "EVERYTHING", changed)
    with pytest.raises(ValueError, match="placement leaves out min_farms"):
        generator.schema()


def test_it_accepts_every_valid_source(checkout: Path) -> None:
    found = list(sources(checkout))
    assert len(found) >= 3
    for text in found:
        parse_contract(text, "c.yaml")
        assert accepts(SCHEMA, plain(load(text, "c.yaml")), SCHEMA)


OTHERS: tuple[Any, ...] = (
    None, True, 0, 1, 3, -1, 8080, "", "x", "none", "service", "job", "sandbox", "wasm", "5s", "64MiB",
    "100m", "2 credits", "${replicas}", "${= 1 + 1}", "BE", "farm", "country", [], ["x"], {}, {"x": 1},
    {"role": "budget"},
)  # fmt: skip
KEYS = ("x", "count", "role", "volumes", "min", "default", "price", "spread", "kind", "agree", "of", "file")


def changed(rng: random.Random, value: Any) -> Any:
    """One random change somewhere inside."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        at = pending.pop()
        keys: list[Any] = list(at) if isinstance(at, dict) else list(range(len(at)))
        places += [(at, key) for key in keys]
        pending += [at[key] for key in keys if isinstance(at[key], dict | list)]
    at, key = rng.choice(places)
    how = rng.random()
    if how < 0.25:
        del at[key]
    elif how < 0.45 and isinstance(at, dict):
        at[rng.choice(KEYS)] = rng.choice(OTHERS)
    else:
        at[key] = rng.choice(OTHERS)
    return value


def test_it_never_contradicts_the_validator(checkout: Path) -> None:
    """600 changed sources: what the validator takes has the schema's form, and what breaks the form of a
    field has not."""
    rng = random.Random(11)
    trees = [plain(load(text, "c.yaml")) for text in sources(checkout)]
    counts: Counter[str] = Counter()
    for _ in range(600):
        tree = changed(rng, rng.choice(trees))
        text = json.dumps(tree)
        formed = accepts(SCHEMA, tree, SCHEMA)
        try:
            parse_contract(text, "c.yaml")
        except ContractError as error:
            # How the values of a parameter look depends on another field, its type.
            values = ("contract.value", "contract.type")
            found = error.problems
            rules = {p.rule for p in found if p.rule not in values or not p.field.startswith("parameters.")}
            counts["refused by both" if not formed else "refused by the validator alone"] += 1
            if formed:
                broken = rules & FORMAL
                assert not broken, f"the schema takes what breaks {broken}: {error} {text}"
        else:
            counts["taken by both"] += 1
            assert formed, f"the schema refuses what is valid: {text}"
    assert min(counts.values()) > 30 and len(counts) == 3, counts


@pytest.mark.skipif(importlib.util.find_spec("jsonschema") is None, reason="jsonschema: make setup brings it")
def test_a_library_judges_alike(checkout: Path) -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    rng = random.Random(12)
    for text in sources(checkout):
        tree = plain(load(text, "c.yaml"))
        for _ in range(100):
            other = changed(rng, tree)
            assert validator.is_valid(other) == accepts(SCHEMA, other, SCHEMA)


def test_scalars_are_what_yaml_says() -> None:
    assert plain(Scalar("8080", True, load("a", "f").mark)) == 8080


def test_editors_say_what_each_field_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    web = SCHEMA["properties"]["workloads"]["additionalProperties"]["properties"]
    assert web["agree"]["description"].startswith("a quorum of results")
    assert (
        SCHEMA["properties"]["name"]["description"] == "lower-case words with - or _, at most 64 characters"
    )
    assert web["isolation"]["items"]["enum"][0] == "landlock"
    text = schema_words.AUTHORING.read_text()
    assert text.count("| `agree` |") == 1
    changed = tmp_path / "authoring.md"
    changed.write_text(text.replace("| `agree` |", "| `agreed` |"))
    monkeypatch.setattr(schema_words, "AUTHORING", changed)
    with pytest.raises(ValueError, match=r"say nothing of workloads\.\*\.agree"):
        generator.schema()
