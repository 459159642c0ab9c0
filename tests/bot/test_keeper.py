"""Memory and record: what another bot of the owner wrote is taken in, and what is not saved yet is kept."""

from __future__ import annotations

from typing import Any, cast

from bot.keeper import Keeper
from bot.memory import Intent, Memory, Watch
from bot.vault import NAME, Vault
from bot.wallet import Wallet
from ledger.keys import Key
from ledger.machine import Context, apply
from ledger.outcome import Receipt
from ledger.records import VaultRecord, key_vault
from ledger.state import MemoryState, read
from ledger.transactions import PutVault, decode_tx, sign_tx, verified
from node.seam import NotFinal, Overloaded, PeerSeam, TxOutcome

OWNER = Key(b"o" * 32)
INTENT = Intent(b"i" * 32, "site", 900, b"payload")
WATCH = Watch(b"d" * 32, "site", "active", "2 of 2 running", 5)


class OnePeer:
    """As much of a peer as a wallet uses: what is submitted is final at once, by the real machine."""

    chain_id = "chain"
    height = 1

    def __init__(self, faults: list[Exception] | None = None) -> None:
        self.state = MemoryState()
        self.faults = faults or []
        self.receipts: dict[bytes, Receipt] = {}

    async def submit(self, raw: bytes, source: str = "") -> bytes:
        if self.faults:
            raise self.faults.pop(0)
        tx = verified(decode_tx(raw, self.chain_id))
        self.receipts[tx.id] = apply(self.state, tx, Context(self.chain_id, self.height, 1_000, bytes(32)))
        return tx.id

    async def wait_final(self, tx: bytes, timeout_s: float) -> TxOutcome:
        return TxOutcome(self.height, 0, 1_000, self.receipts[tx])

    async def put(self, version: int, memory: Memory) -> None:
        """What another bot of the owner does."""
        body = PutVault(NAME, version, Vault(OWNER, "chain").seal(memory, version))
        wallet = Wallet(cast(PeerSeam, self), OWNER)
        await self.submit(sign_tx(OWNER, wallet.make(body, 10)))

    def record(self) -> VaultRecord:
        found = read(self.state, VaultRecord, key_vault(OWNER.public, NAME))
        assert found is not None
        return found


def keeper(peer: OnePeer) -> Keeper:
    seam = cast(PeerSeam, peer)
    return Keeper(seam, Wallet(seam, OWNER), Vault(OWNER, "chain"))


async def test_what_is_not_saved_yet_survives_what_another_bot_wrote() -> None:
    peer = OnePeer()
    mine = keeper(peer)
    mine.memory = Memory((INTENT,))
    await peer.put(1, Memory((), (WATCH,)))
    await mine.save()
    both = Memory((INTENT,), (WATCH,))
    assert (mine.version, mine.memory) == (2, both)
    assert keeper(peer).vault.open(peer.record()) == both


async def test_nothing_is_written_twice() -> None:
    peer = OnePeer()
    mine = keeper(peer)
    await mine.save()
    assert peer.receipts == {}  # an empty memory needs no record
    mine.memory = Memory((), (WATCH,))
    await mine.save()
    await mine.save()
    assert peer.record().version == 1
    other = keeper(peer)
    await other.save()
    assert (other.memory, other.version, peer.record().version) == (mine.memory, 1, 1)


async def test_a_version_that_another_bot_takes_meanwhile_is_merged_and_tried_again() -> None:
    peer = OnePeer()
    mine = keeper(peer)
    mine.memory = Memory((INTENT,))
    submit = peer.submit

    async def raced(raw: bytes) -> bytes:
        peer.submit = submit  # type: ignore[method-assign]
        await peer.put(1, Memory((), (WATCH,)))
        return await submit(raw)

    peer.submit = raced  # type: ignore[method-assign]
    await mine.save()
    assert [receipt.rule for receipt in peer.receipts.values()] == ["", "vault.version", ""]
    assert mine.vault.open(peer.record()) == Memory((INTENT,), (WATCH,))


async def test_overload_is_retried_and_any_other_failure_is_left_for_the_next_save() -> None:
    peer = OnePeer([Overloaded(0.001), Overloaded(0.001)])
    mine = keeper(peer)
    mine.memory = Memory((INTENT,))
    await mine.save()
    assert peer.record().version == 1
    mine.memory = Memory((), (WATCH,))
    failures: list[Any] = [NotFinal("late"), *(Overloaded(0.0) for _ in range(5))]
    for failure in failures[:1], failures[1:]:
        peer.faults = list(failure)
        await mine.save()
        assert peer.record().version == 1
    await mine.save()
    assert mine.vault.open(peer.record()) == Memory((), (WATCH,))
