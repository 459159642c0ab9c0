"""Errors as RFC 9457 problem details with the rule, the field and what was found."""

from __future__ import annotations

from http import HTTPStatus
from math import ceil

import msgspec
import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ledger.errors import LocalError, Refused
from node.api.limits import OVERLOAD_HOLD_S, RETRY_AFTER_S
from node.api.models import Problem
from node.errors import ArtifactBusy, ArtifactError, ArtifactFull, ArtifactMissing
from node.seam import NotFinal, Overloaded

log = structlog.get_logger("api")

# Rules about the form of what was sent; any other refusal is a conflict with the state.
_FORM = (".malformed", ".not_canonical", ".sender", ".salt", ".signature", ".digest", ".id", ".field")
_MISSING = (".unknown", ".unknown_deployment", ".not_found")


class ApiProblem(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, rule: str, detail: str, field: str = "", retry_s: float = 0.0) -> None:
        self.problem = Problem(
            title=HTTPStatus(status).phrase,
            status=status,
            rule=rule,
            detail=detail,
            field=field,
            retry_after_ms=round(retry_s * 1000),
        )
        super().__init__(f"{rule}: {detail}")


def not_found(what: str, rule: str = "") -> ApiProblem:
    """404 with a clear text."""
    return ApiProblem(404, rule or "http.not_found", what)


def problem_of(error: Exception) -> Problem:
    """The problem that tells of an error. Only our own faults are not explained to the client."""
    if isinstance(error, ApiProblem):
        return error.problem
    if isinstance(error, Refused):
        status = 409
        if error.rule.endswith(".too_long"):
            status = 413
        elif error.rule.endswith(_FORM):
            status = 400
        elif error.rule.endswith(_MISSING):
            status = 404
        elif error.rule.endswith(".pruned"):
            status = 410
        elif error.rule.startswith("proof.not_yet"):
            status = 503
        return _problem(status, error.rule, error.detail, error.field, refused=status != 503)
    if isinstance(error, Overloaded):
        return _problem(429, "peer.overloaded", "too much is waiting here", retry_ms=error.retry_ms)
    if isinstance(error, NotFinal):
        return _problem(504, "tx.not_final", f"{error}; it may still become final")
    if isinstance(error, ArtifactFull):
        return _problem(507, "artifact.no_room", str(error))
    if isinstance(error, ArtifactMissing):
        return _problem(404, "artifact.not_found", "this peer does not have these bytes")
    if isinstance(error, ArtifactBusy):
        return _problem(409, "artifact.in_use", str(error), "sha256")
    if isinstance(error, ArtifactError):
        return _problem(400, "artifact.digest", str(error), "sha256")
    if isinstance(error, HTTPException):
        return _problem(error.status_code, f"http.{error.status_code}", error.detail)
    if isinstance(error, LocalError):
        log.error("local_error", error=str(error))
        return _problem(500, "peer.local_error", "this peer has a fault of its own; its log says which")
    raise error


def _problem(
    status: int, rule: str, detail: str, field: str = "", *, refused: bool = False, retry_ms: int = 0
) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(
        title=title,
        status=status,
        rule=rule,
        detail=detail,
        field=field,
        refused=refused,
        retry_after_ms=retry_ms,
    )


def problem_response(problem: Problem) -> Response:
    """The HTTP answer of a problem."""
    headers = {}
    if problem.status in (429, 503):
        wait_s = problem.retry_after_ms / 1000 or RETRY_AFTER_S
        headers["Retry-After"] = str(max(1, ceil(wait_s)))  # whole seconds, RFC 9110
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(problem), problem.status, headers, "application/problem+json")


async def on_error(request: Request, error: Exception) -> Response:
    """Exception handler of the application."""
    problem = problem_of(error)
    request.app.state.api.count(f"refused.{problem.rule}")
    if isinstance(error, Overloaded):
        await trio.sleep(min(error.retry_s, OVERLOAD_HOLD_S))
    return problem_response(problem)
