"""A peer of the market that follows the chain: a 3node, a 3bot, or people behind one peer.

It asks validators for new blocks and hands transactions to them over links that lose, delay and are cut.
Its clocks are its own; a crash takes its memory and leaves its blocks; a pause stops the whole machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ledger.keys import Key
from ledger.transactions import Body, Tx, decode_tx, sign_tx
from tests.sim.market_chain import Place, Replica
from tests.sim.node import Clock, SimNode

if TYPE_CHECKING:
    from tests.sim.market import Market

POLL_MS: Final = 300
RESEND_MS: Final = 3_000  # what is not final is handed to another validator, as gossip and pull repair do
TX_BLOCKS: Final = 150  # fewer than production's, so that some do expire
PENDING_MAX: Final = 200


@dataclass(slots=True)
class Pending:
    """A transaction under way."""

    raw: bytes
    expires: int
    next_ms: int  # boot clock


class MarketPeer:
    """`cut`: members of the validator set that it can't reach now."""

    def __init__(self, market: Market, name: str, key: Key, clock: Clock) -> None:
        self.market, self.name, self.key, self.clock = market, name, key, clock
        self.replica = Replica(market.chronicle)
        self.up = False
        self.life = 0
        self.paused_until_us = 0
        self.cut: frozenset[int] = frozenset()
        self.pending: dict[bytes, Pending] = {}
        self.salt = 0
        self.slept: list[tuple[int, int]] = []  # true times
        self.knew: list[tuple[int, int]] = []  # true time, height

    # ------------------------------------------------------------------ for the kinds of peers

    def look(self) -> None:
        """New blocks are there."""

    def booted(self) -> None:
        """Memory is empty."""

    def crashed(self) -> None:
        """The power is off."""

    # ------------------------------------------------------------------ life and time

    def boot(self) -> None:
        """Start, or start again."""
        if not self.up:
            self.up, self.life, self.paused_until_us = True, self.life + 1, 0
            self.pending, self.knew = {}, []
            self.booted()
            self._poll()

    def crash(self) -> None:
        """Lose all that is not on disk."""
        if self.up:
            self.up = False
            self.crashed()

    def sleep(self, until_us: int) -> None:
        """The whole machine stands still until then."""
        if self.up:
            self.paused_until_us = max(self.paused_until_us, until_us)
            self.slept.append((self.market.world.now_us, self.paused_until_us))

    def woke_us(self, since_us: int) -> int:
        """When it last woke, if that was later; else 0."""
        return max((to_us for _, to_us in self.slept if to_us > since_us), default=0)

    def known_height(self, ago_ms: int) -> int:
        """The height that it knew so long ago; 0 when it slept or started since."""
        at_us = self.market.world.now_us - ago_ms * 1_000
        if self.woke_us(at_us):
            return 0
        return max((height for known_us, height in self.knew if known_us <= at_us), default=0)

    @property
    def is_paused(self) -> bool:
        """The whole machine stands still."""
        return self.paused_until_us > self.market.world.now_us

    def boot_ms(self) -> int:
        """The boot clock: a rate of its own, goes on in a pause, never set."""
        return self.clock.now(self.market.world.now_us)[0]

    def wall_ms(self) -> int:
        """Unix time, as this machine believes."""
        return self.clock.now(self.market.world.now_us)[1]

    def later(self, delay_ms: float, call: Callable[..., None], *args: Any) -> None:
        """Call after so long on its own clock, if this life lasts."""
        at_us = self.market.world.now_us + int(delay_ms * 1_000 * 1_000_000 / self.clock.rate_ppm)
        self.market.world.at(at_us, None, self._fire, self.life, call, args)

    def _fire(self, life: int, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.is_paused:
            self.market.world.at(self.paused_until_us, None, self._fire, life, call, args)
        elif self.up and life == self.life:
            call(*args)

    # ------------------------------------------------------------------ the network

    def _poll(self) -> None:
        """Ask somebody for new blocks; hand in again what is not final yet."""
        self._reach(self._asked)
        self._resend()
        self.later(POLL_MS, self._poll)

    def _reach(self, call: Callable[[SimNode], None], late_ms: int = 0) -> None:
        """Something arrives at one validator, unless the link is cut or loses it."""
        market = self.market
        node = market.rng.choice(market.world.nodes)
        if node.member not in self.cut and market.rng.random() >= market.loss:
            delay_us = (market.latency_ms() + late_ms) * 1_000
            market.world.at(market.world.now_us + delay_us, node, call, node)

    def _asked(self, node: SimNode) -> None:
        height = self.market.heights.get(node.id, 0)
        if node.member not in self.cut:
            self.market.world.at(
                self.market.world.now_us + self.market.latency_ms() * 1_000,
                None,
                self._fire,
                self.life,
                self._heard,
                (height,),
            )

    def _heard(self, height: int) -> None:
        if self.replica.advance(height):
            self.knew.append((self.market.world.now_us, height))
            for tx_id in [i for i, p in self.pending.items() if self._is_over(i, p)]:
                del self.pending[tx_id]
            self.look()

    def _is_over(self, tx_id: bytes, pending: Pending) -> bool:
        return self.replica.tx(tx_id) is not None or self.replica.height > pending.expires

    # ------------------------------------------------------------------ transactions

    def send(self, body: Body, blocks: int = TX_BLOCKS) -> bytes:
        """Sign and hand in until it is final or has expired; returns its id."""
        self.salt += 1
        salt = self.life.to_bytes(4, "big") + self.salt.to_bytes(8, "big")
        tx = Tx(self.market.world.chain_id, self.key.public, self.replica.height + blocks, salt, body)
        return self.send_raw(sign_tx(self.key, tx), tx.expires)

    def send_as(self, key: Key, body: Body) -> None:
        """As `send`, for somebody behind this peer; it waits for long."""
        own, self.key = self.key, key
        self.send(body, blocks=1_000)
        self.key = own

    def send_raw(self, raw: bytes, expires: int) -> bytes:
        """As `send`, of a transaction that is signed already."""
        tx_id = decode_tx(raw, self.market.world.chain_id).id
        if len(self.pending) < PENDING_MAX:
            self.pending[tx_id] = Pending(raw, expires, self.boot_ms() + RESEND_MS)
        self.market.sent(self, tx_id, raw)
        self._hand_in(raw)
        return tx_id

    def _resend(self) -> None:
        now_ms = self.boot_ms()
        for pending in self.pending.values():
            if pending.next_ms <= now_ms:
                pending.next_ms = now_ms + RESEND_MS
                self._hand_in(pending.raw)

    def _hand_in(self, raw: bytes) -> None:
        late_ms = self.market.rng.randint(1_000, 25_000) if self.market.rng.random() < 0.03 else 0
        self._reach(lambda node: self._given(node, raw), late_ms)

    def _given(self, node: SimNode, raw: bytes) -> None:
        """A transaction arrives at a validator, which may turn it away: it is handed in again later."""
        if why := node.take(raw):
            self.market.count(f"turned away: {why}")

    def place(self, tx_id: bytes) -> Place | None:
        """Where a transaction counted, as far as this peer knows."""
        return self.replica.tx(tx_id)
