"""`gridpact contract`: write, check, build, publish, look up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ledger.contracts.types import Contract, ContractRole, Value
from ledger.contracts.types import Parameter as Question
from ledger.documents import sign_contract
from ledger.policies.decision import describe
from ledger.policies.types import ACTS
from ledger.transactions import PublishContract
from node.cli.context import EXIT_ERROR, EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.output import emit, emit_facts, say
from node.client.amounts import size_text, time_text, value_text
from node.client.compose_words import why_not_public
from node.files.cid import cid_of

_HERE = Path()
_BUILD_NAME = "build"


def _examples() -> Path:
    return Path(__file__).resolve().parents[2] / "examples"


def init(folder: Path = _HERE, /, *, template: str = "site") -> int:
    """Write a contract to start from.

    Args:
        folder: Where; made when missing.
        template: site, site-image, crm, archive, bank (services), mining, ai-mining or primes (jobs).
    """
    source = _examples() / template
    if not (source / "contract.yaml").is_file():
        known = ", ".join(sorted(p.parent.name for p in _examples().glob("*/contract.yaml"))) or "none here"
        raise Failure(EXIT_USAGE, f"no template {template!r}; there are: {known}")
    if (folder / "contract.yaml").exists():
        raise Failure(EXIT_ERROR, f"{folder / 'contract.yaml'} exists; nothing was changed")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_BUILD_NAME, ".*"))
    say(f"wrote {folder}; edit contract.yaml, then: gridpact contract validate {folder}")
    return 0


def _warn_of_secrets(contract: Contract) -> None:
    """What stands there for everybody to read, and looks as if it should not."""
    for workload in contract.workloads:
        for name, value in workload.environment.items():
            if why := why_not_public(name, value):
                say(f"warning: workloads.{workload.name}.environment.{name}: {why}")


def _folder(named: Path) -> Path:
    """The contract's folder, also where its file was named."""
    return named.parent if named.is_file() else named


def validate(folder: Path = _HERE, /) -> int:
    """Check a contract and say what is wrong, and where.

    Args:
        folder: Folder of the contract.yaml, or the file itself.
    """
    from node.client.build import read_source

    source = read_source(_folder(folder))
    contract = source.contract
    _warn_of_secrets(contract)
    emit_facts(
        {"name": contract.name, "version": contract.version, "valid": True, "problems": []},
        (
            ("contract", f"{contract.name} {contract.version}: {contract.title}"),
            ("workloads", ", ".join(f"{w.name} ({w.kind})" for w in contract.workloads)),
            *_asked_for(contract),
            ("valid", "yes"),
        ),
    )
    return 0


def build(
    folder: Path = _HERE, /, *, out: Annotated[Path | None, Parameter(name=["--out", "--build-dir"])] = None
) -> int:
    """Hash a contract's artifacts and pin them.

    Args:
        folder: Folder of the contract.yaml, or the file itself.
        out: Where the built contract and its artifacts go (default: FOLDER/build).
    """
    from node.client.build import build as build_contract

    folder = _folder(folder)
    target = out or folder / _BUILD_NAME
    built = build_contract(folder, target)
    _warn_of_secrets(built.contract)
    say(f"built {built.contract.name} {built.contract.version} into {target}")
    rows = [
        (a.workload, a.artifact.path, a.artifact.kind, size_text(a.artifact.size_bytes), a.artifact.sha256)
        for a in built.artifacts
    ]
    emit([a.artifact for a in built.artifacts], ("workload", "path", "kind", "size", "sha256"), rows)
    return 0


