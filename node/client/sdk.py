"""A small synchronous client of a peer's API, for the command line and programs; no libp2p, no trio.

Errors carry the exit code that a command ends with.
"""

from __future__ import annotations

import http.client
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from ledger.keys import Key
from ledger.limits import EXPIRY_BLOCKS_DEFAULT
from ledger.transactions import Body, Tx, decode_tx, sign_tx
from node.api import file_models as f
from node.api import models as m
from node.api import organisation_models as om

T = TypeVar("T")

_ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
_EXTRA_S: Final = 5.0  # the server answers a time-out itself; we wait a little longer for that answer


class ClientError(Exception):
    """A call failed; `exit_code` says how."""

    exit_code = 1


class Unreachable(ClientError):
    """No peer answers at that address."""

    exit_code = 3


class TimedOut(ClientError):
    """No answer in time."""

    exit_code = 6


class NoQuorum(ClientError):
    """The peer cannot reach finality now: the BFT quorum is missing, or it is catching up."""

    exit_code = 5


class ApiError(ClientError):
    """The peer said no: `status` of HTTP, and the rule, detail and field of the problem."""

    def __init__(self, status: int, problem: m.Problem) -> None:
        self.status = status
        self.problem = problem
        self.exit_code = {503: 5, 504: 6}.get(status, 4 if problem.refused else 1)
        where = f" at {problem.field}" if problem.field else ""
        super().__init__(f"{problem.rule}{where}: {problem.detail}")


class TxRefused(ClientError):
    """A final transaction that the ledger refused."""

    exit_code = 4

    def __init__(self, result: m.TxResult) -> None:
        self.result = result
        super().__init__(
            f"refused: {result.rule}: {result.detail}" if result.detail else f"refused: {result.rule}"
        )


