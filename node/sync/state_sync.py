"""State sync: a peer that is far behind, whose blocks nobody holds any more, or whose own state is wrong,
takes the state of a recent height from others and goes on by blocks from there.

Phases: "epochs" (who signs today, from genesis on), "offers", "state", "blocks" (the replay window),
"install". What goes wrong in one ends the round, never the peer; blocks stay the way meanwhile. Nothing is
believed that a certificate does not cover; a peer that lies is penalised and not asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
import trio

from ledger.codec import encode
from ledger.errors import Refused
from ledger.proofs.light import EpochProof, FinalityProof, Trust
from ledger.storage.staging import Staging
from node.limits import (
    STATE_ASK_S,
    STATE_BANNED_MAX,
    STATE_BEHIND_BLOCKS,
    STATE_DECIDE_S,
    STATE_RETRY_MAX_S,
    STATE_RETRY_S,
    STATE_ROUNDS_MAX,
)
from node.notary import Notary, stored_trust
from node.sync.follower import Follower
from node.sync.ranges import blame
from node.sync.snapshots import Snapshots, named_state
from node.sync.state_fetch import StateFetch, Unreachable
from node.sync.state_wire import EPOCHS, OFFERS, EpochsRequest, decode_epochs, decode_offers
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("state_sync")

LOOK_EVERY_S: Final = 2.5  # whether a state is wanted, beside being told: an idle peer should rest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A state that peers offer: the proof of the header that names it, its height and root, and who offers
    it."""

    anchor: FinalityProof
    height: int
    root: bytes
    peers: tuple[str, ...]


