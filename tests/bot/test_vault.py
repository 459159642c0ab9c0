"""The bot's memory: sealed to its owner, bound to chain, name and version, merged without loss."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bot.errors import VaultError
from bot.memory import Intent, Memory, Watch, at_rest, merged
from bot.vault import NAME, Vault
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import VAULT_RECORD_BYTES_MAX
from ledger.records import VaultRecord, key_vault
from ledger.state import MemoryState, write

OWNER, OTHER = Key(b"o" * 32), Key(b"x" * 32)
MEMORY = Memory(
    (Intent(b"i" * 32, "site", 900, b"payload"),),
    (Watch(b"d" * 32, "site", "active", "2 of 2 running", 5, ("term_ends",), "enough"),),
)


def sealed(version: int = 3, memory: Memory = MEMORY) -> VaultRecord:
    return VaultRecord(version, Vault(OWNER, "chain").seal(memory, version))


def test_the_owner_opens_what_it_sealed_from_the_state_alone() -> None:
    state = MemoryState()
    vault = Vault(OWNER, "chain")
    assert vault.load(state) == (0, Memory())
    assert vault.version(state) == 0
    write(state, key_vault(OWNER.public, NAME), sealed())
    assert Vault(OWNER, "chain").load(state) == (3, MEMORY)


def test_nothing_of_it_can_be_read_and_no_two_seals_are_alike() -> None:
    record = sealed()
    for word in (b"site", b"running", b"payload", b"d" * 32, b"enough"):
        assert word not in record.ciphertext
    assert sealed().ciphertext != record.ciphertext


@given(st.data())
def test_any_changed_byte_is_seen(data: st.DataObject) -> None:
    record = sealed()
    at = data.draw(st.integers(0, len(record.ciphertext) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(record.ciphertext)
    changed[at] ^= flip
    with pytest.raises(VaultError, match="does not open"):
        Vault(OWNER, "chain").open(VaultRecord(3, bytes(changed)))


@pytest.mark.parametrize("size", [0, 1, 23, 24, 39, 40])
def test_short_records_are_refused(size: int) -> None:
    with pytest.raises(VaultError, match="does not open"):
        Vault(OWNER, "chain").open(VaultRecord(1, bytes(size)))


def test_another_owner_chain_or_version_is_refused() -> None:
    with pytest.raises(VaultError, match="sealed by another key"):
        Vault(OTHER, "chain").open(sealed())
    with pytest.raises(VaultError, match="is of chain 'chain'"):
        Vault(OWNER, "fork").open(sealed())
    with pytest.raises(VaultError, match="version 3; wanted"):
        Vault(OWNER, "chain").open(VaultRecord(4, sealed().ciphertext))


def test_a_memory_that_does_not_fit_is_refused_before_it_is_sent() -> None:
    big = Memory((Intent(b"i" * 32, "site", 900, bytes(VAULT_RECORD_BYTES_MAX)),))
    with pytest.raises(Refused, match=r"bot\.memory_full"):
        Vault(OWNER, "chain").seal(big, 1)
    fits = replace(big.intents[0], payload=bytes(VAULT_RECORD_BYTES_MAX - 1_000))
    assert len(Vault(OWNER, "chain").seal(Memory((fits,)), 1)) <= VAULT_RECORD_BYTES_MAX


def test_secrets_of_one_key_differ_by_use() -> None:
    assert OWNER.derive("bot-vault/1") != OWNER.derive("bot-vault/2")
    assert OWNER.derive("bot-vault/1") == Key(b"o" * 32).derive("bot-vault/1")
    assert OWNER.derive("bot-vault/1") != OTHER.derive("bot-vault/1")


def test_merging_keeps_what_either_has_and_every_wish_to_cancel() -> None:
    mine = Memory((), (replace(MEMORY.watches[0], cancel=None, doing="newer"),))
    both = merged(mine, MEMORY)
    assert both.intents == MEMORY.intents
    assert both.watches == (replace(MEMORY.watches[0], doing="newer"),)
    assert merged(Memory(), MEMORY) == MEMORY == merged(MEMORY, Memory()) == merged(MEMORY, MEMORY)


def test_two_who_tell_the_same_agree_on_when() -> None:
    """Whichever of the two merges: else each would write its own time over the other's, for ever."""
    early = Watch(bytes(32), "site", "active", "1 of 1 running", 100)
    late = replace(early, since_ms=200)
    one, two = Memory(watches=(early,)), Memory(watches=(late,))
    assert merged(one, two) == merged(two, one) == one
    newer = Memory(watches=(replace(late, doing="stopped"),))
    assert merged(newer, one) == newer, "what has changed since is told from now on"


def test_at_rest_another_process_asks_again() -> None:
    busy = Memory(
        (replace(MEMORY.intents[0], sent=True),), (replace(MEMORY.watches[0], asked_until=9, tries=2),)
    )
    assert at_rest(busy) == MEMORY
