"""Peer routing by the Kademlia DHT of libp2p (libp2p/specs, kad-dht): the question FIND_NODE, asked and
answered over links alone.

The table is the peer book, which is bounded and holds whom somebody has dialled with success; its closest
twenty are the answer. What is learned is a hint, as any address is. No records are kept for others: a value
or a provider costs memory that a stranger chooses, and nothing here looks for one. The library's own service
is not used: see docs/adr/0020-peer-routing-without-records.md.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import multiaddr
import trio
from libp2p.abc import INetStream
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from p2p.circuit import end_stream
from p2p.errors import LocalError, StreamClosed
from p2p.host_parts import to_multiaddr
from p2p.ids import peer_of_address
from p2p.limits import (
    DHT_ADDRESSES_MAX,
    DHT_ANSWER_S,
    DHT_EVERY_S,
    DHT_FIRST_S,
    DHT_MESSAGE_BYTES_MAX,
    DHT_PEERS_MAX,
    DHT_QUESTIONS_MAX,
)

if TYPE_CHECKING:
    from p2p.book import Entry
    from p2p.switchboard import Switchboard

PROTOCOL: Final = "/ipfs/kad/1.0.0"


class DhtHost(Protocol):
    """What this asks of its host."""

    async def is_stream_of_link(self, stream: INetStream) -> bool:
        """Waits until the stream's connection is a neighbour's; False when it never will be."""

    async def open_on_link(self, peer_id: str, protocol: str) -> INetStream:
        """Opens a stream to a neighbour; raises StreamClosed."""


def place_of(key: bytes) -> int:
    """Where a key stands: the sha256 of a peer id's bytes, or of any others."""
    return int.from_bytes(hashlib.sha256(key).digest(), "big")


def closest(key: bytes, entries: Iterable["Entry"]) -> list["Entry"]:
    """Returns the DHT_PEERS_MAX entries whose places are nearest to that of the key, by XOR."""
    target = place_of(key)
    return sorted(entries, key=lambda entry: place_of(ID.from_string(entry.peer_id).to_bytes()) ^ target)[
        :DHT_PEERS_MAX
    ]


def addresses_of(peer: Message.Peer) -> list[str]:
    """Returns the addresses of a peer in an answer, with its id; what is malformed is left out."""
    found = []
    for raw in peer.addrs[:DHT_ADDRESSES_MAX]:
        try:
            ending = f"/p2p/{ID(peer.id)}"
            address = str(multiaddr.Multiaddr(raw))
            address = address if address.endswith(ending) else address + ending
            peer_of_address(address)
        except Exception:  # noqa: BLE001 - whatever foreign bytes provoke in the library
            continue
        found.append(address)
    return found


class Dht:
    """Of one peer."""

    def __init__(self, host: DhtHost, board: "Switchboard") -> None:
        self._host = host
        self._board = board

    # --- answering -----------------------------------------------------------------------------------------

    async def handle(self, stream: INetStream) -> None:
        """Answers a neighbour's questions on one stream."""
        try:
            if not await self._host.is_stream_of_link(stream):
                raise StreamClosed("dht: not a neighbour")
            for _ in range(DHT_QUESTIONS_MAX):
                question = await _read(stream)
                if question.type == Message.FIND_NODE:
                    await _write(stream, self.answer(question.key, str(stream.muxed_conn.peer_id)))
                elif question.type == Message.PING:
                    await _write(stream, question)
                else:
                    self._board.standing.count("dht.refused")
                    break
        except StreamClosed:
            pass
        await end_stream(stream)

    def answer(self, key: bytes, asker: str) -> Message:
        """Returns the nearest peers that we know to be there, but for the asker."""
        self._board.standing.count("dht.answered")
        known = (
            entry
            for entry in self._board.book.entries.values()
            if entry.peer_id != asker and (entry.proved or entry.peer_id in self._board.links)
        )
        answer = Message(type=Message.FIND_NODE, key=key)
        for entry in closest(key, known):
            peer = answer.closerPeers.add()
            peer.id = ID.from_string(entry.peer_id).to_bytes()
            peer.addrs.extend(_as_bytes(entry.addresses))
            is_linked = entry.peer_id in self._board.links
            peer.connection = Message.CONNECTED if is_linked else Message.CAN_CONNECT
        return answer

    # --- asking --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Asks a neighbour now and then while there is room for more, until cancelled."""
        pause_s = DHT_FIRST_S
        while True:
            await trio.sleep(pause_s)
            pause_s = min(DHT_EVERY_S, pause_s * 2)
            if self._board.links and self._board.places_left() > 0:
                neighbour = self._board.rng.choice(sorted(self._board.links))
                await self.ask(neighbour, self._board.rng.randbytes(32))

    async def ask(self, neighbour: str, key: bytes) -> list[str]:
        """Asks for the peers nearest to a key and puts them into the book. Returns their addresses; none when
        the neighbour does not answer."""
        try:
            stream = await self._host.open_on_link(neighbour, PROTOCOL)
        except StreamClosed:
            return []
        try:
            with trio.move_on_after(DHT_ANSWER_S):
                await _write(stream, Message(type=Message.FIND_NODE, key=key))
                answer = await _read(stream)
                found = [one for peer in answer.closerPeers[:DHT_PEERS_MAX] for one in addresses_of(peer)]
                self._board.standing.count("dht.asked")
                link = self._board.links.get(neighbour)
                if link is None:
                    return []
                for address in found:
                    self._board.book.hear(address, link.address)
                self._board.look()
                return found
        except StreamClosed:
            self._board.standing.count("dht.broken")
        finally:
            await end_stream(stream)
        return []


def _as_bytes(addresses: Sequence[str]) -> list[bytes]:
    found = []
    for address in addresses[:DHT_ADDRESSES_MAX]:
        try:
            found.append(to_multiaddr(address.rpartition("/p2p/")[0]).to_bytes())
        except LocalError:
            continue
    return found


async def _read(stream: INetStream) -> Message:
    try:
        with trio.fail_after(DHT_ANSWER_S):
            return Message.FromString(await read_varint_prefixed_bytes_limited(stream, DHT_MESSAGE_BYTES_MAX))
    except Exception as error:
        raise StreamClosed(f"dht: {type(error).__name__}") from error


async def _write(stream: INetStream, message: Message) -> None:
    try:
        with trio.CancelScope(shield=True):  # half a write breaks the whole connection
            await stream.write(encode_varint_prefixed(message.SerializeToString()))
    except Exception as error:
        raise StreamClosed(f"dht: {error}") from error
