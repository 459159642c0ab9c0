"""Rule 6: a certificate reaches who may lack it, once, and nobody in a healthy network."""

from __future__ import annotations

from consensus.limits import RELAY_AFTER_MS, RELAYS_MAX
from consensus.messages import Certified, Propose, Status
from consensus.relay import Relay
from ledger.proofs.certificate import VoteKind
from tests.consensus.support import FINAL, NOTAR, SKIP, Bench, certificate, header, propose, sent, vote

BLOCK = header(1).hash


def test_rule_6_relays_only_to_members_that_have_not_moved_on() -> None:
    relay = Relay(me=0, size=4)
    relay.add(certificate(NOTAR, 5, BLOCK), 1_000)
    relay.heard(1, vote(1, NOTAR, 6, BLOCK))  # voted later: it is past 5
    relay.heard(2, vote(2, FINAL, 5, BLOCK))  # Final(5) shows Notar[5]
    assert relay.due(1_000 + RELAY_AFTER_MS - 1, 4) == []
    (send,) = relay.due(1_000 + RELAY_AFTER_MS, 4)
    assert send.to == 3
    assert isinstance(send.message, Certified)
    assert relay.due(1_000_000, 4) == []  # once


def test_rule_6_a_newer_final_covers_what_waits() -> None:
    relay = Relay(me=0, size=4)
    relay.add(certificate(NOTAR, 5, BLOCK), 0)
    relay.add(certificate(SKIP, 6), 0)
    assert relay.due(RELAY_AFTER_MS, 7) == []


def test_rule_6_a_final_goes_to_those_who_took_no_part() -> None:
    relay = Relay(me=0, size=4)
    relay.add(certificate(FINAL, 5, BLOCK), 0)
    relay.heard(1, vote(1, FINAL, 5, BLOCK))
    relay.heard(2, Status(0, certificate(FINAL, 6, BLOCK), 6, 7, b"", b""))
    assert [send.to for send in relay.due(RELAY_AFTER_MS, 5)] == [3]


def test_rule_6_what_waits_is_bounded() -> None:
    relay = Relay(me=0, size=4)
    for view in range(1, RELAYS_MAX + 50):
        relay.add(certificate(VoteKind.SKIP, view), 0)
    assert len(relay.waiting) == RELAYS_MAX


def test_rule_6_a_healthy_network_relays_nothing() -> None:
    """Four cores, no loss: certificates are made everywhere, none is sent on its own."""
    benches = [Bench(me) for me in range(4)]
    certified, queue = 0, [(me, bench.last) for me, bench in enumerate(benches)]
    for _ in range(400):
        if not queue:
            queue = [(me, bench.wait(50)) for me, bench in enumerate(benches)]
        me, ready = queue.pop(0)
        for send in ready.send:
            certified += isinstance(send.message, Certified)
            targets = range(4) if send.to is None else [send.to]
            queue += [(to, benches[to].receive(me, send.message)) for to in targets if to != me]
        if benches[0].core.chain.tip.height > 3:
            break
    assert benches[0].core.chain.tip.height > 3
    assert certified == 0


def test_rule_6_the_core_relays_what_a_member_lacks() -> None:
    bench = Bench()
    block = header(1)
    bench.receive(1, propose(block))
    bench.receive(1, vote(1, NOTAR, 1, block.hash))
    bench.receive(2, vote(2, NOTAR, 1, block.hash))  # own, 1 and 2 make Notar[1]
    assert bench.core.views[1].notar is not None
    relayed = [s for s in bench.wait(RELAY_AFTER_MS).send if isinstance(s.message, Certified)]
    assert {send.to for send in relayed} == {1, 2, 3}
    assert not sent(bench.last, Propose)
