"""The bounded networks in which the model is checked, and the broken rules that must be noticed.

`make model` checks all but the deep ones; results.json holds what came out, the deep ones too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

INVARIANTS: Final = (
    "Agreement",
    "SkipExcludesFinal",
    "OneNotarized",
    "ProvedChain",
    "NoOffence",
    "FinalFollowsNotar",
    "OneBoundary",
    "NothingAboveBoundary",
    "KeptBeforeSent",
)


@dataclass(frozen=True, slots=True)
class Instance:
    """Constants of Simplex.tla. Members are named h1, h2 … (honest) and b1 … (Byzantine).

    `refutes`: the invariants one of which must fail, empty for the protocol itself.
    """

    name: str
    members: tuple[frozenset[str], ...]  # by epoch, the first is epoch 1
    last: int | None  # the last view; None: no bound (a replayed run)
    open_views: frozenset[int]  # with a Byzantine leader
    contents: tuple[str, ...] = ("x",)
    ends_at: frozenset[int] = frozenset()  # views whose blocks are the last of their epoch
    in_steps: bool = False
    prunes: bool = False
    broken: frozenset[str] = frozenset()
    refutes: frozenset[str] = frozenset()
    invariants: tuple[str, ...] = INVARIANTS
    is_deep: bool = False  # checked with --deep only

    @property
    def honest(self) -> tuple[str, ...]:
        """All who keep the rules, of any epoch, in order."""
        return tuple(sorted(m for m in frozenset().union(*self.members) if m.startswith("h")))

    @property
    def byzantine(self) -> tuple[str, ...]:
        """All others."""
        return tuple(sorted(frozenset().union(*self.members) - set(self.honest)))


FOUR: Final = frozenset({"h1", "h2", "h3", "b1"})
FIRST_SET: Final = frozenset({"h1", "h2", "h3", "b1"})
NEXT_SET: Final = frozenset({"h2", "h3", "h4", "b1"})  # h1 leaves, h4 joins

VOTES = Instance("2 views", (FOUR,), 2, frozenset({1, 2}), ("x", "y"))
VIEWS = Instance("3 views", (FOUR,), 3, frozenset(), is_deep=True)
STEPS = Instance("steps", (FOUR,), 1, frozenset({1}), ("x", "y"), in_steps=True, prunes=True)
EPOCHS = Instance("epochs", (FIRST_SET, NEXT_SET), 2, frozenset(), ends_at=frozenset({1}))

PROTOCOL: Final = (
    replace(VOTES, name="one view", last=1),
    VOTES,
    STEPS,
    EPOCHS,
    VIEWS,
    replace(EPOCHS, name="epochs, 3 views", last=3, is_deep=True),
    replace(EPOCHS, name="epochs, one Byzantine leader", open_views=frozenset({1}), is_deep=True),
    replace(STEPS, name="steps, 2 views", last=2, open_views=frozenset(), contents=("x",), is_deep=True),
)


def _without(base: Instance, *rules: str, refutes: tuple[str, ...]) -> Instance:
    name = f"{base.name} without {' and '.join(rules)}"
    return replace(base, name=name, broken=frozenset(rules), refutes=frozenset(refutes))


# Each must be refuted, or the invariants could not fail. `refutes` names the invariants checked: where
# Agreement stands alone, leaving the rule out forks the chain.
BROKEN: Final = (
    _without(VOTES, "quorum", refutes=("Agreement",)),
    _without(VOTES, "two_notars", refutes=("OneNotarized",)),
    _without(VOTES, "no_skips", refutes=("Agreement",)),
    _without(VOTES, "skip_after_final", refutes=("Agreement",)),
    _without(VOTES, "final_after_skip", refutes=("Agreement",)),
    _without(VOTES, "final_without_notar", "final_without_certificate", refutes=("Agreement",)),
    _without(VOTES, "final_without_notar", refutes=("FinalFollowsNotar",)),
    _without(STEPS, "send_unkept", refutes=("KeptBeforeSent",)),
    _without(STEPS, "send_unkept", refutes=("NoOffence",)),
    _without(STEPS, "prune_unfloored", refutes=("NoOffence",)),
    _without(EPOCHS, "commit_tail", refutes=("Agreement",)),
    _without(EPOCHS, "commit_tail", refutes=("NothingAboveBoundary",)),
    replace(_without(EPOCHS, "epoch_early", refutes=("Agreement",)), is_deep=True),
    _without(EPOCHS, "epoch_mixed", refutes=("SkipExcludesFinal",)),
)

# Rules that safety could do without: all other invariants hold without them.
SPARE: Final = (
    replace(
        _without(VOTES, "final_without_notar", refutes=()),
        invariants=tuple(i for i in INVARIANTS if i != "FinalFollowsNotar"),
        is_deep=True,
    ),
    replace(_without(VOTES, "final_without_certificate", refutes=()), is_deep=True),
)

_SMALL: Final = replace(VOTES, last=1)
_KEPT: Final = replace(STEPS, contents=("x",), open_views=frozenset())
_BY_BASE: Final = (
    (_SMALL, ("quorum", "two_notars", "skip_after_final", "final_after_skip", "final_without_notar")),
    (_SMALL, ("final_without_certificate",)),
    (replace(VOTES, contents=("x",), open_views=frozenset()), ("no_skips",)),
    (replace(_KEPT, is_deep=True), ("send_unkept", "prune_unfloored")),
)

# Counted state by state, members told apart, by TLC and by formal.model: equal, or one of the two is wrong.
# Rules are left out one by one, so that each guard is seen to make the same difference.
COUNTED: Final = (
    replace(_SMALL, name="counted: one view"),
    replace(VOTES, name="counted: 2 views", contents=("x",)),
    replace(_KEPT, name="counted: steps"),
    *(
        replace(base, name=f"counted: without {rule}", broken=frozenset({rule}), invariants=())
        for base, rules in _BY_BASE
        for rule in rules
    ),
)
