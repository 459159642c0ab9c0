"""A whole simulated network on one seeded heap: time, links, faults, clients. Same seed, same run."""

from __future__ import annotations

import heapq
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Any
from zlib import crc32

from consensus.core import Core
from consensus.messages import Message, Received
from ledger import keys
from ledger.blocks import ZERO_HASH, Header
from ledger.certificate import Statement, ValidatorSet
from ledger.errors import PeerFault
from ledger.genesis import Genesis, GenesisValidator, genesis_state
from ledger.transactions import CheckedTx
from tests.sim.bounds import Egress, Memory
from tests.sim.checkers import ALL, Bounded, Checker, Progress
from tests.sim.clients import Clients
from tests.sim.coverage import Coverage
from tests.sim.crypto import fast_signatures
from tests.sim.disk import Block, Store
from tests.sim.faults import Faults
from tests.sim.node import Clock, CrashNow, SimNode, decode_batch_txs
from tests.sim.offences import NoFalseEvidence, Offences
from tests.sim.scenario import Scenario, make

ACCOUNTS = 6
GENESIS_MS = 1_700_000_000_000
PROBE_MS = 100
VIOLATIONS_MAX = 20
EVENTS_MAX = 400_000  # an honest run has a tenth


@dataclass(frozen=True, slots=True)
class Variant:
    """What is run: production, or a mutant."""

    name: str = "production"
    core: type[Core] = Core
    node: type[SimNode] = SimNode
    validators: type[ValidatorSet] = ValidatorSet


@dataclass(slots=True)
class Result:
    """Of one seed. `violations`: (checker, what), the first ones."""

    seed: int
    violations: list[tuple[str, str]] = field(default_factory=list)
    events: int = 0
    messages: int = 0
    simulated_ms: int = 0
    heal_ms: int = 0  # from the end of the faults until progress was shown
    height: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Coverage = field(default_factory=Coverage)
    trace: str = ""


