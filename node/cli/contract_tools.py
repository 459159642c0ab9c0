"""`gridpact contract` for what exists already: search, compare, warn of a version, take it back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from ledger.contracts.types import Contract
from ledger.transactions import MarkContract
from node.cli.context import EXIT_ERROR, Failure, current
from node.cli.output import confirm, emit, emit_facts, say
from node.client.amounts import term_text

Yes = Annotated[bool, Parameter(name=["--yes", "-y"], help="Do not ask.")]


def search(
    text: str = "", /, *, tag: str | None = None, author: str | None = None, runtime: str | None = None
) -> int:
    """Find published contracts.

    Args:
        text: Words that name, title, summary or tags must hold, all of them.
        tag: One of its tags.
        author: The author's key in hex, or how it begins.
        runtime: A runtime that one of its workloads wants.
    """
    words = text.lower().split()
    found = []
    for item in current.client().contracts():
        about = " ".join((item.name, item.title, item.summary, *item.tags)).lower()
        if (
            all(word in about for word in words)
            and (tag is None or tag in item.tags)
            and (author is None or item.author.startswith(author.lower()))
            and (runtime is None or runtime in item.runtimes)
        ):
            found.append(item)
    rows = [
        (c.name, c.version, c.mark or "-", c.title, " ".join(c.tags), ", ".join(c.runtimes), c.author[:10])
        for c in found
    ]
    emit(found, ("name", "version", "mark", "title", "tags", "runtime", "author"), rows)
    return 0


def diff(before: str, after: str, /) -> int:
    """Show what differs between two contracts.

    Args:
        before: A folder with a contract.yaml, or a published one: its id, NAME@VERSION, or NAME.
        after: The other one.
    """
    from ledger.contracts.differences import differences
    from node.client.build import bare

    sides = _contract(before), _contract(after)
    if any(not workload.artifacts for side in sides for workload in side.workloads):
        sides = bare(sides[0]), bare(sides[1])
    found = differences(*sides)
    if not found:
        say("no difference")
    kinds = {asked.name: asked.type for asked in sides[1].parameters}
    rows = [(d.field, *(_short(d.field, value, kinds) for value in (d.before, d.after))) for d in found]
    emit(found, ("field", "before", "after"), rows)
    return 0


def _contract(ref: str) -> Contract:
    """A source is compared by its built form when there is one: then artifacts have digests."""
    folder = Path(ref)
    if not (folder / "contract.yaml").is_file():
        return current.client().contract(ref).contract
    from node.client.build import BUILT_NAME, is_built_from, load_built, read_source

    source = read_source(folder)
    build = folder / "build"
    if (build / BUILT_NAME).is_file():
        built = load_built(build).contract
        if is_built_from(built, source):
            return built
    say(f"{folder} was not built as it stands: artifacts are left out")
    return source.contract


def _short(field: str, value: object, kinds: Mapping[str, str]) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else term_text(field, msgspec.json.encode(value).decode(), kinds)
    return text if len(text) <= 60 else text[:57] + "…"


def import_file(file: Path, /, *, out: Path | None = None, name: str | None = None) -> int:
    """Write a draft of a contract from a compose file, and say what is not taken over, and why.

    Args:
        file: The compose.yaml.
        out: Folder of the new contract.yaml (default: a folder here with the contract's name).
        name: The contract's name (default: as the file says, else that of its folder).
    """
    from ledger.limits import CONTRACT_BYTES_MAX
    from node.client.compose import import_compose

    try:
        with file.open("rb") as opened:
            text = opened.read(CONTRACT_BYTES_MAX + 1).decode()
    except UnicodeDecodeError:
        raise Failure(EXIT_ERROR, f"{file}: no UTF-8 text") from None
    draft = import_compose(text, str(file), name or "", file.resolve().parent.name)
    target = (out or Path(draft.contract["name"])) / "contract.yaml"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as made:
            made.write(draft.text)
    except FileExistsError:
        raise Failure(EXIT_ERROR, f"{target} exists; nothing was changed") from None
    except OSError as error:
        raise Failure(EXIT_ERROR, f"{target}: {error.strerror}") from None
    rows = [(remark.line, remark.field, remark.kind, remark.why) for remark in draft.remarks]
    emit(draft.remarks, ("line", "field", "what", "why"), rows)
    say(f"wrote {target}; name its artifacts, then: gridpact contract validate {target.parent}")
    return 0


def deprecate(ref: str, /, *, key: str, reason: str) -> int:
    """Warn of a published version; it can still be ordered.

    Args:
        ref: Its id, NAME@VERSION, or NAME for the newest version.
        key: Name of the author's key.
        reason: What those who read it should know, such as which version to take.
    """
    return _mark(ref, key, "deprecated", reason)


def revoke(ref: str, /, *, key: str, reason: str, yes: Yes = False) -> int:
    """Take a published version back for ever: nobody orders it any more. What was ordered goes on.

    Args:
        ref: Its id, NAME@VERSION, or NAME for the newest version.
        key: Name of the author's key.
        reason: Why; consumers see it.
    """
    found = current.client().contract(ref)
    confirm(f"Take {found.name}@{found.version} back for ever, so that nobody orders it any more?", yes)
    return _mark(found.id, key, "revoked", reason)


def _mark(ref: str, key: str, mark: str, reason: str) -> int:
    client, author = current.client(), current.key(key)
    found = client.contract(ref)
    result = client.send(author, MarkContract(bytes.fromhex(found.id), mark, reason))
    label = f"{found.name}@{found.version}"
    emit_facts(
        {"id": found.id, "name": found.name, "version": found.version, "mark": mark, "height": result.height},
        (("contract", label), ("mark", mark), ("reason", reason), ("height", result.height)),
    )
    return 0
