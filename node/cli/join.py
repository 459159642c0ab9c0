"""Joining a chain by one address: the genesis is fetched from the peer there and checked."""

from __future__ import annotations

from ledger.errors import Refused
from ledger.genesis import Genesis, decode_genesis
from ledger.limits import GENESIS_BYTES_MAX
from node.cli.context import EXIT_REJECTED, EXIT_UNREACHABLE, EXIT_USAGE, Failure
from node.cli.output import say
from node.wire import GENESIS_PROTOCOL
from p2p.errors import ConnectFailed, LocalError, PeerFault

_HASH_DIGITS = 64


def check_hash(text: str) -> bytes:
    """A genesis hash as a person gives it, b"" for none. Raises Failure(usage)."""
    try:
        if text and (len(text) != _HASH_DIGITS or text != text.lower()):
            raise ValueError
        return bytes.fromhex(text)
    except ValueError:
        raise Failure(EXIT_USAGE, f"--genesis-hash: {_HASH_DIGITS} lower-case hex digits wanted") from None


def hold_to(genesis: Genesis, wanted: bytes, source: str) -> None:
    """Raises Failure(rejected) when this is another genesis than the wanted one; b"" wants none."""
    if wanted and genesis.hash != wanted:
        raise Failure(
            EXIT_REJECTED, f"genesis.hash: {source} is {genesis.hash.hex()}, wanted is {wanted.hex()}"
        )


def fetch_genesis(address: str, wanted: bytes) -> Genesis:
    """The genesis that the peer of that address (with /p2p/ID) follows, checked. Nothing is written.

    Noise proves that the answer is that peer's; that the chain is the right one is proved by the hash
    alone. Raises Failure: usage for a malformed address, unreachable, rejected for what it answered.
    """
    import trio

    from p2p.public import read_public

    try:
        data = trio.run(read_public, address, GENESIS_PROTOCOL, GENESIS_BYTES_MAX)
        genesis = decode_genesis(data)
    except (LocalError, ConnectFailed, PeerFault, Refused) as error:
        raise _failure(error, address) from None
    hold_to(genesis, wanted, f"the genesis from {address}")
    if not wanted:
        say(f"genesis {genesis.hash.hex()} of chain {genesis.chain_id}, as {address} says.")
        say("Compare this hash with one that you have from the chain's people, before you trust the chain.")
    return genesis


def _failure(error: Exception, address: str) -> Failure:
    if isinstance(error, LocalError):
        return Failure(EXIT_USAGE, f"--join: {error}")
    if isinstance(error, ConnectFailed):
        return Failure(EXIT_UNREACHABLE, str(error))
    return Failure(EXIT_REJECTED, f"{address}: {error}")
