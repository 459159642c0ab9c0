"""What an order answers, as it is typed: NAME=VALUE, and who holds its roles."""

from __future__ import annotations

from node.cli.context import EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.keys import public_key

Pairs = tuple[str, ...]
_ID_DIGITS = 64


def pair(text: str, flag: str) -> tuple[str, str]:
    """NAME=VALUE in two. Raises Failure(2)."""
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise Failure(EXIT_USAGE, f"{flag} {text}: NAME=VALUE wanted")
    return name, value


def roles_from(items: Pairs) -> dict[str, tuple[str, ...]]:
    """Keys in hex by role, from NAME=KEY[,KEY…]. Raises Failure(2)."""
    roles: dict[str, tuple[str, ...]] = {}
    for item in items:
        name, value = pair(item, "--role")
        if ":" in value:
            given: tuple[str, ...] = (_organisation(value, item),)
        else:
            given = tuple(public_key(part.strip()).hex() for part in value.split(",") if part.strip())
        roles[name] = (*roles.get(name, ()), *given)
    return roles


def _organisation(value: str, item: str) -> str:
    """An organisation with its whole id, of which the first digits are enough. Raises Failure(2)."""
    kind, _, rest = value.partition(":")
    id_, mark, role = rest.partition("/")
    if kind != "organisation":
        raise Failure(EXIT_USAGE, f"--role {item}: NAME=KEY, or NAME=organisation:ID/ROLE, wanted")
    whole = id_ if len(id_) == _ID_DIGITS else current.client().organisation(id_).id
    if not whole.startswith(id_):
        raise Failure(EXIT_REJECTED, f"the peer tells of the organisation {whole}, asked for {id_}")
    return f"organisation:{whole}{mark}{role}"
