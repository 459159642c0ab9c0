"""/openapi.json (OpenAPI 3.1), made from the table of routes and the models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from node.api.models import Problem
from node.api.routes import ROUTES, Route
from node.version import VERSION

_PATH: Final = re.compile(r"\{(\w+)\}")
_REF: Final = "#/components/schemas/{name}"


def make_openapi(routes: Iterable[Route] = ROUTES) -> dict[str, Any]:
    """The whole document."""
    routes = tuple(routes)
    types = (
        {route.result for route in routes if route.result} | {r.body for r in routes if r.body} | {Problem}
    )
    ordered = sorted(types, key=str)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gridpact peer",
            "version": VERSION,
            "description": "One peer's API. Everything it says can be checked against certificates.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PATH.findall(route.path)
    ]
    parameters += [
        {
            "name": q.name,
            "in": "query",
            "required": False,
            "description": q.text,
            "schema": {"type": q.schema},
        }
        for q in route.query
    ]
    content = {"schema": schema_of[route.result]} if route.result else {}
    problem = {"application/problem+json": {"schema": schema_of[Problem]}}
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{route.handler.__name__}",
        "summary": route.text,
        "parameters": parameters,
        "responses": {
            str(route.status): {"description": route.text, "content": {route.media: content}},
            "default": {"description": "A problem (RFC 9457)", "content": problem},
        },
    }
    if route.body or route.body_media:
        body = {"schema": schema_of[route.body]} if route.body else {}
        media = route.body_media or "application/json"
        operation["requestBody"] = {"required": True, "content": {media: body}}
    if route.token:
        operation["security"] = [{"token": []}]
    return operation


async def openapi(request: Request) -> Response:
    """Made once per application."""
    return Response(request.app.state.openapi, media_type="application/json")
