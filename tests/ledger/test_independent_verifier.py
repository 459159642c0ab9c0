"""`examples/verify_proof.py`, which shares no code with us, and our verifier agree on every file."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from msgspec.structs import replace

from ledger.codec import encode
from ledger.errors import Refused
from ledger.genesis import Genesis
from ledger.proofs.proof_file import make_proof_file, verify_proof_file
from ledger.records import KEY_SUPPLY, key_account
from tests.ledger.chain_fixture import ChainWorld, member
from tests.ledger.test_light_epochs import BAD_PROOFS, SETS, key_in
from tests.ledger.world import AUTHOR

FILE = Path(__file__).resolve().parents[2] / "examples" / "verify_proof.py"
ABSENT = [key_account(b"nobody %03d".ljust(32)[:28] + n.to_bytes(4, "big")) for n in range(12)]


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    """The program, loaded as a module."""
    spec = importlib.util.spec_from_file_location("verify_proof", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world() -> ChainWorld:
    """Four epochs; the first ended by a tail. Not to be changed."""
    made = ChainWorld()
    for number, members in enumerate(SETS):
        made.turn(members, 2 if number == 0 else 0)
    made.turn(tuple(member(n, 1 + n) for n in range(18)))
    for _ in range(3):
        made.run()
    return made


def file_of(world: ChainWorld, key: bytes) -> bytes:
    proofs, genesis = world.store.epochs.proofs(0, 100), world.genesis
    return make_proof_file(genesis.chain_id, genesis.hash, proofs, world.store.prove(key))


def both(theirs: ModuleType, genesis: Genesis, data: bytes) -> bool:
    """Is it proved? Both must say the same."""
    try:
        ours = verify_proof_file(data, genesis)
    except Refused:
        with pytest.raises(theirs.NotProved):
            theirs.verify(genesis.encode(), data)
        return False
    found = theirs.verify(genesis.encode(), data)
    assert (ours.key, ours.value) == (found["key"], found["value"])
    assert (ours.height, ours.time_ms) == (found["height"], found["time_ms"])
    return True


def test_what_is_so_is_proved_to_both(theirs: ModuleType, world: ChainWorld) -> None:
    for key in (KEY_SUPPLY, key_account(AUTHOR.public), b"validators", b"validators_next", *ABSENT):
        assert both(theirs, world.genesis, file_of(world, key))


@pytest.mark.parametrize("rule", BAD_PROOFS)
def test_a_false_way_is_refused_by_both(theirs: ModuleType, world: ChainWorld, rule: str) -> None:
    proofs = (BAD_PROOFS[rule](world), *world.store.epochs.proofs(1, 100))
    genesis = world.genesis
    data = make_proof_file(genesis.chain_id, genesis.hash, proofs, world.store.prove(KEY_SUPPLY))
    assert not both(theirs, genesis, data)


def test_no_bit_is_idle_for_either(theirs: ModuleType, world: ChainWorld) -> None:
    chance = random.Random(7)
    data = file_of(world, ABSENT[0])
    for _ in range(300):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        broken = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
        said = both(theirs, world.genesis, broken)
        assert not said or key_in(broken) != ABSENT[0], f"bit {bit} of byte {place}"
    for cut in range(0, len(data), 97):
        assert not both(theirs, world.genesis, data[:cut])


def test_lies_about_the_value_and_another_genesis(theirs: ModuleType, world: ChainWorld) -> None:
    genesis, query = world.genesis, world.store.prove(KEY_SUPPLY)
    proofs = world.store.epochs.proofs(0, 100)
    for wrong in (replace(query, value=None), replace(query, value=b"9"), replace(query, key=b"other")):
        assert not both(theirs, genesis, make_proof_file(genesis.chain_id, genesis.hash, proofs, wrong))
    data = file_of(world, KEY_SUPPLY)
    assert not both(theirs, replace(genesis, time_ms=genesis.time_ms + 1), data)
    assert not both(theirs, genesis, make_proof_file("another", genesis.hash, proofs, query))
    assert not both(theirs, genesis, make_proof_file(genesis.chain_id, genesis.hash, proofs[:-1], query))


def test_it_runs_alone(world: ChainWorld, tmp_path: Path) -> None:
    (tmp_path / "genesis.json").write_bytes(world.genesis.encode())
    (tmp_path / "proof").write_bytes(file_of(world, KEY_SUPPLY))
    (tmp_path / "noise").write_bytes(encode(["noise"]))

    def run(name: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-P", str(FILE), "genesis.json", name]
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)

    good = run("proof")
    assert (good.returncode, good.stderr) == (0, "")
    assert "4 epochs after genesis" in good.stdout
    assert run("noise").returncode == 1
    source = FILE.read_text()
    assert not any(f"{word} {name}" in source for word in ("import", "from") for name in ("ledger", "node"))
