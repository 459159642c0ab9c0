"""Executing blocks: the window, replay, forged signatures, order, all or nothing, determinism, garbage."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.codec import encode
from ledger.copy_records import VolumeCopy
from ledger.documents import sign_contract, sign_payload
from ledger.errors import LocalError, Refused
from ledger.limits import BLOCK_TXS_MAX, EXPIRY_BLOCKS_MAX, VAULT_RECORD_BYTES_MAX
from ledger.machine import Context, apply, execute, next_due_ms
from ledger.records import key_seen
from ledger.state import MemoryState, Overlay
from ledger.transactions import (
    Body,
    CheckedTx,
    Claim,
    Decide,
    OrderDeployment,
    PostOffer,
    Price,
    PublishContract,
    PutVault,
    RecordCopies,
    RegisterFarm,
    RegisterNode,
    Renew,
    RenewItem,
    Report,
    SignedTx,
    Transfer,
    Tx,
    decode_tx,
    sign_tx,
    verified,
)
from ledger.transition import money
from ledger.transition.env import Env
from tests.ledger.world import AUTHOR, CHAIN_ID, CONSUMER, NODES, STRANGER, World, contract, job

PAY = Transfer(STRANGER.public, 5)


def context(world: World) -> Context:
    return Context.of(world.header(step_ms=0))


def test_applied_and_refused_are_both_recorded() -> None:
    world = World()
    paid, broke = world.tx(CONSUMER, PAY), world.tx(CONSUMER, Transfer(STRANGER.public, 10**15))
    result = world.run(paid, broke)
    assert [(r.id, r.ok, r.rule) for r in result.receipts] == [
        (paid.id, True, ""),
        (broke.id, False, "money.insufficient"),
    ]
    assert world.state.get(key_seen(paid.tx.expires, paid.id)) == b""
    assert world.state.get(key_seen(broke.tx.expires, broke.id)) == b"money.insufficient"


def test_a_transaction_counts_once() -> None:
    world = World()
    tx = world.tx(CONSUMER, PAY)
    before = world.balance(CONSUMER)
    first = world.run(tx, tx)
    assert len(first.receipts) == 1
    assert [s.rule for s in first.skipped] == ["tx.duplicate"]
    later = world.run(tx)
    assert later.receipts == ()
    assert [s.rule for s in later.skipped] == ["tx.duplicate"]
    assert world.balance(CONSUMER) == before - 5


def test_a_forged_copy_neither_counts_nor_blocks_the_real_one() -> None:
    world = World()
    real = world.tx(CONSUMER, PAY)
    forged = decode_tx(
        encode(SignedTx(real.payload, STRANGER.sign("tx/1", CHAIN_ID, real.payload))), CHAIN_ID
    )
    assert forged.id == real.id
    result = world.run(forged, real)
    assert [s.rule for s in result.skipped] == ["tx.signature"]
    assert [r.ok for r in result.receipts] == [True]


@pytest.mark.parametrize(
    ("ahead", "rule"),
    [(-1, "tx.expired"), (0, ""), (EXPIRY_BLOCKS_MAX, ""), (EXPIRY_BLOCKS_MAX + 1, "tx.expires_too_far")],
)
def test_window(ahead: int, rule: str) -> None:
    world = World()
    world.wait(3_000)
    tx = world.tx(CONSUMER, PAY, expires=world.height + 1 + ahead)
    before = world.state.entries()
    result = world.run(tx)
    if rule:
        assert result.receipts == ()
        assert [s.rule for s in result.skipped] == [rule]
        assert world.state.entries() == before
    else:
        assert [r.ok for r in result.receipts] == [True]


def test_replay_ids_are_kept_exactly_as_long_as_needed() -> None:
    world = World()
    tx = world.tx(CONSUMER, PAY, expires=world.height + 3)
    world.run(tx)
    for expected in ("tx.duplicate", "tx.duplicate", "tx.expired"):
        assert [s.rule for s in world.run(tx).skipped] == [expected]
    assert not list(world.state.scan(b"seen/"))


def test_foreign_chain() -> None:
    world = World()
    raw = sign_tx(CONSUMER, Tx("other-chain", CONSUMER.public, 5, bytes(8), PAY))
    with pytest.raises(Refused) as caught:
        decode_tx(raw, CHAIN_ID)
    assert caught.value.rule == "tx.foreign_chain"
    result = world.run(decode_tx(raw, "other-chain"))
    assert [s.rule for s in result.skipped] == ["tx.foreign_chain"]


def test_apply_takes_no_unverified_transaction() -> None:
    world = World()
    with pytest.raises(LocalError):
        apply(world.state, world.tx(CONSUMER, PAY), context(world))  # type: ignore[arg-type]


def test_too_many_transactions_stop_the_process() -> None:
    world = World()
    with pytest.raises(LocalError):
        execute(world.state, world.header(0), [world.tx(CONSUMER, PAY)] * (BLOCK_TXS_MAX + 1), world.now_ms)


def test_an_unexpected_error_stops_loudly_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(env: Env, account: bytes, amount: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(money, "credit", broken)
    world = World()
    before = world.state.entries()
    with pytest.raises(LocalError, match="ZeroDivisionError"):
        apply(world.state, verified(world.tx(CONSUMER, PAY)), context(world))
    assert world.state.entries() == before


def test_refused_halfway_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The debit is done when the credit refuses."""

    def refusing(env: Env, account: bytes, amount: int) -> None:
        raise Refused("money.recipient", "no")

    monkeypatch.setattr(money, "credit", refusing)
    world = World()
    before = world.live_entries()
    receipt = world.do(CONSUMER, PAY)
    assert receipt.rule == "money.recipient"
    assert world.live_entries() == before


