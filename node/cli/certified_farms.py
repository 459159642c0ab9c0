"""`gridpact farm certify`, `certified`, `uncertify`: who stands for whoever runs a farm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from ledger.certification import FarmCertification, sign_farm_certification
from ledger.transactions import CertifyFarm, UncertifyFarm
from node.cli.context import EXIT_USAGE, Failure, current
from node.cli.output import emit_facts, say
from node.cli.tx import print_result
from node.client.amounts import parse_span, time_text


class FarmCertificationFile(msgspec.Struct, forbid_unknown_fields=True):
    """A certifier's word as a file; key and signature in hex."""

    farm: str
    certifier: str
    valid_until_ms: int
    made_ms: int
    says: str
    signature: str


def certify(
    farm: str,
    /,
    *,
    key: str,
    file: Annotated[Path, Parameter(name=["--file", "-f"])],
    valid: str = "365d",
    says: str = "",
) -> int:
    """Sign that you stand for a farm; its owner carries the file in.

    Args:
        farm: The farm's name.
        key: Name of the certifier's key.
        file: Where to write your word.
        valid: For how long, such as 365d.
        says: What you looked at, for people.
    """
    valid_ms = parse_span(valid, "--valid") * 1000
    certifier, status = current.key(key), current.client().status()
    made_ms = time.time_ns() // 1_000_000
    word = FarmCertification(farm, status.block_time_ms + valid_ms, made_ms, says)
    signature = sign_farm_certification(certifier, status.chain_id, word).hex()
    said = FarmCertificationFile(farm, certifier.public.hex(), word.valid_until_ms, made_ms, says, signature)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(said)) + b"\n")
    facts = msgspec.structs.asdict(said)
    until, made = (f"{time_text(facts.pop(name))} UTC" for name in ("valid_until_ms", "made_ms"))
    emit_facts(said, [*facts.items(), ("valid until", until), ("made", made)])
    say(f"the farm's owner: gridpact farm certified {file} --key NAME")
    return 0


def certified(file: Path, /, *, key: str) -> int:
    """Carry a certifier's word about your farm in.

    Args:
        file: What the certifier wrote.
        key: Name of the farmer's key.
    """
    try:
        said = msgspec.json.decode(file.read_bytes(), type=FarmCertificationFile)
        certifier, signature = bytes.fromhex(said.certifier), bytes.fromhex(said.signature)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Failure(EXIT_USAGE, f"{file}: no certification of a farm: {error}") from None
    word = FarmCertification(said.farm, said.valid_until_ms, said.made_ms, said.says)
    body = CertifyFarm(certifier, word, signature)
    return print_result(current.client().send(current.key(key), body))


def uncertify(farm: str, /, *, key: str) -> int:
    """Take your word about a farm back; what you signed up to now counts no more.

    Args:
        farm: The farm's name.
        key: Name of the certifier's key.
    """
    return print_result(current.client().send(current.key(key), UncertifyFarm(farm)))