class World:
    """One run. `log` gets a line per event (for --trace)."""

    chain_id = "sim"

    def __init__(
        self,
        seed: int,
        variant: Variant = Variant(),
        scenario: Scenario | None = None,
        ed25519: bool = False,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.variant, self.ed25519, self.log = variant, ed25519, log
        self.scenario = scenario or make(seed)
        self.rng = Random(f"world/{seed}")
        self.result = Result(seed)
        self.now_us = 0
        self.heap: list[tuple[int, int, SimNode | None, Callable[..., None], tuple[Any, ...]]] = []
        self.sequence = 0
        self.hash = blake2b(digest_size=16)
        self.calm = False
        self.stopped = False
        self.stop_on: frozenset[str] = frozenset()  # checkers whose complaint ends the run
        self.cache: dict[bytes, list[CheckedTx]] = {}

    # ------------------------------------------------------------------ building

    def build(self) -> None:
        scenario, timing = self.scenario, self.scenario.timing
        self.timing = timing
        count = len(scenario.weights)
        own = [keys.Key(bytes([1, i]) * 16) for i in range(count)]
        self.faults, self.clients = Faults(self), Clients(self, ACCOUNTS)
        named = (
            GenesisValidator(key=k.public.hex(), weight=w, moniker=f"v{i}")
            for i, (k, w) in enumerate(zip(own, scenario.weights, strict=True))
        )
        genesis = Genesis(
            chain_id=self.chain_id,
            time_ms=GENESIS_MS,
            validators=tuple(named),
            accounts=self.accounts(),
        )
        self.genesis = genesis
        self.validators = self.variant.validators(0, genesis.validator_set.members)
        self.genesis_hash = genesis.hash
        state = genesis_state(genesis)
        empty = Store.create(_genesis_header(self.validators), genesis.hash, state)
        self.genesis_root = empty.roots[0]
        members = [*range(count)] + ([] if scenario.twin is None else [scenario.twin])
        self.twins = scenario.twin is not None
        self.nodes = []
        for number, member in enumerate(members):
            offset = scenario.wall_offsets_ms[member] + (1_500 if number == count else 0)
            clock = Clock(scenario.rates_ppm[member], self.rng.randint(0, 10**6), GENESIS_MS + 1_000 + offset)
            store = Store.create(_genesis_header(self.validators), genesis.hash, state)
            self.nodes.append(self.variant.node(self, number, member, own[member], clock, store))
        kinds = (*ALL, NoFalseEvidence, Offences, Memory, Egress)
        self.checkers: list[Checker] = [kind(self, self.report) for kind in kinds]
        self.egress = next(c for c in self.checkers if isinstance(c, Egress))
        self.progress = next(c for c in self.checkers if isinstance(c, Progress))
        self.offences = next(c for c in self.checkers if isinstance(c, Offences))
        self.bounded = next(c for c in self.checkers if isinstance(c, Bounded))

    def accounts(self) -> dict[str, int]:
        """Who has how many micro-credits at the beginning."""
        return {k.public.hex(): 1_000_000 for k in self.clients.keys}

    @property
    def heal_bound_ms(self) -> int:
        """Progress is owed within this after the faults: exchanges of Status until all hold the same
        certificates, then a turn of every leader at the longest timeout."""
        timing = self.timing
        return 4 * timing.standstill_ms + (len(self.validators.members) + 2) * (
            timing.timeout_max_ms + timing.idle_ms
        )

    @property
    def wall_ms(self) -> int:
        """True Unix time."""
        return GENESIS_MS + 1_000 + self.now_us // 1_000

    def honest(self) -> list[SimNode]:
        return [node for node in self.nodes if self.is_honest(node.member)]

    def is_honest(self, member: int) -> bool:
        return member != self.scenario.twin

    # ------------------------------------------------------------------ running

    def run(self) -> Result:
        """Run to the end and return what was found."""
        with fast_signatures(not self.ed25519):
            self.build()
            self._schedule()
            while self.heap and not self.stopped:
                self._next()
            for checker in self.checkers:
                checker.end()
        self.result.simulated_ms = self.now_us // 1_000
        self.result.height = max(node.store.height for node in self.honest())
        self.result.trace = self.hash.hexdigest()
        return self.result

    def _schedule(self) -> None:
        for node in self.nodes:
            if node.member not in self.scenario.always_down:
                self.at(0, node, node.boot)
        for fault in self.scenario.faults:
            self.at(fault.at_ms * 1_000, None, self.faults.begin, fault)
        self.at(self.scenario.faults_end_ms * 1_000, None, self._heal)
        self.clients.hand_in()

    def at(self, time_us: int, node: SimNode | None, call: Callable[..., None], *args: Any) -> None:
        """Something to do at a time; for a node, only when it is not paused then."""
        self.sequence += 1
        heapq.heappush(self.heap, (max(time_us, self.now_us), self.sequence, node, call, args))

    def _next(self) -> None:
        self.now_us, _, node, call, args = heapq.heappop(self.heap)
        if node is not None:
            if node.paused_until_us > self.now_us:
                self.at(node.paused_until_us, node, call, *args)
                return
            if not node.up and call.__name__ != "boot":
                return
        self.result.events += 1
        if self.result.events == EVENTS_MAX:
            self.report("Bounded", f"more than {EVENTS_MAX:,} events: a storm")
            self.stopped = True
        self._trace(node, call.__name__, args)
        try:
            call(*args)
        except CrashNow as crash:
            assert node is not None
            self.faults.crash(node, f"{crash}")
        except Exception as error:  # noqa: BLE001 - a validator must not die of anything: that is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.report(
                "Exception", f"node {node.id if node else '-'}: {error!r} at {where.name}:{where.lineno}"
            )
            self.stopped = True

    def _trace(self, node: SimNode | None, name: str, args: tuple[Any, ...]) -> None:
        about = ",".join(
            str(crc32(a)) if isinstance(a, bytes) else str(a) for a in args if isinstance(a, bytes | int)
        )
        line = f"{self.now_us} {node.id if node else '-'} {name} {about}"
        self.hash.update(line.encode())
        if self.log:
            self.log(line)

    def report(self, checker: str, what: str) -> None:
        """A violation."""
        if self.log:
            self.log(f"{self.now_us} VIOLATION {checker}: {what}")
        self.stopped |= checker in self.stop_on
        if len(self.result.violations) < VIOLATIONS_MAX:
            self.result.violations.append((checker, f"at {self.now_us // 1_000} ms: {what}"))

    # ------------------------------------------------------------------ what nodes call

    def timer(self, at_us: int, node: SimNode) -> None:
        self.at(at_us, node, self._tick, node, node.life)

    def _tick(self, node: SimNode, life: int) -> None:
        self.bounded.ticked(node)
        node.tick(life)

    def execute_later(self, node: SimNode) -> None:
        delay_us = self.rng.randint(0, self.scenario.execute_ms * 1_000)
        self.at(max(self.now_us + delay_us, node.execute_us), node, node.execute_next, node.life)
        node.execute_us = max(self.now_us + delay_us, node.execute_us)

    def observe(self, node: SimNode, message: Message) -> None:
        if self.log:
            self.log(f"    {node.id} sends {type(message).__name__} {getattr(message, 'statement', '')}")
        if self.is_honest(node.member):
            for checker in self.checkers:
                checker.sent(node, message)

    def heard(self, node: SimNode, event: Received) -> None:
        if self.is_honest(node.member):
            for checker in self.checkers:
                checker.heard(node, event)

    def signed(self, node: SimNode, statement: Statement) -> None:
        if self.is_honest(node.member):
            for checker in self.checkers:
                checker.signed(node, statement)

    def committed(self, node: SimNode, block: Block) -> None:
        if self.log:
            self.log(
                f"    {node.id} commits {block.header.height} view {block.header.view} {block.hash.hex()[:8]}"
            )
        if self.is_honest(node.member):
            for checker in self.checkers:
                checker.committed(node, block)

    def alarm(self, node: SimNode, rule: str) -> None:
        if self.is_honest(node.member):
            for checker in self.checkers:
                checker.alarm(node, rule)

    def fault(self, node: SimNode, sender: int, fault: PeerFault) -> None:
        """A message was refused: nobody honest may have sent it."""
        self.result.coverage.refusals[fault.rule] += 1
        if self.is_honest(sender) and self.is_honest(node.member):
            self.report("PeerFault", f"node {node.id} refused member {sender}: {fault}")

    def decoded(self, data: bytes) -> list[CheckedTx]:
        """Transactions of a batch, decoded once for all nodes (the code is pure)."""
        found = self.cache.get(data)
        if found is None:
            found = self.cache[data] = decode_batch_txs(data, self.chain_id)
        return found

    def _heal(self) -> None:
        """The faults end: links are clean, all restart but those that are down for ever."""
        self.calm = True
        self.faults.active.clear()
        for node in self.nodes:
            node.doom, node.paused_until_us = None, min(node.paused_until_us, self.now_us)
            if node.member not in self.scenario.always_down:
                self.faults.boot(node)
        self.progress.heal()
        self.at(self.now_us + PROBE_MS * 1_000, None, self._probe, self.now_us)

    def _probe(self, since_us: int) -> None:
        passed_ms = (self.now_us - since_us) // 1_000
        late: Progress | Offences = self.progress if self.progress.missing() else self.offences
        missing = late.missing()
        if missing is None and passed_ms > 1_000:
            self.result.heal_ms = passed_ms
            self.stopped = True
        elif passed_ms > self.heal_bound_ms:
            late.complain(f"{passed_ms} ms after the faults ended: {missing}")
            self.stopped = True
        else:
            self.at(self.now_us + PROBE_MS * 1_000, None, self._probe, since_us)


def _genesis_header(validators: ValidatorSet) -> Header:
    """Stands for block 0, which has no header of its own."""
    return Header(
        "sim",
        0,
        0,
        0,
        0,
        ZERO_HASH,
        GENESIS_MS,
        ZERO_HASH,
        0,
        ZERO_HASH,
        validators.hash,
        validators.hash,
        (),
    )


def run(seed: int, variant: Variant = Variant(), ed25519: bool = False) -> Result:
    """One seed, start to finish."""
    return World(seed, variant, ed25519=ed25519).run()
