"""Random lives on a certified chain, the same for each seed: every audit holds, and no forgery of it does.

The steps are those of `test_machine_properties.Lives`, and some that it leaves out: jobs whose replicas must
agree, results that are held back, epochs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.file import decode_audit
from ledger.contracts.types import Contract, Parameter
from ledger.manifests.types import Placement, Policies, Rule
from ledger.records import Slot
from ledger.state import MemoryState
from ledger.transactions import Claim, Renew, decode_tx
from tests.ledger.chain_fixture import ChainWorld, member
from tests.ledger.invariants import View
from tests.ledger.test_agreement import BAD, GOOD
from tests.ledger.test_machine_properties import CONTRACTS, Lives
from tests.ledger.world import (
    BOT,
    BUDGET,
    CONSUMER,
    DEPLOY,
    LEGAL,
    NODES,
    POLICIES,
    STRANGER,
    World,
    contract,
    job,
    service,
)

STEPS: Final = 70
FORGERIES: Final = 12
HELD: Final = Policies(
    deploy=DEPLOY, signoff=None, release=Rule(all=(Rule(role="legal"), Rule(role="budget")))
)
ALIKE: Final = {"replicas": 3, "agree": 2, "placement": Placement()}
SIZED: Final = Parameter(name="users", type="integer", default=100, min=1, max=1_000)


def sized() -> Contract:
    """Its numbers are rules over a parameter."""
    web = service(replicas="${= users > 50 ? 2 : 1 }", command=("/bin/sh", "serve", "${users} of $${x}"))
    plain = contract(web, name="sized", parameters=(SIZED,))
    return replace(plain, terms=replace(plain.terms, duration_s="${= (users + 1) / 2 * HOUR }"))


SOURCES: Final = (
    *(source for source in CONTRACTS if source.name in ("site", "mixed", "runs-on", "waits", "brief")),
    contract(job(**ALIKE), service(replicas=1), name="alike", budget=90_000_000, policies=POLICIES),
    contract(job(**ALIKE), service(replicas=1), name="both", budget=90_000_000, policies=HELD),
    contract(job(), service(replicas=1), name="hold", budget=90_000_000, policies=HELD),
    sized(),
)


class Life(Lives):
    """On a chain whose blocks are final, so that it can be audited."""

    SOURCES = SOURCES

    def make(self) -> World:
        return ChainWorld()

    def look(self) -> View:
        return View(MemoryState(dict(self.world.state.scan(b""))))

    def compare(self, pick: int) -> None:
        """Replicas that must agree go on: they commit, or tell."""
        for slot in self.view.slots.values():
            results = (GOOD, GOOD, BAD)[(pick + int(slot.name[-1])) % 3]
            if slot.status == "committed":
                node = next(node for node in NODES if node.public == slot.witness)
                self.send(node, self.world.told(slot.deployment, slot.name, node, results))
            elif self.alike(slot) and slot.status == "running":
                node = next(node for node in NODES if node.public == slot.holder)
                self.send(node, self.world.commit(slot.deployment, slot.name, node, results))

    def alike(self, slot: Slot) -> bool:
        """Whether it is one of a job whose replicas must agree."""
        return slot.name.startswith("mine") and self.view.manifests[slot.deployment].workloads[0].agree > 0

    def release(self, pick: int) -> None:
        """Somebody decides on results that are held back."""
        key, role = ((LEGAL, "legal"), (BUDGET, "budget"))[pick % 2]
        decision = "revoked" if pick % 5 == 0 else "granted"
        for deployment in self.deployments:
            if self.world.deployment(deployment).results:
                self.send(STRANGER, self.world.decide(deployment, key, role, decision, "release"))

    def turn(self, pick: int) -> None:
        """Another epoch."""
        assert isinstance(self.world, ChainWorld)
        first = self.world.validators.epoch % 8  # each time others
        self.world.turn([member(n, 1 + n % 2) for n in range(first, first + 4)], tail=pick % 3)


Draw = Callable[[random.Random], dict[str, Any]]


def pick(rng: random.Random) -> dict[str, Any]:
    return {"pick": rng.randrange(1_000)}


def of(**choices: Any) -> Draw:
    """A pick, and one of each of these."""
    return lambda rng: pick(rng) | {name: rng.choice(found) for name, found in choices.items()}


ACTS: Final = ["deploy", "signoff", "delete", "update"]
DECISIONS: Final = ["granted", "granted", "granted", "rejected", "revoked"]
WORDS: Final[dict[str, tuple[int, Draw]]] = {  # weight, and what is drawn
    "claim_and_get": (12, of(nodes=[{0}, {1}, {2}, {3}, {0, 2}])),
    "progress": (12, pick),
    "compare": (8, pick),
    "live_on": (8, lambda rng: {"step_ms": rng.choice([5_000, 20_000])}),
    "approve_all": (4, pick),
    "decide": (4, of(who=range(3), decision=DECISIONS, act=ACTS, lasts_ms=[0, 0, 40_000])),
    "decide_as_member": (3, of(who=range(4), decision=DECISIONS, act=["deploy", "update"])),
    "change_members": (
        2,
        lambda rng: {"who": rng.randrange(4), "how": rng.choice(["rotate", "lose", "role"])},
    ),
    "order": (1, of(approved=[True])),
    "report": (1, of(node=[-1], status=["failed", "quarantined", "released"])),
    "cancel": (1, of(key=[CONSUMER])),
    "top_up": (1, of(amount=[1, 300_000])),
    "update": (2, of(which=range(4), key=[CONSUMER, BOT], more=[0])),
    "approve_update": (4, of(who=[{0, 1, 2}, {2}])),
    "roll": (4, pick),
    "steer": (1, of(key=[BOT], action=["cancel", "go_on"])),
    "dispute": (1, of(who=range(3), close=[True, False])),
    "extend": (1, of(key=[CONSUMER], duration_s=[60, 600], more=[0])),
    "release": (3, pick),
    "turn": (1, pick),
    "wait": (2, lambda rng: {"step_ms": rng.choice([1_000, 10_000, 45_000, 70_000])}),
}


def lived(seed: int) -> Life:
    """A life of so many steps, all drawn from the seed."""
    rng = random.Random(seed)
    life = Life()
    life.begin(picks=[rng.randrange(1_000), rng.randrange(1_000)])
    names, weights = list(WORDS), [weight for weight, _ in WORDS.values()]
    for name in rng.choices(names, weights, k=STEPS):
        if name != "order" or len(life.deployments) < 3:
            getattr(life, name)(**WORDS[name][1](rng))
            life.view = life.look()
    life.world.run()
    life.world.run()
    return life


def audits(seed: int) -> tuple[ChainWorld, list[bytes]]:
    """The audit file of each deployment of a life."""
    world = lived(seed)
    assert isinstance(world.world, ChainWorld)
    return world.world, [export(world.world.store, deployment) for deployment in world.deployments]


SEEDS: Final = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_life_holds_and_no_forgery_of_it(seed: int) -> None:
    world, files = audits(seed)
    for data in files:
        report = verify(data, world.genesis)
        assert report.ok, (seed, report.rule, report.detail)
    rng = random.Random(seed)
    for number in range(FORGERIES):
        data = rng.choice(files)
        forged = with_a_byte(rng, data) if number % 2 else with_a_value(rng, data)
        report = verify(forged, world.genesis)
        assert "." in report.rule or lacks_claims_alone(data, forged), (seed, number)


def lacks_claims_alone(data: bytes, forged: bytes) -> bool:
    """That claims and renewals are complete is not proved: all else is as it was."""
    whole, part = decode_audit(data), decode_audit(forged)
    shown, left = ({tx.raw for block in file.blocks for tx in block.txs} for file in (whole, part))
    lost = [decode_tx(raw, whole.chain_id).tx.body for raw in shown - left]
    same = replace(whole, blocks=()) == replace(part, blocks=()) and left <= shown
    return same and bool(lost) and all(isinstance(body, Claim | Renew) for body in lost)


def with_a_byte(rng: random.Random, data: bytes) -> bytes:
    """Another byte somewhere."""
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    return bytes(changed)


def with_a_value(rng: random.Random, data: bytes) -> bytes:
    """Another value of one field, well formed: of the file, or of what is encoded in one of its fields."""
    while True:
        tree = msgspec.msgpack.decode(data)
        _change(rng, tree)
        forged = msgspec.msgpack.encode(tree, order="deterministic")
        if forged != data:
            return forged


def _change(rng: random.Random, node: list[Any]) -> None:
    """One value below a list."""
    at = rng.randrange(len(node))
    found = node[at]
    if isinstance(found, list) and found:
        if rng.random() < 0.1:
            del found[rng.randrange(len(found))]
        else:
            _change(rng, found)
    elif isinstance(found, bytes):
        node[at] = _other_bytes(rng, found)
    elif isinstance(found, bool):
        node[at] = not found
    elif isinstance(found, int):
        node[at] = max(0, found + rng.choice((-1, 1, 1_000)))
    elif isinstance(found, str):
        node[at] = found[:-1] if found else "x"
    else:  # what is absent, or a table
        node[at] = b"x" if found is None else {}


def _other_bytes(rng: random.Random, found: bytes) -> bytes:
    """Bytes that hold a value keep their form."""
    try:
        inner = msgspec.msgpack.decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError):
        inner = None
    if isinstance(inner, list) and inner and msgspec.msgpack.encode(inner, order="deterministic") == found:
        _change(rng, inner)
        return msgspec.msgpack.encode(inner, order="deterministic")
    return with_a_byte(rng, found) if found else b"x"
