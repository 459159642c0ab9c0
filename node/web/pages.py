"""The explorer's pages: committed records, rendered on the server, everything foreign escaped by jinja2."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ledger import records as r
from ledger.codec import decode
from ledger.policies.decision import describe
from ledger.policies.people import names_of
from ledger.policies.types import ACTS
from node.api import block_views, deployment_views, views
from node.api import models as m
from node.api.core import api_of, number
from node.api.files import artifacts_view, transfers
from node.api.limits import EXPLORER_LIST_MAX
from node.api.problems import ApiProblem
from node.client.amounts import cpu_text, credits_text, size_text, span_text, time_text, value_text
from node.files.cid import cid_of
from node.seam import PeerSeam
from node.web.update_words import change_rows, update_sentence
from node.web.words import STATUS_WORDS, sentence, steps, tone

_FOLDER: Final = Path(__file__).resolve().parent
_STATIC: Final = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}
_ADDRESS: Final = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-f:]{2,39}\]):[0-9]{1,5}")

# No script, style, image or connection from anywhere but this peer; nobody may frame it.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}

Page = Callable[[Request], Awaitable[Response]]


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "credits": credits_text,
        "size": size_text,
        "cpu": cpu_text,
        "span": span_text,
        "cid": cid_of,
        "time": time_text,
        "short": lambda text: str(text)[:10],
        "tone": tone,
        "word": lambda status: STATUS_WORDS.get(status, str(status)),
        "link": service_link,
    }
    return environment


def service_link(name: str, address: str) -> str:
    """The link to a reported endpoint, "" when it is no plain host:port of a web port."""
    return f"http://{address}/" if name.startswith("http") and _ADDRESS.fullmatch(address) else ""


def _render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    peer = api_of(request).peer
    text = (
        _templates()
        .get_template(template)
        .render(me=views.status(peer), now_ms=time.time_ns() // 1_000_000, path=request.url.path, **values)
    )
    return Response(text, status, HEADERS, "text/html")


def _page(function: Page) -> Page:
    """A page whose problems are told in words, on a page."""

    async def shown(request: Request) -> Response:
        try:
            return await function(request)
        except ApiProblem as error:
            return _render(request, "problem.html", error.problem.status, problem=error.problem)

    return shown


def _deployments(peer: PeerSeam) -> list[m.DeploymentSummary]:
    """The newest first. Ids are hashes, so all are looked at before the newest are known."""
    records = [decode(r.Deployment, data) for _, data in peer.state.scan(b"deployment/")]
    records.sort(key=lambda record: (-record.ordered_ms, record.id))
    return [deployment_views.deployment_summary(peer, record) for record in records[:EXPLORER_LIST_MAX]]


def _nodes(peer: PeerSeam) -> list[m.NodeView]:
    found = peer.state.scan(b"node/", limit=EXPLORER_LIST_MAX)
    nodes = [views.node_view(peer, decode(r.Node, data)) for _, data in found]
    return sorted(nodes, key=lambda node: (node.farm, node.key))


@_page
async def overview(request: Request) -> Response:
    peer = api_of(request).peer
    found = _deployments(peer)
    return _render(
        request,
        "overview.html",
        deployments=found[:5],
        running=sum(1 for d in found if d.status == "active"),
        waiting=sum(1 for d in found if d.status == "awaiting_approval"),
        nodes=_nodes(peer),
        validators=views.validators(peer),
        blocks=block_views.block_summaries(peer, peer.height, 6).items,
    )


@_page
async def deployments(request: Request) -> Response:
    return _render(request, "deployments.html", deployments=_deployments(api_of(request).peer))


@_page
async def deployment(request: Request) -> Response:
    api = api_of(request)
    peer = api.peer
    found = deployment_views.deployment_detail(peer, request.path_params["id"])
    contract = views.contract_of(views.find_contract(peer, found.contract))
    roles: dict[str, list[str]] = {}
    for role in found.manifest.roles:
        for holder in role.keys or names_of((role,)).values():
            roles.setdefault(holder, []).append(role.name)
    policies = found.manifest.policies
    types = {parameter.name: parameter.type for parameter in contract.parameters}
    answers = {
        name: value_text(types.get(name, ""), value) for name, value in found.manifest.parameters.items()
    }
    paths = {a.sha256: a.path for workload in found.manifest.workloads for a in workload.artifacts}
    return _render(
        request,
        "deployment.html",
        paths=paths,
        transfers=[item for item in transfers(api.exchange) if item.sha256 in paths],
        deployment=found,
        contract=contract,
        steps=steps(found),
        sentence=sentence(found),
        roles=roles,
        asked={act: describe(policies.of(act)) for act in ACTS},
        receipts=list(reversed(found.receipts)),
        answers=answers,
        updates=[
            (update, update_sentence(update), change_rows(update)) for update in reversed(found.updates)
        ],
    )


@_page
async def nodes(request: Request) -> Response:
    return _render(request, "nodes.html", nodes=_nodes(api_of(request).peer))


@_page
async def files(request: Request) -> Response:
    held = artifacts_view(api_of(request), request.query_params.get("cursor", ""), EXPLORER_LIST_MAX)
    return _render(request, "files.html", files=held)


@_page
async def blocks(request: Request) -> Response:
    peer = api_of(request).peer
    highest = number(request, "from", peer.height, 0, 1 << 53)
    page = block_views.block_summaries(peer, highest, 50)
    return _render(request, "blocks.html", blocks=page.items, older=page.next)


@_page
async def block(request: Request) -> Response:
    text = request.path_params["height"]
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise ApiProblem(400, "query.number", "a block is named by its height", "height")
    return _render(request, "block.html", block=block_views.block_detail(api_of(request).peer, int(text)))


@_page
async def transaction(request: Request) -> Response:
    id_ = views.hex32(request.path_params["id"], "id")
    return _render(request, "transaction.html", tx=block_views.tx_view(api_of(request).peer, id_))


async def static(request: Request) -> Response:
    """One of our own few files."""
    name = request.path_params["name"]
    media = _STATIC.get(name)
    if media is None:
        raise ApiProblem(404, "http.not_found", "no such file")
    return Response(_static(name), headers={"Cache-Control": "no-cache"}, media_type=media)


@lru_cache(maxsize=len(_STATIC))
def _static(name: str) -> bytes:
    return (_FOLDER / "static" / name).read_bytes()


def web_routes() -> list[BaseRoute]:
    """Pages and their static files."""
    return [
        Route("/", overview),
        Route("/deployments", deployments),
        Route("/deployments/{id}", deployment),
        Route("/nodes", nodes),
        Route("/files", files),
        Route("/blocks", blocks),
        Route("/blocks/{height}", block),
        Route("/tx/{id}", transaction),
        Route("/static/{name}", static),
    ]
