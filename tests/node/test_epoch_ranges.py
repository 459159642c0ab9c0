"""What a peer takes from others around an epoch's end, and what it says of its own store afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from ledger.blocks import decode_header
from ledger.codec import encode
from ledger.errors import LocalError, Refused
from ledger.proofs.certificate import Ed25519Scheme, VoteKind
from ledger.proofs.light import Trust
from ledger.records import KEY_NEXT_VALIDATORS
from ledger.storage.epoch_log import epoch_key
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from ledger.storage.stored import StoredBlock
from node.inspection import check_blocks, check_epochs
from node.notary import Notary
from node.sync.follower import Follower
from node.sync.ranges import answer_range, decode_range
from node.sync.sync_plan import Ask
from node.wire import RangeRequest
from tests.ledger.chain_fixture import ChainWorld, certify, enough, member
from tests.ledger.world import CHAIN_ID
from tests.node.scripted_network import ScriptedNetwork

SEVEN = tuple(member(n) for n in range(7))


@pytest.fixture
def world() -> ChainWorld:
    """Two ended epochs, the first with a tail of two."""
    made = ChainWorld()
    made.turn(SEVEN, 2)
    made.turn(tuple(member(n) for n in range(3, 8)))
    for _ in range(2):
        made.run()
    return made


@pytest.fixture
def copy(world: ChainWorld) -> Notary:
    """A peer that begins."""
    return Notary.open(world.genesis, Store.memory(CHAIN_ID), Ed25519Scheme())


def held(world: ChainWorld, first: int = 1) -> tuple[StoredBlock, ...]:
    """What a peer answers, over the wire's bytes."""
    return decode_range(answer_range(world.store, encode(RangeRequest(first, 1 << 20, 0))))


def take(copy: Notary, blocks: tuple[StoredBlock, ...]) -> int:
    """Commit what a range proves. Returns how many blocks."""
    proved = copy.check_range(blocks, copy.store.tip)
    for block, found in zip(blocks, proved, strict=False):
        copy.commit(found.header, found.certificate, block.batches, {}, found.path)
    return len(proved)


def refusal(copy: Notary, blocks: tuple[StoredBlock, ...]) -> str:
    with pytest.raises(Refused) as refused:
        copy.check_range(blocks, copy.store.tip)
    return refused.value.rule


def test_a_range_stops_at_an_epochs_end_and_goes_on_behind_it(world: ChainWorld, copy: Notary) -> None:
    blocks, first_end = held(world), decode_header(world.store.epochs.proofs(0, 1)[0].finality.header)
    assert len(blocks) == world.store.tip.height
    assert take(copy, blocks) == first_end.height
    assert (copy.validators.epoch, copy.validators.members) == (1, SEVEN)
    assert copy.tip_header() == first_end
    rounds = 1
    while copy.store.tip.height < world.store.tip.height:
        take(copy, held(world, copy.store.tip.height + 1))
        rounds += 1
    assert (rounds, copy.store.tip) == (3, world.store.tip)
    assert copy.store.epochs.proofs(0, 9) == world.store.epochs.proofs(0, 9)
    assert held(world) == decode_range(answer_range(copy.store, encode(RangeRequest(1, 1 << 20, 0))))


def test_a_range_is_judged_by_the_set_at_its_own_tip(world: ChainWorld, copy: Notary) -> None:
    blocks, begin = held(world), copy.store.tip
    before = copy.check_range(blocks, begin)
    take(copy, blocks)
    assert copy.check_range(blocks, begin) == before, "consensus was faster than the thread that checks"


def test_a_block_of_the_tail_is_never_the_next_one(world: ChainWorld, copy: Notary) -> None:
    blocks = held(world)
    end = take(copy, blocks)
    tail = blocks[end - 1].path
    members = world.genesis.validator_set
    for count in (1, 2):
        header = decode_header(tail[count - 1])
        final = certify(VoteKind.FINAL, header, enough(members), CHAIN_ID, members)
        forged = tuple(StoredBlock(data, (), b"") for data in tail[: count - 1])
        assert refusal(copy, (*forged, StoredBlock(header.encode(), (), encode(final)))) == "range.foreign"


