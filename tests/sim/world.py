"""A whole simulated network on one seeded heap: time, links, faults, clients. Same seed, same run."""

from __future__ import annotations

import heapq
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar
from zlib import crc32

from consensus.core import Core
from consensus.messages import Message, Received
from ledger import keys
from ledger.errors import PeerFault
from ledger.genesis import Genesis, GenesisValidator
from ledger.proofs.certificate import Ed25519Scheme, Scheme, Statement, ValidatorSet
from node.voting.mempool import HeldBatch
from tests.sim.bounds import Bounded, Egress, Memory
from tests.sim.byzantine import LIARS
from tests.sim.checkers import ALL, Checker, Progress
from tests.sim.clients import Clients, small_pool
from tests.sim.crypto import fast_signatures
from tests.sim.disk import DiskDamaged
from tests.sim.faults import Faults
from tests.sim.foul import Foul
from tests.sim.node import Block, Clock, CrashNow, SimNode
from tests.sim.offences import NoFalseEvidence, Offences
from tests.sim.result import Result
from tests.sim.scenario import Scenario, make
from tests.sim.shared import Shared
from tests.sim.words import message_words, words

ACCOUNTS: Final = 6
GENESIS_MS: Final = 1_700_000_000_000
PROBE_MS: Final = 100
VIOLATIONS_MAX: Final = 20
EVENTS_MAX: Final = 400_000  # an honest run has a tenth
C = TypeVar("C", bound=Checker)
HOOKS: Final = ("sent", "heard", "signed", "committed", "crashed", "replaced", "alarm")