def publish(
    folder: Path = _HERE,
    /,
    *,
    key: str,
    built: Annotated[Path | None, Parameter(name=["--built", "--build-dir"])] = None,
) -> int:
    """Sign a built contract and publish it; the peer gets its artifacts.

    Args:
        folder: Folder of the contract.yaml, or the file itself; it is built when there is no build yet.
        key: Name of the author's key.
        built: Folder of the built contract (default: FOLDER/build).
    """
    from node.client.build import BUILT_NAME, SOURCE_NAME, is_built_from, load_built, read_source
    from node.client.build import build as build_contract

    folder, author = _folder(folder), current.key(key)
    client = current.client()
    target = built or folder / _BUILD_NAME
    if not (target / BUILT_NAME).exists():
        build_contract(folder, target)
    found = load_built(target)
    if (folder / SOURCE_NAME).is_file() and not is_built_from(found.contract, read_source(folder)):
        again = f"gridpact contract build {folder}" + (f" --out {built}" if built else "")
        raise Failure(EXIT_REJECTED, f"{target} is of another {SOURCE_NAME} than {folder} has now: {again}")
    label = f"{found.contract.name}@{found.contract.version}"
    for artifact in {item.artifact.sha256: item for item in found.artifacts}.values():
        say(f"giving {artifact.artifact.path} ({size_text(artifact.artifact.size_bytes)}) to the peer")
        client.put_artifact(artifact.artifact.sha256, artifact.file)
    result = client.send(author, PublishContract(sign_contract(author, found.contract)))
    detail = client.contract(label)
    emit_facts(
        {
            "id": detail.id,
            "name": detail.name,
            "version": detail.version,
            "tx": result.id,
            "height": result.height,
        },
        (("contract", label), ("id", detail.id), ("transaction", result.id), ("height", result.height)),
    )
    return 0


def list_contracts() -> int:
    """List the published contracts."""
    found = list(current.client().contracts())
    rows = [
        (c.name, c.version, c.mark or "-", c.title, c.author[:10], time_text(c.time_ms), c.id[:16])
        for c in found
    ]
    emit(found, ("name", "version", "mark", "title", "author", "published (UTC)", "id"), rows)
    return 0


def show(ref: str, /) -> int:
    """Show a published contract.

    Args:
        ref: Its id, NAME@VERSION, or NAME for the newest version.
    """
    found = current.client().contract(ref)
    contract = found.contract
    facts: list[tuple[str, object]] = [
        ("contract", f"{found.name} {found.version}: {contract.title}"),
        ("id", found.id),
        ("author", found.author),
        ("published", f"{time_text(found.time_ms)} UTC, height {found.height}"),
        ("about", contract.summary or "-"),
        ("changes", contract.changes or "-"),
    ]
    if found.mark:
        facts.insert(1, (found.mark, found.mark_reason))
    facts += [(f"parameter {p.name}", _asks(p)) for p in contract.parameters]
    facts += [
        (f"role {r.name}", "bound by the order" if r.bind == "order" else ", ".join(r.keys) or _held(r))
        for r in contract.roles
    ]
    for workload in contract.workloads:
        facts.append(
            (
                f"workload {workload.name}",
                f"{workload.kind}, {workload.replicas} replicas, {' '.join(workload.command)}",
            )
        )
        facts += [
            (f"  artifact {a.path}", f"{size_text(a.size_bytes)} sha256 {a.sha256} cid {cid_of(a.sha256)}")
            for a in workload.artifacts
        ]
    facts += _asked_for(contract)
    emit_facts(found, facts)
    return 0


def _asks(parameter: Question) -> str:
    """What a parameter takes, in words: type, bounds, choices, default, and what it is for."""

    def told(value: Value) -> str:
        return value_text(parameter.type, value)

    low, high = parameter.min, parameter.max
    # The bounds of a text are those of its length.
    low_text, high_text = (
        "" if n is None else str(n) if parameter.type == "string" else told(n) for n in (low, high)
    )
    parts: list[str] = [parameter.type]
    if low_text or high_text:
        length = " characters" if parameter.type == "string" else f" {parameter.unit}".rstrip()
        parts.append(f"{low_text or 'anything'} to {high_text or 'anything'}{length}")
    if parameter.choices:
        parts.append(f"one of {', '.join(told(choice) for choice in parameter.choices)}")
    if parameter.pattern is not None:
        parts.append(f"matching {parameter.pattern}")
    parts.append("must be given" if parameter.default is None else f"default {told(parameter.default)}")
    return ", ".join(parts) + (f". {parameter.description}" if parameter.description else "")


def _asked_for(contract: Contract) -> list[tuple[str, object]]:
    """The policy of each act in words."""
    names = {"signoff": "sign-off"}
    return [(f"{names.get(act, act)} asks for", describe(contract.policies.of(act))) for act in ACTS]


def _held(role: ContractRole) -> str:
    return f"{role.organisation_role or 'members'} of organisation {role.organisation}"
