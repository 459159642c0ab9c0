"""What each field of a contract is for, as editors show it beside their completions: from docs/authoring.md's
tables, and for the fields inside of a field from INSIDE, so that nothing is said twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

AUTHORING: Final = Path(__file__).resolve().parent.parent / "docs" / "authoring.md"
# The tables by what stands before them: the path of the fields in each.
_TABLES: Final = {
    "## The file": "",
    "### `parameters`": "parameters.*.",
    "### `workloads`": "workloads.*.",
    "`placement` ([C2]": "workloads.*.placement.",
    "### `approval`": "approval.",
    "A rule is one of": "rule.",
    "and beside any of them": "rule.",
    "### `terms`": "terms.",
}
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")
INSIDE: Final = {
    "roles.*.bind": "order: whoever orders names the keys, or an organisation",
    "roles.*.keys": "1 to 64 public keys, fixed by you",
    "roles.*.organisation": "id of the organisation whose members hold the role",
    "roles.*.role": "which of the organisation's roles; without it, all its members",
    "workloads.*.update": "how replicas change over when a running deployment moves to another manifest",
    "workloads.*.user": "runtime oci: USER or UID:GID inside, else the image's",
    "workloads.*.working_dir": "runtime oci: where the command begins, else the image's",
    "workloads.*.artifacts[].path": "where it stands inside, absolute; / for an image",
    "workloads.*.artifacts[].file": "a file, by its path in the contract's folder",
    "workloads.*.artifacts[].tree": "a folder",
    "workloads.*.artifacts[].image": "an OCI image layout, a folder or one tar",
    "workloads.*.artifacts[].executable": "whether a file is a program",
    "workloads.*.resources.cpu": "cores, such as 250m, 0.5 or 2",
    "workloads.*.resources.memory": "such as 64MiB",
    "workloads.*.resources.disk": "/tmp and /result together, counted as SSD; default 0",
    "workloads.*.resources.pids": "processes and threads at most; default 32",
    "workloads.*.health.port": "name of one of the workload's ports",
    "workloads.*.health.http": "a path that answers GET with 2xx or 3xx",
    "workloads.*.health.tcp": "true: a connection is enough",
    "workloads.*.health.exec": "a program of the artifacts and its words, run inside; 0 is healthy",
    "workloads.*.health.interval": "default 5s",
    "workloads.*.health.timeout": "default 2s",
    "workloads.*.health.failures": "so many in a row are too many; default 3",
    "workloads.*.restart.attempts": "restarts on a node, and terms that may fail; default 3",
    "workloads.*.placement.spread.by": "node, farm or country",
    "workloads.*.placement.spread.most": "replicas on one of them",
    "workloads.*.placement.apart.by": "node, farm or country",
    "workloads.*.placement.apart.from": "names of other workloads",
    "workloads.*.update.max_parallel": "replicas that change over at a time; default 1",
    "workloads.*.update.canary": "replicas that go first; default 0",
    "workloads.*.update.min_healthy": "how long a replica runs until it is healthy; default 10s",
    "workloads.*.update.deadline": "the longest between two steps; default 10m",
    "workloads.*.update.on_failure": "revert: all goes back by itself; hold: it waits for the consumer",
    "workloads.*.volumes.*.path": "where it stands inside, absolute",
    "workloads.*.volumes.*.size": "from 16MiB; set aside when it is made",
    "workloads.*.volumes.*.class": "ssd, or hdd: a hard disk; default ssd",
    "workloads.*.volumes.*.if_lost": "empty: the slot may begin with an empty one elsewhere; default wait",
    "workloads.*.volumes.*.rpo": "copies elsewhere: so much of what was written may be lost with a node",
    "approval.on_revoked.run_until": "how long what runs goes on without approval",
    "terms.price.cpu": "the most for a core and hour",
    "terms.price.memory": "the most for a GiB of memory and hour",
    "terms.price.ssd": "the most for a GiB of SSD and hour",
    "terms.price.hdd": "the most for a GiB of hard disk and hour",
    "rule.count": "how many holders of the role; default 1",
    "rule.ordered": "each rule by approvals later than those before it",
    "rule.any.count": "how many of the rules",
    "rule.any.of": "the rules",
    "rule.weigh.least": "what the approvals must weigh together",
    "rule.weigh.of": "who weighs how much",
    "rule.weigh.of[].role": "each holder of this role counts once",
    "rule.weigh.of[].key": "a public key",
    "rule.weigh.of[].weight": "its share",
    "rule.auto.budget": "the budget is at most so much",
    "rule.auto.approved_within": "the same manifest was approved by signatures so long before the order",
}


def words() -> dict[str, str]:
    """By the path of a field: what it is. Raises ValueError when a table is not where it was."""
    found, prefix, missing = dict(INSIDE), None, set(_TABLES)
    for line in AUTHORING.read_text(encoding="utf-8").splitlines():
        start = next((start for start in _TABLES if line.startswith(start)), None)
        if start is not None:
            prefix = _TABLES[start]
            missing.discard(start)
        elif line.startswith("#"):
            prefix = None
        if prefix is None or not line.startswith("| `"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        for name in re.findall(r"`([a-z_]+)[:`]", cells[0]):
            found.setdefault(prefix + name, _plain(cells[-1]))
    if missing:
        raise ValueError(f"{AUTHORING.name}: no {', '.join(sorted(missing))}")
    return found


def _plain(text: str) -> str:
    """Without the marks of Markdown."""
    text = _LINK.sub(r"\1", text).replace("`", "").replace("**", "")
    return text.replace(", see below", "").replace("; see below", "")


def describe(schema: dict[str, Any]) -> list[str]:
    """Puts a description beside each field; returns the fields that have none."""
    known, silent = words(), []
    pending: list[tuple[str, Any]] = [("", schema), *((n, s) for n, s in schema["$defs"].items())]
    while pending:
        path, node = pending.pop()
        pending += [(path, form) for form in node.get("anyOf", ())]
        if "items" in node:
            pending.append((f"{path}[]", node["items"]))
        if isinstance(node.get("additionalProperties"), dict):
            pending.append((f"{path}.*", node["additionalProperties"]))
        for name, form in node.get("properties", {}).items():
            field = f"{path}.{name}" if path else name
            silent += [field] if field not in known else []
            # A form may stand at several places: each gets one of its own.
            node["properties"][name] = own = {"description": known.get(field, ""), **form}
            pending.append((field, own))
    return sorted(set(silent))
