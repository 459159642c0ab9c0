"""Sign state: promises come back, those of the chain's past go, a crash between loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.messages import Ready, Record
from ledger.blocks import Header, batch_digest
from ledger.errors import LocalError
from ledger.proofs.certificate import VoteKind
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from node.home import Home
from node.limits import CERTIFICATES_RIDING_MAX
from node.run import open_sign_state
from node.voting.safety_store import SafetyStore
from tests.node.final_chain import batch_of, certificate, new_notary, next_header, transfer_tx
from tests.node.network_fixture import key

BATCH = batch_of(transfer_tx(1))
NOTARY = new_notary()
GENESIS = NOTARY.genesis


def header(view: int, *batches: bytes) -> Header:
    return next_header(NOTARY, batches, view=view, parent_view=0)


def notar(block: Header) -> Ready:
    return Ready(records=[Record(VoteKind.NOTAR, block.view, block.hash, block.encode())])


def test_votes_certificates_and_batches_come_back() -> None:
    store, block = SafetyStore(MemoryKv()), header(3, BATCH)
    ready = notar(block)
    ready.records.append(Record(VoteKind.SKIP, 4, bytes(32), b""))
    ready.certificates.append(certificate(block))
    store.persist(ready, {batch_digest(BATCH): BATCH}.get)
    state, batches = store.load(0, 0)
    assert (state.notar, state.skip) == ({3: block.hash}, {4})
    assert state.headers == {block.hash: block}
    assert state.certificates == [certificate(block)]
    assert batches == {batch_digest(BATCH): BATCH}


def test_votes_of_two_epochs_in_one_view_stand_apart() -> None:
    """Where two epochs meet, views overlap; each epoch's votes come back in that epoch alone."""
    kv = MemoryKv()
    store, old = SafetyStore(kv), header(7)
    new = next_header(NOTARY, (), view=7, parent_view=0, epoch=1)
    store.persist(notar(old), lambda _: None)
    ready = Ready(records=[Record(VoteKind.NOTAR, 7, new.hash, new.encode(), 1)])
    ready.certificates.append(certificate(old))
    store.persist(ready, lambda _: None)
    assert store.load(0, 6)[0].notar == {7: old.hash}
    assert store.load(1, 6)[0].notar == {7: new.hash}
    assert (len(store.load(0, 6)[0].certificates), store.load(1, 6)[0].certificates) == (1, [])
    assert store.highest() == {VoteKind.NOTAR: 7}
    store.prune(7)
    assert store.load(0, 6)[0].notar == store.load(1, 6)[0].notar == {}
    assert [k for k, _ in kv.scan(b"") if not k.startswith(b"f/")] == []


def test_a_crash_between_commit_and_prune_brings_back_only_what_is_above_the_tip() -> None:
    store = SafetyStore(MemoryKv())
    for view in (1, 2, 3):
        store.persist(notar(header(view)), lambda _: None)
    state, _ = store.load(0, 2)  # block of view 2 is committed, nothing was pruned
    assert state.notar.keys() == {3}
    assert store.floor == 0


def test_a_batch_is_kept_while_a_vote_above_names_it() -> None:
    kv = MemoryKv()
    store = SafetyStore(kv)
    for view in (1, 2):
        store.persist(notar(header(view, BATCH)), {batch_digest(BATCH): BATCH}.get)
    store.prune(1)
    assert store.load(0, 1)[1] == {batch_digest(BATCH): BATCH}
    store.prune(2)
    assert [k for k, _ in kv.scan(b"") if not k.startswith(b"f/")] == []


def test_the_floor_is_the_highest_view_whose_votes_were_forgotten() -> None:
    store = SafetyStore(MemoryKv())
    for view in (1, 5, 9):
        store.persist(notar(header(view)), lambda _: None)
    store.prune(5)
    assert store.floor == 5
    store.persist(Ready(certificates=[certificate(header(2))]), lambda _: None)
    store.prune(2)  # an older copy of the chain is being fetched again
    assert store.floor == 5
    store.prune(9)
    assert store.floor == 9


