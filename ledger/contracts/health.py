"""Health checks of workloads: read from a contract's source, and what a command among them must be.

[E8] A command that says whether a service is healthy stands in the contract, is a file of its artifacts or
     of its image, holds no parameter, and runs inside the sandbox, or the container, as confined as the
     workload. Nobody can have any other run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ledger.contracts.reader import Reader
from ledger.manifests.check import Report, check_command
from ledger.manifests.types import Health
from ledger.text.quantities import parse_duration, parse_integer
from ledger.text.template import has_template
from ledger.text.yaml_tree import Node

_KINDS: Final = ("http", "tcp", "exec")


def read_health(reader: Reader, node: Node | None, field: str) -> Health | None:
    """The health check of one workload, or None."""
    if node is None:
        return None
    entries = reader.mapping(node, field, (), ("port", *_KINDS, "interval", "timeout", "failures"))
    tcp = reader.boolean(entries.get("tcp"), f"{field}.tcp", False)
    if sum(("http" in entries, tcp, "exec" in entries)) != 1:
        detail = "one of 'http: /path', 'tcp: true' and 'exec: [command]' wanted"
        reader.report(field, "contract.health", detail)
    return Health(
        port=reader.text(entries.get("port"), f"{field}.port"),
        http_path=reader.text(entries["http"], f"{field}.http", "/") if "http" in entries else None,
        command=reader.texts(entries.get("exec"), f"{field}.exec"),
        interval_s=reader.parsed(entries.get("interval"), f"{field}.interval", parse_duration, 5),
        timeout_s=reader.parsed(entries.get("timeout"), f"{field}.timeout", parse_duration, 2),
        failures=reader.parsed(entries.get("failures"), f"{field}.failures", parse_integer, 3),
    )


def check_exec(
    health: Health | None,
    paths: Sequence[tuple[str, str]],
    executables: Iterable[str],
    field: str,
    report: Report,
) -> None:
    """[E8] Nothing to check where the health check is no command."""
    if health is None or not health.command:
        return
    if health.port or health.http_path is not None:
        report(field, "contract.health", "a command asks no port")
    if any(has_template(word) for word in health.command):
        report(f"{field}.exec", "contract.health", "no parameter stands in a health check's command")
        return
    check_command(health.command, paths, executables, f"{field}.exec", report)
