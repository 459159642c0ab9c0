"""A peer's settings: one key is a flag (--p2p.listen), a variable (GRIDPACT_P2P_LISTEN) and a line in
config/config.toml. Flag beats variable beats file beats default. Unknown keys are errors, not noise.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec
from msgspec import Meta

from ledger.text.quantities import QuantityError
from ledger.transactions import Price
from node.client.amounts import parse_credits
from node.config_rules import RULES
from node.config_rules import split_host_port as split_host_port
from node.errors import ConfigError
from node.files.rates import FileRates
from node.limits import ARTIFACT_STORE_BYTES_MAX, MIB, SNAPSHOT_EVERY_BLOCKS, STATE_BEHIND_BLOCKS
from p2p.errors import LocalError as AddressError

Role = Literal["validator", "node", "bot"]
Texts = tuple[str, ...]
_FILE_BYTES_MAX: Final = 256 * 1024
ENV_PREFIX: Final = "GRIDPACT_"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the sections."""


class P2P(_Section, frozen=True):
    """How this peer reaches others."""

    listen: Annotated[Texts, Meta(description="Multiaddrs to listen on; port 0 takes a free one.")] = (
        "/ip4/0.0.0.0/tcp/27656",
    )
    bootstrap: Annotated[
        Texts, Meta(description="Multiaddrs (with /p2p/ID) that tell of others; one is enough.")
    ] = ()
    persistent_peers: Annotated[Texts, Meta(description="Multiaddrs that are redialled for ever.")] = ()
    neighbours_max: Annotated[
        int, Meta(description="Connections kept, 1 to 64; a validator's mesh comes on top.")
    ] = 8
    relay: Annotated[
        Literal["auto", "off", "serve", "use"],
        Meta(description="serve: carry others' circuits; use: be reached by them; auto: a bot uses them."),
    ] = "auto"
    dht: Annotated[
        bool, Meta(description="Find peers by Kademlia's FIND_NODE, too, and answer it; keeps no records.")
    ] = False
    mdns: Annotated[
        bool, Meta(description="Find peers on the local network by mDNS, and be found; not on public hosts.")
    ] = False


class Api(_Section, frozen=True):
    """HTTP: the API, the explorer and the metrics."""

    listen: Annotated[
        str, Meta(description="host:port; port 0 takes a free one. Loopback unless you have a proxy.")
    ] = "127.0.0.1:27657"
    hosts: Annotated[
        Texts, Meta(description="Names that requests may use in Host, beside localhost and the address.")
    ] = ()


class Node(_Section, frozen=True):
    """What a 3node offers. Used with the role "node"."""

    farm: Annotated[str, Meta(description="The registered farm that this node belongs to.")] = ""
    country: Annotated[str, Meta(description="Where it stands: ISO 3166-1 alpha-2, such as BE.")] = ""
    cpu: Annotated[str, Meta(description='Cores offered, such as "2" or "500m".')] = "1"
    memory: Annotated[str, Meta(description='Memory offered, such as "1GiB".')] = "512MiB"
    ssd: Annotated[str, Meta(description='SSD offered, such as "10GiB": for scratch and volumes of it.')] = (
        "1GiB"
    )
    hdd: Annotated[str, Meta(description='Hard disk offered, such as "2TiB": for volumes of it.')] = "0GiB"
    ssd_folder: Annotated[
        str, Meta(description="Folder on an SSD for volumes, an absolute path. Empty: data/volumes/ssd.")
    ] = ""
    hdd_folder: Annotated[
        str, Meta(description="Folder on a hard disk for volumes, an absolute path. Empty: data/volumes/hdd.")
    ] = ""
    price_cpu: Annotated[str, Meta(description="Credits per core and hour.")] = "0.01"
    price_memory: Annotated[str, Meta(description="Credits per GiB of memory and hour.")] = "0.005"
    price_ssd: Annotated[str, Meta(description="Credits per GiB of SSD and hour.")] = "0.0001"
    price_hdd: Annotated[str, Meta(description="Credits per GiB of hard disk and hour.")] = "0.000025"
    egress: Annotated[
        bool, Meta(description="Let workloads connect to what their contracts name, in the wide world alone.")
    ] = False
    listen_host: Annotated[str, Meta(description="Host address on which services' ports are opened.")] = (
        "127.0.0.1"
    )


