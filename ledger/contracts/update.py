"""Reads `update:` of a workload in a contract's source: how its replicas change over to another manifest."""

from __future__ import annotations

from typing import Final

from ledger.contracts.reader import Reader
from ledger.manifests.types import UpdateStrategy
from ledger.text.quantities import parse_duration, parse_integer
from ledger.text.yaml_tree import Node

_UPDATE: Final = ("max_parallel", "canary", "min_healthy", "deadline", "on_failure")


def read_update(reader: Reader, node: Node | None, field: str) -> UpdateStrategy:
    """The strategy of one workload; what holds without it when nothing is written."""
    entries = reader.mapping(node, field, (), _UPDATE)
    on_failure = reader.choice(entries.get("on_failure"), f"{field}.on_failure", ("revert", "hold"), "revert")
    return UpdateStrategy(
        max_parallel=reader.parsed(entries.get("max_parallel"), f"{field}.max_parallel", parse_integer, 1),
        canary=reader.parsed(entries.get("canary"), f"{field}.canary", parse_integer, 0),
        min_healthy_s=reader.parsed(entries.get("min_healthy"), f"{field}.min_healthy", parse_duration, 10),
        deadline_s=reader.parsed(entries.get("deadline"), f"{field}.deadline", parse_duration, 600),
        on_failure="hold" if on_failure == "hold" else "revert",
    )
