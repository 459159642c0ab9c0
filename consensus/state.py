"""What one validator knows and has promised: views, certificates, own votes, what is wanted.

`CoreState` keeps its invariants (one Notar a view, Skip excludes Final, nothing below the last
Final); `consensus.core` decides what to do. Rule numbers in brackets are those of docs/spec.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.chain import Chain
from consensus.epochs import is_ending
from consensus.evidence import Watch
from consensus.leader import leader
from consensus.messages import Ready, Record, Send, Vote
from consensus.relay import Relay
from consensus.safety import SafetyState
from consensus.silence import Silence
from consensus.timers import Timing
from consensus.votes import ViewState, count_vote
from consensus.wants import Wants
from ledger.blocks import ZERO_HASH, Header
from ledger.evidence import Evidence
from ledger.limits import BLOCK_BATCHES_MAX, BLOCK_TXS_MAX
from ledger.proofs.certificate import (
    VOTE_DOMAIN,
    Certificate,
    Scheme,
    Statement,
    ValidatorSet,
    VoteKind,
    vote_message,
)

Signer = Callable[[str, bytes], bytes]  # (domain, message) -> signature under the chain id


@dataclass(frozen=True, slots=True)
class Config:
    """What a core is born with. `me` is the own member index."""

    chain_id: str
    validators: ValidatorSet
    me: int
    timing: Timing
    scheme: Scheme
    sign: Signer


@dataclass(frozen=True, slots=True)
class Change:
    """[12] A change of validators that is pending: since the execution of which height, and the next set's
    hash. Once pending it stays until the epoch ends."""

    since: int
    next_validators: bytes


@dataclass(slots=True)
class CoreState:
    """See the module."""

    config: Config
    chain: Chain
    roots: dict[int, bytes]  # state root by executed height
    final: Certificate | None  # highest Final certificate of this epoch seen; its view is `final_view`
    change: Change | None = None
    views: dict[int, ViewState] = field(default_factory=dict)
    batches: dict[bytes, int] = field(default_factory=dict)  # held and not committed: digest -> txs
    makers: dict[bytes, int] = field(default_factory=dict)  # of those: digest -> who brought it, -1 unknown
    frontier: int = 1
    final_view: int = 0
    executed: int = 0
    due_ms: int | None = None  # when the executed state has timed work
    wants: Wants = field(init=False)
    relay: Relay = field(init=False)
    watch: Watch = field(init=False)
    silence: Silence = field(init=False)
    standstill_ms: int = 0
    answered_ms: dict[int, int] = field(default_factory=dict)  # last answer to a member's Status
    started: bool = False
    ended: bool = False  # [12] the boundary of the epoch is committed
    _due_ms: int | None = None  # the wake that the last whole step named
    _now_ms: int = 0
    _wall_ms: int = 0
    _out: Ready = field(default_factory=Ready)

    def __post_init__(self) -> None:
        size = len(self.config.validators.members)
        self.wants, self.relay = Wants(self.config.me, size), Relay(self.config.me, size)
        self.watch = Watch(self.config.validators, self.config.me)
        self.silence = Silence(self.config.me)
        self.final_view = self.chain.tip.view
        if self.final is not None and self.final.statement.view > self.chain.tip.view:
            self._view(self.final.statement.view).hold(self.final)  # a base for proposals [2]
            self.final_view = self.final.statement.view
        self.frontier = self.final_view + 1
        self.executed = max(self.roots, default=0)

    def restore(self, state: SafetyState) -> None:
        """Take back what an earlier run promised. Before Start."""
        for block, header in state.headers.items():
            self.chain.add(block, header)
        for view, block in state.notar.items():
            self._view(view).own_notar = block
            if block in state.headers:
                self._view(view).proposal, self._view(view).proposal_hash = state.headers[block], block
        for view, block in state.final.items():
            self._view(view).own_final = block
        for view in state.skip:
            self._view(view).own_skip = True
        for certificate in state.certificates:
            self._hold(certificate)
        for state_of_view in self.views.values():
            for vote in self._own_votes_of(state_of_view):
                self._count(vote)
        self._out = Ready()  # all of this is on disk already
        self.watch.accused.clear()  # nobody was told

    def knows(self, statement: Statement) -> bool:
        """True when a certificate of this statement brings nothing new, so need not be verified."""
        if statement.view <= self.final_view:
            return True
        state = self.views.get(statement.view)
        held = state.certificate(statement.kind) if state else None
        return held is not None and held.statement == statement

    # ------------------------------------------------------------------ certificates and votes

    def _view(self, number: int) -> ViewState:
        state = self.views.get(number)
        if state is None:
            state = self.views[number] = ViewState(number)
        return state

    def _hold(self, certificate: Certificate) -> None:
        """Take a verified certificate of any view above the last Final [10]."""
        statement = certificate.statement
        if statement.view <= self.final_view or not self._view(statement.view).hold(certificate):
            return
        self._out.certificates.append(certificate)
        self._accuse(*self.watch.certificate(certificate, self.frontier))
        self.relay.add(certificate, self._now_ms)  # [6]
        if statement.kind is VoteKind.FINAL:
            self._finalize(certificate)

    def _finalize(self, certificate: Certificate) -> None:
        """[1] [9] A Final certificate clears its view and all before; progress restarts the timers."""
        if certificate.statement.view > (self.final.statement.view if self.final else 0):
            self.final = certificate
            self.final_view = max(self.final_view, certificate.statement.view)
            self.standstill_ms = self._now_ms + self.config.timing.standstill_ms

    def _count(self, vote: Vote) -> None:
        state = self._view(vote.statement.view)
        config = self.config
        made = count_vote(state, vote.statement, vote.voter, vote.signature, config.validators, config.scheme)
        if made is not None:
            self._hold(made)

    def _is_settled(self) -> bool:
        """A vote was taken in: is there nothing for the rules to do? Then it is said when there will be.

        Most votes complete no certificate, and need not cost a walk through all rules. Nothing is lost: the
        last whole step applied the rules until nothing changed, and each reads certificates, own votes,
        proposals, the chain, batches, execution and the clocks, never single votes. A vote changes only the
        counts (`count_vote`), what the relay knows of its sender, which is read when a relay is due, and what
        the watch knows, whose evidence goes out at once. Where time alone makes a rule act, `wake_ms` named
        that time. A jump of the wall clock is seen at the next whole step: at the standstill at the latest.
        """
        if self._out.certificates or self._due_ms is None or self._now_ms >= self._due_ms:
            return False
        self._out.wake_ms = self._due_ms
        return True

    def _accuse(self, *found: Evidence | None) -> None:
        """[11] Hand out evidence of equivocation."""
        self._out.evidence.extend(one for one in found if one is not None)

    def _cast(self, state: ViewState, kind: VoteKind, block: bytes, header: Header | None) -> None:
        """Promise, keep, send, and count our own vote."""
        if kind is VoteKind.NOTAR:
            assert state.own_notar is None, "one Notar per view"
            state.own_notar = block
        elif kind is VoteKind.FINAL:
            assert not state.own_skip, "Final excludes Skip"
            assert state.own_notar == block, "Final follows own Notar"
            state.own_final = block
        else:
            assert state.own_final is None, "Skip excludes Final"
            state.own_skip = True
        data = header.encode() if header else b""
        self._out.records.append(Record(kind, state.number, block, data, self.config.validators.epoch))
        vote = self._vote(kind, state.number, block)
        self._out.send.append(Send(None, vote))
        self._count(vote)

    def _vote(self, kind: VoteKind, view: int, block: bytes) -> Vote:
        """An own vote, cast now or before: signed once."""
        statement = Statement(kind, self.config.validators.epoch, view, block)
        state = self.views.get(view)
        signed = state.signatures.get((kind, block), {}).get(self.config.me) if state else None
        if signed is not None:
            return Vote(statement, self.config.me, signed)
        return Vote(statement, self.config.me, self.config.sign(VOTE_DOMAIN, vote_message(statement)))

    def _own_votes_of(self, state: ViewState) -> list[Vote]:
        votes = []
        if state.own_notar is not None:
            votes.append(self._vote(VoteKind.NOTAR, state.number, state.own_notar))
        if state.own_final is not None:
            votes.append(self._vote(VoteKind.FINAL, state.number, state.own_final))
        if state.own_skip:
            votes.append(self._vote(VoteKind.SKIP, state.number, ZERO_HASH))
        return votes

    def _own_votes(self, above: int) -> list[Vote]:
        """Own votes above a view whose certificates are not there yet, oldest first."""
        votes: list[Vote] = []
        for view in sorted(v for v in self.views if v > above):
            state = self.views[view]
            votes.extend(v for v in self._own_votes_of(state) if state.certificate(v.statement.kind) is None)
        return votes

    # ------------------------------------------------------------------ small questions

    def _cleared(self, view: int) -> bool:
        state = self.views.get(view)
        return view <= self.final_view or (
            state is not None and bool(state.notar or state.skip or state.final)
        )

    def _begin(self, state: ViewState) -> None:
        """[8] [14] A view's timeout is fixed when it is entered. It may be short for a silent leader near the
        last Final only: where nothing becomes final all timers are whole, and grow."""
        state.entered_ms = self._now_ms
        state.timeout_ms = self.config.timing.timeout_ms(state.number, self.final_view)
        state.is_near_final = state.number <= self.final_view + len(self.config.validators.members)
        self.silence.entered(leader(self.config.validators, state.number))

    def _pass(self, view: int) -> None:
        """[14] A view is cleared: did its leader stay away?"""
        state, by = self.views.get(view), leader(self.config.validators, view)
        if state is not None and (state.notar or state.final):
            self.silence.heard(by)
        elif state is not None and state.skip:
            self.silence.skipped(by)

    def _skip_ms(self, state: ViewState) -> int:
        """[8] [13] [14] T from entry, plus the idle wait for as long as there is nothing to propose."""
        assert state.entered_ms is not None, "only a view entered has a timeout"
        if state.work_ms is None and self._work():
            state.work_ms = self._now_ms
        patience_ms = self._patience_ms(state)
        late = state.entered_ms + self.config.timing.idle_ms + patience_ms
        return late if state.work_ms is None else min(late, state.work_ms + patience_ms)

    def _patience_ms(self, state: ViewState) -> int:
        """[8] [14] How long this view waits for a proposal once there is work."""
        is_silent = leader(self.config.validators, state.number) in self.silence.silent
        if is_silent and state.is_near_final:
            return self.config.timing.silent_ms(state.timeout_ms)
        return state.timeout_ms

    def _leads(self, view: int) -> bool:
        return leader(self.config.validators, view) == self.config.me

    def _next_validators(self, state_height: int) -> bytes:
        """[12] What a header that names this executed height must say of the next epoch."""
        if self.change is not None and self.change.since <= state_height:
            return self.change.next_validators
        return self.config.validators.hash

    def _all_held(self, headers: list[Header]) -> bool:
        missing = [(d, h) for h in headers for d in h.batches if d not in self.batches]
        for digest, header in missing:
            self.wants.ask("batch", digest, leader(self.config.validators, header.view), self._now_ms)
        return not missing

    def _forget_batches(self, header: Header) -> None:
        for digest in header.batches:
            self.batches.pop(digest, None)
            self.makers.pop(digest, None)
            self.wants.got(digest)

    def _prune(self) -> None:
        self._out.prune_view = self.chain.tip.view
        self.views = {n: s for n, s in self.views.items() if n > self.chain.tip.view}

    # ------------------------------------------------------------------ the tail of the epoch

    def _is_tail(self, header: Header) -> bool:
        """[12] Does it stand above the boundary? Its parent is held."""
        parent = self.chain.get(header.parent_hash)
        return parent is not None and is_ending(parent, self.config.validators)

    def _passed(self, view: int, header: Header) -> bool:
        """[2] May this block leave out a view between it and its parent? With Skip: nothing is final there.
        [12] Above a boundary also with Notar of another block on the same one: if that is final, so is the
        boundary, and more than that nobody commits."""
        state, validators = self.views.get(view), self.config.validators
        if state is None or state.skip is not None:
            return state is not None
        if state.notar is None or not is_ending(header, validators):
            return False
        named = state.notar.statement.block
        beside = state.proposal if state.proposal_hash == named else self.chain.get(named)
        for block, held in ((header.parent_hash, self.chain.get(header.parent_hash)), (named, beside)):
            if held is None:
                self.wants.ask("header", block, leader(validators, view), self._now_ms)
                return False
            if not is_ending(held, validators):
                return False  # a boundary goes past nothing that may be final
        return beside is not None and beside.parent_hash == header.parent_hash

    # ------------------------------------------------------------------ what could be proposed

    def _work(self) -> bool:
        """Is anything held that the chain above the tip does not hold yet?"""
        base = self._base()
        parent = self.chain.get(base[1])
        if not self.batches or (parent is not None and is_ending(parent, self.config.validators)):
            return False
        used = sum(len(h.batches) for h in self.chain.headers.values())
        return len(self.batches) > used or bool(self._fresh(base))

    def _idle_left_ms(self, entered_ms: int) -> int:
        """[13] How much longer a leader waits for work."""
        parent = self.chain.get(self._base()[1])
        since_parent = self._wall_ms - parent.time_ms if parent else 0
        return self.config.timing.idle_left_ms(self._now_ms - entered_ms, since_parent)

    def _base(self) -> tuple[int, bytes]:
        """[2] The highest notarized (or final) view with Skip for every view between it and the frontier."""
        for view in range(self.frontier - 1, self.chain.tip.view, -1):
            state = self.views.get(view)
            certificate = (state.notar or state.final) if state else None
            if certificate is not None:
                return view, certificate.statement.block
        return self.chain.tip.view, self.chain.tip_hash

    def _fresh(self, base: tuple[int, bytes]) -> list[bytes]:
        """[2] Batches held that no block from the tip to `base` names, bounded. In order of arrival; where
        not all fit, makers take turns, each with its oldest: nobody's many keep another's out."""
        path, _ = self.chain.path(base[1])
        used = {digest for _, header in path for digest in header.batches}
        fresh = [digest for digest in self.batches if digest not in used]
        if len(fresh) > BLOCK_BATCHES_MAX or sum(self.batches[digest] for digest in fresh) > BLOCK_TXS_MAX:
            fresh = self._in_turns(fresh)
        chosen: list[bytes] = []
        txs = 0
        for digest in fresh:
            txs += self.batches[digest]
            if len(chosen) >= BLOCK_BATCHES_MAX or (chosen and txs > BLOCK_TXS_MAX):
                break
            chosen.append(digest)
        return chosen

    def _in_turns(self, digests: list[bytes]) -> list[bytes]:
        """One of each maker, then the next of each, who has the oldest first."""
        rounds: dict[int, int] = {}
        placed: list[tuple[int, int, bytes]] = []
        for place, digest in enumerate(digests):
            maker = self.makers.get(digest, -1)
            rounds[maker] = rounds.get(maker, -1) + 1
            if rounds[maker] < BLOCK_BATCHES_MAX:  # no more of one can have a place
                placed.append((rounds[maker], place, digest))
        return [digest for _, _, digest in sorted(placed)]
