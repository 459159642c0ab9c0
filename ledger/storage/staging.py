"""A store that is being filled with a state from elsewhere, chunk by chunk, until it can be a chain's.

Each step is one synced write together with what is still missing, so that a kill at any time loses nothing
but what was on its way. The tip is written last: a store without it is not complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from ledger.blocks import Header, header_hash
from ledger.codec import decode, encode
from ledger.errors import LocalError
from ledger.proofs import tree
from ledger.proofs.light import EpochProof
from ledger.records import be
from ledger.storage.chain import TIP_KEY
from ledger.storage.epoch_log import epoch_key
from ledger.storage.kv import Kv
from ledger.storage.retention import FIRST_KEY
from ledger.storage.snapshot import ROOT, Proved, is_within
from ledger.storage.stored import Tip

_STATUS_KEY: Final = b"m/staging"


class Status(msgspec.Struct, array_like=True, frozen=True):
    """Which state this is to be, and how far it is. `todo`: places of the tree that are missing. `blocks`:
    up to which height the replay window is known (0: nothing yet), `parent`: the hash of that block."""

    height: int
    root: bytes
    todo: tuple[bytes, ...]
    pairs: int = 0
    size_bytes: int = 0
    blocks: int = 0
    parent: bytes = b""
    header: bytes = b""  # of `height`, once it came
    certificate: bytes = b""  # Final for it, if one came


class Staging:
    """See the module. Over a Kv that holds nothing, or what an earlier run left."""

    def __init__(self, kv: Kv) -> None:
        self._kv = kv
        found = kv.get(_STATUS_KEY)
        self.status = None if found is None else decode(Status, found)
        self._todo = set() if self.status is None else {_index(path) for path in self.status.todo}

    def begin(self, height: int, root: bytes) -> None:
        """A state to be fetched. Raises LocalError when there is one already."""
        if self.status is not None or self._kv.get(TIP_KEY) is not None:
            raise LocalError("this store holds a state already")
        self._todo = {ROOT}
        self._write({}, Status(height, root, ()))

    @property
    def now(self) -> Status:
        """The status. Raises LocalError before `begin`."""
        if self.status is None:
            raise LocalError("no state is being fetched into this store")
        return self.status

    @property
    def todo(self) -> tuple[int, ...]:
        """Places that are missing, the deepest first: so their number stays small."""
        return tuple(sorted(self._todo, reverse=True))

    @property
    def share(self) -> float:
        """How much of the state is here, 0 to 1: keys are spread evenly over the tree."""
        return 1.0 - sum(2.0 ** -tree.depth_of(index) for index in self._todo)

    def take(self, proved: Proved, asked: int) -> bool:
        """Keep a checked chunk that came for the missing place `asked`. False when it is not missing (any
        more): nothing is written."""
        status = self.now
        if asked not in self._todo or not is_within(proved.place, asked):
            return False
        puts = {b"s" + key: value for key, value in proved.pairs}
        puts |= {b"n" + path: record for path, record in proved.nodes.items()}
        self._todo.remove(asked)
        self._todo |= {place for place in proved.beside if is_within(place, asked)}
        size_bytes = sum(len(key) + len(value) for key, value in proved.pairs)
        self._write(
            puts,
            msgspec.structs.replace(
                status, pairs=status.pairs + len(proved.pairs), size_bytes=status.size_bytes + size_bytes
            ),
        )
        return True

    def remember(
        self, seen: Iterable[bytes], blocks: int, parent: bytes, header: bytes = b"", certificate: bytes = b""
    ) -> None:
        """The ids (keys of the state) that the replay window up to height `blocks` guards; the header of the
        state's height when it is among them."""
        status = self.now
        found = msgspec.structs.replace(
            status,
            blocks=blocks,
            parent=parent,
            header=header or status.header,
            certificate=certificate or status.certificate,
        )
        self._write({b"s" + key: b"" for key in seen}, found)

    def finish(self, epochs: Mapping[int, EpochProof]) -> Tip:
        """All is here: write the tip. From then on this is a chain's store that holds blocks from the next
        height on. Raises LocalError when it is not the state that was wanted."""
        status = self.now
        if self._todo or not status.header:
            raise LocalError(f"the state of height {status.height} is not complete")
        found = tree.root_of(lambda path: self._kv.get(b"n" + path))
        if found != status.root:
            raise LocalError(f"the state that was fetched has root {found.hex()}, not {status.root.hex()}")
        header = decode(Header, status.header)
        hash_ = header_hash(status.header)
        tip = Tip(status.height, hash_, header.view, header.time_ms, status.root, header.state_height)
        height = be(status.height)
        puts = {b"b" + height: status.header, b"h" + hash_: height, b"R" + height: status.root}
        puts |= {epoch_key(epoch): encode(proof) for epoch, proof in epochs.items()}
        if status.certificate:
            puts[b"c" + height] = status.certificate
        puts[FIRST_KEY] = be(status.height + 1)
        puts[TIP_KEY] = encode(tip)
        self._kv.write(puts, [_STATUS_KEY], sync=True)
        self.status = None
        return tip

    def _write(self, puts: dict[bytes, bytes], status: Status) -> None:
        self.status = msgspec.structs.replace(status, todo=tuple(map(tree.path_of, self.todo)))
        puts[_STATUS_KEY] = encode(self.status)
        self._kv.write(puts, (), sync=True)


def wanted_height(kv: Kv) -> int | None:
    """The height whose state is being fetched into a store; None when nothing is that could go on."""
    found = kv.get(_STATUS_KEY)
    return None if found is None else decode(Status, found).height


def _index(path: bytes) -> int:
    return int.from_bytes(path, "big")
