"""What a stakeholder reads before signing: every field of what would run, and of what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from msgspec import Struct
from msgspec.structs import fields, replace

from ledger.manifests.types import (
    Apart,
    Artifact,
    Health,
    Placement,
    Port,
    PriceCaps,
    Resources,
    Restart,
    Spread,
    Terms,
    Volume,
    Workload,
)
from node.cli.deal import cost_text
from node.cli.workload_words import workload_lines

BOX = Workload(
    name="web",
    kind="service",
    runtime="oci",
    replicas=3,
    command=("/bin/web",),
    environment={"A": "b"},
    artifacts=(Artifact(path="/", kind="image", sha256="ab" * 32, size_bytes=1, chunks="cd" * 32),),
    resources=Resources(cpu_millis=100, memory_bytes=64 << 20, disk_bytes=1 << 20, pids=32),
    ports=(Port(name="http", port=8080),),
    health=Health(port="http", http_path="/"),
    restart=Restart(),
    placement=Placement(spread=Spread(by="farm", most=1), apart=Apart(by="node", workloads=("db",))),
    results=("/result/x",),
    recheck_s=15,
    user="1:1",
    volumes=(Volume(name="data", path="/data", size_bytes=1 << 30),),
)
# Fields that only some workloads have.
OTHERS = (
    replace(BOX, runtime="wasm", fuel=5, user=""),
    replace(BOX, health=Health(command=("/bin/ask",))),
    replace(BOX, volumes=(Volume(name="data", path="/data", size_bytes=1 << 30, rpo_s=60),)),
)
TERMS = Terms(duration_s=60, budget=1, fee=0, price=PriceCaps(), extension_s=60, top_up=1)
UNTOLD = {"artifacts[0].chunks"}  # other digests of the same bytes


def other(kind: Any, value: Any) -> Any:
    """Another value of a field."""
    if get_origin(kind) is Literal:
        return next(word for word in get_args(kind) if word != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int) or (value is None and int in get_args(kind)):
        return (value or 0) + (1 << 31)
    if isinstance(value, str) and len(value) == 64:
        return "ef" * 32  # a digest
    if isinstance(value, dict):
        return value | {"more": "x"}
    return (*value, "more") if isinstance(value, tuple) else f"{value or ''}more"


def changes(value: Struct, path: str = "") -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each field in its turn, at every depth, with what the whole is when it has another value."""
    for field in fields(value):
        inside, where = getattr(value, field.name), path + field.name
        if isinstance(inside, Struct):
            for name, make in changes(inside, f"{where}."):
                yield name, lambda n=field.name, m=make: replace(value, **{n: m()})
        elif isinstance(inside, tuple) and inside and isinstance(inside[0], Struct):
            for name, make in changes(inside[0], f"{where}[0]."):
                yield name, lambda n=field.name, m=make: replace(value, **{n: (m(),)})
        else:
            yield where, lambda n=field.name, k=field.type, v=inside: replace(value, **{n: other(k, v)})


def told(sample: Workload) -> set[str]:
    before = workload_lines(sample)
    return {name for name, make in changes(sample) if workload_lines(make()) != before}


def test_no_field_of_a_workload_is_signed_unread() -> None:
    every = {name for sample in (BOX, *OTHERS) for name, _ in changes(sample)}
    assert len(every) > 55
    assert every - set().union(*map(told, (BOX, *OTHERS))) == UNTOLD


def test_no_field_of_the_terms_is_signed_unread() -> None:
    before = cost_text(TERMS)
    assert [name for name, make in changes(TERMS) if cost_text(make()) == before] == []


@pytest.mark.parametrize(
    "distinct", get_args(next(f.type for f in fields(Placement) if f.name == "distinct"))
)
def test_every_way_to_stand_apart_has_words(distinct: Any) -> None:
    assert workload_lines(replace(BOX, placement=Placement(distinct=distinct)))


def test_controls_in_a_manifest_reach_no_terminal() -> None:
    lines = workload_lines(replace(BOX, command=("/bin/web", "\x1b[2J"), environment={"A": "\x1b]0;x\x07"}))
    assert not any("\x1b" in line or "\x07" in line for line in lines)
