"""Five pure cores on a bench for Twins (Bano et al., "Twins: BFT Systems Made Robust", 2020).

Members T, A, B, C of equal weight, of which T runs twice with one key. No heap, no bytes, no signatures:
messages go hop by hop through a partition that the script names, and time moves when the script says so.

What is checked, at once: nobody commits another block at a height; no two Notar or Final certificates of a
view name different blocks, none is Skip and Final; no honest member casts two votes of a kind in a view,
Skip and Final, Final for what it did not vote Notar for, Final without a Notar certificate that a quorum
signed, or Notar for a block whose parent no quorum notarized, or over a view that no quorum skipped. No
honest core finds evidence against an honest member. The twin may have signed anything.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any, Final

from consensus.chain import Chain
from consensus.core import Config, Core
from consensus.messages import (
    Event,
    Executed,
    Message,
    Propose,
    Ready,
    Received,
    Reply,
    Send,
    Start,
    Tick,
    Vote,
)
from consensus.timers import Timing
from ledger.blocks import ZERO_HASH, Header, decode_header
from ledger.codec import sha256
from ledger.evidence import accused
from ledger.proofs.certificate import Certificate, Statement, Validator, ValidatorSet, VoteKind

CHAIN: Final = "twins"
WALL_MS: Final = 1_700_000_000_000
MEMBER: Final = (0, 0, 1, 2, 3)  # of each instance: T, its twin, A, B, C
HONEST: Final = (2, 3, 4)
TWIN: Final = sha256(b"T")  # its key
TOGETHER: Final = (0, 0, 0, 0, 0)
# No standstill and no growth within a script: what a round means does not depend on those before.
TIMING: Final = Timing(
    view_timeout_ms=1_000, alpha_percent=100, timeout_max_ms=1_000, idle_ms=100, standstill_ms=30_000
)
HEAL_TICKS_MAX: Final = 60
HEAL_BLOCKS: Final = 2

Groups = tuple[int, ...]  # the group of each instance


class Violation(Exception):
    """A check complained: (check, what)."""


class Unsigned:
    """A scheme without signatures: who voted is all that a certificate says."""

    def assemble(self, statement: Statement, votes: Any, size: int) -> Certificate:
        return Certificate(statement, sum(1 << i for i in votes).to_bytes((size + 7) // 8, "little"), ())

    def verify(self, chain_id: str, validators: ValidatorSet, certificate: Certificate) -> None:
        raise AssertionError("pure cores never verify")


def validators(kind: type[ValidatorSet] = ValidatorSet) -> ValidatorSet:
    """T, A, B, C."""
    return kind(0, tuple(Validator(sha256(name), 1, name.decode()) for name in (b"T", b"A", b"B", b"C")))


def _root(height: int) -> bytes:
    return sha256(b"state of %d" % height)


_ROOTS: Final = [_root(height) for height in range(256)]
_HEADERS: dict[bytes, Header] = {}


def _decoded(data: bytes) -> Header:
    header = _HEADERS.get(data)
    if header is None:
        if len(_HEADERS) > 100_000:
            _HEADERS.clear()
        header = _HEADERS[data] = decode_header(data)
    return header


_FIELDS: dict[type, tuple[str, ...] | None] = {}


def clone(value: Any) -> Any:
    """A copy that shares what cannot change: frozen things, bytes, numbers."""
    kind = type(value)
    if kind is dict:
        return {key: clone(item) for key, item in value.items()}
    if kind is list or kind is set:
        return value.copy()  # of what is frozen, everywhere in the core
    try:
        names = _FIELDS[kind]
    except KeyError:
        changes = is_dataclass(kind) and not kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        names = _FIELDS[kind] = tuple(f.name for f in fields(kind)) if changes else None
    if names is None:
        return value
    fresh = object.__new__(kind)
    for name in names:
        item = getattr(value, name)
        object.__setattr__(fresh, name, item if type(item) in (int, bytes, bool) else clone(item))
    return fresh


class Net:
    """The state of one scenario. `now_ms` and the messages in flight move by the script's calls."""

    __slots__ = ("blocks", "certified", "committed", "cores", "flying", "now_ms", "votes", "wake_ms")

    def __init__(self, core: type[Core], twin: type[Core], members: ValidatorSet) -> None:
        self.now_ms = 0
        self.wake_ms = [0] * len(MEMBER)  # as each core said last
        self.flying: list[tuple[int, int | None, Message]] = []
        self.committed: dict[int, bytes] = {}
        self.blocks: dict[bytes, Header] = {}  # that were proposed
        self.certified: dict[tuple[VoteKind, int], bytes] = {}
        self.votes: dict[tuple[VoteKind, int, int], bytes] = {}  # kind, view, member: first vote
        none = Header(
            CHAIN, 0, 0, 0, 0, ZERO_HASH, WALL_MS, ZERO_HASH, 0, ZERO_HASH, members.hash, members.hash, ()
        )
        self.cores: list[Core] = []
        for instance, me in enumerate(MEMBER):
            config = Config(CHAIN, members, me, TIMING, Unsigned(), lambda domain, message: b"")
            kind = core if instance in HONEST else twin
            self.cores.append(kind(config, Chain(none, sha256(b"genesis")), {0: _ROOTS[0]}, None))
        for instance in range(len(MEMBER)):
            self.step(instance, Start())
        self.flying.clear()  # the first Status of each: nobody knows anything

    def clone(self) -> Net:
        """A copy that goes its own way."""
        fresh: Net = object.__new__(Net)
        fresh.now_ms, fresh.flying = self.now_ms, self.flying.copy()
        fresh.blocks = self.blocks.copy()
        fresh.committed, fresh.certified = self.committed.copy(), self.certified.copy()
        fresh.votes, fresh.wake_ms = self.votes.copy(), self.wake_ms.copy()
        fresh.cores = [clone(core) for core in self.cores]
        return fresh

    # ------------------------------------------------------------------ moves

    def step(self, instance: int, event: Event) -> None:
        """One event through one core, and what follows from it."""
        core = self.cores[instance]
        wall_ms = WALL_MS + self.now_ms + (instance == 1)  # so twins propose different blocks
        ready = core.step(event, self.now_ms, wall_ms)
        self.wake_ms[instance] = ready.wake_ms or 0
        self._look(instance, ready)
        self.flying.extend((instance, send.to, send.message) for send in ready.send)
        for commit in ready.commit:
            self.step(instance, Executed(commit.header.height, _ROOTS[commit.header.height]))

    def deliver(self, groups: Groups) -> None:
        """One hop: all that flies arrives within its sender's group, and is lost elsewhere."""
        flying, self.flying = self.flying, []
        for sender, to, message in flying:
            header = None
            if type(message) is Propose:
                header = _decoded(message.header)
            elif type(message) is Reply:
                header = _decoded(message.data)
            member, group = MEMBER[sender], groups[sender]
            event = Received(member, message, header)
            for other in range(len(MEMBER)):
                at = MEMBER[other]
                if groups[other] == group and at != member and (to is None or to == at):
                    self.step(other, event)

    def tick(self, passed_ms: int) -> None:
        """Time passes for all."""
        self.now_ms += passed_ms
        for instance in range(len(MEMBER)):
            self.step(instance, Tick())

    def heal(self) -> None:
        """All are together from now on: every honest member commits new blocks, or it is a violation."""
        goal = max(self.cores[i].chain.tip.height for i in HONEST) + HEAL_BLOCKS
        for _ in range(HEAL_TICKS_MAX):
            for _ in range(64):
                if not self.flying:
                    break
                self.deliver(TOGETHER)
            else:
                raise Violation("Storm", "messages beget messages without end")
            if all(self.cores[i].chain.tip.height >= goal for i in HONEST):
                return
            self.tick(max(1, min(self.wake_ms) - self.now_ms))
        heights = [self.cores[i].chain.tip.height for i in HONEST]
        raise Violation("Progress", f"heights {heights}, wanted {goal}, {self.now_ms} ms after the start")

    # ------------------------------------------------------------------ checks

    def _look(self, instance: int, ready: Ready) -> None:
        for certificate in ready.certificates:
            self._certified(certificate)
        for send in ready.send:
            if type(send.message) is Propose:
                header = _decoded(send.message.header)
                self.blocks[header.hash] = header
            elif type(send.message) is Vote:
                self._voted(instance, send)
        for commit in ready.commit:
            block = commit.header.hash
            if self.committed.setdefault(commit.header.height, block) != block:
                raise Violation("Agreement", f"two blocks at height {commit.header.height}")
        if instance in HONEST and any(accused(found) != TWIN for found in ready.evidence):
            raise Violation("Evidence", f"instance {instance} accuses an honest member")

    def _certified(self, certificate: Certificate) -> None:
        kind, view, block = _NAMED(certificate.statement)
        if self.certified.setdefault((kind, view), block) != block:
            raise Violation("Certificates", f"two {kind.name} certificates in view {view}")
        if kind is VoteKind.NOTAR:
            return
        other = VoteKind.FINAL if kind is VoteKind.SKIP else VoteKind.SKIP
        if (other, view) in self.certified:
            raise Violation("Certificates", f"Skip and Final certificates in view {view}")
        notar = self.certified.get((VoteKind.NOTAR, view))
        if kind is VoteKind.FINAL and notar is not None and notar != block:
            raise Violation("Certificates", f"Notar and Final of different blocks in view {view}")

    def _voted(self, instance: int, send: Send) -> None:
        assert type(send.message) is Vote
        kind, view, block = _NAMED(send.message.statement)
        member = MEMBER[instance]
        first = self.votes.setdefault((kind, view, member), block)
        if instance not in HONEST:
            return
        if first != block:
            raise Violation("Promises", f"two {kind.name} of {member} in view {view}")
        if kind is VoteKind.NOTAR:
            self._notarized(member, view, block)
            return
        other = VoteKind.FINAL if kind is VoteKind.SKIP else VoteKind.SKIP
        if (other, view, member) in self.votes:
            raise Violation("Promises", f"Skip and Final of {member} in view {view}")
        if kind is VoteKind.FINAL and self.votes.get((VoteKind.NOTAR, view, member)) != block:
            raise Violation("Promises", f"Final of {member} in view {view} without its own Notar")
        if kind is VoteKind.FINAL and not self._signed(VoteKind.NOTAR, view, block):
            raise Violation("Promises", f"Final of {member} in view {view} without a Notar certificate")

    def _notarized(self, member: int, view: int, block: bytes) -> None:
        header = self.blocks[block]
        if header.parent_view and not self._signed(VoteKind.NOTAR, header.parent_view, header.parent_hash):
            raise Violation("Promises", f"Notar of {member} in view {view}, the parent is not notarized")
        for between in range(header.parent_view + 1, view):
            if not self._signed(VoteKind.SKIP, between, ZERO_HASH):
                raise Violation("Promises", f"Notar of {member} in view {view} over view {between}")

    def _signed(self, kind: VoteKind, view: int, block: bytes) -> bool:
        """Did a quorum of three sign it, the twin taken for granted?"""
        return sum(self.votes.get((kind, view, member)) == block for member in (1, 2, 3)) >= 2


_NAMED = attrgetter("kind", "view", "block")
