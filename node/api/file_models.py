"""What the API answers about artifacts: what this peer holds, and what is on its way."""

from __future__ import annotations

import msgspec


class ArtifactView(msgspec.Struct, kw_only=True):
    """`cid`: CIDv1, the name that IPFS gives these bytes as one raw block."""

    sha256: str
    cid: str
    size_bytes: int


class HeldArtifact(ArtifactView, kw_only=True):
    """`kept`: it goes by order only, what is not kept when room is needed; `in_use`: it must not go now;
    `whole`: false for what a fetch has left, or is still writing."""

    kept: bool
    in_use: bool
    whole: bool


class TransferView(msgspec.Struct, kw_only=True):
    """An artifact on its way. `sources`: peers that are giving now; `dropped`: peers that are not asked any
    more, with the rule; `left_s`: seconds at this speed, null while nothing comes."""

    sha256: str
    cid: str
    bytes_done: int
    bytes_total: int
    bytes_s: int
    left_s: int | None
    sources: list[str]
    dropped: dict[str, str]


class Artifacts(msgspec.Struct, kw_only=True):
    """What a peer holds. `bytes_max`: its budget. `count`: of all; `held` shows the first of them by digest,
    from the cursor on; `next`: the cursor of the rest, "" at the end."""

    bytes_used: int
    bytes_max: int
    count: int
    held: list[HeldArtifact]
    next: str
    transfers: list[TransferView]


class Freed(msgspec.Struct, kw_only=True):
    """What an order to drop an artifact gave back."""

    sha256: str
    bytes_freed: int
