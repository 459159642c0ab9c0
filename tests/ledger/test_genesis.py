"""The genesis file: strict, with the field in each error; its hash; the state it makes."""

import json
from typing import Any

import pytest

from ledger.codec import decode
from ledger.errors import Refused
from ledger.genesis import decode_genesis, genesis_hash, genesis_state
from ledger.limits import AMOUNT_MAX, GENESIS_BYTES_MAX
from ledger.proofs.certificate import ValidatorSet
from ledger.records import KEY_SUPPLY, KEY_VALIDATORS, Account, Supply, key_account
from tests.ledger.world import key_of

VALIDATOR = key_of("validator").public.hex()
PERSON = key_of("person").public.hex()


def file(**changes: Any) -> dict[str, Any]:
    return {
        "chain_id": "test-1",
        "time_ms": 1_800_000_000_000,
        "validators": [{"key": VALIDATOR, "weight": 3, "moniker": "v0"}],
        "accounts": {PERSON: 500, VALIDATOR: 7},
    } | changes


def load(**changes: Any) -> bytes:
    return json.dumps(file(**changes)).encode()


def test_state_of_genesis() -> None:
    genesis = decode_genesis(load())
    state = genesis_state(genesis)
    assert list(state) == sorted(state)
    assert decode(Account, state[key_account(bytes.fromhex(PERSON))]) == Account(500)
    assert decode(Supply, state[KEY_SUPPLY]).total == 507
    validators = decode(ValidatorSet, state[KEY_VALIDATORS])
    assert [(v.key.hex(), v.weight, v.moniker) for v in validators.members] == [(VALIDATOR, 3, "v0")]
    assert validators.epoch == 0
    assert len(state) == 4


def test_hash_is_of_the_values_not_of_the_layout() -> None:
    genesis = decode_genesis(load())
    spread = json.dumps(dict(reversed(file().items())), indent=3).encode()
    assert genesis_hash(decode_genesis(spread)) == genesis.hash
    assert decode_genesis(genesis.encode()) == genesis
    hashes = {
        decode_genesis(load(**change)).hash
        for change in (
            {},
            {"chain_id": "test-2"},
            {"time_ms": 1},
            {"accounts": {PERSON: 501, VALIDATOR: 7}},
            {"consensus": {"idle_ms": 5}},
        )
    }
    assert len(hashes) == 5


@pytest.mark.parametrize(
    ("changes", "rule", "field"),
    [
        ({"chain_id": "Test"}, "genesis.chain_id", "chain_id"),
        ({"chain_id": ""}, "genesis.chain_id", "chain_id"),
        ({"time_ms": 0}, "genesis.time", "time_ms"),
        ({"limits": 1}, "genesis.limits", "limits"),
        ({"validators": []}, "validators.count", ""),
        ({"validators": [{"key": "xx", "weight": 1, "moniker": "v"}]}, "key.malformed", "validators[0].key"),
        (
            {"validators": [{"key": VALIDATOR, "weight": 0, "moniker": "v"}]},
            "genesis.validator",
            "validators[0].weight",
        ),
        (
            {"validators": [{"key": VALIDATOR, "weight": 1, "moniker": ""}]},
            "genesis.validator",
            "validators[0].moniker",
        ),
        ({"validators": [{"key": VALIDATOR, "weight": 1, "moniker": "v"}] * 2}, "validators.duplicate", ""),
        ({"accounts": {PERSON: -1}}, "genesis.balance", f"accounts.{PERSON}"),
        ({"accounts": {PERSON.upper(): 1}}, "key.malformed", f"accounts.{PERSON.upper()}"),
        ({"accounts": {PERSON: AMOUNT_MAX, VALIDATOR: 1}}, "genesis.supply", "accounts"),
        ({"consensus": {"alpha_percent": 101}}, "genesis.consensus", "consensus.alpha_percent"),
        ({"consensus": {"view_timeout_max_ms": 100}}, "genesis.consensus", "consensus.view_timeout_max_ms"),
        ({"surplus": 1}, "genesis.malformed", ""),
        ({"time_ms": "1"}, "genesis.malformed", ""),
        ({"time_ms": 1.5}, "genesis.malformed", ""),
    ],
)
def test_bad_values_name_the_field(changes: dict[str, Any], rule: str, field: str) -> None:
    with pytest.raises(Refused) as caught:
        decode_genesis(load(**changes))
    assert (caught.value.rule, caught.value.field) == (rule, field)


def test_a_wrong_type_names_its_place() -> None:
    with pytest.raises(Refused, match=r"validators\[0\]\.weight|\$\.validators"):
        decode_genesis(load(validators=[{"key": VALIDATOR, "weight": "1", "moniker": "v"}]))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 5_000, b'{"chain_id": "a", "chain_id": "a"}']
)
def test_no_genesis_at_all(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        decode_genesis(data)
    assert caught.value.rule in ("genesis.malformed", "genesis.duplicate_key")


def test_too_long() -> None:
    with pytest.raises(Refused) as caught:
        decode_genesis(b" " * (GENESIS_BYTES_MAX + 1))
    assert caught.value.rule == "genesis.too_long"