@dataclass(frozen=True, slots=True)
class Variant:
    """What is run: production, or a mutant."""

    name: str = "production"
    core: type[Core] = Core
    node: type[SimNode] = SimNode
    validators: type[ValidatorSet] = ValidatorSet


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
        self.trace = 0
        self.calm = self.quiet = self.stopped = False
        self.stop_on: frozenset[str] = frozenset()  # checkers whose complaint ends the run
        self.scheme: Scheme = Ed25519Scheme()
        self.minding: dict[str, list[Callable[..., None]]] = {}
        self.events_max = EVENTS_MAX

    # ------------------------------------------------------------------ building

    def build(self) -> None:
        """The network at time 0, all down."""
        scenario = self.scenario
        self.timing = scenario.timing
        low_ms, high_ms = scenario.latency_ms
        self.latency_us = low_ms * 1_000, (high_ms - low_ms) * 1_000
        count = len(scenario.weights)
        own = [keys.Key(bytes([1, i]) * 16) for i in range(count)]
        self.faults, self.foul, self.clients = Faults(self), Foul(self), Clients(self, ACCOUNTS)
        named = (
            GenesisValidator(key=k.public.hex(), weight=w, moniker=f"v{i}")
            for i, (k, w) in enumerate(zip(own, scenario.weights, strict=True))
            if i in self.founders()
        )
        self.genesis = Genesis(
            chain_id=self.chain_id,
            time_ms=GENESIS_MS,
            validators=tuple(named),
            accounts=self.accounts(),
        )
        self.validators = self.variant.validators(0, self.genesis.validator_set.members)
        self.genesis_hash = self.genesis.hash
        self.shared = Shared(self.chain_id, self.scheme)
        self.opened: Callable[[bytes], HeldBatch] = self.shared.opened
        self.checked: Callable[[SimNode, int, bytes], Received] = self.shared.checked
        self.twins = scenario.twin is not None
        self._make_nodes(own)
        self.checkers: list[Checker] = [kind(self, self.report) for kind in self.checker_kinds()]
        self.egress, self.memory = self.checker(Egress), self.checker(Memory)
        self.progress = self.checker(Progress)
        self.offences = self.checker(Offences)
        self.bounded = self.checker(Bounded)
        for hook in HOOKS:
            self.listen(hook)
        if not self.twins:  # an honest member that votes twice is for Promises to find
            self.minding["heard"] = [c for c in self.minding["heard"] if c != self.offences.heard]

    def _make_nodes(self, own: list[keys.Key]) -> None:
        scenario, count = self.scenario, len(own)
        members = [*range(count)] + ([] if scenario.twin is None else [scenario.twin])
        self.nodes: list[SimNode] = []
        for number, member in enumerate(members):
            offset = scenario.wall_offsets_ms[member] + (1_500 if number == count else 0)
            clock = Clock(scenario.rates_ppm[member], self.rng.randint(0, 10**6), GENESIS_MS + 1_000 + offset)
            self.nodes.append(self.variant.node(self, number, member, own[member], clock))
        self.genesis_root = self.nodes[0].tip.root
        self.instances = [[n for n in self.nodes if n.member == member] for member in range(count)]
        self.others = [[n for n in self.nodes if n.member != member] for member in range(count)]

    def founders(self) -> range | tuple[int, ...]:
        """Which of the nodes are validators at the beginning."""
        return range(len(self.scenario.weights))

    def seats(self, epoch: int) -> list[tuple[int, int]]:
        """Member and weight for each place of an epoch's validator set."""
        return [(i, member.weight) for i, member in enumerate(self.validators.members)]

    def accounts(self) -> dict[str, int]:
        """Who has how many micro-credits at the beginning."""
        return {k.public.hex(): 1_000_000 for k in self.clients.keys}

    def checker_kinds(self) -> tuple[type[Checker], ...]:
        """What judges this world. A world of one's own adds to them."""
        return (*ALL, NoFalseEvidence, Offences, Memory, Bounded, Egress)

    def checker(self, kind: type[C]) -> C:
        """The checker of a kind."""
        return next(c for c in self.checkers if isinstance(c, kind))

    def listen(self, hook: str) -> None:
        """Find out which checkers mind a hook: most mind few, and there are many events."""
        base = getattr(Checker, hook)
        self.minding[hook] = [getattr(c, hook) for c in self.checkers if getattr(type(c), hook) is not base]

    def core_of(self, node: SimNode) -> type[Core]:
        """What a node runs."""
        return self.variant.core if node.is_honest else LIARS.get(self.scenario.lie, Core)

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
        """All instances of honest members."""
        return [node for node in self.nodes if node.is_honest]

    def is_honest(self, member: int) -> bool:
        """Is it not the member that runs twice?"""
        return member != self.scenario.twin

    # ------------------------------------------------------------------ running

    def run(self) -> Result:
        """Run to the end and return what was found."""
        with fast_signatures(not self.ed25519), small_pool():
            self.build()
            self.schedule()
            while self.heap and not self.stopped:
                self._next()
            for checker in self.checkers:
                checker.end()
        result = self.result
        result.simulated_ms = self.now_us // 1_000
        result.height = max(node.height for node in self.honest())
        result.served, result.expired = self.clients.served, self.clients.expired
        result.trace = f"{self.trace:016x}"
        return result

    def schedule(self) -> None:
        """What is known beforehand."""
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

    def arrive(self, time_us: int, node: SimNode, sender: int, data: bytes) -> None:
        """A message reaches a node at a time."""
        self.sequence += 1
        heapq.heappush(self.heap, (time_us, self.sequence, node, node.receive, (sender, data)))

    def _next(self) -> None:
        self.now_us, _, node, call, args = heapq.heappop(self.heap)
        if node is not None:
            if node.paused_until_us > self.now_us:
                self.at(node.paused_until_us, node, call, *args)
                return
            if not node.up and call.__name__ != "boot":
                return
        result = self.result
        result.events += 1
        if result.events >= self.events_max:
            self.report("Bounded", f"more than {self.events_max:,} events: a storm")
            self.stopped = True
        last = args[-1] if args else 0
        about = crc32(last) if type(last) is bytes else last if type(last) is int else 0
        # Of whole numbers alone, so that it is the same in every process.
        self.trace = hash((self.trace, self.now_us, node.id if node else -1, about)) & (2**64 - 1)
        if self.log:
            self._log(node, call.__name__, args)
        try:
            call(*args)
        except CrashNow as crash:
            assert node is not None
            self.faults.crash(node, f"{crash}")
        except DiskDamaged as error:
            assert node is not None
            self.faults.damaged(node, error)
        except Exception as error:  # noqa: BLE001 - a validator must not die of anything: that is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.report(
                "Exception", f"node {node.id if node else '-'}: {error!r} at {where.name}:{where.lineno}"
            )
            self.stopped = True

    def _log(self, node: SimNode | None, name: str, args: tuple[Any, ...]) -> None:
        assert self.log is not None
        if name == "receive":
            about = f"from {args[0]}: {words(args[1])}"
        else:
            about = ", ".join(str(a) for a in args if isinstance(a, int) or name == "begin")
        self.log(f"{self.now_us / 1_000:12.3f} ms  {f'node {node.id}' if node else 'world'} {name} {about}")

    def report(self, checker: str, what: str) -> None:
        """A violation."""
        self.stopped |= checker in self.stop_on
        if len(self.result.violations) < VIOLATIONS_MAX:
            self.result.violations.append((checker, f"at {self.now_us // 1_000} ms: {what}"))
        if self.log:
            self.log(f"{self.now_us / 1_000:12.3f} ms  VIOLATION {checker}: {what}")

    # ------------------------------------------------------------------ what nodes call

    def timer(self, at_us: int, node: SimNode) -> None:
        """The core of a node wants to be called."""
        self.at(at_us, node, self._tick, node, node.life)

    def _tick(self, node: SimNode, life: int) -> None:
        self.bounded.ticked(node)
        node.tick(life)

    def execute_later(self, node: SimNode) -> None:
        """A node's next block is executed a while after it was committed."""
        delay_us = int(self.rng.random() * self.scenario.execute_ms * 1_000)
        node.execute_us = max(self.now_us + delay_us, node.execute_us)
        self.at(node.execute_us, node, node.execute_next, node.life)

    def told(self, hook: str, node: SimNode, *about: Any) -> None:
        """Tell the checkers of an honest node."""
        if node.is_honest:
            for call in self.minding[hook]:
                call(node, *about)

    def observe(self, node: SimNode, message: Message) -> None:
        """A node's core sends."""
        if self.log:
            self.log(f"{'':>17}{node.id} sends {message_words(message)}")
        self.told("sent", node, message)

    def heard(self, node: SimNode, event: Received) -> None:
        """A node's core hears."""
        self.told("heard", node, event)

    def signed(self, node: SimNode, statement: Statement) -> None:
        """A node signs a vote."""
        self.told("signed", node, statement)

    def committed(self, node: SimNode, block: Block) -> None:
        """A block is in a node's store."""
        if self.log:
            header = block.header
            self.log(
                f"{'':>17}{node.id} commits {header.height} view {header.view} {block.hash.hex()[:8]}"
                f" with {len(block.receipts)} transactions"
            )
        if node.is_honest:
            self.told("committed", node, block)
            self.clients.executed([receipt.id for receipt in block.receipts], block.header.height)

    def alarm(self, node: SimNode, rule: str) -> None:
        """A core saw a broken rule."""
        if self.log:
            self.log(f"{'':>17}{node.id} alarm {rule}")
        self.told("alarm", node, rule)

    def fault(self, node: SimNode, sender: int, fault: PeerFault) -> None:
        """A message was refused: nobody honest may have sent it."""
        self.result.coverage.refusals[fault.rule] += 1
        if self.log:
            self.log(f"{'':>17}{node.id} refuses member {sender}: {fault}")
        if self.is_honest(sender) and node.is_honest:
            self.report("PeerFault", f"node {node.id} refused member {sender}: {fault}")

    # ------------------------------------------------------------------ when the faults are over

    def _heal(self) -> None:
        """The faults end: links are clean, clocks right, all restart but those that are down for ever."""
        self.calm = True
        self.faults.end()
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
            self.healed()
        elif passed_ms > self.heal_bound_ms:
            late.complain(f"{passed_ms} ms after the faults ended: {missing}")
            self.stopped = True
        else:
            self.at(self.now_us + PROBE_MS * 1_000, None, self._probe, since_us)

    def healed(self) -> None:
        """All is well; a quiet stretch may follow."""
        self.result.busy_ms, self.result.busy_events = self.now_us // 1_000, self.result.events
        if not self.scenario.quiet_ms:
            self.stopped = True
            return
        self.quiet = True
        self.clients.mean_us = self.scenario.quiet_every_ms * 1_000
        self.at(self.now_us + self.scenario.quiet_ms * 1_000, None, self._end)

    def _end(self) -> None:
        missing = self.progress.quiet_missing()
        if missing:
            self.progress.complain(f"after a quiet stretch: {missing}")
        self.stopped = True


def run(seed: int, variant: Variant = Variant(), ed25519: bool = False) -> Result:
    """One seed, start to finish, without a quiet stretch."""
    return World(seed, variant, ed25519=ed25519).run()
