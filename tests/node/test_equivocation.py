"""A real network in one process: a validator whose key runs twice is found out, and everybody can see it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec

from ledger.evidence import check_evidence
from ledger.proofs.certificate import ValidatorSet
from ledger.proofs.light import Trust, verify_query
from ledger.records import Offence, key_offence
from ledger.state import read
from node.api import models as m
from tests.node.api_fixture import api_client
from tests.node.fake_peer import FakePeer
from tests.node.network_fixture import CHAIN_ID, key, transfer, until, world

FOUR = ["validator0", "validator1", "validator2", "validator3"]
TWICE = key("validator3").public


async def test_a_key_that_runs_twice_is_suspended(tmp_path: Path) -> None:
    async with world([*FOUR, "observer"]) as net:
        honest = [net.peers[name] for name in FOUR[:3]]
        await honest[0].next_block(1)
        await net.start("validator3 again", votes_as="validator3")
        others = [*honest, net.peers["observer"]]
        await until(lambda: all(p.state.get(key_offence(TWICE)) is not None for p in others))

        validators: ValidatorSet = net.genesis.validator_set
        offences = {p.state.get(key_offence(TWICE)) for p in others}
        assert len(offences) == 1
        offence = read(honest[0].state, Offence, key_offence(TWICE))
        assert offence is not None
        assert check_evidence(CHAIN_ID, validators, offence.evidence) == 3
        assert any("equivocation" in p.status().alarms for p in honest)
        for peer in others:
            assert not any(peer.state.get(key_offence(v.key)) for v in validators.members[:3])
            metrics = {name: value for name, labels, value, _ in peer.metrics() if not labels}
            assert metrics["consensus_byzantine_validators"] == 1

        tx = await honest[1].submit(transfer(honest[1], 3, 1))  # the others go on
        assert (await honest[1].wait_final(tx, 30)).receipt.ok
        await net.peers["observer"].next_block(offence.height + 1)
        proof = net.peers["observer"].store.prove(key_offence(TWICE)).encode()
        assert verify_query(Trust(CHAIN_ID, validators), proof).value in offences

        async with api_client(cast(FakePeer, net.peers["observer"]), tmp_path) as client:
            found = msgspec.json.decode((await client.get("/v1/validators")).content, type=m.Validators)
        assert [v.suspended_height for v in found.members] == [None, None, None, offence.height]
