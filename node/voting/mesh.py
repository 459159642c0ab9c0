"""Links of validators with each other, whoever joined when, beside the places of other neighbours (rule 12).

A hello proves who holds a validator key: the network keeps a link to each holder that has, or is about to
get, a seat. Where a holder is that was not met yet is told by another one: method "members". What is told is
a hint; the hello of who is found there decides. For peers without a seat nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from ledger.codec import decode_exact, encode
from ledger.epochs import pending
from ledger.errors import Refused
from ledger.limits import VALIDATORS_MAX
from node.limits import FAULT_POINTS, MESH_ASK_S, MESH_EVERY_S
from node.notary import Notary
from node.wire import Hello
from p2p.errors import LocalError, RequestError
from p2p.ids import peer_of_address
from p2p.limits import ADDRESS_BYTES_MAX
from p2p.network import Network

METHOD: Final = "members"
_ANSWER_BYTES_MAX: Final = 2 * VALIDATORS_MAX * (ADDRESS_BYTES_MAX + 64)  # of two sets


class MemberAt(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A validator key, and a multiaddr with /p2p/ID of the peer that has proved it to the sender."""

    key: bytes
    address: str


@dataclass(slots=True)
class Mesh:
    """See the module. `voter`: our validator key, b"" without one; `hellos`: of the neighbours of now."""

    notary: Notary
    network: Network
    voter: bytes
    hellos: Mapping[str, Hello]
    _proved: dict[bytes, str] = field(default_factory=dict)  # key -> peer id; of keys with a seat alone
    _told: dict[bytes, str] = field(default_factory=dict)
    _turn: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await self._ask()
            await trio.sleep(MESH_EVERY_S)

    def look(self) -> None:
        """Tell the network whose links to keep: of the set in force and of the next one."""
        seats = self._seats()
        found = {hello.validator: peer for peer, hello in self.hellos.items()}
        self._proved = {key: peer for key, peer in (self._proved | found).items() if key in seats}
        self._told = {key: peer for key, peer in self._told.items() if key in seats}
        self.network.hold(frozenset((*self._proved.values(), *self._told.values())))

    def proved(self, peer_id: str, key: bytes) -> None:
        """A hello has proved a key; whether there is a place for its peer is decided after this."""
        if key in self._seats():
            self._proved[key] = peer_id
            self.look()

    async def answer(self, peer_id: str, body: bytes) -> bytes:
        """The request "members". Raises Refused("members.not_a_validator")."""
        seats, asker = self._seats(), self.hellos.get(peer_id)
        if asker is None or asker.validator not in seats:
            raise Refused("members.not_a_validator", "told to validators alone")
        known = {one.peer_id: one.addresses for one in self.network.operator.known()}
        await trio.lowlevel.checkpoint()
        return encode(
            tuple(
                MemberAt(hello.validator, known[peer][0])
                for peer, hello in sorted(self.hellos.items())
                if hello.validator in seats and peer != peer_id and known.get(peer)
            )
        )

    def _seats(self) -> frozenset[bytes]:
        """Others' keys in both sets, when ours is there too."""
        sets = (self.notary.validators, pending(self.notary.store.state))
        keys = frozenset(member.key for one in sets if one is not None for member in one.members)
        return keys - {self.voter} if self.voter in keys else frozenset()

    async def _ask(self) -> None:
        """One of the linked ones for those that are missing, each time another one."""
        seats = self._seats()
        linked = {hello.validator: peer for peer, hello in self.hellos.items() if hello.validator in seats}
        if not linked or len(linked) == len(seats):
            return
        self._turn += 1
        peer_id = sorted(linked.values())[self._turn % len(linked)]
        try:
            body = await self.network.request(peer_id, METHOD, b"", MESH_ASK_S)
            found = decode_exact(tuple[MemberAt, ...], body, "members", _ANSWER_BYTES_MAX)
            wanted = {one.key: one.address for one in found if one.key in seats and one.key not in linked}
            self._told |= {key: peer_of_address(address)[1] for key, address in wanted.items()}
            for address in wanted.values():
                self.network.add_peer(address, keep=False)
        except RequestError:
            return
        except (Refused, LocalError) as error:
            rule = error.rule if isinstance(error, Refused) else "members.address"
            self.network.penalise(peer_id, rule, FAULT_POINTS)
        self.look()