class Client:
    """Calls to one peer. One connection per call: commands are short, and peers restart."""

    def __init__(
        self,
        address: str,
        token_file: Path | None = None,
        timeout_s: float = 30.0,
        on_wait: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`on_wait` hears in words why a call is not over yet."""
        self.address = address
        self._on_wait = on_wait
        self.timeout_s = timeout_s
        self._token_file = token_file

    # --- plumbing --------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
        token: bool = False,
    ) -> bytes:
        """The body of a 2xx answer. `body`: bytes, or a file. Raises ClientError."""
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal():
            raise Unreachable(f"{self.address!r}: host:port wanted")
        target = path + ("?" + urlencode(query) if query else "")
        sent = {"Accept": "application/json", **(headers or {})}
        if token:
            sent["Authorization"] = f"Bearer {self._token()}"
        connection = http.client.HTTPConnection(
            host.strip("[]"), int(port), timeout=timeout_s or self.timeout_s
        )
        try:
            try:
                connection.request(method, target, body=body, headers=sent)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have answered and hung up before it heard all, such as 413: the answer says why
            answer = connection.getresponse()
            data = answer.read(_ANSWER_BYTES_MAX)
        except TimeoutError:
            raise TimedOut(f"{self.address}: no answer in time to {method} {path}") from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"{self.address}: {why}") from None
        finally:
            connection.close()
        if answer.status >= 300:
            raise ApiError(answer.status, _problem(answer.status, data))
        return data

    def _token(self) -> str:
        from node.home import read_secret

        if self._token_file is None:
            raise ClientError("this call needs the API token of the peer's home: pass --home")
        return read_secret(self._token_file).strip()

    def get(self, path: str, kind: type[T], *, token: bool = False, **query: Any) -> T:
        """A decoded answer. Raises ClientError."""
        return _decode(self.call("GET", path, query=query, token=token), kind)

    def post(self, path: str, body: Any, kind: type[T], timeout_s: float | None = None) -> T:
        """A decoded answer to a JSON body, with the token. Raises ClientError."""
        data = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"}
        answer = self.call("POST", path, body=data, headers=headers, token=True, timeout_s=timeout_s)
        return _decode(answer, kind)

    # --- reads -----------------------------------------------------------------------------------

    def status(self) -> m.Status:
        """The peer's status."""
        return self.get("/v1/status", m.Status)

    def is_ready(self) -> bool:
        """True when the peer is up and caught up with a quorum."""
        try:
            self.call("GET", "/readyz", timeout_s=2.0)
        except ClientError:
            return False
        return True

    def peers(self) -> m.Peers:
        """Its neighbours, bans and peer book."""
        return self.get("/v1/peers", m.Peers)

    def order_peer(self, verb: str, order: m.PeerOrder) -> m.PeerOrdered:
        """add, remove, ban or unban a peer. Needs the token."""
        return self.post(f"/v1/peers/{verb}", order, m.PeerOrdered)

    def validators(self) -> m.Validators:
        """The validators in force."""
        return self.get("/v1/validators", m.Validators)

    def epochs(self, first: int) -> Iterator[m.EpochView]:
        """How each ended epoch from `first` on ended, with its proof."""
        return self.items("/v1/epochs", m.EpochView, cursor=first)

    def items(self, path: str, kind: type[T], **query: Any) -> Iterator[T]:
        """All items of a paged list."""
        cursor = ""
        while True:
            page = self.get(path, m.Page[kind], **query | ({"cursor": cursor} if cursor else {}))  # type: ignore[valid-type]
            yield from page.items
            if not page.next:
                return
            cursor = page.next

    def contracts(self) -> Iterator[m.ContractSummary]:
        """All published contract versions."""
        return self.items("/v1/contracts", m.ContractSummary)

    def contract(self, ref: str) -> m.ContractDetail:
        """A contract by id, NAME@VERSION, or NAME (its newest version)."""
        return self.get(f"/v1/contracts/{quote(ref, safe='')}", m.ContractDetail)

    def deployments(self) -> Iterator[m.DeploymentSummary]:
        """All deployments."""
        return self.items("/v1/deployments", m.DeploymentSummary)

    def deployment(self, ref: str) -> m.DeploymentDetail:
        """A deployment by its id, or by the first digits of one."""
        return self.get(f"/v1/deployments/{quote(ref, safe='')}", m.DeploymentDetail)

    def nodes(self) -> Iterator[m.NodeView]:
        """All registered nodes."""
        return self.items("/v1/nodes", m.NodeView)

    def node_slots(self) -> m.ExecutorStatus:
        """What the 3node that is asked holds and does. Raises ClientError on a peer that is none."""
        return self.get("/v1/node/slots", m.ExecutorStatus)

    def farms(self) -> Iterator[m.FarmView]:
        """All farms."""
        return self.items("/v1/farms", m.FarmView)

    def organisations(self) -> Iterator[om.OrganisationSummary]:
        """All organisations."""
        return self.items("/v1/organisations", om.OrganisationSummary)

    def organisation(self, ref: str) -> om.OrganisationDetail:
        """An organisation by its id, or by the first digits of one."""
        return self.get(f"/v1/organisations/{quote(ref, safe='')}", om.OrganisationDetail)

    def account(self, public: bytes) -> m.AccountView:
        """An account's balance; 0 for one that is not there."""
        return self.get(f"/v1/accounts/{public.hex()}", m.AccountView)

    def tx(self, id_: str) -> m.TxView:
        """A final transaction."""
        return self.get(f"/v1/tx/{quote(id_, safe='')}", m.TxView)

    def query(self, key: bytes, prove: bool) -> m.QueryView:
        """What the state holds under a raw key, with its proof if asked."""
        return self.get("/v1/query", m.QueryView, key=key.hex(), prove=int(prove))

    def manifest(self, digest: str) -> bytes:
        """A manifest's exact bytes."""
        return self.call("GET", f"/v1/manifests/{quote(digest, safe='')}")

    def audit(self, deployment: str) -> bytes:
        """The audit file of a deployment."""
        return self.call(
            "GET", f"/v1/audit/{quote(deployment, safe='')}", timeout_s=max(60.0, self.timeout_s)
        )

    # --- writes ----------------------------------------------------------------------------------

    def sign(self, key: Key, body: Body) -> bytes:
        """A signed transaction, good for the default number of blocks from now."""
        status = self.status()
        expires = status.best_height + EXPIRY_BLOCKS_DEFAULT
        return sign_tx(key, Tx(status.chain_id, key.public, expires, secrets.token_bytes(8), body))

    def submit(self, raw: bytes, wait: str = "final", timeout_s: float | None = None) -> m.TxResult:
        """Send a signed transaction. An overloaded peer is asked again when it says, until the time is up;
        with wait="none" never. Raises ClientError."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            try:
                answer = self.call(
                    "POST",
                    "/v1/tx",
                    query={"wait": wait, "timeout": round(left_s, 3)},
                    body=raw,
                    headers={"Content-Type": "application/octet-stream"},
                    timeout_s=left_s + _EXTRA_S,
                )
                return _decode(answer, m.TxResult)
            except ApiError as error:
                if error.status == 504:
                    raise self._why_late(error) from None
                if error.status != 429 or wait == "none":
                    raise
                self._come_again(error, deadline)

    def _come_again(self, error: ApiError, deadline: float) -> None:
        """Wait as long as an overloaded peer says, and a little more by chance, so that not all come at once.
        Raises TimedOut when that is too long."""
        pause_s = (error.problem.retry_after_ms or 1_000) / 1_000 * (1 + secrets.randbelow(250) / 1_000)
        if time.monotonic() + pause_s > deadline:
            raise TimedOut(f"{error}; not accepted in time, so it will not become final unless sent again")
        self._on_wait(f"{error.problem.rule}: {error.problem.detail}; asking again in {pause_s:.1f} s")
        time.sleep(pause_s)

    def _why_late(self, error: ApiError) -> ClientError:
        if self.is_ready():
            return TimedOut(str(error))
        return NoQuorum(f"{error} (the peer says that it is not ready: no quorum, or catching up)")

    def send(self, key: Key, body: Body, wait: str = "final") -> m.TxResult:
        """Sign, send, and wait. Raises TxRefused when the ledger refused it."""
        result = self.submit(self.sign(key, body), wait)
        if result.state == "final" and not result.ok:
            raise TxRefused(result)
        return result

    def ask_logs(self, question: bytes) -> bytes:
        """A node's sealed answer to a signed question (node.sealed.log_wire). Raises ClientError."""
        headers = {"Content-Type": "application/octet-stream"}
        return self.call("POST", "/v1/logs", body=question, headers=headers)

    def put_artifact(self, digest: str, file: Path) -> None:
        """Give the peer an artifact's bytes. Raises ClientError."""
        try:
            self.call("HEAD", f"/v1/artifacts/{digest}")
            return  # it has them
        except ApiError as error:
            if error.status != 404:
                raise
        with file.open("rb") as stream:
            self.call(
                "PUT",
                f"/v1/artifacts/{digest}",
                body=stream,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(file.stat().st_size),
                },
                timeout_s=max(120.0, self.timeout_s),
                token=True,
            )

    def artifacts(self, cursor: str = "", limit: int = 200) -> f.Artifacts:
        """A page of what the peer holds, and all that is on its way to it."""
        return self.get("/v1/artifacts", f.Artifacts, cursor=cursor, limit=limit)

    def bring_artifact(self, digest: str, size_bytes: int, chunks: str, timeout_s: float) -> f.ArtifactView:
        """Have the peer fetch an artifact. `chunks`: the signed root of its list, "" when unknown. Raises
        ApiError 504 when it did not come within `timeout_s`; what came is kept for the next call."""
        query = {"size": size_bytes, "timeout": timeout_s} | ({"chunks": chunks} if chunks else {})
        path = f"/v1/artifacts/{digest}/fetch"
        answer = self.call("POST", path, query=query, token=True, timeout_s=timeout_s + _EXTRA_S)
        return _decode(answer, f.ArtifactView)

    def drop_artifact(self, digest: str) -> f.Freed:
        """Have the peer drop an artifact that is not in use."""
        return _decode(self.call("POST", f"/v1/artifacts/{digest}/drop", token=True), f.Freed)

    def fetch_artifact(self, digest: str, size_bytes: int) -> bytes:
        """An artifact's bytes, which the peer fetches from others first. The caller checks the digest."""
        path = f"/v1/artifacts/{digest}/fetch"
        query = {"size": size_bytes, "timeout": self.timeout_s}
        self.call("POST", path, query=query, token=True, timeout_s=self.timeout_s + 5)
        return self.read_artifact(digest)

    def read_artifact(self, digest: str) -> bytes:
        """An artifact's bytes, which the peer holds. The caller checks the digest."""
        return self.call("GET", f"/v1/artifacts/{digest}", timeout_s=max(120.0, self.timeout_s))


def tx_id_of(raw: bytes, chain_id: str) -> str:
    """The id of a signed transaction, in hex. Raises Refused."""
    return decode_tx(raw, chain_id).id.hex()


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ClientError(
            f"the peer's answer is not understood ({error}); is it of another version?"
        ) from None


def _problem(status: int, data: bytes) -> m.Problem:
    try:
        return msgspec.json.decode(data, type=m.Problem)
    except msgspec.MsgspecError:
        text = data[:200].decode(errors="replace") or http.client.responses.get(status, "")
        return m.Problem(title=text, status=status, rule=f"http.{status}", detail=text)
