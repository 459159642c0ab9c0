"""Simplex as one pure object: `step(event) -> Ready`.

Chan and Pass, ePrint 2023/463, with the rules for lossy networks of the TON write-up
(`simplex-docs`, Simplex.md, "W"). Rule numbers in brackets are those of docs/spec.md, section
Consensus. The core sees no clock, socket, file or random source: time comes with each step,
keys sign through a function, what must be kept or sent is in the Ready.
"""

from __future__ import annotations

from consensus.epochs import is_ending, until_boundary
from consensus.leader import leader
from consensus.limits import ANSWER_EVERY_MS, SKIPS_PER_PROPOSAL_MAX, VIEW_WINDOW
from consensus.messages import (
    BatchDropped,
    BatchHeld,
    Certified,
    Commit,
    Event,
    Executed,
    Fetch,
    Joined,
    Message,
    Propose,
    Ready,
    Received,
    Reply,
    Send,
    Start,
    Status,
    Synced,
    Tick,
    Vote,
)
from consensus.standstill import answer, status
from consensus.state import Change, Config, CoreState, Signer
from consensus.votes import ViewState
from ledger.blocks import ZERO_HASH, Header
from ledger.codec import encode
from ledger.limits import BLOCK_TXS_MAX, RECENT_ROOTS, TIME_AHEAD_MS_MAX
from ledger.proofs.certificate import PROPOSE_DOMAIN, Certificate, VoteKind


