"""`gridpact init` and `gridpact start`."""

from __future__ import annotations

import gc
import inspect
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ledger.errors import LocalError
from ledger.genesis import Genesis, GenesisValidator
from node.cli.context import EXIT_ERROR, EXIT_USAGE, Failure, current
from node.cli.join import check_hash, fetch_genesis, hold_to
from node.cli.output import emit_facts, say
from node.config import KEYS, P2P, Bot, Node, Role, Settings, load_settings, template
from node.home import Home, clear_drafts, ensure_key, load_key, read_genesis, write_atomic, write_secret
from p2p.errors import LocalError as NetworkError
from p2p.ids import peer_id_of

if TYPE_CHECKING:
    from ledger.keys import Key


def init(
    *,
    chain_id: str = "",
    moniker: str = "peer",
    role: tuple[Role, ...] = (),
    genesis: Path | None = None,
    join: str = "",
    genesis_hash: str = "",
    bootstrap: tuple[str, ...] = (),
    farm: str = "",
    country: str = "",
    account: str = "",
) -> int:
    """Make a home: keys, settings and genesis.

    With --join the peer joins the chain of the peer at that address, from which it fetches the genesis;
    with --genesis it joins the chain of that file. Without both, --chain-id founds a new chain whose only
    validator is this peer.

    Args:
        chain_id: Name of the chain to found, or that the genesis must have.
        moniker: A name for people.
        role: validator, node or bot; may be repeated. Every peer also follows and verifies.
        genesis: Genesis file of the chain to join.
        join: Multiaddr with /p2p/ID of the peer to join by; one is enough.
        genesis_hash: What the genesis must hash to, in hex: from people whom you trust.
        bootstrap: Multiaddr with /p2p/ID of a peer to join by; may be repeated.
        farm: The node's farm, with role node.
        country: Where the node stands, with role node.
        account: Name of the bot's account key, with role bot.
    """
    home = current.home()
    _refuse_made(home)
    joined = _joined(genesis, join, genesis_hash, chain_id)
    roles = role if joined is not None or "validator" in role else ("validator", *role)
    settings = Settings(
        moniker=moniker,
        roles=roles,
        p2p=P2P(bootstrap=(join, *bootstrap) if join else bootstrap),
        node=Node(farm=farm, country=country),
        bot=Bot(account=account or ("consumer" if "bot" in roles else "")),
    )
    peer_id, validator = make_home(home, settings, joined, chain_id)
    say(f"made {home.root}; start it: gridpact start --home {home.root}")
    hash_hex = home.read_genesis().hash.hex()
    facts = {
        "home": str(home.root),
        "peer_id": peer_id,
        "validator": validator,
        "roles": list(roles),
        "genesis": hash_hex,
    }
    emit_facts(facts, [(name, fact) for name, fact in facts.items() if fact])
    return 0


def _joined(file: Path | None, address: str, hash_hex: str, chain_id: str) -> Genesis | None:
    """The genesis of the chain to join, None to found one. Raises Failure, ConfigError."""
    wanted = check_hash(hash_hex)
    if file is not None:
        found = read_genesis(file)
        hold_to(found, wanted, str(file))
    elif address:
        found = fetch_genesis(address, wanted)
    elif wanted or not chain_id:
        words = "--join ADDRESS or --genesis FILE to join a chain, or --chain-id NAME to found one"
        raise Failure(EXIT_USAGE, words)
    else:
        return None
    if chain_id not in ("", found.chain_id):
        source = file or address
        raise Failure(EXIT_USAGE, f"--chain-id {chain_id}, but {source} is of chain {found.chain_id}")
    return found


def _refuse_made(home: Home) -> None:
    if home.config_file.exists():
        raise Failure(1, f"{home.root}: initialised already; nothing was changed")


def make_home(home: Home, settings: Settings, genesis: Genesis | None, chain_id: str) -> tuple[str, str]:
    """Write a home: (peer id, validator key in hex or ""). The settings come last: without them it was begun
    and not ended, and goes on with what is there. Raises ConfigError; no key is overwritten."""
    _refuse_made(home)
    # Wrong values are told before anything is written.
    load_settings(None, {}, {key.name: _value(settings, key.name) for key in KEYS})
    home.create()
    clear_drafts(home.config_dir)
    node_key = ensure_key(home.node_key_file)
    validator: Key | None = None
    if "validator" in settings.roles:
        validator = ensure_key(home.validator_key_file)
    if "bot" in settings.roles and settings.bot.account:
        ensure_key(home.keys_dir / settings.bot.account)
    if not home.token_file.exists():
        write_secret(home.token_file, secrets.token_urlsafe(32) + "\n")
    if genesis is None:
        if validator is None:
            raise Failure(EXIT_USAGE, "a founder needs the role validator")
        founder = GenesisValidator(key=validator.public.hex(), weight=1, moniker=settings.moniker)
        genesis = Genesis(chain_id=chain_id, time_ms=now_ms(), validators=(founder,), accounts={})
    write_genesis(home.genesis_file, genesis)
    write_atomic(home.config_file, template(settings).encode())
    return peer_id_of(node_key.public), validator.public.hex() if validator is not None else ""


def _value(settings: Settings, name: str) -> Any:
    found: Any = settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def write_genesis(file: Path, genesis: Genesis) -> None:
    """Write a genesis for people to read; it is checked by reading it back. Raises ConfigError."""
    import msgspec

    write_atomic(file, msgspec.json.format(genesis.encode(), indent=2) + b"\n", 0o644)
    read_genesis(file)


def now_ms() -> int:
    """Unix time."""
    return time.time_ns() // 1_000_000


def _start(**flags: Any) -> int:
    home = current.home()
    given = {name.replace("__", "."): value for name, value in flags.items() if value is not None}
    settings = load_settings(home.config_file, os.environ, given)
    home.read_genesis()
    load_key(home.node_key_file)
    gc.disable()  # importing makes much and drops little: a tenth of a second; run_peer turns it on again
    try:
        return _until_stopped(home, settings)
    finally:
        gc.enable()


def _until_stopped(home: Home, settings: Settings) -> int:
    import trio

    from node.run import run_peer

    async def until_stopped() -> None:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            await run_peer(home, settings)
            nursery.cancel_scope.cancel()

    try:
        trio.run(until_stopped)
    except BaseExceptionGroup as group:
        # Nurseries wrap what ends them; a person wants the words in it, not the wrapping.
        ours, others = group.split((LocalError, NetworkError))
        if ours is None or others is not None:
            raise
        raise Failure(EXIT_ERROR, "; ".join(str(leaf) for leaf in _leaves(ours))) from None
    return 0


def _leaves(errors: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _with_flags(function: Callable[..., int]) -> Callable[..., int]:
    """`start` with one flag for each key of the settings."""
    parameters = []
    for key in KEYS:
        text = f"{key.description} [{key.env}]"
        kind: Any = int if key.type is int else str
        annotation = Annotated[kind | None, Parameter(name=f"--{key.name}", help=text, show_default=False)]
        name = key.name.replace(".", "__")
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )

    def start(**flags: Any) -> int:
        return function(**flags)

    start.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    start.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
    start.__doc__ = """Run the peer of a home until it is stopped (SIGTERM or Ctrl-C).

    Each setting can be given as a flag; lists are separated by commas.
    """
    return start


start = _with_flags(_start)
