"""Rules of single settings. Each raises ValueError (or the error of what it asks) saying what is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

from ledger.text.quantities import parse_country, parse_cpu, parse_size
from node.client.amounts import parse_credits
from p2p.ids import peer_of_address

Texts = tuple[str, ...]


def split_host_port(text: str) -> tuple[str, int]:
    """("127.0.0.1", 27657) of "127.0.0.1:27657"; "[::1]:80" for IPv6. Raises ValueError."""
    host, mark, port = text.rpartition(":")
    if not mark or not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError("host:port wanted, such as 127.0.0.1:27657")
    return host.strip("[]"), int(port)


def _check_moniker(text: str) -> None:
    if not 1 <= len(text) <= 64 or not text.isprintable():
        raise ValueError("1 to 64 printable characters wanted")


def _check_roles(roles: Texts) -> None:
    if len(set(roles)) != len(roles):
        raise ValueError("a role is named twice")


def _check_listen(addresses: Texts) -> None:
    if not addresses:
        raise ValueError("at least one address wanted")
    for address in addresses:
        if not re.fullmatch(r"/(ip4|ip6|dns4|dns6|dns)/[^/]{1,100}/tcp/[0-9]{1,5}", address):
            raise ValueError(f"{address[:80]!r}: a multiaddr such as /ip4/127.0.0.1/tcp/27656 wanted")


def _check_peers(addresses: Texts) -> None:
    for address in addresses:
        peer_of_address(address)


def _check_neighbours(count: int) -> None:
    if not 1 <= count <= 64:
        raise ValueError(f"1 to 64 wanted, found {count}")


def _check_history(size_mib: int) -> None:
    if size_mib and not 16 <= size_mib <= 1 << 24:  # a write buffer is 16 MiB: less cannot be measured
        raise ValueError(f"0, or 16 to {1 << 24} wanted, found {size_mib}")


def _check_files(size_mib: int) -> None:
    if not 1 <= size_mib <= 1 << 24:
        raise ValueError(f"1 to {1 << 24} wanted, found {size_mib}")


def _check_rate(kib_s: int) -> None:
    if kib_s and not 64 <= kib_s <= 1 << 30:  # a chunk of 256 KiB must come before it is given up
        raise ValueError(f"0, or 64 to {1 << 30} wanted, found {kib_s}")


def _check_behind(blocks: int) -> None:
    if blocks < 1:
        raise ValueError(f"1 or more wanted, found {blocks}")


def _check_offers(blocks: int) -> None:
    if blocks < 0:
        raise ValueError(f"0 or more wanted, found {blocks}")


def _check_country(text: str) -> None:
    if text:
        parse_country(text)


def _check_name(text: str) -> None:
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError("1 to 64 letters, digits, '-', '_' and '.' wanted")


def _check_host(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("an IP address of this machine wanted, such as 127.0.0.1 or 0.0.0.0") from None


def _check_folder(text: str) -> None:
    if text and not (text.startswith("/") and text.isprintable() and ".." not in text.split("/")):
        raise ValueError("an absolute path wanted, such as /srv/disk, or nothing")


RULES: Final[dict[str, Callable[[Any], object]]] = {
    "moniker": _check_moniker,
    "roles": _check_roles,
    "p2p.listen": _check_listen,
    "p2p.bootstrap": _check_peers,
    "p2p.persistent_peers": _check_peers,
    "p2p.neighbours_max": _check_neighbours,
    "api.listen": split_host_port,
    "node.farm": _check_name,
    "node.country": _check_country,
    "node.cpu": parse_cpu,
    "node.memory": parse_size,
    "node.ssd": parse_size,
    "node.hdd": parse_size,
    "node.ssd_folder": _check_folder,
    "node.hdd_folder": _check_folder,
    "node.listen_host": _check_host,
    "node.price_cpu": parse_credits,
    "node.price_memory": parse_credits,
    "node.price_ssd": parse_credits,
    "node.price_hdd": parse_credits,
    "bot.account": _check_name,
    "store.size_mib_max": _check_history,
    "files.size_mib_max": _check_files,
    "files.upload_kib_s": _check_rate,
    "files.upload_peer_kib_s": _check_rate,
    "files.download_kib_s": _check_rate,
    "sync.behind_blocks": _check_behind,
    "sync.offer_every_blocks": _check_offers,
}
