"""Carries a consumer's signed question to the node that holds the slot, and the sealed answer back."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from ledger.errors import Refused
from ledger.records import Deployment, key_deployment
from ledger.state import read
from node.api.core import api_of, body_bytes, need_type
from node.api.problems import ApiProblem
from node.limits import LOG_ASK_S
from node.reach import request_of_node
from node.sealed.log_wire import ASK_BYTES_MAX, LOGS, is_signed, read_question
from p2p.errors import Refused as RequestRefused
from p2p.errors import RequestError

BINARY: Final = "application/octet-stream"


async def logs(request: Request) -> Response:
    """The answer's bytes, which only the asking account opens."""
    need_type(request, BINARY)
    body = await body_bytes(request, ASK_BYTES_MAX)
    signed = read_question(body)
    peer = api_of(request).peer
    question = signed.question
    record = read(peer.state, Deployment, key_deployment(question.deployment))
    if record is None or record.consumer != question.account or not is_signed(signed):
        raise Refused("logs.not_yours", "only the deployment's consumer reads its logs")
    try:
        data = await request_of_node(peer, question.node, LOGS, body, LOG_ASK_S)
    except RequestRefused as error:
        # One rule for all that nodes say: what a stranger words must not become a name in our figures.
        raise Refused("logs.refused", f"the node says: {error.reason}"[:300]) from None
    except RequestError as error:
        raise ApiProblem(504, "logs.node", f"the node did not answer: {error}") from None
    return Response(data, 200, {"Cache-Control": "no-store"}, BINARY)