@dataclass(slots=True)
class StateSync:
    """See the module. `on_installed` after another state took the place of ours; `store_use` is held by
    whoever reads the store in a thread, `audit_use` by whoever makes an audit file of it there, `turn` by
    whoever fills the one that is to take its place."""

    notary: Notary
    network: Network
    follower: Follower
    snapshots: Snapshots
    on_installed: Callable[[], None]
    enabled: bool = True
    behind_blocks: int = STATE_BEHIND_BLOCKS
    store_use: trio.Lock = field(default_factory=trio.Lock)
    audit_use: trio.Lock = field(default_factory=trio.Lock)
    turn: trio.Lock = field(default_factory=trio.Lock)
    phase: str = ""
    target: int = 0  # the height whose state is being fetched
    installed: int = 0
    failed: int = 0
    lies: int = 0
    _fetch: StateFetch | None = None
    _banned: set[str] = field(default_factory=set)
    _next_s: float = 0.0
    _bell: trio.Event = field(default_factory=trio.Event)
    _began_s: float = 0.0

    @property
    def share(self) -> float:
        """How much of the wanted state is here, 0 to 1."""
        return self._fetch.staging.share if self._fetch is not None else 0.0

    def is_wanted(self) -> bool:
        """Is a state the better way, or the only one?"""
        if not self.enabled:
            return False
        behind = self.follower.best_height - self.notary.store.tip.height
        return self.follower.is_too_old or behind > self.behind_blocks

    def is_due(self) -> bool:
        """Are blocks not to be fetched, for a moment, as a state may be offered? Not for long: those who
        stall us must not keep us from the blocks that others have."""
        if self.phase:
            return time.monotonic() < self._began_s + STATE_DECIDE_S
        if time.monotonic() < self._next_s or not self.is_wanted():
            return False
        self._bell.set()
        return True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with trio.move_on_after(LOOK_EVERY_S):
                await self._bell.wait()
            self._bell = trio.Event()
            async with self.turn:
                if time.monotonic() >= self._next_s and self.is_wanted():
                    # What neighbours told of their height is not proved, and our blocks go with our state:
                    # so the state itself must be that far ahead, where blocks are a way.
                    ahead = 0 if self.follower.is_too_old else self.behind_blocks
                    await self.attempt(self.notary.store.tip.height + ahead)

    async def attempt(self, above: int) -> bool:
        """One round, by who has the `turn`. True when another state is in place, of a height greater than
        `above`."""
        try:
            found = await self._round(above)
        finally:
            self.phase, self.target, self._fetch = "", 0, None
            self.follower.pause(False)
        rest_s = min(STATE_RETRY_S * 2**self.failed, STATE_RETRY_MAX_S)
        self._next_s = time.monotonic() + rest_s  # also after success: now it is the blocks' turn
        self.failed = 0 if found else self.failed + 1
        return found

    async def _round(self, above: int) -> bool:
        self.phase, self._began_s = "epochs", time.monotonic()
        trust, proofs = await self._epochs()
        self.phase = "offers"
        candidates = await self._candidates(trust, above)
        if not candidates:
            log.info("no_state_offered", peers=len(self._peers()))
            return False
        self.follower.pause(True)
        for candidate in self._in_order(candidates)[:STATE_ROUNDS_MAX]:
            try:
                staging = await self._fill(candidate, trust)
            except Unreachable as error:
                log.warning("state_unreachable", height=candidate.height, reason=str(error))
                continue
            return await self._install(staging, candidate, trust, proofs)
        return False

    def _peers(self) -> list[str]:
        """Who says to be ahead and has not lied."""
        return [peer for peer in self.follower.plan.sources if peer not in self._banned]

    def _lied(self, peer_id: str, error: Refused) -> None:
        self.lies += 1
        if len(self._banned) >= STATE_BANNED_MAX:
            self._banned.clear()
        self._banned.add(peer_id)
        blame(self.network, peer_id, error)

    # ------------------------------------------------------------------ who signs, and what is offered

    async def _epochs(self) -> tuple[Trust, dict[int, EpochProof]]:
        """All validator sets from genesis to the newest that a peer can prove, and the proofs."""
        trust = stored_trust(self.notary.genesis, self.notary.store)
        proofs = dict(enumerate(self.notary.store.epochs.upto(trust.latest.epoch)))
        turn = trio.Lock()

        async def ask(peer_id: str) -> None:
            try:
                while True:
                    first = trust.latest.epoch
                    request = encode(EpochsRequest(first))
                    page = decode_epochs(await self.network.request(peer_id, EPOCHS, request, STATE_ASK_S))
                    if not page:
                        return
                    async with turn:
                        await trio.to_thread.run_sync(partial(_advance, trust, page, first, proofs))
            except Refused as error:
                self._lied(peer_id, error)
            except RequestError as error:
                log.debug("no_epochs", peer=peer_id, error=str(error))

        async with trio.open_nursery() as nursery:
            for peer_id in self._peers():
                nursery.start_soon(ask, peer_id)
        return trust, proofs

    async def _candidates(self, trust: Trust, above: int) -> list[Candidate]:
        """What peers offer, each proved by a final header."""
        offers: dict[bytes, FinalityProof] = {}
        by: dict[bytes, list[str]] = {}

        async def ask(peer_id: str) -> None:
            try:
                data = await self.network.request(peer_id, OFFERS, b"", STATE_ASK_S)
                for offer in decode_offers(data):
                    header = offer.anchor.header
                    if header not in offers:
                        await trio.to_thread.run_sync(partial(trust.final, offer.anchor))
                        offers[header] = offer.anchor
                    by.setdefault(header, []).append(peer_id)
            except Refused as error:
                if error.rule != "light.unknown_epoch":  # nobody could prove it to us: not a lie
                    self._lied(peer_id, error)
            except RequestError as error:
                log.debug("no_offers", peer=peer_id, error=str(error))

        async with trio.open_nursery() as nursery:
            for peer_id in self._peers():
                nursery.start_soon(ask, peer_id)
        found = [
            Candidate(anchor, *named_state(anchor), tuple(by[header])) for header, anchor in offers.items()
        ]
        return [candidate for candidate in found if candidate.height > above]

    def _in_order(self, candidates: list[Candidate]) -> list[Candidate]:
        """What was begun before first, then what most peers offer, then the newest."""
        begun = Staging(self.notary.store.stage()).status
        return sorted(
            candidates,
            key=lambda c: (begun is not None and c.root == begun.root, len(c.peers), c.height),
            reverse=True,
        )

    # ------------------------------------------------------------------ fetching and installing

    async def _fill(self, candidate: Candidate, trust: Trust) -> Staging:
        """A staging store with all of a state. Raises Unreachable."""
        store = self.notary.store
        staging = Staging(store.stage())
        if staging.status is None or (staging.now.height, staging.now.root) != (
            candidate.height,
            candidate.root,
        ):
            store.unstage()
            staging = Staging(store.stage())
            staging.begin(candidate.height, candidate.root)
        judge = Notary(self.notary.genesis, store, trust, self.notary.scheme)
        self.phase, self.target = "state", candidate.height
        log.info("state_sync", height=candidate.height, peers=len(candidate.peers), share=staging.share)
        fetch = self._fetch = StateFetch(
            self.network, judge, staging, candidate.anchor, self._peers, self._banned
        )
        try:
            await fetch.chunks()
            self.phase = "blocks"
            await fetch.window()
        finally:
            self.lies += fetch.lies
        return staging

    async def _install(
        self, staging: Staging, candidate: Candidate, trust: Trust, proofs: dict[int, EpochProof]
    ) -> bool:
        """The fetched state takes the place of ours. False: consensus was faster, so it does not."""
        self.phase = "install"
        ended = {
            epoch: proofs[epoch]
            for epoch, end in enumerate(trust.ends)
            if epoch in proofs and end.height <= candidate.height
        }
        async with self.store_use, self.audit_use:
            await self.snapshots.close()
            if candidate.height <= self.notary.store.tip.height and not self.notary.differs:
                self.notary.store.unstage()
                return False
            staging.finish(ended)
            self.adopt()
        log.info("state_installed", height=candidate.height, root=candidate.root.hex())
        return True

    def adopt(self) -> None:
        """The complete staging store takes the place of ours, without letting anybody run in between. Raises
        LocalError when the disk fails: ours may be closed by then, so the peer must stop."""
        self.follower.pause(True)  # what waits there follows another tip
        self.notary.store.adopt()
        self.notary.trust = stored_trust(self.notary.genesis, self.notary.store)
        self.notary.differs = 0
        self.installed += 1
        self.follower.pause(False)
        self.on_installed()

    def metrics(self) -> list[tuple[str, dict[str, str], float, str]]:
        """For /metrics."""
        return [
            ("state_sync_share", {}, self.share, "gauge"),
            ("state_sync_height", {}, float(self.target), "gauge"),
            ("state_sync_installed_total", {}, float(self.installed), "counter"),
            ("state_sync_lies_total", {}, float(self.lies), "counter"),
        ]


def _advance(trust: Trust, page: tuple[EpochProof, ...], first: int, proofs: dict[int, EpochProof]) -> None:
    """Walk over ends of epochs, `first` and those that follow it; what is known is skipped. Runs in a thread.
    Raises Refused."""
    for epoch, proof in enumerate(page, first):
        if epoch == trust.latest.epoch:
            trust.advance(proof)
            proofs[epoch] = proof
