"""What a Byzantine member sends: changed bytes, batches that it names and withholds, forged certificates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from consensus.messages import Certified, Propose, decode_message, encode_message
from ledger.proofs.certificate import Certificate, Statement, VoteKind

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

CHANGED: Final = 0.03  # of its messages get a byte changed
WITHHELD: Final = 0.7  # of its batches go to nobody, or to some only, when it is one that withholds
FORGED: Final = 0.05  # of its messages are followed by, or carry, a certificate that proves nothing
FORGERIES: Final = ("signatures", "few", "statement", "bitmap", "epoch")


class Foul:
    """Of one world. Everything is counted in `World.result.faults`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def sent(self, node: SimNode, to: int | None, data: bytes) -> Iterator[tuple[int, bytes]]:
        """What reaches whom of bytes that a Byzantine member sends to one, or to all others."""
        members = range(len(self.world.instances)) if to is None else (to,)
        others = [member for member in members if member != node.member]
        lie = self.world.scenario.lie
        if data[:1] == b"B":
            others = self._withheld(others) if lie == "withhold" else others
        elif data[:1] != b"R":
            data = self._changed(data)
            if lie == "forge" and self.world.rng.random() < FORGED:
                forged = self._forged(node, data)
                yield from ((member, forged) for member in others)
                return
        yield from ((member, data) for member in others)

    def _withheld(self, others: list[int]) -> list[int]:
        rng, faults = self.world.rng, self.world.result.faults
        if rng.random() >= WITHHELD:
            return others
        told = [member for member in others if rng.random() < 0.5] if rng.random() < 0.6 else []
        faults["withheld.some" if told else "withheld.all"] += 1
        return told

    def _changed(self, data: bytes) -> bytes:
        rng = self.world.rng
        if rng.random() >= CHANGED:
            return data
        self.world.result.faults["changed_bytes"] += 1
        at = rng.randrange(1, len(data))  # the first one says what kind of message it is
        return data[:at] + bytes([data[at] ^ rng.randint(1, 255)]) + data[at + 1 :]

    def _forged(self, node: SimNode, data: bytes) -> bytes:
        """A certificate made of a real one, alone or as the parent of the member's own proposal."""
        core = node.core
        held = [c for view in core.views.values() for c in (view.notar, view.skip, view.final) if c]
        real = self.world.rng.choice(held) if held else core.final
        if real is None:
            return data
        how = self.world.rng.choice(FORGERIES)
        self.world.result.faults[f"forged.{how}"] += 1
        forged = self._forge(real, how, core.frontier)
        try:
            message = decode_message("", data)
        except Exception:  # noqa: BLE001 - its bytes were changed before
            message = None
        if isinstance(message, Propose) and message.parent is not None:
            return encode_message(msgspec.structs.replace(message, parent=forged))
        return encode_message(Certified(forged))

    def _forge(self, real: Certificate, how: str, frontier: int) -> Certificate:
        rng, statement = self.world.rng, real.statement
        replace = msgspec.structs.replace
        # Of a view and block that no certificate is known of, or it would not be looked at.
        other = Statement(VoteKind.FINAL, statement.epoch, frontier + rng.randint(0, 3), rng.randbytes(32))
        size = len(self.world.instances)
        match how:
            case "signatures":  # of all members, and made up
                bits = (1 << size) - 1
                made_up = tuple(rng.randbytes(64) for _ in range(size))
                return Certificate(other, bits.to_bytes((size + 7) // 8, "little"), made_up)
            case "few":  # one real voter of another statement
                first = next(i for i in range(size) if real.bitmap[i // 8] >> (i % 8) & 1)
                bitmap = (1 << first).to_bytes((size + 7) // 8, "little")
                return Certificate(other, bitmap, real.signatures[:1])
            case "statement":  # real signatures, of something else
                return replace(real, statement=other)
            case "bitmap":  # more bits than signatures
                bits = (1 << size) - 1
                return Certificate(other, bits.to_bytes((size + 7) // 8, "little"), real.signatures[:1])
        return replace(real, statement=replace(other, epoch=statement.epoch + 1))
