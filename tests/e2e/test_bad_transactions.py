"""Bad transactions at the API: each refused with its rule and field, counted, and nothing changed."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ledger.codec import encode
from ledger.consent import sign_consent
from ledger.documents import payload_of, sign_approval, sign_payload, sign_receipt
from ledger.keys import Key
from ledger.limits import EXPIRY_BLOCKS_MAX, TX_BYTES_MAX
from ledger.manifests.expansion import expand
from ledger.manifests.types import manifest_digest
from ledger.predicates import ApprovalPredicate, ReceiptPredicate
from ledger.transactions import (
    Body,
    Claim,
    Decide,
    OrderDeployment,
    PublishContract,
    RegisterNode,
    Renew,
    RenewItem,
    Report,
    SignedTx,
    Transfer,
    Tx,
    sign_tx,
)
from node.client.sdk import ApiError, TxRefused
from tests.e2e.conftest import Running
from tests.e2e.net import Net, until

OTHER = Key(b"o" * 32)


def signed(net: Net, **changes: Any) -> bytes:
    """A transfer of one micro-credit by the author, with changes to its envelope."""
    height = net.api().status().height
    author = net.key("author")
    fields: dict[str, Any] = {
        "chain_id": net.net.chain_id,
        "sender": author.public,
        "expires": height + 100,
        "salt": secrets.token_bytes(8),
        "body": Transfer(OTHER.public, 1),
    }
    return sign_tx(author, Tx(**(fields | changes)))


def changed_signature(net: Net) -> bytes:
    good = msgspec.msgpack.decode(signed(net), type=SignedTx)
    return encode(SignedTx(good.payload, bytes([good.signature[0] ^ 1]) + good.signature[1:]))


def other_bytes(net: Net) -> bytes:
    """A good transaction in other bytes: the payload's length in four bytes where one is enough."""
    good = msgspec.msgpack.decode(signed(net), type=SignedTx)
    return b"\x92\xc6" + len(good.payload).to_bytes(4, "big") + good.payload + encode(good.signature)


BAD: dict[str, Callable[[Net], bytes]] = {
    "tx.malformed": lambda net: b"\xc1 no transaction",
    "tx.not_canonical": other_bytes,
    "tx.signature": changed_signature,
    "tx.foreign_chain": lambda net: signed(net, chain_id="another"),
    "tx.expired": lambda net: signed(net, expires=1),
    "tx.expires_too_far": lambda net: signed(net, expires=net.api().status().height + EXPIRY_BLOCKS_MAX + 99),
    "tx.salt": lambda net: signed(net, salt=b"short"),
}


@pytest.mark.parametrize("rule", BAD)
@pytest.mark.parametrize("peer", ["v1", "bot1"])
def test_what_is_no_good_transaction_never_enters(net: Net, peer: str, rule: str) -> None:
    until("two blocks", lambda: net.api().status().height > 2)
    counted = net.figure(peer, "api_refused_total", rule)
    mempool = net.figure(peer, "mempool_txs")
    raw = BAD[rule](net)
    with pytest.raises(ApiError) as refused:
        net.api(peer).submit(raw)
    assert refused.value.problem.rule == rule
    assert refused.value.problem.refused and refused.value.exit_code == 4
    assert net.figure(peer, "api_refused_total", rule) == counted + 1
    assert net.figure(peer, "mempool_txs") == mempool
    assert net.api(peer).account(OTHER.public).balance == 0


def test_too_long_bodies_are_cut_off(net: Net) -> None:
    client = net.api()
    before = net.figure("v1", "api_refused_total", "http.too_long")
    with pytest.raises(ApiError) as refused:
        client.call(
            "POST",
            "/v1/tx",
            body=bytes(TX_BYTES_MAX + 1),
            headers={"Content-Type": "application/octet-stream"},
        )
    assert (refused.value.status, refused.value.problem.rule) == (413, "http.too_long")

    def endless() -> Any:  # no Content-Length: sent in chunks
        for _ in range(64):
            yield bytes(64 * 1024)

    with pytest.raises(ApiError) as refused:
        client.call("POST", "/v1/tx", body=endless(), headers={"Content-Type": "application/octet-stream"})
    assert refused.value.status == 413
    with pytest.raises(ApiError) as refused:
        net.api("bot1").post("/v1/bot/plan", {"contract": "x" * 300_000}, dict)
    assert refused.value.status == 413
    assert net.figure("v1", "api_refused_total", "http.too_long") == before + 2
    assert client.is_ready()


def test_another_site_and_another_name_are_refused(net: Net) -> None:
    for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        rule = "http.host" if "Host" in header else "http.origin"
        before = net.figure("v1", "api_refused_total", rule)
        with pytest.raises(ApiError) as refused:
            net.api().call("GET", "/v1/status", headers=header)
        assert (refused.value.status, refused.value.problem.rule) == (403, rule)
        assert net.figure("v1", "api_refused_total", rule) == before + 1


