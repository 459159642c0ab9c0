"""Checks a proof file of `gridpact query … --out FILE` against a genesis file, with no line of gridpact.

    python examples/verify_proof.py genesis.json FILE

Written from docs/spec.md (sections 1, 9, 12) alone; needs PyNaCl for Ed25519 and nothing else: no peer, no
network. Prints what the file proves, and ends with 0; with 1 and a reason when it proves nothing. It says
what was so at the printed time; whether that is recent enough is for its reader to judge. Bytes that mean the
same in another msgpack form are accepted here, but not by gridpact.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

FINAL = 3
PATH_MAX = 256
DEPTH_MAX = 256
TIMERS = {"view_timeout_ms": 1_500, "view_timeout_max_ms": 15_000, "alpha_percent": 20, "idle_ms": 1_000}
FIELDS = (
    *("chain_id", "epoch", "height", "view", "parent_view", "parent_hash", "time_ms", "proposer"),
    *("state_height", "state_root", "validators", "next_validators", "batches"),
)


class NotProved(Exception):
    """The file does not prove what it says."""


def need(holds: bool, what: str) -> None:
    """Raises NotProved unless it holds."""
    if not holds:
        raise NotProved(what)


# --- msgpack, as far as the wire uses it ---------------------------------------------------------


def unpack(data: bytes) -> Any:
    """The value of exactly these bytes."""
    value, end = _value(data, 0)
    need(end == len(data), "bytes after the value")
    return value


def _value(data: bytes, at: int) -> tuple[Any, int]:
    need(at < len(data), "the bytes end too early")
    code, at = data[at], at + 1
    if code < 0x80:
        return code, at
    if code == 0xC0:
        return None, at
    if 0xCC <= code <= 0xCF:
        return _number(data, at, 1 << (code - 0xCC))
    if 0x90 <= code < 0xA0:
        return _array(data, at, code & 15)
    if code in (0xDC, 0xDD):
        count, at = _number(data, at, 2 if code == 0xDC else 4)
        return _array(data, at, count)
    if 0xA0 <= code < 0xC0:
        return _text(data, at, code & 31)
    if code in (0xC4, 0xC5, 0xC6):
        size, at = _number(data, at, 1 << (code - 0xC4))
        need(at + size <= len(data), "the bytes end too early")
        return data[at : at + size], at + size
    need(code in (0xD9, 0xDA), f"a type that the wire does not use: {code:#x}")
    size, at = _number(data, at, 1 if code == 0xD9 else 2)
    return _text(data, at, size)


def _number(data: bytes, at: int, size: int) -> tuple[int, int]:
    need(at + size <= len(data), "the bytes end too early")
    return int.from_bytes(data[at : at + size], "big"), at + size


def _text(data: bytes, at: int, size: int) -> tuple[str, int]:
    need(at + size <= len(data), "the bytes end too early")
    return data[at : at + size].decode(), at + size


def _array(data: bytes, at: int, count: int) -> tuple[list[Any], int]:
    items = []
    for _ in range(count):
        item, at = _value(data, at)
        items.append(item)
    return items, at


def pack_number(number: int) -> bytes:
    """A whole number in its shortest form."""
    if number < 128:
        return bytes([number])
    code, form = next(
        (code, form)
        for code, form in ((0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"))
        if number < 1 << 8 * struct.calcsize(form)
    )
    return bytes([code]) + struct.pack(form, number)


# --- who signs, and what is final ----------------------------------------------------------------


def genesis_hash(genesis: dict[str, Any]) -> bytes:
    """The name of the chain that a genesis file describes."""
    whole = {
        **genesis,
        "consensus": TIMERS | genesis.get("consensus", {}),
        "limits": genesis.get("limits", 1),
    }
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(b"gridpact/genesis/1\0" + text.encode()).digest()


def final_header(
    chain_id: str, epoch: int, members: list[Any], set_hash: bytes, proof: Any
) -> dict[str, Any]:
    """The header of a FinalityProof, checked with its epoch's set. Raises NotProved."""
    first, path, certificate = proof
    need(len(path) <= PATH_MAX, "the path is too long")
    header = last = dict(zip(FIELDS, unpack(first), strict=True))
    mine = (chain_id, epoch, set_hash)
    digest = sha256(b"gridpact/block/1\0" + first).digest()
    for data in path:
        child = dict(zip(FIELDS, unpack(data), strict=True))
        need(child["parent_hash"] == digest and child["height"] == last["height"] + 1, "a broken path")
        if last["next_validators"] != set_hash:
            above = child["batches"] or child["next_validators"] != last["next_validators"]
            need(not above, "something stands above an epoch's end")
        need(
            (child["chain_id"], child["epoch"], child["validators"]) == (chain_id, epoch, set_hash),
            "a stranger",
        )
        last, digest = child, sha256(b"gridpact/block/1\0" + data).digest()
    found = (header["chain_id"], header["epoch"], header["validators"])
    need(found == mine, f"height {header['height']} is not of epoch {epoch}")
    (kind, of, view, block), bitmap, signatures = unpack(certificate)
    need((kind, of, view, block) == (FINAL, epoch, last["view"], digest), "not its Final certificate")
    message = b"\x94" + b"".join(map(pack_number, (kind, of, view))) + b"\xc4\x20" + block
    check_quorum(chain_id, members, bitmap, signatures, message)
    return header


