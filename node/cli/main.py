"""Entry of `gridpact`: global flags, dispatch, and errors as exit codes.

0 ok, 1 error, 2 usage, 3 unreachable, 4 rejected, 5 no quorum, 6 timeout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from node.cli.context import EXIT_ERROR, EXIT_OK, EXIT_REJECTED, EXIT_USAGE, Failure, current, take_globals
from node.version import VERSION

if TYPE_CHECKING:
    from ledger.text.yaml_tree import ContractError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--version"], ["version"]):
        print(f"gridpact {VERSION}")
        return EXIT_OK
    try:
        return _run(take_globals(words))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, and nothing may be flushed to it at exit.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return EXIT_OK
    except Failure as failure:
        return _fail(str(failure), failure.code)
    except Exception as error:  # noqa: BLE001 - told apart below; what is none of ours is raised again
        return _explain(error)


def _run(words: list[str]) -> int:
    from cyclopts.exceptions import CycloptsError

    from node.cli.commands import app

    try:
        result = app(words or ["--help"], exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return EXIT_USAGE  # it has said what was wrong
    return result if isinstance(result, int) else EXIT_OK


def _explain(error: Exception) -> int:
    from ledger.errors import LocalError, Refused
    from ledger.text.quantities import QuantityError
    from ledger.text.yaml_tree import ContractError
    from node.client.sdk import ClientError

    if isinstance(error, ClientError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, ContractError):  # a line for each, as editors and their lists of problems read them
        if current.output != "table":
            _emit_problems(error)
        count = f"{len(error.problems)} problem{'s'[: len(error.problems) != 1]}"
        return _fail(f"refused: {count} in {error.filename}", EXIT_REJECTED, str(error))
    if isinstance(error, Refused):
        return _fail(f"refused: {error}", EXIT_REJECTED)
    if isinstance(error, QuantityError):
        return _fail(str(error), EXIT_USAGE)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return _fail(f"{error.filename}: {error.strerror}", EXIT_ERROR)
    if isinstance(error, LocalError | OSError):
        return _fail(str(error), EXIT_ERROR)
    raise error


def _emit_problems(error: ContractError) -> None:
    """The same for programs."""
    from node.cli.output import emit

    found = [
        {
            "line": problem.mark.line,
            "column": problem.mark.column,
            "field": problem.field,
            "rule": problem.rule,
            "detail": problem.detail,
            "suggestion": problem.suggestion,
        }
        for problem in error.problems
    ]
    emit({"valid": False, "file": error.filename, "problems": found})


def _fail(text: str, code: int, before: str = "") -> int:
    from node.cli.output import say

    if before:
        say(before)
    say(f"gridpact: {text}")
    return code


if __name__ == "__main__":
    sys.exit(main())
