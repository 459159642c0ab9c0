"""A job's result: salted, so that its public digest tells nothing, and sealed to the consumer.

What the box holds is the salt and then the file. The receipt names the sha256 of both together, and of the
box. Replicas that must agree have to find one digest, so theirs have a salt that everybody can work out:
there a result that can be guessed can be confirmed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from ledger.errors import Refused
from ledger.keys import Key, hash_tagged
from ledger.manifests.types import Workload
from ledger.predicates import ResultFile
from node.sealed.sealing import seal, unseal

SALT_BYTES: Final = 32


def salt_for(deployment: bytes, workload: Workload, path: str) -> bytes:
    """32 bytes: a secret of this run, or one for all replicas of the job where they must agree."""
    if not workload.agree:
        return secrets.token_bytes(SALT_BYTES)
    return hash_tagged("result_salt/1", deployment + f"{workload.name}{path}".encode())


def seal_result(consumer: bytes, salt: bytes, data: bytes) -> tuple[ResultFile, bytes]:
    """What the receipt says, and the box, which the consumer alone opens. Raises Refused("seal.key")."""
    box = seal(consumer, salt + data)
    told = ResultFile(
        sha256=hashlib.sha256(salt + data).hexdigest(),
        size_bytes=len(data),
        sealed=hashlib.sha256(box).hexdigest(),
        sealed_bytes=len(box),
    )
    return told, box


def open_result(key: Key, told: ResultFile, box: bytes) -> bytes:
    """The file, exactly as the receipt tells. Raises Refused("result.box" | "seal.not_ours" |
    "result.content")."""
    if not hmac.compare_digest(hashlib.sha256(box).hexdigest(), told.sealed):
        raise Refused("result.box", "not the sealed bytes that the receipt names")
    inside = unseal(key, box)
    data = inside[SALT_BYTES:]
    if hashlib.sha256(inside).hexdigest() != told.sha256 or len(data) != told.size_bytes:
        raise Refused("result.content", "not the file that the receipt names")
    return data
