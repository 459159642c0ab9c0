"""The genesis file: the one thing that every peer must share beforehand, and the state it makes.

The genesis block has height 0, the hash `Genesis.hash` and no header; block 1 names that hash as its parent.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from ledger import keys
from ledger.codec import encode
from ledger.errors import Refused
from ledger.limits import ACCOUNTS_GENESIS_MAX, AMOUNT_MAX, GENESIS_BYTES_MAX, LIMITS_VERSION, NAME_CHARS_MAX
from ledger.proofs.certificate import Validator, ValidatorSet
from ledger.records import KEY_SUPPLY, KEY_VALIDATORS, Account, Supply, key_account

_CHAIN_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MINUTE_MS: Final = 60_000


class GenesisValidator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`key`: a validator's public key in hex."""

    key: str
    weight: int
    moniker: str


class ConsensusParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Timers that all validators share (design section 6, rules 8 and 13).

    A view times out after view_timeout_ms, times (100 + alpha_percent) % per view since the last
    finalization, at most view_timeout_max_ms. A leader with nothing to propose waits idle_ms.
    """

    view_timeout_ms: int = 1_500
    view_timeout_max_ms: int = 15_000
    alpha_percent: int = 20
    idle_ms: int = 1_000


class Genesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The decoded file. `accounts`: public key in hex to micro-credits."""

    chain_id: str
    time_ms: int
    validators: tuple[GenesisValidator, ...]
    accounts: dict[str, int]
    consensus: ConsensusParameters = ConsensusParameters()
    limits: int = LIMITS_VERSION  # which set of protocol limits this chain runs under

    def encode(self) -> bytes:
        """Canonical JSON: what is hashed. Layout and order in the file do not matter."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def hash(self) -> bytes:
        """32 bytes: names the chain, and is the hash of block 0."""
        return keys.hash_tagged("genesis/1", self.encode())

    @property
    def validator_set(self) -> ValidatorSet:
        """The voters of epoch 0, in the order of the file."""
        members = (Validator(bytes.fromhex(v.key), v.weight, v.moniker) for v in self.validators)
        return ValidatorSet(0, tuple(members))


def genesis_hash(genesis: Genesis) -> bytes:
    """32 bytes: names the chain, and is the hash of block 0."""
    return genesis.hash


def decode_genesis(data: bytes) -> Genesis:
    """The checked genesis of a file's bytes. Raises Refused("genesis.…") naming the field."""
    if len(data) > GENESIS_BYTES_MAX:
        raise Refused("genesis.too_long", f"{len(data)} bytes, at most {GENESIS_BYTES_MAX}")
    try:
        loaded = json.loads(data, object_pairs_hook=_no_duplicates)
        genesis = msgspec.convert(loaded, Genesis)
    except Refused:
        raise
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        raise Refused("genesis.malformed", str(error)) from None
    check_genesis(genesis)
    return genesis


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refused("genesis.duplicate_key", "appears twice", twice)
    return found


def check_genesis(genesis: Genesis) -> None:
    """Raises Refused("genesis.…") unless every field makes sense."""
    if not _CHAIN_ID.fullmatch(genesis.chain_id):
        raise Refused("genesis.chain_id", "1 to 32 of a-z, 0-9 and '-'", "chain_id")
    if not 0 < genesis.time_ms < 1 << 53:
        raise Refused("genesis.time", "milliseconds since 1970, above 0", "time_ms")
    if genesis.limits != LIMITS_VERSION:
        raise Refused("genesis.limits", f"version {LIMITS_VERSION} is what this program knows", "limits")
    for index, validator in enumerate(genesis.validators):
        field = f"validators[{index}]"
        keys.public_key_from_hex(validator.key, f"{field}.key")
        if not 1 <= validator.weight <= 1 << 32:
            raise Refused("genesis.validator", "a weight of 1 to 2^32", f"{field}.weight")
        if not 1 <= len(validator.moniker) <= NAME_CHARS_MAX:
            raise Refused("genesis.validator", f"1 to {NAME_CHARS_MAX} characters", f"{field}.moniker")
    genesis.validator_set.check()
    if len(genesis.accounts) > ACCOUNTS_GENESIS_MAX:
        raise Refused("genesis.accounts", f"at most {ACCOUNTS_GENESIS_MAX}", "accounts")
    for account, balance in genesis.accounts.items():
        keys.public_key_from_hex(account, f"accounts.{account[:70]}")
        if not 0 <= balance <= AMOUNT_MAX:
            raise Refused("genesis.balance", f"0 to {AMOUNT_MAX}", f"accounts.{account}")
    if sum(genesis.accounts.values()) > AMOUNT_MAX:
        raise Refused("genesis.supply", f"all balances together exceed {AMOUNT_MAX}", "accounts")
    _check_consensus(genesis.consensus)


def _check_consensus(parameters: ConsensusParameters) -> None:
    bounds = {
        "view_timeout_ms": (10, _MINUTE_MS),
        "view_timeout_max_ms": (parameters.view_timeout_ms, 10 * _MINUTE_MS),
        "alpha_percent": (0, 100),
        "idle_ms": (0, _MINUTE_MS),
    }
    for name, (low, high) in bounds.items():
        if not low <= getattr(parameters, name) <= high:
            raise Refused("genesis.consensus", f"{low} to {high}", f"consensus.{name}")


def genesis_state(genesis: Genesis) -> dict[bytes, bytes]:
    """The records of block 0, in byte order: accounts, supply, validators."""
    writes = {key_account(bytes.fromhex(k)): encode(Account(b)) for k, b in genesis.accounts.items()}
    writes[KEY_SUPPLY] = encode(Supply(sum(genesis.accounts.values())))
    writes[KEY_VALIDATORS] = encode(genesis.validator_set)
    return dict(sorted(writes.items()))