def test_writes_without_the_token_are_refused(net: Net) -> None:
    with pytest.raises(ApiError) as refused:
        net.api().call("PUT", f"/v1/artifacts/{'0' * 64}", body=b"x")
    assert (refused.value.status, refused.value.problem.rule) == (401, "http.token")


# ---------------------------------------------------------------------- final, and refused by the ledger


def refused_by_all(net: Net, rule: str, key: Key, body: Body) -> None:
    """The transaction becomes final, each kind of peer counts its refusal, and the sender's money stays."""
    peers = ("v1", "node1", "bot1")
    before = {peer: net.figure(peer, "ledger_refused_total", rule) for peer in peers}
    balance = net.api().account(key.public).balance
    with pytest.raises(TxRefused) as refused:
        net.api("bot1").send(key, body)
    assert refused.value.result.rule == rule
    for peer in peers:
        until(
            f"{peer} counts {rule}",
            lambda peer=peer: net.figure(peer, "ledger_refused_total", rule) == before[peer] + 1,
        )
    assert net.api().account(key.public).balance == balance


def test_an_overspent_balance(net: Net) -> None:
    author = net.key("author")
    balance = net.api().account(author.public).balance
    refused_by_all(net, "money.insufficient", author, Transfer(OTHER.public, balance + 1))
    assert net.api().account(OTHER.public).balance == 0


def test_a_node_that_did_not_sign_that_it_joins(net: Net) -> None:
    """A farmer names somebody else's node, or shows what that signed for another farm."""
    farmer, other = net.key("farmer-alpha"), net.key("farmer-beta")
    elsewhere = sign_consent(OTHER, net.net.chain_id, "beta", other.public, "CH")
    for consent in (b"", elsewhere):
        refused_by_all(net, "node.consent", farmer, RegisterNode("alpha", OTHER.public, "CH", consent))
    assert OTHER.public.hex() not in {node.key for node in net.api().nodes()}


def order(net: Net, contract: str, sender: Key, **changes: Any) -> OrderDeployment:
    """An order as the 3bot makes it, with changes."""
    detail = net.api().contract(contract)
    roles = {name: (net.key(name).public.hex(),) for name in ("it-expert", "legal", "budget")}
    parameters: dict[str, Any] = {"budget": 1_000_000}
    author = bytes.fromhex(detail.author)
    data = expand(detail.contract, bytes.fromhex(detail.id), author, sender.public, parameters, roles)
    fields: dict[str, Any] = {
        "contract": bytes.fromhex(detail.id),
        "parameters": parameters,
        "roles": roles,
        "manifest": manifest_digest(data),
        "escrow": 1_000_000,
        "bot": b"",
    }
    return OrderDeployment(**(fields | changes))


def test_an_overspent_escrow(net: Net, published: str) -> None:
    poor, consumer = net.key("stranger"), net.key("consumer")
    known = {deployment.id for deployment in net.api().deployments()}
    refused_by_all(net, "money.insufficient", poor, order(net, published, poor))
    refused_by_all(net, "order.escrow", consumer, order(net, published, consumer, escrow=999_999))
    other = order(net, published, poor).manifest
    refused_by_all(net, "order.manifest_mismatch", consumer, order(net, published, consumer, manifest=other))
    assert {deployment.id for deployment in net.api().deployments()} == known


def test_the_3bot_orders_nothing_that_the_balance_does_not_cover(net: Net, published: str) -> None:
    roles = [word for name in ("it-expert", "legal", "budget") for word in ("--role", f"{name}={name}")]
    said = net.run("deploy", "e2e-site", "--budget", "4000", *roles, "--yes", fails=4)
    assert "funds: 4,000 credits" in said.err


def approval(net: Net, running: Running, key: Key, role: str, **changes: Any) -> bytes:
    """A signed approval of the running site."""
    fields: dict[str, Any] = {
        "chain_id": net.net.chain_id,
        "deployment": running.deployment,
        "act": "deploy",
        "role": role,
        "decision": "granted",
        "made_ms": time.time_ns() // 1_000_000,
    }
    digest = changes.pop("subject", bytes.fromhex(running.manifest))
    return sign_approval(key, ApprovalPredicate(**(fields | changes)), digest)


def forged(net: Net, running: Running) -> bytes:
    """The budget holder's approval, signed by a stranger who writes the holder's key beside it."""
    true = msgspec.json.decode(approval(net, running, net.key("budget"), "budget"))
    false = msgspec.json.decode(approval(net, running, net.key("stranger"), "budget"))
    true["signatures"][0]["sig"] = false["signatures"][0]["sig"]
    return msgspec.json.encode(true)


def test_forged_strange_and_foreign_approvals(net: Net, running: Running) -> None:
    legal, stranger, carrier = net.key("legal"), net.key("stranger"), net.key("author")
    count = len(net.show(running.deployment)["approvals"])
    cases = {
        "document.signature": forged(net, running),
        "document.malformed": b"no document",
        "approval.wrong_role": approval(net, running, legal, "budget"),
        "approval.unknown_role": approval(net, running, legal, "boss"),
        "approval.not_a_stakeholder": approval(net, running, stranger, "legal"),
        "approval.foreign_chain": approval(net, running, legal, "legal", chain_id="another"),
        "approval.manifest_mismatch": approval(net, running, legal, "legal", subject=bytes(32)),
        "approval.expired": approval(net, running, legal, "legal", expires_ms=1),
    }
    for rule, envelope in cases.items():
        refused_by_all(net, rule, carrier, Decide(envelope))
    assert len(net.show(running.deployment)["approvals"]) == count
    assert net.slot(running.deployment)["status"] == "running"


