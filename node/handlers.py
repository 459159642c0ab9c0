"""What a peer answers to the network: hellos, messages, requests, gossip. Judges, counts, passes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
import trio

from consensus.messages import decode_message, epoch_of
from ledger.blocks import Header, decode_header
from ledger.codec import decode, decode_exact, encode
from ledger.epochs import pending
from ledger.errors import PeerFault as LedgerPeerFault
from ledger.errors import Refused
from ledger.keys import Key
from ledger.proofs.certificate import VoteKind
from ledger.proofs.light import decode_certificate
from ledger.transactions import CheckedTx, VerifiedTx
from node.limits import ANNOUNCE_RELAY_BLOCKS, VERIFY_THREAD_BYTES
from node.notary import Notary
from node.outbox import topic_kind
from node.seam import Overloaded
from node.sync.follower import Follower
from node.sync.ranges import answer_batch, answer_order, answer_range
from node.voting.engine import Engine
from node.voting.known import verify_many
from node.voting.mempool import Mempool
from node.voting.other_epochs import OtherEpochs, is_answer
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
LATE: Final = frozenset(
    ("tx.duplicate", "tx.expired", "tx.expires_too_far", "announce.late", "announce.epoch")
)


@dataclass(slots=True)
class PeerHandlers:
    """p2p.network.Handlers of a peer. `engine` is None while the peer does not vote; its `validator_key` is
    proved to others all the same, so that a link needs not be made anew when the key gets a seat."""

    peer_id: str
    moniker: str
    roles: tuple[str, ...]
    notary: Notary
    mempool: Mempool
    follower: Follower
    engine: Engine | None
    other_epochs: OtherEpochs
    validator_key: Key | None
    now_ms: Callable[[], int]
    on_proved: Callable[[str, bytes], None] = lambda peer_id, key: None  # a hello proved a validator key
    methods: dict[str, Serve] = field(default_factory=dict)  # of the executor, artifacts and others
    hellos: dict[str, Hello] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)  # peer id -> validator index, connected ones
    refused: dict[str, int] = field(default_factory=dict)  # rule -> count, for metrics
    announced: set[int] = field(default_factory=set)  # heights whose announcements we passed on

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
            found = check_hello(hello, genesis.chain_id, genesis.hash, peer_id, self.peer_id)
        except Refused as error:
            self.count(error.rule)
            raise PeerFault(peer_id, error.rule, error.detail) from None
        if found.validator:
            self.on_proved(peer_id, found.validator)

    def on_up(self, neighbour: Neighbour) -> None:
        """A neighbour is there."""
        hello = decode(Hello, neighbour.hello)  # passed check_hello; a former link may end after that
        self.hellos[neighbour.peer_id] = hello
        log.info("neighbour_up", peer=neighbour.peer_id, moniker=hello.moniker, roles=hello.roles)
        self._seat(neighbour.peer_id, hello)
        self.follower.came(neighbour.peer_id, hello.height)

    def turn(self, engine: Engine | None) -> None:
        """[12] The next epoch has begun: others of the neighbours are validators, our engine is another."""
        self.engine = engine
        self.members.clear()
        for peer_id, hello in self.hellos.items():
            self._seat(peer_id, hello)

    def _seat(self, peer_id: str, hello: Hello) -> None:
        member = is_member(hello, self.notary.validators.members)
        if self.engine is not None and member == self.engine.me:
            # Two processes with one key vote against each other. It may also be a replay by a former holder
            # of the other node key, so it is an alarm, not the end; and never is it a validator to us.
            self.engine.alarm("validator_key_twice")
        elif member is not None:
            self.members[peer_id] = member
            if self.engine is not None:
                self.engine.connected(member, peer_id)

    def on_down(self, peer_id: str, reason: str) -> None:
        """A neighbour is gone."""
        log.info("neighbour_down", peer=peer_id, reason=reason)
        self.hellos.pop(peer_id, None)
        self.follower.gone(peer_id)
        self.other_epochs.gone(peer_id)
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
            if member is not None and self.engine is not None:
                self.engine.deliver(member, payload)
            else:
                self._without_seat(peer_id, member is not None, payload)
            return
        try:
            self._bulk(peer_id, payload)
        except Refused as error:
            self.count(error.rule)
            raise PeerFault(peer_id, error.rule, error.detail) from None

    def _without_seat(self, peer_id: str, is_member: bool, payload: bytes) -> None:
        """A consensus message, and one of the two has no seat now. Its sender may have had one in an earlier
        epoch, or both have one in an epoch that we do not know yet; from anybody else it breaks a rule."""
        hello = self.hellos.get(peer_id)
        if hello is None or not hello.validator:
            raise PeerFault(peer_id, "consensus.not_a_validator")
        if not self.other_epochs.listens(peer_id):
            self.count("consensus.other_epoch")
            return
        ours = self.notary.validators.epoch
        epoch, wants_answer = self._epoch_of(peer_id, payload)
        if epoch > ours or (epoch < ours and self._voted(peer_id, epoch)):
            if epoch > ours or wants_answer:
                self.other_epochs.heard(peer_id, epoch)
        elif not is_member:
            raise PeerFault(peer_id, "consensus.not_a_validator")

    def _epoch_of(self, peer_id: str, payload: bytes) -> tuple[int, bool]:
        """What a message of a peer without a seat speaks of, and whether one of an ended epoch is to be
        answered; our epoch, where it may not speak, when it makes no sense. A Fetch speaks of none: it comes
        from one that has not seen yet that it left, however long ago that was."""
        ours = self.notary.validators.epoch
        try:
            message = decode_message(peer_id, payload)
        except LedgerPeerFault:
            return ours, False
        epoch = epoch_of(message)
        if epoch is not None:
            return epoch, not is_answer(message)
        hello = self.hellos.get(peer_id)
        last = None if hello is None else self.other_epochs.last_seat(hello.validator)
        return (ours, False) if last is None else (last, True)

    def _voted(self, peer_id: str, epoch: int) -> bool:
        hello = self.hellos.get(peer_id)
        return hello is not None and self.other_epochs.voted(hello.validator, epoch)

    def _votes_elsewhere(self, peer_id: str) -> bool:
        """Has a peer, which has no seat now, had one not long ago, or may it have one in the next epoch?"""
        hello = self.hellos.get(peer_id)
        if hello is None or not hello.validator:
            return False
        next_set, store = pending(self.notary.store.state), self.notary.store
        return (
            self.other_epochs.last_seat(hello.validator) is not None
            or (next_set is not None and next_set.index(hello.validator) is not None)
            or self.follower.best_height > store.tip.height
        )

    def _bulk(self, peer_id: str, payload: bytes) -> None:
        match decode_bulk(payload):
            case BatchPush(data):
                member = self.members.get(peer_id)
                if member is None:
                    if not self._votes_elsewhere(peer_id):
                        raise Refused("bulk.not_a_validator", "batches come from validators")
                    self.count("bulk.other_epoch")
                elif self.engine is not None:
                    self.engine.deliver_batch(member, data)
            case TipNote(height):
                self.follower.told(peer_id, height)
            case TxPush(raw):
                try:
                    self.accept(raw, peer_id)
                except Overloaded:
                    self.count("overloaded")
                except Refused as error:
                    if error.rule not in LATE:
                        raise
                    self.count(error.rule)

    def accept(self, raw: bytes, source: str) -> VerifiedTx:
        """Check a transaction that `source` brought; a validator queues it. Raises Refused, Overloaded."""
        tx = self._checked(raw, source)
        self._queue(tx, source)
        return tx

    async def accept_many(
        self, raws: Sequence[bytes], source: str
    ) -> list[VerifiedTx | Refused | Overloaded]:
        """As `accept` for each, in order. Signatures of many are checked in a thread, by one hop."""
        context, record, known = self.notary.next_context, self.notary.store.state.get, self.mempool.known
        found: list[CheckedTx | Refused | Overloaded] = []
        for raw in raws:
            try:
                found.append(self.mempool.check_form(raw, context, record, source))
            except (Refused, Overloaded) as error:
                found.append(error)
        judge = partial(verify_many, found, known.verify)
        is_long = sum(map(len, raws)) > VERIFY_THREAD_BYTES
        judged = await trio.to_thread.run_sync(judge) if is_long else judge()
        return [self._accepted(one, source) for one in judged]

    def _accepted(
        self, tx: VerifiedTx | Refused | Overloaded, source: str
    ) -> VerifiedTx | Refused | Overloaded:
        try:
            if isinstance(tx, VerifiedTx):
                self._queue(self.mempool.known.remember(tx), source)
                return tx
        except Overloaded as error:
            tx = error
        self.count(tx.rule if isinstance(tx, Refused) else "overloaded")
        return tx

    def _checked(self, raw: bytes, source: str) -> VerifiedTx:
        return self.mempool.check(raw, self.notary.next_context, self.notary.store.state.get, source)

    def _queue(self, tx: VerifiedTx, source: str) -> None:
        if self.engine is not None and self.mempool.add(tx, self.now_ms(), source):
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
                return self._take_tx(peer_id, body)
            if method in self.methods:
                return await self.methods[method](peer_id, body)
            if method == "order":
                return answer_order(self.notary.store, body)
        except Refused as error:
            self.count(error.rule)
            raise RequestRefused(f"{error.rule}: {error.detail}"[:200]) from None
        except Overloaded as error:
            self.count("overloaded")
            raise RequestRefused(f"overloaded: retry in {error.retry_ms} ms") from None
        raise RequestRefused(f"request.method: {method[:40]!r} is not known here")

    def _take_tx(self, peer_id: str, body: bytes) -> bytes:
        if self.engine is None:
            raise Refused("tx.not_a_validator", "this peer does not vote")
        try:
            return self.accept(body, peer_id).id
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
            tx = self._checked(payload, peer_id)
            if topic(chain_id, topic_kind(tx)) != topic_name:
                raise Refused("gossip.topic", "this transaction belongs to another topic")
            self._queue(tx, peer_id)
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
        if not self._is_news(header, announcement.header):
            raise Refused("announce.late", "held, and told already")
        ours = self.notary.validators.epoch
        if header.epoch > ours:  # whose validators are not known here yet
            self.follower.told(peer_id, header.height)
            raise Refused("announce.epoch", f"epoch {header.epoch}, here {ours}")
        if header.epoch < ours and header.height > self.notary.store.tip.height:  # in no chain
            raise Refused("announce.late", f"above the end of epoch {header.epoch}")
        certificate = decode_certificate(announcement.certificate)
        statement = certificate.statement
        if statement.kind is not VoteKind.FINAL or statement.block != header.hash:
            raise Refused("announce.certificate", "not the Final certificate of this header")
        validators = self.notary.trust.validators(header.epoch)
        self.notary.scheme.verify(self.notary.genesis.chain_id, validators, certificate)
        self.follower.told(peer_id, header.height)
        lowest = self.notary.store.tip.height - ANNOUNCE_RELAY_BLOCKS
        self.announced = {height for height in self.announced if height > lowest} | {header.height}
        return Verdict.ACCEPT

    def _is_news(self, header: Header, encoded: bytes) -> bool:
        """Shall we look at it, and pass it on when it is right? A block that we hold is no news to us, but to
        strangers who hear of blocks through us alone: if it is new and in our chain, and once each height,
        since of one block there may be many certificates."""
        if header.height in self.announced:
            return False
        store = self.notary.store
        if header.height > store.tip.height:
            return True
        lowest = store.tip.height - ANNOUNCE_RELAY_BLOCKS
        return header.height > lowest and store.header(header.height) == encoded

    def count(self, rule: str) -> None:
        """A broken rule, for metrics."""
        self.refused[rule] = self.refused.get(rule, 0) + 1
