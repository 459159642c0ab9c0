"""What a peer answers to the network: hellos, messages, requests, gossip. Judges, counts, passes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from ledger.blocks import decode_header
from ledger.certificate import VoteKind
from ledger.codec import decode, decode_exact, encode
from ledger.errors import Refused
from ledger.keys import Key
from ledger.light import decode_certificate
from ledger.transactions import VerifiedTx
from node.engine import Engine
from node.follower import Follower
from node.mempool import Mempool
from node.notary import Notary
from node.outbox import topic_kind
from node.ranges import answer_batch, answer_range
from node.seam import Overloaded
from node.wire import (
    HELLO_DOMAIN,
    PROTOCOL,
    Announcement,
    BatchPush,
    Hello,
    TipNote,
    TxPush,
    check_hello,
    decode_bulk,
    hello_message,
    is_member,
    topic,
)
from p2p.errors import PeerFault
from p2p.errors import Refused as RequestRefused
from p2p.network import Lane, Neighbour, Verdict

log = structlog.get_logger("peer")

Serve = Callable[[str, bytes], Awaitable[bytes]]
# What an honest peer may bring when one of the two is behind.
LATE: Final = frozenset(("tx.duplicate", "tx.expired", "tx.expires_too_far", "announce.late"))


@dataclass(slots=True)
class PeerHandlers:
    """p2p.network.Handlers of a peer. `engine` is None for a peer that does not vote."""

    peer_id: str
    moniker: str
    roles: tuple[str, ...]
    notary: Notary
    mempool: Mempool
    follower: Follower
    engine: Engine | None
    validator_key: Key | None
    now_ms: Callable[[], int]
    methods: dict[str, Serve] = field(default_factory=dict)  # of the executor, artifacts and others
    hellos: dict[str, Hello] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)  # peer id -> validator index, connected ones
    refused: dict[str, int] = field(default_factory=dict)  # rule -> count, for metrics

    # ------------------------------------------------------------------ connections

    def hello(self, peer_id: str) -> bytes:
        """Our first words to that peer."""
        genesis = self.notary.genesis
        key, proof = b"", b""
        if self.validator_key is not None:
            key = self.validator_key.public
            proof = self.validator_key.sign(
                HELLO_DOMAIN, genesis.chain_id, hello_message(self.peer_id, peer_id)
            )
        height = self.notary.store.tip.height
        return encode(
            Hello(PROTOCOL, genesis.chain_id, genesis.hash, self.moniker, self.roles, height, key, proof)
        )

    def check_hello(self, peer_id: str, hello: bytes) -> None:
        """Raises PeerFault for another chain, protocol or a false validator proof."""
        genesis = self.notary.genesis
        try:
            check_hello(hello, genesis.chain_id, genesis.hash, peer_id, self.peer_id)
        except Refused as error:
            self.count(error.rule)
            raise PeerFault(peer_id, error.rule, error.detail) from None

    def on_up(self, neighbour: Neighbour) -> None:
        """A neighbour is there."""
        hello = decode(Hello, neighbour.hello)  # passed check_hello; a former link may end after that
        self.hellos[neighbour.peer_id] = hello
        log.info("neighbour_up", peer=neighbour.peer_id, moniker=hello.moniker, roles=hello.roles)
        member = is_member(hello, self.notary.validators.members)
        if self.engine is not None and member == self.engine.me:
            # Two processes with one key vote against each other. It may also be a replay by a former holder
            # of the other node key, so it is an alarm, not the end; and never is it a validator to us.
            self.engine.alarm("validator_key_twice")
        elif member is not None:
            self.members[neighbour.peer_id] = member
            if self.engine is not None:
                self.engine.connected(member, neighbour.peer_id)
        self.follower.came(neighbour.peer_id, hello.height)

    def on_down(self, peer_id: str, reason: str) -> None:
        """A neighbour is gone."""
        log.info("neighbour_down", peer=peer_id, reason=reason)
        self.hellos.pop(peer_id, None)
        self.follower.gone(peer_id)
        member = self.members.pop(peer_id, None)
        if member is None or self.engine is None:
            return
        self.engine.disconnected(peer_id)
        other = next((peer for peer, its in self.members.items() if its == member), None)
        if other is not None and member not in self.engine.peers:
            self.engine.connected(member, other)  # a validator that moved to another node key, for a while

    # ------------------------------------------------------------------ messages

    def on_message(self, peer_id: str, lane: Lane, payload: bytes) -> None:
        """One message of a lane. Raises PeerFault."""
        if lane is Lane.CONSENSUS:
            member = self.members.get(peer_id)
            if member is None:
                raise PeerFault(peer_id, "consensus.not_a_validator")
            if self.engine is not None:
                self.engine.deliver(member, payload)
            return
        try:
            self._bulk(peer_id, payload)
        except Refused as error:
            self.count(error.rule)
            raise PeerFault(peer_id, error.rule, error.detail) from None

    def _bulk(self, peer_id: str, payload: bytes) -> None:
        match decode_bulk(payload):
            case BatchPush(data):
                member = self.members.get(peer_id)
                if member is None:
                    raise Refused("bulk.not_a_validator", "batches come from validators")
                if self.engine is not None:
                    self.engine.deliver_batch(member, data)
            case TipNote(height):
                self.follower.told(peer_id, height)
            case TxPush(raw):
                try:
                    self.accept(raw)
                except Overloaded:
                    self.count("overloaded")
                except Refused as error:
                    if error.rule not in LATE:
                        raise
                    self.count(error.rule)

    def accept(self, raw: bytes) -> VerifiedTx:
        """Check a transaction; a validator queues it. Raises Refused, Overloaded."""
        tx = self._checked(raw)
        self._queue(tx)
        return tx

    def _checked(self, raw: bytes) -> VerifiedTx:
        return self.mempool.check(raw, self.notary.next_context, self.notary.store.state.get)

    def _queue(self, tx: VerifiedTx) -> None:
        if self.engine is not None and self.mempool.add(tx, self.now_ms()):
            self.engine.wake()

    # ------------------------------------------------------------------ requests

    async def serve(self, peer_id: str, method: str, body: bytes) -> bytes:
        """Answer a request. Raises RequestRefused with "rule: detail"."""
        try:
            if method == "blocks":
                return answer_range(self.notary.store, body)
            if method == "batch":
                return answer_batch(self.notary.store, body)
            if method == "tx":
                return self._take_tx(body)
            if method in self.methods:
                return await self.methods[method](peer_id, body)
        except Refused as error:
            self.count(error.rule)
            raise RequestRefused(f"{error.rule}: {error.detail}"[:200]) from None
        except Overloaded as error:
            self.count("overloaded")
            raise RequestRefused(f"overloaded: retry in {error.retry_s:.0f} s") from None
        raise RequestRefused(f"request.method: {method[:40]!r} is not known here")

    def _take_tx(self, body: bytes) -> bytes:
        if self.engine is None:
            raise Refused("tx.not_a_validator", "this peer does not vote")
        try:
            return self.accept(body).id
        except Refused as error:
            if error.rule == "tx.duplicate":
                return b""  # a re-send of what is final: all is well
            raise

    # ------------------------------------------------------------------ gossip

    async def on_gossip(self, topic_name: str, peer_id: str, payload: bytes) -> Verdict:
        """Accept what holds, reject what no honest peer passes on, ignore what is late."""
        chain_id = self.notary.genesis.chain_id
        try:
            if topic_name == topic(chain_id, "blocks"):
                return self._announced(peer_id, payload)
            tx = self._checked(payload)
            if topic(chain_id, topic_kind(tx)) != topic_name:
                raise Refused("gossip.topic", "this transaction belongs to another topic")
            self._queue(tx)
        except Refused as error:
            self.count(f"gossip.{error.rule}")
            return Verdict.IGNORE if error.rule in LATE else Verdict.REJECT
        except Overloaded:
            self.count("overloaded")
            return Verdict.IGNORE
        return Verdict.ACCEPT

    def _announced(self, peer_id: str, payload: bytes) -> Verdict:
        announcement = decode_exact(Announcement, payload, "announce", 64 * 1024)
        header = decode_header(announcement.header)
        if header.height <= self.notary.store.tip.height:
            raise Refused("announce.late", "held already")
        certificate = decode_certificate(announcement.certificate)
        statement = certificate.statement
        if statement.kind is not VoteKind.FINAL or statement.block != header.hash:
            raise Refused("announce.certificate", "not the Final certificate of this header")
        self.notary.scheme.verify(self.notary.genesis.chain_id, self.notary.validators, certificate)
        self.follower.told(peer_id, header.height)
        return Verdict.ACCEPT

    def count(self, rule: str) -> None:
        """A broken rule, for metrics."""
        self.refused[rule] = self.refused.get(rule, 0) + 1