class Core(CoreState):
    """One validator's consensus. Not thread-safe; `knows` alone may be read from another thread."""

    __slots__ = ()

    # ------------------------------------------------------------------ the one entry

    def step(self, event: Event, now_ms: int, wall_ms: int) -> Ready:
        """Take one event; `now_ms` is monotonic, `wall_ms` is Unix time. Returns what to do."""
        self._now_ms, self._wall_ms = now_ms, wall_ms
        self._out = Ready()
        match event:
            case Received(sender, message, header):
                self._receive(sender, message, header)
                if isinstance(message, Vote) and self._is_settled():
                    return self._out
            case BatchHeld(digest, txs, maker):
                self.batches[digest], self.makers[digest] = txs, maker
                self.wants.got(digest)
            case BatchDropped(digest):
                self.batches.pop(digest, None)
                self.makers.pop(digest, None)
            case Executed() if not self.ended:
                self._executed(event)
            case Synced(header, certificate) if not self.ended:
                self._synced(header, certificate)
            case Joined(member):
                self._out.send.append(Send(member, self._status()))
            case Start():
                self._start()
            case Tick():
                pass
        if self.started:
            self._advance()
            self._out.wake_ms = self._due_ms = self.relay.wake_ms() if self.ended else self._wake_ms()
        return self._out

    # ------------------------------------------------------------------ events

    def _start(self) -> None:
        self.started = True
        self.standstill_ms = self._now_ms + self.config.timing.standstill_ms
        self._enter()  # past what the restored certificates clear
        self._out.send.append(Send(None, self._status()))
        own = self.views.get(self.frontier)
        if own:  # the crash may have come between keeping and sending them
            self._out.send.extend(Send(None, vote) for vote in self._own_votes_of(own))
        if own and own.own_notar and own.proposal and self._leads(self.frontier):
            self._out.send.append(Send(None, self._proposal(own.proposal)))  # [2] again, never another

    def _receive(self, sender: int, message: Message, header: Header | None) -> None:
        self.relay.heard(sender, message)
        self.silence.heard(sender)  # [14]
        if self.ended and not isinstance(message, Status | Fetch):
            return  # [12] all is said; only who lags gets an answer
        match message:
            case Propose():
                for certificate in (message.parent, *message.skips):
                    if certificate is not None:
                        self._hold(certificate)
                if header is not None:
                    self._accuse(self.watch.proposal(header, message, self.frontier))
                    self._hold_proposal(header)
            case Vote():
                self._accuse(self.watch.vote(message, self.frontier))
                if self.final_view < message.statement.view <= self.frontier + VIEW_WINDOW:  # [10]
                    self._count(message)
            case Certified():
                self._hold(message.certificate)
            case Status():
                if message.final is not None:
                    self._hold(message.final)
                self._answer(sender, message)
            case Reply():
                # Unasked ones would fill the chain; one of no use stays wanted, at the pace of retries.
                wanted = header is not None and message.digest in self.wants.wants
                if wanted and header is not None and self.chain.add(message.digest, header):
                    self.wants.got(message.digest)
            case Fetch():
                found = self.chain.find(message.digest)
                if message.kind == "header" and found:  # batches are the shell's to answer: it has the bytes
                    self._out.send.append(Send(sender, Reply("header", message.digest, found.encode())))

    def _answer(self, sender: int, asked: Status) -> None:
        """[7] Send what the other lacks, and not again at once however often it asks."""
        last = self.answered_ms.get(sender)
        if last is not None and self._now_ms < last + ANSWER_EVERY_MS:
            return
        base = max(asked.base, self.final_view)
        replies = answer(self.views, self.final, asked, self._own_votes(base))
        own = self.views.get(self.frontier)
        is_asked = own is not None and own.own_notar is not None and asked.frontier <= own.number
        if own and own.proposal and is_asked and self._leads(own.number):
            replies.append(self._proposal(own.proposal))  # sent before the other's epoch began [12], or lost
        self._out.send.extend(Send(sender, reply) for reply in replies)
        if replies:
            self.answered_ms[sender] = self._now_ms

    def _hold_proposal(self, header: Header) -> None:
        if not self.final_view < header.view <= self.frontier + VIEW_WINDOW:
            return
        state = self._view(header.view)
        if state.proposal is None:  # [3] the first proposal only
            state.proposal, state.proposal_hash = header, header.hash
            self.chain.add(state.proposal_hash, header)
            self.wants.got(state.proposal_hash)

    def _executed(self, done: Executed) -> None:
        self.executed = max(self.executed, done.height)
        self.roots[done.height] = done.root
        self.roots.pop(done.height - RECENT_ROOTS, None)
        self.due_ms = done.due_ms
        if self.change is None and done.next_validators is not None:  # [12] once pending it stays
            self.change = Change(done.height, done.next_validators)

    def _synced(self, header: Header, certificate: Certificate) -> None:
        if header.height > self.chain.tip.height:
            self.chain.commit(header.hash, header)
            self._forget_batches(header)
            self.final_view = max(self.final_view, header.view)
            if certificate.statement.view > header.view:
                self._view(certificate.statement.view).hold(certificate)  # a base for proposals [2]
            self._finalize(certificate)
            self._prune()
            self.ended = is_ending(header, self.config.validators)  # [12]

    # ------------------------------------------------------------------ progress

    def _advance(self) -> None:
        """Apply the rules until nothing changes."""
        while not self.ended and self._apply():
            pass
        if self._now_ms >= self.standstill_ms and not self.ended:  # [7]
            self.standstill_ms = self._now_ms + self.config.timing.standstill_ms
            self._out.send.append(Send(None, self._status()))
        self._out.send.extend(self.relay.due(self._now_ms, self.final_view))  # [6]
        self._out.send.extend(self.wants.due(self._now_ms))

    def _apply(self) -> bool:
        """Each rule once. True when something changed."""
        before = (self.frontier, self.final_view, self.chain.tip_hash, len(self._out.records))
        self._enter()
        self._commit()
        if self.ended:
            return False
        for number in sorted(v for v in self.views if v > self.final_view):
            self._notarize(self.views[number])
            self._vote_final(self.views[number])
        self._propose()
        self._skip()
        return before != (self.frontier, self.final_view, self.chain.tip_hash, len(self._out.records))

    def _enter(self) -> None:
        """[1] Enter the smallest view that is not cleared, at once."""
        while self._cleared(self.frontier):
            self._pass(self.frontier)
            self.frontier += 1
        self.watch.forget(self.frontier)
        state = self._view(self.frontier)
        if state.entered_ms is None:
            self._begin(state)

    def _commit(self) -> None:
        """[9] Final finalizes all ancestors; commit them in order once all bytes are held. [12] What stands
        above the boundary of the epoch is never committed; with the boundary this core ends."""
        if self.final is None or self.final.statement.view <= self.chain.tip.view:
            return
        block = self.final.statement.block
        path, missing = self.chain.path(block)
        if missing is not None:
            self.wants.ask("header", missing, leader(self.config.validators, self.final_view), self._now_ms)
            return
        if not path:
            self._out.alarms.append("final_off_chain")  # > f faults: two finalized chains
            return
        path, tail = until_boundary(path, self.config.validators)
        if not self._all_held([h for _, h in path]):
            return
        for _, header in path:
            self.ended = is_ending(header, self.config.validators)
            self._out.commit.append(Commit(header, self.final, tail if self.ended else ()))
            self._forget_batches(header)
        self.chain.commit(*path[-1])
        self._prune()
        if self.ended:
            self.relay.hurry(self._now_ms)  # nobody votes any more, by which it could be made again

    # ------------------------------------------------------------------ proposals and votes

    def _proved(self, header: Header) -> bool:
        """Parent notarized (or final) and every view between passed over, by certificates held here."""
        if header.parent_hash == self.chain.tip_hash:
            if header.parent_view != self.chain.tip.view:
                return False
        else:
            parent = self.views.get(header.parent_view)
            blocks = [c.statement.block for c in (parent.notar, parent.final) if c] if parent else []
            if header.parent_hash not in blocks:
                return False
        return all(self._passed(view, header) for view in range(header.parent_view + 1, header.view))

    def _notarize(self, state: ViewState) -> None:
        """[3] Vote once per view, for the first proposal whose place, bytes, time and root are proved."""
        header = state.proposal
        if header is None or state.own_notar is not None or state.refused or not self._proved(header):
            return
        parent = self.chain.get(header.parent_hash)
        if parent is None:
            hint = leader(self.config.validators, header.view)
            self.wants.ask("header", header.parent_hash, hint, self._now_ms)
            return
        _, missing = self.chain.path(header.parent_hash)
        if missing is not None:  # the whole way is needed: no batch may stand on it twice
            self.wants.ask("header", missing, leader(self.config.validators, parent.view), self._now_ms)
            return
        rule = self._broken_rule(header, parent)
        held = rule is None and self._all_held([header])
        if held and sum(self.batches[digest] for digest in header.batches) > BLOCK_TXS_MAX:
            rule = "block.txs"
        if rule is not None:
            state.refused = True
            self._out.alarms.append(rule)
            return
        early = header.time_ms > self._wall_ms + TIME_AHEAD_MS_MAX or header.state_height > self.executed
        if held and not early:  # both may become true in time
            self._cast(state, VoteKind.NOTAR, state.proposal_hash, header)

    def _broken_rule(self, header: Header, parent: Header) -> str | None:
        """Name of the rule that can never come true for this block, or None."""
        if header.height != parent.height + 1:
            return "block.height"
        if header.time_ms < parent.time_ms:
            return "block.time"
        if header.epoch != self.config.validators.epoch or header.validators != self.config.validators.hash:
            return "block.validators"
        if header.state_height < parent.state_height:
            return "block.state_height"
        if header.state_height <= self.executed:
            if self.roots.get(header.state_height) != header.state_root:
                return "block.state_root"
            if header.next_validators != self._next_validators(header.state_height):
                return "block.next_validators"  # [12]
        is_tail = is_ending(parent, self.config.validators)  # [12]
        differs = header.batches or header.next_validators != parent.next_validators
        if is_tail and (differs or self._is_tail(parent)):
            return "block.tail"
        above, _ = self.chain.path(header.parent_hash)
        if any(digest in earlier.batches for _, earlier in above for digest in header.batches):
            return "block.batch_twice"
        return None

    def _vote_final(self, state: ViewState) -> None:
        """[4] Own Notar(v, h) and certificate Notar[v, h], and no own Skip(v)."""
        if state.own_notar is None or state.own_final is not None or state.own_skip or state.notar is None:
            return
        if state.notar.statement.block == state.own_notar:
            self._cast(state, VoteKind.FINAL, state.own_notar, None)

    def _skip(self) -> None:
        """[5] On timeout, or at once for a proposal that broke a rule; never after own Final."""
        state = self._view(self.frontier)
        if state.own_skip or state.own_final is not None:
            return
        if state.refused or self._now_ms >= self._skip_ms(state):
            self._cast(state, VoteKind.SKIP, ZERO_HASH, None)

    def _propose(self) -> None:
        """[2] [13] Lead: build on the base as soon as there is work, or after the idle wait."""
        state = self._view(self.frontier)
        if not self._leads(self.frontier) or state.own_notar is not None or state.own_skip:
            return
        base = self._base()
        parent = self.chain.get(base[1])
        _, missing = self.chain.path(base[1])
        if parent is None or missing is not None:
            hint = leader(self.config.validators, base[0] if parent is None else self.final_view)
            self.wants.ask("header", missing or base[1], hint, self._now_ms)
            return
        height = min(self.executed, parent.height)
        next_validators = self._next_validators(height)
        in_tail = is_ending(parent, self.config.validators)  # [12] only to finalize the boundary, so no hurry
        if in_tail and self._is_tail(parent):
            base = parent.parent_view, parent.parent_hash
            parent = self.chain.headers[base[1]]
        batches = [] if in_tail else self._fresh(base)
        is_due = self.due_ms is not None and parent.time_ms < self.due_ms <= self._wall_ms
        is_due = not in_tail and (is_due or next_validators != self.config.validators.hash)
        if not batches and not is_due and self._idle_left_ms(state.entered_ms or 0) > 0:
            return
        root = self.roots.get(height)
        if height < parent.state_height or root is None:
            return  # execution is behind what the parent claims: wait
        header = Header(
            chain_id=self.config.chain_id,
            epoch=self.config.validators.epoch,
            height=parent.height + 1,
            view=self.frontier,
            parent_view=base[0],
            parent_hash=base[1],
            time_ms=max(parent.time_ms, self._wall_ms),
            proposer=self.config.validators.members[self.config.me].key,
            state_height=height,
            state_root=root,
            validators=self.config.validators.hash,
            next_validators=next_validators,
            batches=tuple(batches),
        )
        if not self._proved(header):
            return  # never vote for what we could not prove to others
        state.proposal, state.proposal_hash = header, header.hash
        self.chain.add(state.proposal_hash, header)
        self._out.send.append(Send(None, self._proposal(header)))
        self._cast(state, VoteKind.NOTAR, state.proposal_hash, header)

    def _proposal(self, header: Header) -> Propose:
        """An own block with what proves its place."""
        parent = self.views.get(header.parent_view)
        proof = (parent.notar or parent.final) if parent else None
        if proof is None and self.final is not None and self.final.statement.block == header.parent_hash:
            proof = self.final
        states = [self.views.get(view) for view in range(header.parent_view + 1, header.view)]
        skips = [found for s in states if s is not None and (found := s.skip or s.notar) is not None]
        signature = self.config.sign(PROPOSE_DOMAIN, header.hash)
        return Propose(encode(header), signature, proof, tuple(skips[-SKIPS_PER_PROPOSAL_MAX:]))

    # ------------------------------------------------------------------ time

    def _status(self) -> Status:
        base = self.final.statement.view if self.final else self.chain.tip.view
        return status(self.config.validators.epoch, self.views, self.final, base, self.frontier)

    def _wake_ms(self) -> int:
        """When something will be due if nothing else happens."""
        state = self._view(self.frontier)
        times = [self.standstill_ms]
        times += [ms for ms in (self.wants.wake_ms(), self.relay.wake_ms()) if ms is not None]
        if not state.own_skip and state.own_final is None:
            times.append(self._skip_ms(state))
        if self._leads(self.frontier) and state.own_notar is None and state.entered_ms is not None:
            if (left := self._idle_left_ms(state.entered_ms)) > 0:
                times.append(self._now_ms + left)
            if self.due_ms is not None and self.due_ms > self._wall_ms:
                times.append(self._now_ms + self.due_ms - self._wall_ms)
        for waiting in self.views.values():
            header = waiting.proposal
            if header and waiting.own_notar is None and header.time_ms > self._wall_ms + TIME_AHEAD_MS_MAX:
                times.append(self._now_ms + header.time_ms - self._wall_ms - TIME_AHEAD_MS_MAX)
        return max(self._now_ms, min(times))


__all__ = ["Config", "Core", "Signer"]