def test_trying_out_on_an_overlay_changes_nothing() -> None:
    world = World()
    before = world.state.entries()
    assert apply(Overlay(world.state), verified(world.tx(CONSUMER, PAY)), context(world)).ok
    assert world.state.entries() == before


def test_nothing_is_due_on_a_quiet_chain() -> None:
    assert next_due_ms(World().state) is None


def test_execute_only_reads_its_state() -> None:
    world = World()
    before = world.state.entries()
    result = execute(world.state, world.header(0), [world.tx(CONSUMER, PAY)], world.now_ms)
    assert world.state.entries() == before
    assert list(result.changes) == sorted(result.changes)


def test_same_blocks_same_bytes() -> None:
    """The same life twice, and once over a state that was filled in another order."""

    def live(shuffled: bool) -> tuple[dict[bytes, bytes], list[Any]]:
        world = World()
        if shuffled:
            entries = list(world.state.entries().items())
            random.Random(1).shuffle(entries)
            world.state = MemoryState(dict(entries))
        world.add_nodes()
        world.running(contract())
        deployment = world.ordered(contract(job(replicas=3), name="mining"))
        world.approve(deployment)
        world.run(*(world.tx(node, Claim(deployment, f"mine/{n}", 1)) for node in NODES for n in range(3)))
        world.wait(60_000, step_ms=10_000)
        return world.state.entries(), world.events

    first = live(False)
    assert live(False) == first
    assert live(True) == first


HASHED_LIFE = """
from ledger.codec import encode, sha256
from tests.ledger.world import NODES, World, contract
world = World()
world.add_nodes()
deployment = world.running(contract())
world.wait(60_000, step_ms=10_000)
world.claimed(deployment, "web/0", NODES)
print(sha256(encode((tuple(world.state.entries().items()), tuple(world.events)))).hex())
"""


def test_same_bytes_in_processes_with_other_hash_seeds(checkout: Path) -> None:
    """No order of a set or of hashing gets into the state or the events."""
    found = {
        subprocess.run(
            [sys.executable, "-c", HASHED_LIFE],
            cwd=checkout,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(checkout)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
    assert len(found.pop()) == 65


def test_receipts_name_their_deployments() -> None:
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract())
    receipt = world.do(STRANGER, world.decide(deployment, STRANGER, "budget"))
    assert (receipt.rule, receipt.deployments) == ("approval.not_a_stakeholder", (deployment,))


# Garbage: whatever decodes gets a receipt, never an exception.

PUBLISHED = b"the contract of the busy world"
KEYS = st.sampled_from([AUTHOR.public, NODES[0].public, b"", bytes(31), bytes(32), b"\xff" * 40])
NUMBERS = st.sampled_from([0, 1, -1, 7, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)])
TEXTS = st.sampled_from(
    ["", "a", "farm-a", "web/0", "web/99", "\0", "/", "é" * 64, "x" * 3_000, "BE", "sandbox"]
)
BLOBS = st.binary(max_size=40) | st.sampled_from([b"{}", b"[]", b"null", b'{"payload":""}'])
DICTS = st.dictionaries(TEXTS, TEXTS, max_size=3)
ITEMS = st.lists(st.builds(RenewItem, KEYS, TEXTS, NUMBERS), max_size=3).map(tuple)
KEPT = st.builds(VolumeCopy, TEXTS, KEYS, NUMBERS, KEYS, BLOBS, st.lists(KEYS, max_size=5).map(tuple))
COPIES = st.lists(KEPT, max_size=3).map(tuple)
BODIES: st.SearchStrategy[Body] = st.one_of(
    st.builds(Transfer, KEYS, NUMBERS),
    st.builds(PublishContract, BLOBS),
    st.builds(RegisterFarm, TEXTS, TEXTS),
    st.builds(RegisterNode, TEXTS, KEYS, TEXTS, BLOBS),
    st.builds(
        PostOffer,
        NUMBERS,
        NUMBERS,
        NUMBERS,
        st.builds(Price, NUMBERS, NUMBERS, NUMBERS),
        st.lists(TEXTS, max_size=3).map(tuple),
        DICTS,
        TEXTS,
        NUMBERS,
    ),
    st.builds(Decide, BLOBS),
    st.builds(Report, BLOBS),
    st.builds(Claim, KEYS, TEXTS, NUMBERS),
    st.builds(Renew, ITEMS),
    st.builds(RecordCopies, KEYS, TEXTS, NUMBERS, COPIES),
    st.builds(
        OrderDeployment,
        KEYS | st.just(PUBLISHED),
        st.dictionaries(TEXTS, TEXTS | NUMBERS | st.booleans(), max_size=2),
        st.dictionaries(TEXTS | st.just("legal"), st.lists(TEXTS, max_size=2).map(tuple), max_size=2),
        KEYS,
        NUMBERS,
        KEYS,
    ),
    st.builds(PutVault, TEXTS, NUMBERS, st.sampled_from([b"", b"x", bytes(VAULT_RECORD_BYTES_MAX + 1)])),
)


