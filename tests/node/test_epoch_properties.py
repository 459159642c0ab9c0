"""Random lives of a validator set: changes good and bad, evidence, boundaries with and without tails.

After each block: the set in force is the one that a plain model says; what is pending follows from accepted
changes alone; and, at the end, a stranger with genesis, a peer that fetches the blocks and the reopened store
all come to the same set.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger import epochs
from ledger.blocks import decode_header
from ledger.proofs.certificate import Ed25519Scheme, Validator
from ledger.proofs.light import Trust, check_query
from ledger.records import KEY_VALIDATORS
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from ledger.transactions import ReportEvidence
from node.notary import Notary
from tests.ledger.chain_fixture import KEY_OF, MORE_KEYS, ChainWorld, member
from tests.ledger.test_evidence import NOTAR, A, B, vote, votes
from tests.ledger.world import CHAIN_ID, STRANGER

MEMBERS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=7, unique_by=lambda pair: pair[0]
)


class Sets(RuleBasedStateMachine):
    @initialize(lag=st.integers(0, 4))
    def begin(self, lag: int) -> None:
        self.kv = MemoryKv()
        self.world = ChainWorld(Store(self.kv, CHAIN_ID))
        self.world.chain.lag = lag
        self.model = [self.world.validators.members]  # by epoch
        self.waits: tuple[Validator, ...] | None = None
        self.suspended: set[bytes] = set()

    def note(self) -> None:
        """Follow the last block: did it end the epoch?"""
        data = self.world.store.header(self.world.store.tip.height)
        assert data is not None
        if epochs.is_ending(decode_header(data)):
            assert self.waits is not None, "an epoch ended, and no change was pending"
            self.model.append(self.waits)
            self.waits = None

    @rule(members=MEMBERS, signers=st.sets(st.integers(0, 8)), enough=st.booleans())
    def change(self, members: list[tuple[int, int]], signers: set[int], enough: bool) -> None:
        now = self.world.validators
        following = tuple(member(number, weight) for number, weight in members)
        by = None if enough else sorted(n for n in signers if n < len(now.members))
        body = self.world.change(following, by)
        free = self.waits is None
        quorum = by is None or now.reached(by)
        clean = not any(v.key in self.suspended for v in following)
        wanted = free and quorum and clean and following != now.members
        (receipt,) = self.world.run(self.world.tx(STRANGER, body)).receipts
        assert receipt.ok == wanted, receipt
        if wanted:
            self.waits = following
        else:
            assert receipt.rule in {
                "change.pending",
                "change.no_quorum",
                "change.suspended",
                "change.same",
            }
        self.note()

    @rule(number=st.integers(0, 9), back=st.integers(0, 2))
    def equivocate(self, number: int, back: int) -> None:
        epoch = max(0, self.world.validators.epoch - back)
        key = MORE_KEYS[number]
        two = votes(vote(NOTAR, A, key, epoch=epoch), vote(NOTAR, B, key, epoch=epoch), key)
        (receipt,) = self.world.run(self.world.tx(STRANGER, ReportEvidence(two))).receipts
        was_in = any(v.key == key.public for v in self.model[epoch])
        assert receipt.ok == (was_in and key.public not in self.suspended), receipt
        if receipt.ok:
            self.suspended.add(key.public)
        self.note()

    @rule(tail=st.integers(0, 3), blocks=st.integers(1, 4))
    def grow(self, tail: int, blocks: int) -> None:
        self.world.chain.tail = tail
        for _ in range(blocks):
            self.world.run()
            self.note()

    @invariant()
    def the_set_in_force_is_the_models(self) -> None:
        now = epochs.current(self.world.state)
        assert (now.epoch, now.members) == (len(self.model) - 1, self.model[-1])
        waiting = epochs.pending(self.world.state)
        assert (None if waiting is None else waiting.members) == self.waits
        assert all(v.key in KEY_OF for v in now.members)

    def teardown(self) -> None:
        world = self.world
        trust = Trust.of(world.genesis)
        for proof in world.store.epochs.proofs(0, 1_000):
            trust.advance(proof)
        assert [s.members for s in trust.sets] == self.model
        if world.store.tip.height:
            assert check_query(trust, world.store.prove(KEY_VALIDATORS)).value is not None
        copy = Notary.open(world.genesis, Store.memory(CHAIN_ID), Ed25519Scheme())
        while copy.store.tip.height < world.store.tip.height:
            blocks = world.store.blocks(copy.store.tip.height + 1, 1 << 20)
            for block, found in zip(blocks, copy.check_range(blocks, copy.store.tip), strict=False):
                copy.commit(found.header, found.certificate, block.batches, {}, found.path)
        assert copy.store.tip == world.store.tip
        assert copy.validators == copy.validators_of(len(self.model) - 1) == world.validators
        world.store.close()
        again = Notary.open(world.genesis, Store(self.kv, CHAIN_ID), Ed25519Scheme())
        assert again.trust.sets == trust.sets


TestSets = Sets.TestCase
TestSets.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