def check_quorum(
    chain_id: str, members: list[Any], bitmap: bytes, signatures: list[bytes], message: bytes
) -> None:
    """Raises NotProved unless more than two thirds of the weight signed."""
    need(len(bitmap) == (len(members) + 7) // 8, "a bitmap of another size")
    signers = [i for i in range(8 * len(bitmap)) if bitmap[i // 8] >> (i % 8) & 1]
    need(len(signers) == len(signatures) and (not signers or signers[-1] < len(members)), "signers")
    weight, total = sum(members[i][1] for i in signers), sum(member[1] for member in members)
    need(weight >= 2 * total // 3 + 1, f"weight {weight} of {total} is no quorum")
    for index, signature in zip(signers, signatures, strict=True):
        tagged = b"gridpact/vote/1\0" + chain_id.encode() + b"\0" + message
        VerifyKey(members[index][0]).verify(tagged, signature)


# --- the state -----------------------------------------------------------------------------------


def check_record(root: bytes, key: bytes, value: bytes | None, proof: Any) -> None:
    """Raises NotProved unless the key holds the value, or nothing for None, under a state root."""
    siblings, leaf = proof
    depth, digest = len(siblings), sha256(key).digest()
    need(depth <= DEPTH_MAX, "too many siblings")
    need(all(len(s) in (0, 32) and any(s) == bool(s) for s in siblings), "a false sibling")
    place, node = int.from_bytes(digest, "big"), bytes(32)
    if value is not None:
        need(not leaf, "a leaf too many")
        node = sha256(b"gridpact/tree/1\0\0" + digest + sha256(value).digest()).digest()
    elif leaf:
        need(len(leaf) == 64 and leaf[:32] != digest, "another leaf")
        need((int.from_bytes(leaf[:32], "big") ^ place) >> (256 - depth) == 0, "a leaf elsewhere")
        node = sha256(b"gridpact/tree/1\0\0" + leaf).digest()
    for level in range(depth - 1, -1, -1):
        sibling = siblings[level] or bytes(32)
        pair = sibling + node if place >> (255 - level) & 1 else node + sibling
        node = sha256(b"gridpact/tree/1\0\1" + pair).digest()
    need(node == root, "it does not lead to the state root")


def verify(genesis_text: bytes, data: bytes) -> dict[str, Any]:
    """What a proof file proves: key, value (None: absent), height, time_ms, epochs. Raises NotProved."""
    try:
        return _verify(json.loads(genesis_text), unpack(data))
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RecursionError,
        CryptoError,
    ) as error:
        raise NotProved(f"malformed, or a signature that does not hold: {error}") from None


def _verify(genesis: dict[str, Any], file: Any) -> dict[str, Any]:
    name, chain_id, hash_, epochs, (key, value, proof, finality) = file
    need(name == "gridpact-proof/1", "another format")
    need(chain_id == genesis["chain_id"] and hash_ == genesis_hash(genesis), "of another genesis")
    members = [[bytes.fromhex(v["key"]), v["weight"], v["moniker"]] for v in genesis["validators"]]
    set_hash = set_digest(0, members)
    for epoch, (next_set, parent, end) in enumerate(epochs):
        header = final_header(chain_id, epoch, members, set_hash, end)
        need(header["next_validators"] != set_hash, f"height {header['height']} does not end epoch {epoch}")
        before = dict(zip(FIELDS, unpack(parent), strict=True))
        need(header["parent_hash"] == sha256(b"gridpact/block/1\0" + parent).digest(), "another parent")
        need(before["next_validators"] == set_hash, f"epoch {epoch} ended before {header['height']}")
        need(header["next_validators"] == sha256(next_set).digest(), "not the set that the header names")
        following, members = unpack(next_set)
        need(following == epoch + 1, "a set of another epoch")
        set_hash = sha256(next_set).digest()
    header = final_header(chain_id, len(epochs), members, set_hash, finality)
    check_record(header["state_root"], key, value, proof)
    return {
        "key": key,
        "value": value,
        "height": header["state_height"],
        "time_ms": header["time_ms"],
        "epochs": len(epochs),
    }


def set_digest(epoch: int, members: list[Any]) -> bytes:
    """sha256 of an encoded validator set."""
    count = len(members)
    data = b"\x92" + pack_number(epoch)
    data += bytes([0x90 + count]) if count < 16 else b"\xdc" + struct.pack(">H", count)
    for key, weight, moniker in members:
        text = moniker.encode()
        head = bytes([0xA0 + len(text)]) if len(text) < 32 else bytes([0xD9, len(text)])
        if len(text) > 255:
            head = b"\xda" + struct.pack(">H", len(text))
        data += b"\x93\xc4\x20" + key + pack_number(weight) + head + text
    return sha256(data).digest()


def main(arguments: list[str]) -> int:
    """0 when the file proves something."""
    if len(arguments) != 2:
        print("usage: verify_proof.py genesis.json FILE", file=sys.stderr)
        return 2
    try:
        found = verify(Path(arguments[0]).read_bytes(), Path(arguments[1]).read_bytes())
    except NotProved as error:
        print(f"NOT PROVED: {error}", file=sys.stderr)
        return 1
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found["time_ms"] // 1000))
    print(f"key     {found['key'].hex()}")
    print(f"value   {'absent' if found['value'] is None else found['value'].hex()}")
    print(f"as of   height {found['height']}, {when} UTC, {found['epochs']} epochs after genesis")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
