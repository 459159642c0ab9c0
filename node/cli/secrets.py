"""`gridpact secrets`: values that workloads find as files; the 3bot gives them to holders of slots alone."""

from __future__ import annotations

import sys
from pathlib import Path

from node.api.bot_seam import SecretsRequest, SecretsView
from node.cli.context import EXIT_ERROR, EXIT_USAGE, Failure, current
from node.cli.output import emit
from node.limits import SECRET_BYTES_MAX


def set_values(deployment: str, /, *values: str) -> int:
    """Give the 3bot secrets of a deployment. Terms that begin later are given them; what runs keeps its own.

    Args:
        deployment: Its id, or the first 6 or more digits.
        values: NAME=FILE, where a file's whole content is the value; NAME=- reads it from standard input.
    """
    if not values:
        raise Failure(EXIT_USAGE, "NAME=FILE wanted, or NAME=- for standard input")
    client = current.client()
    found = client.deployment(deployment)
    read = dict(_value(item) for item in values)
    request = SecretsRequest(deployment=found.id, values=read)
    _show(client.post("/v1/bot/secrets", request, SecretsView))
    return 0


def list_secrets(deployment: str, /) -> int:
    """Show which secrets of a deployment the 3bot has. Values are never shown.

    Args:
        deployment: Its id, or the first 6 or more digits.
    """
    client = current.client()
    found = client.deployment(deployment)
    _show(client.get(f"/v1/bot/secrets/{found.id}", SecretsView, token=True))
    return 0


def _value(text: str) -> tuple[str, bytes]:
    """Never from the command line itself: other users of the machine can read that."""
    name, mark, file = text.partition("=")
    if not mark or not name or not file:
        raise Failure(EXIT_USAGE, f"{text.partition('=')[0]}: NAME=FILE wanted, or NAME=- for standard input")
    if file == "-":
        data = sys.stdin.buffer.read(SECRET_BYTES_MAX + 1)
    else:
        try:
            with Path(file).open("rb") as stream:
                data = stream.read(SECRET_BYTES_MAX + 1)
        except OSError as error:  # not named: it may be the value itself
            raise Failure(EXIT_ERROR, f"{name}: the file that NAME=FILE names: {error.strerror}") from None
    if len(data) > SECRET_BYTES_MAX:
        raise Failure(EXIT_USAGE, f"{name}: more than {SECRET_BYTES_MAX} bytes")
    return name, data


def _show(view: SecretsView) -> None:
    rows = [(name, "given" if given else "missing") for name, given in sorted(view.given.items())]
    emit(view, ("secret", "value"), rows)
