"""Clients that write by the SDK, each a thread, and remember what they were told to be final."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from ledger.keys import Key
from ledger.transactions import Transfer
from node.client.sdk import ApiError, ClientError
from tests.e2e.net import Net

ANSWER_S = 10.0  # a validator that is killed or frozen meanwhile does not answer


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A write that a validator told to be final: there it must be, for ever. Times in Unix seconds."""

    height: int
    sent_s: float
    told_s: float


@dataclass(slots=True)
class Writers:
    """Transfers of one micro-credit, `rate` a second from all writers together, each to any validator."""

    net: Net
    through: tuple[str, ...]
    rate: float
    count: int
    seed: int
    to: Key = field(default_factory=lambda: Key(os.urandom(32)))
    final: dict[str, Acknowledged] = field(default_factory=dict)  # by id
    unanswered: int = 0  # sent, and nobody said what became of it
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # answers that no peer may give
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Write until `stop`."""
        self._threads = [threading.Thread(target=self._write, args=(i,)) for i in range(self.count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when all have their last answer."""
        self._over.set()
        for thread in self._threads:
            thread.join(ANSWER_S * 3)
            assert not thread.is_alive(), "a client hangs beyond its time-out"

    def _write(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/writer{number}")
        sender = self.net.key("consumer")
        while not self._over.wait(rng.uniform(0.5, 1.5) * self.count / self.rate):
            self._one(rng.choice(self.through), sender)

    def _one(self, name: str, sender: Key) -> None:
        client = self.net.api(name)
        client.timeout_s = ANSWER_S
        try:
            raw = client.sign(sender, Transfer(self.to.public, 1))
        except ClientError as error:
            self._failed(error)  # nothing was sent
            return
        sent_s = time.time()
        try:
            result = client.submit(raw, timeout_s=ANSWER_S)
        except ClientError as error:
            self._failed(error)
            with self._lock:
                self.unanswered += 1
            return
        with self._lock:
            if result.state != "final" or not result.ok:
                self.wrong.append(f"{name} answered {result}")
            elif result.id in self.final:
                self.wrong.append(f"{name}: {result.id} told twice")
            else:
                self.final[result.id] = Acknowledged(result.height, sent_s, time.time())

    def _failed(self, error: ClientError) -> None:
        what = f"{error.status}" if isinstance(error, ApiError) else type(error).__name__
        with self._lock:
            self.errors[what] += 1