def test_the_command_line_says_why_an_approval_is_refused(net: Net, running: Running) -> None:
    words = ("approve", running.deployment, "--yes")
    said = net.run(*words, "--as", "legal", "--key", "stranger", fails=4)
    assert "approval.not_a_stakeholder" in said.err
    said = net.run(*words, "--as", "budget", "--key", "legal", fails=4)
    assert "approval.wrong_role" in said.err


def test_a_contract_that_is_none_is_not_published(net: Net) -> None:
    known = len(list(net.api().contracts()))
    refused_by_all(net, "document.malformed", net.key("author"), PublishContract(b"no document"))
    assert len(list(net.api().contracts())) == known


def failure(net: Net, running: Running, holder: Key, term: int) -> ReceiptPredicate:
    """What the holder of the running slot would say if it failed, without a word on what ran."""
    return ReceiptPredicate(
        chain_id=net.net.chain_id,
        deployment=running.deployment,
        contract=running.contract,
        slot="web/0",
        term=term,
        node=holder.public.hex(),
        status="failed",
        time_ms=time.time_ns() // 1_000_000,
    )


def still_runs(net: Net, running: Running, before: dict[str, Any]) -> None:
    now = net.slot(running.deployment)
    assert (now["status"], now["term"], now["holder"]) == ("running", before["term"], before["holder"])


def test_a_receipt_that_states_nothing_of_what_ran(net: Net, running: Running) -> None:
    slot = net.slot(running.deployment)
    holder = net.node_key(net.name_of(slot["holder"]))
    said = failure(net, running, holder, slot["term"])
    for changes in ({}, {"driver": "sandbox", "level": "sandbox"}):  # the second one: no artifacts
        report = sign_receipt(
            holder, msgspec.structs.replace(said, **changes), bytes.fromhex(running.manifest)
        )
        refused_by_all(net, "report.incomplete", holder, Report(report))
    still_runs(net, running, slot)


def test_a_receipt_of_a_result_that_is_not_sealed(net: Net, running: Running) -> None:
    slot = net.slot(running.deployment)
    holder = net.node_key(net.name_of(slot["holder"]))
    said = msgspec.to_builtins(failure(net, running, holder, slot["term"]))
    said |= {"status": "succeeded", "results": {"/result/a": {"sha256": "33" * 32, "size_bytes": 7}}}
    payload = payload_of("receipt", "manifest", bytes.fromhex(running.manifest), said)
    refused_by_all(net, "document.malformed", holder, Report(sign_payload(holder, payload)))
    still_runs(net, running, slot)


@pytest.mark.parametrize("by", [-1, 1])
def test_a_stale_term(net: Net, running: Running, by: int) -> None:
    slot = net.slot(running.deployment)
    holder = net.node_key(net.name_of(slot["holder"]))
    deployment, term = bytes.fromhex(running.deployment), slot["term"] + by
    receipt = failure(net, running, holder, term)
    report = sign_receipt(holder, receipt, bytes.fromhex(running.manifest))
    refused_by_all(net, "report.stale_term", holder, Report(report))
    refused_by_all(net, "renew.stale_term", holder, Renew((RenewItem(deployment, "web/0", term),)))
    # The term after the held one is the right one to claim, but the slot is not open.
    rule = "claim.not_open" if by == 1 else "claim.stale_term"
    refused_by_all(net, rule, holder, Claim(deployment, "web/0", term))
    still_runs(net, running, slot)


def test_another_node_than_the_holder_reports_nothing(net: Net, running: Running) -> None:
    slot = net.slot(running.deployment)
    thief = next(p for p in net.net.peers if p.kind == "node" and p.node_key != slot["holder"])
    key = net.node_key(thief.name)
    body = Renew((RenewItem(bytes.fromhex(running.deployment), "web/0", slot["term"]),))
    refused_by_all(net, "renew.not_holder", key, body)


def test_refusals_are_on_record(net: Net) -> None:
    """A final refusal is in a block like any other outcome, with the exact bytes that were refused."""
    client, author = net.api(), net.key("author")
    raw = client.sign(author, Transfer(author.public, 1))
    result = client.submit(raw)
    assert (result.ok, result.rule) == (False, "money.to_oneself")
    for name in ("v2", "node1", "bot1"):
        until(f"{name} has it", lambda name=name: net.api(name).status().height >= result.height)
        view = net.api(name).tx(result.id)
        assert (view.ok, view.rule, view.height) == (False, "money.to_oneself", result.height)
        assert base64.b64encode(view.raw) == base64.b64encode(raw)
