"""`gridpact node drain`, `certify`, `certified`, `uncertify`: what stands about a node beside its offer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from ledger.certification import Certification, sign_certification
from ledger.limits import DRAIN_NOTICE_MS_MIN, OFFER_VALID_MS_MAX
from ledger.transactions import CertifyNode, DrainNode, UncertifyNode
from node.cli.context import EXIT_USAGE, Failure, current
from node.cli.keys import public_key
from node.cli.output import confirm, emit_facts, say
from node.cli.tx import print_result
from node.client.amounts import parse_span, time_text

Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask.")]


_NOTICE_MS_MIN: Final = DRAIN_NOTICE_MS_MIN + 10_000  # counted from the block that it stands in


class CertificationFile(msgspec.Struct, forbid_unknown_fields=True):
    """A certifier's word as a file; keys and signature in hex."""

    node: str
    certifier: str
    valid_until_ms: int
    made_ms: int
    says: str
    signature: str


def drain(*, notice: str, yes: Yes = False) -> int:
    """Tell that the home's node leaves: no new slot from now on, and what it holds moves at that time.

    Args:
        notice: How long it stays, such as 2h; at least 70s, at most 31d. A new offer before then takes
            it back.
    """
    client, notice_ms = current.client(), parse_span(notice, "--notice") * 1000
    if not _NOTICE_MS_MIN <= notice_ms <= OFFER_VALID_MS_MAX:
        raise Failure(EXIT_USAGE, f"--notice: {notice} is not in 70s to 31d")
    leaves_ms = client.status().block_time_ms + notice_ms
    confirm(f"Leave at {time_text(leaves_ms)} UTC?", yes)
    return print_result(client.send(current.home().node_key(), DrainNode(leaves_ms)))


def certify(
    node: str,
    /,
    *,
    key: str,
    file: Annotated[Path, Parameter(name=["--file", "-f"])],
    valid: str = "365d",
    says: str = "",
) -> int:
    """Sign that you stand for a node; its farm's owner carries the file in.

    Args:
        node: The node's public key, 64 hex digits.
        key: Name of the certifier's key.
        file: Where to write your word.
        valid: For how long, such as 365d.
        says: What you looked at, for people.
    """
    certifier, status = current.key(key), current.client().status()
    made_ms = time.time_ns() // 1_000_000
    word = Certification(
        public_key(node), status.block_time_ms + parse_span(valid, "--valid") * 1000, made_ms, says
    )
    said = CertificationFile(
        word.node.hex(),
        certifier.public.hex(),
        word.valid_until_ms,
        made_ms,
        says,
        sign_certification(certifier, status.chain_id, word).hex(),
    )
    file.write_bytes(msgspec.json.format(msgspec.json.encode(said)) + b"\n")
    facts = msgspec.structs.asdict(said)
    until, made = (f"{time_text(facts.pop(name))} UTC" for name in ("valid_until_ms", "made_ms"))
    emit_facts(said, [*facts.items(), ("valid until", until), ("made", made)])
    say(f"the farm's owner: gridpact node certified {file} --key NAME")
    return 0


def certified(file: Path, /, *, key: str) -> int:
    """Carry a certifier's word about one of your nodes in.

    Args:
        file: What the certifier wrote.
        key: Name of the farmer's key.
    """
    try:
        said = msgspec.json.decode(file.read_bytes(), type=CertificationFile)
        parts = [bytes.fromhex(text) for text in (said.node, said.certifier, said.signature)]
    except (msgspec.MsgspecError, ValueError) as error:
        raise Failure(EXIT_USAGE, f"{file}: no certification: {error}") from None
    word = Certification(parts[0], said.valid_until_ms, said.made_ms, said.says)
    body = CertifyNode(parts[1], word, parts[2])
    return print_result(current.client().send(current.key(key), body))


def uncertify(node: str, /, *, key: str) -> int:
    """Take your word about a node back; what you signed up to now counts no more.

    Args:
        node: The node's public key, 64 hex digits.
        key: Name of the certifier's key.
    """
    return print_result(current.client().send(current.key(key), UncertifyNode(public_key(node))))