def test_what_makes_a_boundary_final_is_checked(world: ChainWorld, copy: Notary) -> None:
    blocks = held(world)
    place = next(n for n, block in enumerate(blocks) if block.path)
    end, plain = blocks[place], blocks[place - 1]

    def with_(block: StoredBlock, at: int = place) -> tuple[StoredBlock, ...]:
        return (*blocks[:at], block, *blocks[at + 1 :])

    assert refusal(copy, with_(replace(end, certificate=b""))) == "certificate.malformed"
    assert refusal(copy, with_(replace(end, path=end.path[:1]))) == "light.other_block"
    assert refusal(copy, with_(replace(end, path=end.path[1:]))) == "light.broken_path"
    assert refusal(copy, with_(replace(end, path=()))) == "range.certificate"
    assert refusal(copy, with_(replace(end, path=(), certificate=b""))) == "range.certificate"
    assert refusal(copy, with_(replace(plain, path=end.path), place - 1)) == "range.path"
    assert copy.store.tip.height == 0


def test_the_old_set_signs_nothing_of_the_next_epoch(world: ChainWorld, copy: Notary) -> None:
    end = take(copy, held(world))
    block = held(world, end + 1)[0]
    header = decode_header(block.header)
    old = world.genesis.validator_set
    forged = certify(VoteKind.FINAL, header, enough(old), CHAIN_ID, old)
    assert refusal(copy, (replace(block, certificate=encode(forged)),)).startswith("certificate.")


def test_a_boundary_with_another_set_than_is_pending_stops_the_peer(world: ChainWorld, copy: Notary) -> None:
    blocks = held(world)
    proved = copy.check_range(blocks, copy.store.tip)
    for block, found in zip(blocks, proved[:-1], strict=False):
        copy.commit(found.header, found.certificate, block.batches, {}, found.path)
    last, tip = proved[-1], copy.store.tip
    assert copy.store.state.get(KEY_NEXT_VALIDATORS) is not None
    wrong = replace(last.header, next_validators=bytes(32))
    with pytest.raises(LocalError):
        copy.commit(wrong, last.certificate, blocks[len(proved) - 1].batches, {}, ())
    assert (copy.store.tip, copy.validators.epoch) == (tip, 0), "nothing half done"


def test_sets_are_known_again_after_a_restart(world: ChainWorld) -> None:
    again = Notary.open(world.genesis, world.store, Ed25519Scheme())
    assert again.validators == world.validators
    assert again.validators_of(1).members == SEVEN
    with pytest.raises(Refused):
        again.validators_of(3)


def test_inspection_walks_the_epochs_and_tells_damage() -> None:
    kv = MemoryKv()
    world = ChainWorld(Store(kv, CHAIN_ID))
    world.turn(SEVEN, 1)
    world.turn(tuple(member(n) for n in range(3, 8)))
    world.run()
    trust = Trust.of(world.genesis)
    assert list(check_epochs(world.store, trust)) == []
    assert list(check_blocks(world.store, world.genesis, trust, 1)) == []
    proof = world.store.epochs.proof(1)
    assert proof is not None
    forged = replace(proof, finality=replace(proof.finality, certificate=b""))
    kv.write({epoch_key(1): encode(forged)})
    found = list(check_epochs(world.store, Trust.of(world.genesis)))
    assert len(found) == 1 and "the end of epoch 1: certificate.malformed" in found[0]
    kv.write({}, [epoch_key(1)])
    found = list(check_epochs(world.store, Trust.of(world.genesis)))
    assert found == ["the state's validator set is not that of epoch 1"]


def test_a_peer_with_damaged_epochs_does_not_open(tmp_path: Path) -> None:
    kv = MemoryKv()
    world = ChainWorld(Store(kv, CHAIN_ID))
    world.turn(SEVEN)
    proof = world.store.epochs.proof(0)
    assert proof is not None
    kv.write({epoch_key(0): encode(replace(proof, next_set=proof.next_set[:-1] + b"x"))})
    with pytest.raises(LocalError, match="epoch 0 ended"):
        Notary.open(world.genesis, Store(kv, CHAIN_ID), Ed25519Scheme())


@pytest.mark.parametrize("ahead", [0, 1, 2])
async def test_blocks_of_the_next_epoch_that_consensus_brought_first_are_no_lie(
    world: ChainWorld, copy: Notary, ahead: int
) -> None:
    """Regression: what waited unproved was held against a tip in its midst, and its honest peer penalised."""
    network = ScriptedNetwork()
    found = Follower(copy, network, True, lambda header, certificate: None, {})
    blocks = held(world)
    piece = found._prove(Ask(1, "honest", 1, len(blocks), 0.0), blocks)
    take(copy, blocks)  # the first epoch, by consensus
    for _ in range(ahead):
        take(copy, held(world, copy.store.tip.height + 1)[:1])
    assert copy.validators.epoch == 1
    found._pieces[1] = piece
    async with trio.open_nursery() as nursery:
        await found._use(nursery, 1)
    assert (network.penalties, found.lies) == ([], 0)
    assert copy.store.tip == world.store.tip