def store_at(height: int) -> Store:
    notary = new_notary()
    for _ in range(height):
        made = next_header(notary, ())
        notary.commit(made, certificate(made), (), {})
    return notary.store


def test_a_validator_without_its_memory_refuses_to_start(tmp_path: Path) -> None:
    home, validator = Home(tmp_path), key("validator0").public
    home.create()
    open_sign_state(home, store_at(0), GENESIS, validator).close()
    open_sign_state(home, store_at(0), GENESIS, validator).close()  # again: it is there
    home.data_dir.rename(tmp_path / "moved")  # "move the data away and start again"
    home.data_dir.mkdir()
    with pytest.raises(LocalError, match="sign state of this validator key is gone"):
        open_sign_state(home, store_at(0), GENESIS, validator)
    (tmp_path / "moved" / "sign_state").rename(home.data_dir / "sign_state")
    open_sign_state(home, store_at(0), GENESIS, validator).close()


def test_a_chain_with_blocks_and_no_memory_is_refused_even_by_a_new_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    with pytest.raises(LocalError, match="is gone"):
        open_sign_state(home, store_at(2), GENESIS, key("validator0").public)


def test_a_follower_whose_key_never_had_a_seat_may_prepare_to_join(tmp_path: Path) -> None:
    """It has a chain with blocks; its memory is made now, and must be there from then on."""
    home, joiner = Home(tmp_path), key("validator9").public
    home.create()
    open_sign_state(home, store_at(2), GENESIS, joiner).close()
    (home.data_dir / "sign_state").rename(tmp_path / "moved")
    with pytest.raises(LocalError, match="is gone"):
        open_sign_state(home, store_at(2), GENESIS, joiner)


def test_two_processes_with_one_home_are_refused(tmp_path: Path) -> None:
    home, validator = Home(tmp_path), key("validator0").public
    home.create()
    held = open_sign_state(home, store_at(0), GENESIS, validator)
    with pytest.raises(LocalError, match="in use"):
        open_sign_state(home, store_at(0), GENESIS, validator)
    held.close()


def test_another_keys_memory_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    open_sign_state(home, store_at(0), GENESIS, key("validator0").public).close()
    with pytest.raises(LocalError, match="belongs to"):
        open_sign_state(home, store_at(0), GENESIS, key("validator1").public)


class CountingKv(MemoryKv):
    """Counts writes, and of these the synced ones."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = self.synced = 0

    def write(self, puts, deletes=(), sync=True):  # type: ignore[no-untyped-def]
        self.writes, self.synced = self.writes + 1, self.synced + sync
        super().write(puts, deletes, sync)


def test_certificates_ride_with_the_next_vote_and_cost_no_write() -> None:
    kv = CountingKv()
    store, block = SafetyStore(kv), header(3)
    store.persist(Ready(certificates=[certificate(block)]), lambda _: None)
    assert (kv.writes, store.load(0, 0)[0].certificates) == (0, [])
    store.persist(notar(block), lambda _: None)
    assert (kv.writes, kv.synced) == (1, 1)
    assert store.load(0, 0)[0].certificates == [certificate(block)]


def test_certificates_that_wait_are_bounded_and_pruned() -> None:
    kv = CountingKv()
    store = SafetyStore(kv)
    for view in range(1, CERTIFICATES_RIDING_MAX + 1):
        store.persist(Ready(certificates=[certificate(header(view))]), lambda _: None)
    assert (kv.writes, len(store.riding)) == (0, CERTIFICATES_RIDING_MAX)
    store.prune(CERTIFICATES_RIDING_MAX - 1)
    assert len(store.riding) == 1
    for view in range(1, CERTIFICATES_RIDING_MAX + 2):
        store.persist(Ready(certificates=[certificate(header(view))]), lambda _: None)
    assert (kv.writes, kv.synced, len(store.riding)) == (1, 0, 0)