class Bot(_Section, frozen=True):
    """The 3bot. Used with the role "bot"."""

    account: Annotated[
        str, Meta(description="Name of the account key (config/keys/NAME) that it orders for.")
    ] = ""


class Store(_Section, frozen=True):
    """What the peer keeps on its disk."""

    size_mib_max: Annotated[
        int, Meta(description="MiB of block history kept, 16 or more; the oldest blocks go. 0 keeps all.")
    ] = 0


class Files(_Section, frozen=True):
    """Artifacts: the files of contracts, and results."""

    size_mib_max: Annotated[
        int, Meta(description="MiB of disk for them, 1 or more; what was fetched goes first, none in use.")
    ] = ARTIFACT_STORE_BYTES_MAX // MIB
    upload_kib_s: Annotated[
        int, Meta(description="KiB a second to all other peers together. 0: as fast as the line goes.")
    ] = 0
    upload_peer_kib_s: Annotated[
        int, Meta(description="KiB a second to each other peer. 0: as fast as the line goes.")
    ] = 0
    download_kib_s: Annotated[
        int, Meta(description="KiB a second from all other peers. 0: as fast as the line goes.")
    ] = 0

    @property
    def rates(self) -> FileRates:
        """As the exchange takes them."""
        in_kib = self.upload_kib_s, self.upload_peer_kib_s, self.download_kib_s
        return FileRates(*(kib * 1024 for kib in in_kib))


class Sync(_Section, frozen=True):
    """How a peer that is far behind catches up."""

    state: Annotated[
        Literal["auto", "off"],
        Meta(description="auto: far behind, take a recent state, not all blocks."),
    ] = "auto"
    behind_blocks: Annotated[
        int, Meta(description="Blocks behind from which on a state is taken, 1 or more.")
    ] = STATE_BEHIND_BLOCKS
    offer_every_blocks: Annotated[
        int, Meta(description="Blocks between states offered to others, on all peers the same. 0: none.")
    ] = SNAPSHOT_EVERY_BLOCKS


class Log(_Section, frozen=True):
    """What the peer writes to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is written.")
    ] = "info"
    format: Annotated[
        Literal["text", "json"], Meta(description="Lines for people, or one JSON object a line.")
    ] = "text"


class Settings(_Section, frozen=True):
    """All settings of one peer."""

    moniker: Annotated[str, Meta(description="A name for people; it proves nothing.")] = "peer"
    roles: Annotated[
        tuple[Role, ...], Meta(description="What it does beside following: validator, node, bot.")
    ] = ()
    p2p: P2P = P2P()
    api: Api = Api()
    node: Node = Node()
    bot: Bot = Bot()
    store: Store = Store()
    files: Files = Files()
    sync: Sync = Sync()
    log: Log = Log()

    @property
    def wants_relays(self) -> bool:
        """Does it ask neighbours to relay others to it? A 3bot often stands behind NAT."""
        return self.p2p.relay == "use" or (self.p2p.relay == "auto" and self.roles == ("bot",))


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key: dotted `name`, the type of its value, what it means."""

    name: str
    type: Any
    default: Any
    description: str

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper().replace(".", "_")

    @property
    def is_list(self) -> bool:
        return isinstance(self.default, tuple)


_SECTIONS: Final[dict[str, type[_Section]]] = {
    "p2p": P2P, "api": Api, "node": Node, "bot": Bot, "store": Store, "files": Files, "sync": Sync, "log": Log
}  # fmt: skip


def _keys_of(struct: type[_Section], prefix: str) -> list[ConfigKey]:
    hints = get_type_hints(struct, include_extras=True)
    found = []
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        if hasattr(hint, "__metadata__"):
            text = hint.__metadata__[0].description
            found.append(ConfigKey(prefix + field.name, hint.__origin__, field.default, text))
    return found


def _all_keys() -> tuple[ConfigKey, ...]:
    found = _keys_of(Settings, "")
    for name, section in _SECTIONS.items():
        found += _keys_of(section, f"{name}.")
    return tuple(found)


KEYS: Final = _all_keys()
_BY_NAME: Final = {key.name: key for key in KEYS}


