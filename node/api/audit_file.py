"""GET /v1/audit/DEPLOYMENT: a deployment's audit file. Only so many are made, waited for and read at once."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.api.clients import client_name
from node.api.core import Api, api_of
from node.api.deployment_views import find_deployment
from node.api.limits import AUDITS_MAX, AUDITS_OF_CLIENT_MAX, RETRY_AFTER_S
from node.api.problems import ApiProblem


async def audit_file(request: Request) -> Response:
    api = api_of(request)
    record = find_deployment(api.peer, request.path_params["deployment"])
    client = client_name(request.scope)
    if not api.audits.has_room(client):
        why = f"{AUDITS_MAX} audit files are being made or read, or {AUDITS_OF_CLIENT_MAX} of yours"
        raise ApiProblem(429, "audit.busy", why, retry_s=RETRY_AFTER_S)
    return AuditFile(api, client, record.id)


class AuditFile(Response):
    """The answer, made when it is sent: its place is free when its client has read it, or left."""

    def __init__(self, api: Api, client: str, deployment: bytes) -> None:
        name = f"gridpact-{deployment.hex()[:10]}.audit"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        super().__init__(None, headers=headers, media_type="application/octet-stream")
        self._api = api
        self._client = client
        self._deployment = deployment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._api.audits.enter(self._client)
        try:
            self.body = await self._api.peer.audit(self._deployment)
            self.headers["content-length"] = str(len(self.body))
            await super().__call__(scope, receive, send)
        finally:
            self._api.audits.leave(self._client)
