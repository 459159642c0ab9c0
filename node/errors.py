"""The node's own errors. Faults of foreign bytes are `ledger.errors.Refused` and `PeerFault`."""

from __future__ import annotations

from ledger.errors import LocalError


class ConfigError(LocalError):
    """A setting, key file or home that cannot be used. The text says where, which key, which rule."""


class StateDiffers(LocalError):
    """A final header names another state root than ours: nothing is executed until that is mended
    (node.sync.repair)."""

    def __init__(self, height: int) -> None:
        self.height = height
        super().__init__(f"our state of height {height} is not the one that a quorum signed")


class TwoChains(LocalError):
    """Two final chains: more than f validators signed both. Nobody here can say which is right."""


class ArtifactError(Exception):
    """Base of what can go wrong with an artifact."""


class ArtifactMissing(ArtifactError):
    """It is not in this store."""


class ArtifactFull(ArtifactError):
    """It does not fit the store's budget, and nothing more may be dropped."""


class ArtifactBusy(ArtifactError):
    """It is in use: being fetched, or a task runs it."""


class ArtifactWrong(ArtifactError):
    """Bytes are not what their name says; nothing of them was kept."""

    def __init__(self, sha256: str, detail: str) -> None:
        self.sha256 = sha256
        super().__init__(f"artifact {sha256[:64]}: {detail}")
