"""One core on a bench: four keys, hand-made proposals, votes and certificates, a clock in hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from consensus.chain import Chain
from consensus.core import Config, Core
from consensus.leader import leader
from consensus.messages import (
    BatchHeld,
    Certified,
    Event,
    Message,
    Propose,
    Ready,
    Start,
    Tick,
    Vote,
    decode_message,
    encode_message,
)
from consensus.timers import Timing
from consensus.verify import Rules, check
from ledger import keys
from ledger.blocks import ZERO_HASH, Header
from ledger.codec import encode, sha256
from ledger.proofs.certificate import (
    PROPOSE_DOMAIN,
    VOTE_DOMAIN,
    Certificate,
    Ed25519Scheme,
    Statement,
    Validator,
    ValidatorSet,
    VoteKind,
    vote_message,
)

CHAIN = "bench"
KEYS = [keys.Key(bytes([7, i]) * 16) for i in range(4)]
SET = ValidatorSet(0, tuple(Validator(k.public, 1, f"v{i}") for i, k in enumerate(KEYS)))
ROOT = sha256(b"root of genesis")
WALL = 1_700_000_000_000
GENESIS = Header(CHAIN, 0, 0, 0, 0, ZERO_HASH, WALL, ZERO_HASH, 0, ZERO_HASH, SET.hash, SET.hash, ())
GENESIS_HASH = sha256(b"genesis")
TIMING = Timing(
    view_timeout_ms=1_000, alpha_percent=120, timeout_max_ms=8_000, idle_ms=500, standstill_ms=2_500
)
NOTAR, SKIP, FINAL = VoteKind.NOTAR, VoteKind.SKIP, VoteKind.FINAL


def vote(member: int, kind: VoteKind, view: int, block: bytes = ZERO_HASH, epoch: int = 0) -> Vote:
    """A signed vote of a member."""
    statement = Statement(kind, epoch, view, block)
    return Vote(statement, member, KEYS[member].sign(VOTE_DOMAIN, CHAIN, vote_message(statement)))


def certificate(
    kind: VoteKind, view: int, block: bytes = ZERO_HASH, signers: Iterable[int] = (1, 2, 3)
) -> Certificate:
    """A certificate with these members' signatures."""
    votes = {i: vote(i, kind, view, block) for i in signers}
    statement = Statement(kind, 0, view, block)
    return Ed25519Scheme().assemble(statement, {i: v.signature for i, v in votes.items()}, len(KEYS))


def header(
    view: int, parent: Header | None = None, batches: Iterable[bytes] = (), **changes: object
) -> Header:
    """The block of the view's leader on `parent` (None: genesis)."""
    above = parent or GENESIS
    made = Header(
        chain_id=CHAIN,
        epoch=0,
        height=above.height + 1,
        view=view,
        parent_view=above.view,
        parent_hash=parent.hash if parent else GENESIS_HASH,
        time_ms=above.time_ms + 1,
        proposer=KEYS[leader(SET, view)].public,
        state_height=0,
        state_root=ROOT,
        validators=SET.hash,
        next_validators=SET.hash,
        batches=tuple(batches),
    )
    return msgspec.structs.replace(made, **changes)


def propose(block: Header, parent: Certificate | None = None, skips: Iterable[Certificate] = ()) -> Propose:
    """The leader's signed proposal."""
    signature = KEYS[leader(SET, block.view)].sign(PROPOSE_DOMAIN, CHAIN, block.hash)
    return Propose(encode(block), signature, parent, tuple(skips))


class Bench:
    """A core of member `me`; `now` moves by hand. All messages go through encode, decode and check."""

    def __init__(self, me: int = 0, timing: Timing = TIMING, start: bool = True) -> None:
        self.me, self.timing, self.now = me, timing, 0
        config = Config(CHAIN, SET, me, timing, Ed25519Scheme(), lambda d, m: KEYS[me].sign(d, CHAIN, m))
        self.core = Core(config, Chain(GENESIS, GENESIS_HASH), {0: ROOT}, None)
        self.rules = Rules(CHAIN, SET, Ed25519Scheme(), self.core.knows)
        self.last = Ready()
        if start:
            self.step(Start())

    def step(self, event: Event) -> Ready:
        self.last = self.core.step(event, self.now, WALL + self.now)
        return self.last

    def receive(self, sender: int, message: Message) -> Ready:
        """A message of another member, as it comes off the wire."""
        return self.step(check(self.rules, sender, decode_message("peer", encode_message(message))))

    def hold(self, digest: bytes, txs: int = 1) -> Ready:
        return self.step(BatchHeld(digest, txs))

    def wait(self, ms: int) -> Ready:
        """Time passes, with a tick at each wake on the way. All that was sent and recorded meanwhile."""
        until, total = self.now + ms, Ready()
        while True:
            ready = self.last
            assert ready.wake_ms is not None, "a started core always says when to wake it"
            if ready.wake_ms > until:
                break
            self.now = max(self.now + 1, ready.wake_ms)
            self.step(Tick())
            total.records += self.last.records
            total.send += self.last.send
            total.commit += self.last.commit
        self.now = until
        self.last = replace(self.step(Tick()))
        total.records += self.last.records
        total.send += self.last.send
        return total

    def certify(self, made: Certificate, sender: int = 1) -> Ready:
        return self.receive(sender, Certified(made))


def votes(ready: Ready, kind: VoteKind | None = None) -> list[tuple[VoteKind, int, bytes]]:
    """(kind, view, block) of the votes in a Ready's sends."""
    found = [s.message.statement for s in ready.send if isinstance(s.message, Vote)]
    return [(s.kind, s.view, s.block) for s in found if kind is None or s.kind is kind]


def sent(ready: Ready, kind: type) -> list:  # type: ignore[type-arg]
    """Messages of a type in a Ready's sends."""
    return [s.message for s in ready.send if isinstance(s.message, kind)]
