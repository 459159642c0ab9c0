"""GET: what the peer knows."""

from __future__ import annotations

import functools
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from ledger import records as r
from ledger.organisations.records import Organisation
from node.api import block_views, deployment_views, epoch_views, organisation_views, views
from node.api import models as m
from node.api.core import answer, api_of, choice, digest_of, number, paging
from node.api.limits import EPOCHS_PAGE_MAX
from node.api.problems import ApiProblem, not_found
from node.api.show import state_key

_HEIGHT_MAX = 1 << 53
_KEY_BYTES_MAX = 512


async def status(request: Request) -> Response:
    return answer(views.status(api_of(request).peer))


async def peers(request: Request) -> Response:
    return answer(views.peers(api_of(request).peer))


async def validators(request: Request) -> Response:
    return answer(views.validators(api_of(request).peer))


async def epochs(request: Request) -> Response:
    peer = api_of(request).peer
    first = number(request, "cursor", 0, 0, _HEIGHT_MAX)
    limit = number(request, "limit", EPOCHS_PAGE_MAX, 1, EPOCHS_PAGE_MAX)
    return answer(epoch_views.epochs(peer, first, limit))


async def contracts(request: Request) -> Response:
    peer = api_of(request).peer
    cursor, limit = paging(request)
    make = functools.partial(views.contract_summary, peer)
    return answer(views.page(peer, b"contract/", r.ContractRecord, make, cursor, limit))


async def contract(request: Request) -> Response:
    return answer(views.contract(api_of(request).peer, request.path_params["ref"]))


async def deployments(request: Request) -> Response:
    peer = api_of(request).peer
    cursor, limit = paging(request)

    def make(record: r.Deployment) -> Any:
        return deployment_views.deployment_summary(peer, record)

    return answer(views.page(peer, b"deployment/", r.Deployment, make, cursor, limit))


async def deployment(request: Request) -> Response:
    return answer(deployment_views.deployment_detail(api_of(request).peer, request.path_params["id"]))


async def nodes(request: Request) -> Response:
    peer = api_of(request).peer
    cursor, limit = paging(request)

    def make(record: r.Node) -> Any:
        return views.node_view(peer, record)

    return answer(views.page(peer, b"node/", r.Node, make, cursor, limit))


async def node_slots(request: Request) -> Response:
    slots = api_of(request).slots
    if slots is None:
        raise not_found("this peer is no 3node: it holds no slots", "node.none")
    return answer(slots())


async def farms(request: Request) -> Response:
    cursor, limit = paging(request)
    return answer(views.page(api_of(request).peer, b"farm/", r.Farm, views.farm_view, cursor, limit))


async def organisations(request: Request) -> Response:
    cursor, limit = paging(request)
    prefix, peer = organisation_views.PREFIX, api_of(request).peer
    return answer(views.page(peer, prefix, Organisation, organisation_views.summary, cursor, limit))


async def organisation(request: Request) -> Response:
    return answer(organisation_views.detail(api_of(request).peer, request.path_params["id"]))


async def blocks(request: Request) -> Response:
    peer = api_of(request).peer
    highest = number(request, "cursor", peer.height, 0, _HEIGHT_MAX)
    limit = number(request, "limit", 20, 1, 100)
    return answer(block_views.block_summaries(peer, highest, limit))


async def block(request: Request) -> Response:
    text = request.path_params["height"]
    peer = api_of(request).peer
    if text == "latest":
        return answer(block_views.block_detail(peer, peer.height))
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise ApiProblem(400, "query.number", "a height, or latest, wanted", "height")
    return answer(block_views.block_detail(peer, int(text)))


async def tx(request: Request) -> Response:
    return answer(block_views.tx_view(api_of(request).peer, views.hex32(request.path_params["id"], "id")))


async def account(request: Request) -> Response:
    return answer(views.account(api_of(request).peer, request.path_params["key"]))


async def query(request: Request) -> Response:
    given, path = request.query_params.get("key"), request.query_params.get("path")
    if (given is None) == (path is None):
        raise ApiProblem(400, "query.key", "either key=HEX or path=PREFIX/… wanted", "key")
    try:
        key = bytes.fromhex(given) if given is not None else state_key(path or "")
    except ValueError as error:
        raise ApiProblem(400, "query.key", str(error), "key") from None
    if not 0 < len(key) <= _KEY_BYTES_MAX:
        raise ApiProblem(400, "query.key", f"1 to {_KEY_BYTES_MAX} bytes", "key")
    prove = choice(request, "prove", "0", ("0", "1")) == "1"
    return answer(views.query(api_of(request).peer, key, prove))


async def manifest(request: Request) -> Response:
    digest = views.hex32(request.path_params["digest"], "digest")
    data = deployment_views.manifest_bytes(api_of(request).peer, digest)
    return Response(data, media_type="application/json")


async def vault(request: Request) -> Response:
    return answer(
        views.vault(api_of(request).peer, request.path_params["owner"], request.path_params["name"])
    )


async def artifact(request: Request) -> Response:
    file = api_of(request).artifacts.path(digest_of(request))
    # Foreign bytes: never to be shown by a browser as a page of ours.
    headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox"}
    return FileResponse(file, media_type="application/octet-stream", headers=headers)


async def healthz(request: Request) -> Response:
    """The process answers."""
    return Response("ok\n", media_type="text/plain")


async def readyz(request: Request) -> Response:
    reason = views.not_ready(api_of(request).peer)
    return answer(m.Ready(ready=not reason, reason=reason), 503 if reason else 200)