class Busy:
    """A world with a running deployment, made once; each example works on an overlay of it."""

    def __init__(self) -> None:
        self.world = World()
        self.world.add_nodes()
        self.deployment = self.world.running(contract())


@pytest.fixture(scope="module")
def busy() -> Busy:
    return Busy()


def outcome(busy: Busy, tx: CheckedTx) -> None:
    """Executes on top of the busy world; a refusal changes nothing, and nothing else than that is raised."""
    overlay = Overlay(busy.world.state)
    receipt = apply(overlay, verified(tx), context(busy.world))
    if not receipt.ok:
        assert list(overlay.changes()) == [key_seen(tx.tx.expires, tx.id)]
        assert len(receipt.detail) <= 500


@settings(max_examples=300)
@given(st.sampled_from([AUTHOR, CONSUMER, STRANGER, NODES[0]]), BODIES)
def test_garbage_bodies(busy: Busy, key: Any, body: Body) -> None:
    if isinstance(body, OrderDeployment) and body.contract == PUBLISHED:
        body = replace(body, contract=busy.world.deployment(busy.deployment).contract)
    try:
        tx = busy.world.tx(key, body)
    except (Refused, OverflowError):
        return  # no such bytes exist
    outcome(busy, tx)


VALUES = st.sampled_from(
    [
        0,
        -1,
        2**53,
        2**64,
        2**80,
        "",
        "x" * 5_000,
        "\ud800",
        "ü",
        None,
        [],
        {},
        True,
        1.5,
        ["a"],
        {"a": 1},
        "11" * 32,
    ]
)


def change(value: Any, path: list[int], new: Any) -> Any:
    """The JSON value with one place of it replaced."""
    if not path or not value or not isinstance(value, dict | list):
        return new
    out: Any = value.copy()
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = places[path[0] % len(places)]
    out[place] = change(value[place], path[1:], new)
    return out


@settings(max_examples=300)
@given(
    st.sampled_from(["approval", "receipt", "contract"]),
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    VALUES,
)
def test_documents_with_one_place_changed(busy: Busy, kind: str, path: list[int], new: Any) -> None:
    """Signed by the right key, but about something else in one place."""
    world = busy.world
    node = NODES[0]
    bodies: dict[str, tuple[Any, Body]] = {
        "approval": (STRANGER, world.decide(busy.deployment, NODES[0], "budget")),
        "receipt": (node, world.receipt(busy.deployment, "web/0", node, "running")),
    }
    if kind == "contract":
        bodies["contract"] = (AUTHOR, PublishContract(sign_contract(AUTHOR, contract(name="other"))))
    key, body = bodies[kind]
    envelope = msgspec.json.decode(body.envelope)  # type: ignore[union-attr]
    statement = msgspec.json.decode(base64.b64decode(envelope["payload"]))
    changed = change(statement, path, new)
    try:
        payload = msgspec.json.encode(changed, order="sorted")
    except (UnicodeEncodeError, OverflowError):
        return
    signer = key if kind != "approval" else NODES[0]
    outcome(busy, world.tx(key, replace(body, envelope=sign_payload(signer, payload))))
