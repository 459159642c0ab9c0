"""How much weight is enough: the arithmetic of BFT quorums, for weighted votes.

W is the weight of all members, f the most that may be faulty: 3f < W. Two quorums then share more than f,
so at least one honest member; and the honest alone make one (Simplex, ePrint 2023/463, section 2;
weighted as CometBFT does).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def tolerated(total: int) -> int:
    """The most weight that may be faulty: the largest f with 3f < `total`."""
    return (total - 1) // 3


def quorum(total: int) -> int:
    """The smallest weight above two thirds of `total`: floor(2W/3) + 1."""
    return 2 * total // 3 + 1


def weight_of(members: Iterable[int], weights: Sequence[int]) -> int:
    """The weight of some members by index. A member named twice counts once."""
    return sum(weights[index] for index in set(members))
