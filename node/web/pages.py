"""The explorer's pages."""

from __future__ import annotations

from starlette.routing import BaseRoute


def web_routes() -> list[BaseRoute]:
    """Pages and their static files."""
    return []
