"""How often each rule of consensus fired in a run, each refusal, each alarm: a rule that never fires in the
simulator is a rule that it does not test. Told of every step; counts, and judges nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from consensus.core import Core
from consensus.leader import leader
from consensus.limits import VIEW_WINDOW
from consensus.messages import Certified, Event, Fetch, Propose, Ready, Received, Reply, Status, Vote
from ledger.blocks import decode_header
from ledger.proofs.certificate import VoteKind

# What each numbered rule of docs/spec.md looks like from outside.
RULES: Final = {
    "1 view entered": "the frontier moved",
    "2 proposed": "a proposal was sent",
    "2 proposed over skipped views": "with Skip certificates in it",
    "3 notar": "a Notar vote was cast",
    "4 final": "a Final vote was cast",
    "5 skip": "a Skip vote was cast",
    "6 relay": "a certificate was sent unasked",
    "7 status": "a have-map was sent",
    "7 answer": "what another lacks was sent",
    "8 timeout grown": "a Skip more than one view after the last Final",
    "9 commit": "a block was committed",
    "9 ancestors": "several blocks by one Final certificate",
    "10 vote out of the window": "a vote was dropped: too far ahead, or past",
    "11 evidence": "an offence was proved",
    "12 epoch ended": "the last block of an epoch was committed",
    "12 tail left out": "its certificate named a block above it",
    "13 idle block": "an empty block after the idle wait",
    "14 silent leader skipped": "a Skip before the whole timeout, for a leader not heard since its last view",
    "14 heard again": "something came from one that was silent",
    "fetch": "something was asked for",
    "reply": "a header was sent that was asked for",
}


def is_early(core: Core, view: int) -> bool:
    """Is this Skip of rule 14? What cleared the view may have come in the same step: then it is not told."""
    state = core.views.get(view)
    if state is None or state.refused or not state.is_near_final:
        return False
    return leader(core.config.validators, view) in core.silence.silent


class Coverage:
    """Counts of one run."""

    def __init__(self) -> None:
        self.rules: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.alarms: Counter[str] = Counter()

    def before(self, core: Core, event: Event) -> int:
        """Before a step; what `after` wants back."""
        if isinstance(event, Received) and isinstance(event.message, Vote):
            view = event.message.statement.view
            if not core.final_view < view <= core.frontier + VIEW_WINDOW:
                self.rules["10 vote out of the window"] += 1
        if isinstance(event, Received) and event.sender in core.silence.silent:
            self.rules["14 heard again"] += 1
        return core.frontier

    def after(self, core: Core, event: Event, ready: Ready, frontier: int) -> None:
        """What a step did."""
        rules = self.rules
        if core.frontier > frontier:
            rules["1 view entered"] += 1
        if ready.commit:
            rules["9 commit"] += len(ready.commit)
            rules["9 ancestors"] += len(ready.commit) > 1
        if ready.evidence:
            rules["11 evidence"] += len(ready.evidence)
        for commit in ready.commit:
            rules["12 epoch ended"] += commit.header.next_validators != commit.header.validators
            rules["12 tail left out"] += bool(commit.path)
        if ready.alarms:
            self.alarms.update(ready.alarms)
        if not ready.records and not ready.send:
            return
        for record in ready.records:
            rules[
                {VoteKind.NOTAR: "3 notar", VoteKind.FINAL: "4 final", VoteKind.SKIP: "5 skip"}[record.kind]
            ] += 1
            if record.kind is VoteKind.SKIP:
                rules["8 timeout grown"] += record.view > core.final_view + 1
                rules["14 silent leader skipped"] += is_early(core, record.view)
        answers = isinstance(event, Received) and isinstance(event.message, Status)
        for send in ready.send:
            self._sent(send.message, answers and send.to is not None)

    def _sent(self, message: object, is_answer: bool) -> None:
        rules = self.rules
        match message:
            case Propose():
                rules["2 proposed"] += 1
                rules["2 proposed over skipped views"] += bool(message.skips)
                rules["13 idle block"] += not decode_header(message.header).batches
            case Status():
                rules["7 status"] += 1
            case Certified():
                rules["7 answer" if is_answer else "6 relay"] += 1
            case Vote() if is_answer:
                rules["7 answer"] += 1
            case Fetch():
                rules["fetch"] += 1
            case Reply():
                rules["reply"] += 1

    def add(self, other: Coverage) -> None:
        """Sum up."""
        for mine, more in zip(self._all(), other._all(), strict=True):
            mine.update(more)

    def _all(self) -> Iterable[Counter[str]]:
        return (self.rules, self.refusals, self.alarms)

    def never(self) -> list[str]:
        """Rules that did not fire."""
        return [rule for rule in RULES if not self.rules[rule]]

    def table(self) -> str:
        """For people: each rule, refusal and alarm with its count."""
        lines = [f"rule {rule:<32} {self.rules[rule]:>10,}" for rule in RULES]
        for what, counts in (("refusal", self.refusals), ("alarm", self.alarms)):
            lines += [
                f"{what} {name:<{36 - len(what)}} {count:>10,}" for name, count in sorted(counts.items())
            ]
        never = ", ".join(self.never()) or "none"
        return "\n".join([*lines, f"rules that never fired: {never}"])