def load_settings(
    file: Path | None, env: Mapping[str, str], flags: Mapping[str, str | int | Texts] | None = None
) -> Settings:
    """The settings in force. `flags` by dotted name. Raises ConfigError naming source, key and rule."""
    values: dict[str, tuple[Any, str]] = {}
    if file is not None:
        for name, value in _flat(_read_toml(file), str(file)).items():
            values[name] = value, str(file)
    for name, text in _from_env(env).items():
        values[name] = _parse(_BY_NAME[name], text, _BY_NAME[name].env), _BY_NAME[name].env
    for name, flag in (flags or {}).items():
        key = _known(name, f"--{name}")
        value = _parse(key, flag, f"--{name}") if isinstance(flag, str) else flag
        values[name] = value, f"--{name}"
    return _build(values)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}. Was this home initialised?") from error
    if len(data) > _FILE_BYTES_MAX:
        raise ConfigError(f"{file}: longer than {_FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None


def _flat(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name in _SECTIONS:
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {name}: a section [{name}] wanted")
            for inner, deep in value.items():
                found[_known(f"{name}.{inner}", where).name] = deep
        else:
            found[_known(name, where).name] = value
    return found


def _known(name: str, where: str) -> ConfigKey:
    key = _BY_NAME.get(name)
    if key is None:
        close = difflib.get_close_matches(name, _BY_NAME, 1)
        raise ConfigError(f"{where}: {name}: unknown key{_hint(close)}")
    return key


def _from_env(env: Mapping[str, str]) -> dict[str, str]:
    known = {key.env: key.name for key in KEYS}
    found = {}
    for variable, text in env.items():
        if variable in known:
            found[known[variable]] = text
        elif variable.startswith(tuple(f"{ENV_PREFIX}{section.upper()}_" for section in _SECTIONS)):
            close = difflib.get_close_matches(variable, known, 1)
            raise ConfigError(f"{variable}: unknown variable{_hint(close)}")
    return found


def _hint(close: list[str]) -> str:
    return f"; did you mean {close[0]}?" if close else ""


def _parse(key: ConfigKey, text: str, where: str) -> Any:
    """A flag's or variable's text as the key's value; lists are separated by commas."""
    if key.is_list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if key.type is int:
        if not re.fullmatch(r"-?[0-9]{1,9}", text.strip()):
            raise ConfigError(f"{where}: {key.name}: a whole number wanted, found {text[:40]!r}")
        return int(text)
    return text


def _build(values: Mapping[str, tuple[Any, str]]) -> Settings:
    table: dict[str, Any] = {}
    for name, (value, where) in values.items():
        key = _BY_NAME[name]
        try:
            checked = msgspec.convert(value, key.type)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {name}: {str(error).replace('`', '')}") from None
        rule = RULES.get(name)
        try:
            if rule is not None:
                rule(checked)
        except (QuantityError, AddressError, ValueError) as error:
            raise ConfigError(f"{where}: {name}: {error}") from None
        section, _, inner = name.rpartition(".")
        if section:
            table.setdefault(section, {})[inner] = checked
        else:
            table[inner] = checked
    settings = msgspec.convert(table, Settings)
    _check_together(settings, {name: where for name, (_, where) in values.items()})
    return settings


def _check_together(settings: Settings, sources: Mapping[str, str]) -> None:
    where = sources.get("roles", "roles")
    if "node" in settings.roles and not (settings.node.farm and settings.node.country):
        raise ConfigError(f"{where}: roles: a node needs node.farm and node.country, too")
    if "bot" in settings.roles and not settings.bot.account:
        raise ConfigError(f"{where}: roles: a bot needs bot.account, too")


def node_price(node: Node) -> Price:
    """The offer's price, micro-credits per hour."""
    return Price(*map(parse_credits, (node.price_cpu, node.price_memory, node.price_ssd, node.price_hdd)))


def template(settings: Settings) -> str:
    """config.toml with every key, its meaning and its value. Loads back to the same settings."""
    lines = [
        "# Settings of this peer.",
        "# Each key is also a flag (--p2p.listen) and a variable (GRIDPACT_P2P_LISTEN).",
        "",
    ]
    for key in _keys_of(Settings, ""):
        lines += [f"# {key.description}", f"{key.name} = {_toml(getattr(settings, key.name))}", ""]
    for name, section in _SECTIONS.items():
        doc = (section.__doc__ or "").strip()
        lines += [f"# {doc}", f"[{name}]"]
        for key in _keys_of(section, ""):
            value = getattr(getattr(settings, name), key.name)
            lines += [f"# {key.description}", f"{key.name} = {_toml(value)}"]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # JSON's strings and integers are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
