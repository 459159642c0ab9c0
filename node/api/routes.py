"""Every resource of the API in one table: the application and /openapi.json are both made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from node.api import audit_file, events, files, logs, metrics, peers, reads, tx_stream, writes
from node.api import bot_seam as b
from node.api import file_models as f
from node.api import models as m
from node.api import organisation_models as om
from node.api import update_seam as u

Handler = Callable[[Request], Awaitable[Response]]
BINARY: Final = "application/octet-stream"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter. `schema`: JSON Schema type."""

    name: str
    schema: str
    text: str


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `result`: a model, or None for bytes of `media`. `body` likewise."""

    method: str
    path: str
    handler: Handler
    text: str
    result: Any = None
    media: str = JSON
    query: tuple[Query, ...] = ()
    body: Any = None
    body_media: str = ""
    token: bool = False
    status: int = 200


_EPOCHS: Final = (
    Query("limit", "integer", "Items of a page, 1 to 20."),
    Query("cursor", "integer", "The first epoch wanted, or the `next` of the page before."),
)
_PAGING: Final = (
    Query("limit", "integer", "Items of a page, 1 to 200."),
    Query("cursor", "string", "The `next` of the page before."),
)
_KEY: Final = (
    Query("key", "string", "A raw state key in hex."),
    Query("path", "string", "A state path, such as account/HEX, instead of key."),
    Query("prove", "integer", "1: with a proof that holds from the genesis file alone."),
)
_EVENTS: Final = (
    Query(
        "after", "string", "An event id; events after it are replayed. Header Last-Event-ID does the same."
    ),
    Query("kind", "string", "Only kinds that begin so."),
    Query("subject", "string", "Only subjects that begin so."),
)
_WAIT: Final = (
    Query("wait", "string", "none, accepted or final."),
    Query("timeout", "number", "Seconds to wait for finality, at most 300."),
)
_WAIT_MANY: Final = (
    Query("wait", "string", "accepted or final."),
    Query("timeout", "number", "Seconds to wait for the finality of each, at most 300."),
)

_FETCH: Final = (
    Query("size", "integer", "Its size in bytes."),
    Query("chunks", "string", "The signed root of its chunk list, if known: parts are checked by it."),
    Query("timeout", "number", "Seconds to wait for it, at most 300."),
)

ROUTES: Final = (
    Route("GET", "/v1/status", reads.status, "The peer's status", m.Status),
    Route("GET", "/v1/peers", reads.peers, "Neighbours, bans, and whom the peer knows", m.Peers),
    Route(
        "POST",
        "/v1/peers/add",
        peers.add,
        "Hold a connection to a peer for ever",
        m.PeerOrdered,
        body=m.PeerOrder,
        token=True,
    ),
    Route(
        "POST",
        "/v1/peers/remove",
        peers.remove,
        "Forget a peer and end its connection",
        m.PeerOrdered,
        body=m.PeerOrder,
        token=True,
    ),
    Route(
        "POST",
        "/v1/peers/ban",
        peers.ban,
        "Refuse a peer until it is unbanned",
        m.PeerOrdered,
        body=m.PeerOrder,
        token=True,
    ),
    Route(
        "POST",
        "/v1/peers/unban",
        peers.unban,
        "Lift a ban and forgive",
        m.PeerOrdered,
        body=m.PeerOrder,
        token=True,
    ),
    Route("GET", "/v1/validators", reads.validators, "Validators in force, and the next", m.Validators),
    Route(
        "GET",
        "/v1/epochs",
        reads.epochs,
        "Ended epochs with what proves their end; the cursor is an epoch",
        m.Page[m.EpochView],
        query=_EPOCHS,
    ),
    Route(
        "GET",
        "/v1/contracts",
        reads.contracts,
        "Published contracts",
        m.Page[m.ContractSummary],
        query=_PAGING,
    ),
    Route("GET", "/v1/contracts/{ref}", reads.contract, "By id, NAME@VERSION or NAME", m.ContractDetail),
    Route(
        "GET", "/v1/deployments", reads.deployments, "Deployments", m.Page[m.DeploymentSummary], query=_PAGING
    ),
    Route("GET", "/v1/deployments/{id}", reads.deployment, "By id or its first digits", m.DeploymentDetail),
    Route(
        "GET",
        "/v1/organisations",
        reads.organisations,
        "Organisations",
        m.Page[om.OrganisationSummary],
        query=_PAGING,
    ),
    Route(
        "GET",
        "/v1/organisations/{id}",
        reads.organisation,
        "By id or its first digits: members, and the deeds that made them so",
        om.OrganisationDetail,
    ),
    Route("GET", "/v1/nodes", reads.nodes, "3nodes and their offers", m.Page[m.NodeView], query=_PAGING),
    Route("GET", "/v1/node/slots", reads.node_slots, "What this 3node holds and does", m.ExecutorStatus),
    Route(
        "POST",
        "/v1/logs",
        logs.logs,
        "Carry a consumer's signed question about a slot's log to its node, and the sealed answer back",
        media=BINARY,
        body_media=BINARY,
    ),
    Route("GET", "/v1/farms", reads.farms, "Farms", m.Page[m.FarmView], query=_PAGING),
    Route(
        "GET",
        "/v1/blocks",
        reads.blocks,
        "Blocks, newest first; the cursor is a height",
        m.Page[m.BlockSummary],
        query=_PAGING,
    ),
    Route("GET", "/v1/blocks/{height}", reads.block, "A block by height, or latest", m.BlockDetail),
    Route("GET", "/v1/tx/{id}", reads.tx, "A final transaction", m.TxView),
    Route("GET", "/v1/accounts/{key}", reads.account, "An account's balance", m.AccountView),
    Route("GET", "/v1/query", reads.query, "A record of the state", m.QueryView, query=_KEY),
    Route("GET", "/v1/manifests/{digest}", reads.manifest, "A manifest's exact bytes"),
    Route(
        "GET",
        "/v1/artifacts",
        files.artifacts,
        "Artifacts that this peer holds, and those on their way with their progress",
        f.Artifacts,
        query=_PAGING,
    ),
    Route("GET", "/v1/artifacts/{sha256}", reads.artifact, "An artifact's bytes", media=BINARY),
    Route("GET", "/v1/audit/{deployment}", audit_file.audit_file, "A deployment's audit file", media=BINARY),
    Route("GET", "/v1/vault/{owner}/{name}", reads.vault, "An owner's encrypted record", m.VaultView),
    Route(
        "GET",
        "/v1/events",
        events.events,
        "Committed events as server-sent events; an event `gap` tells of loss",
        m.EventView,
        media="text/event-stream",
        query=_EVENTS,
    ),
    Route(
        "POST",
        "/v1/tx",
        writes.submit,
        "Send a signed transaction",
        m.TxResult,
        query=_WAIT,
        body_media=BINARY,
    ),
    Route(
        "POST",
        "/v1/txs",
        tx_stream.submit_many,
        "Send many signed transactions, each after 4 bytes of its length; an answer line for each",
        m.TxLine,
        media="application/jsonl",
        query=_WAIT_MANY,
        body_media=BINARY,
    ),
    Route(
        "PUT",
        "/v1/artifacts/{sha256}",
        files.put_artifact,
        "Give the peer an artifact",
        f.ArtifactView,
        body_media=BINARY,
        token=True,
        status=201,
    ),
    Route(
        "POST",
        "/v1/artifacts/{sha256}/fetch",
        files.fetch_artifact,
        "Fetch an artifact from other peers",
        f.ArtifactView,
        query=_FETCH,
        token=True,
    ),
    Route(
        "POST",
        "/v1/artifacts/{sha256}/drop",
        files.drop_artifact,
        "Drop an artifact that is not in use",
        f.Freed,
        token=True,
    ),
    Route(
        "POST", "/v1/bot/plan", writes.bot_plan, "Plan a deployment", b.Plan, body=b.PlanRequest, token=True
    ),
    Route(
        "POST", "/v1/bot/deploy", writes.bot_deploy, "Order it", b.Deployed, body=b.DeployRequest, token=True
    ),
    Route(
        "POST",
        "/v1/bot/plan-update",
        writes.bot_plan_update,
        "Plan an update",
        u.UpdatePlan,
        body=u.UpdateRequest,
        token=True,
    ),
    Route(
        "POST",
        "/v1/bot/update",
        writes.bot_update,
        "Ask for an update",
        u.Updated,
        body=u.UpdateWish,
        token=True,
    ),
    Route(
        "POST",
        "/v1/bot/steer-update",
        writes.bot_steer_update,
        "Stop an update, or go on with one that is held",
        u.Steered,
        body=u.SteerRequest,
        token=True,
    ),
    Route(
        "POST",
        "/v1/bot/cancel",
        writes.bot_cancel,
        "Cancel it",
        b.Cancelled,
        body=b.CancelRequest,
        token=True,
    ),
    Route("GET", "/v1/bot/status", writes.bot_status, "What the 3bot looks after", b.BotStatus, token=True),
    Route(
        "POST",
        "/v1/bot/secrets",
        writes.bot_set_secrets,
        "Give the 3bot secrets of a deployment",
        b.SecretsView,
        body=b.SecretsRequest,
        token=True,
    ),
    Route(
        "GET",
        "/v1/bot/secrets/{deployment}",
        writes.bot_secrets,
        "Which secrets the 3bot has; never their values",
        b.SecretsView,
        token=True,
    ),
    Route("GET", "/healthz", reads.healthz, "The process answers", media="text/plain"),
    Route("GET", "/readyz", reads.readyz, "Caught up, with a BFT quorum", m.Ready),
    Route("GET", "/metrics", metrics.metrics, "Figures for Prometheus", media="text/plain"),
)
