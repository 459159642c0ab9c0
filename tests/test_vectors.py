"""The specification's test vectors, computed again from its text alone: of ours only the list is imported."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
from nacl.signing import SigningKey

from scripts.vectors import vectors

SHOWN = vectors()
NAMES = list(SHOWN)
A, B = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)
A_KEY, B_KEY = bytes(A.verify_key), bytes(B.verify_key)
CHAIN = "vectors"
Value = int | str | bytes | list["Value"]


def pack(value: Value) -> bytes:
    """Msgpack of what the wire uses (github.com/msgpack/msgpack, spec.md), each in its shortest form."""
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        for code, form in ((0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q")):
            if value < 1 << 8 * struct.calcsize(form):
                return bytes([code]) + struct.pack(form, value)
    if isinstance(value, str):
        data = value.encode()
        assert len(data) < 256
        return (bytes([0xA0 + len(data)]) if len(data) < 32 else bytes([0xD9, len(data)])) + data
    if isinstance(value, bytes):
        small = len(value) < 256
        return (bytes([0xC4, len(value)]) if small else b"\xc5" + struct.pack(">H", len(value))) + value
    assert isinstance(value, list)
    assert len(value) < 16
    return bytes([0x90 + len(value)]) + b"".join(pack(item) for item in value)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def tagged_hash(domain: str, data: bytes) -> bytes:
    return sha256(b"gridpact/" + domain.encode() + b"\0" + data)


def sign(key: SigningKey, domain: str, message: bytes) -> bytes:
    return key.sign(b"gridpact/" + domain.encode() + b"\0" + CHAIN.encode() + b"\0" + message).signature


def peer_id(public: bytes) -> str:
    """Section 11: base58 of the identity multihash of the protobuf-encoded key."""
    number = int.from_bytes(b"\x00\x24\x08\x01\x12\x20" + public, "big")
    letters = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    text = ""
    while number:
        number, rest = divmod(number, 58)
        text = letters[rest] + text
    return "1" + text  # for the leading zero byte


def signed_tx(salt: bytes) -> tuple[bytes, bytes, bytes]:
    payload = pack([CHAIN, A_KEY, 100, salt, ["transfer", B_KEY, 5]])
    signature = sign(A, "tx/1", payload)
    return payload, signature, pack([payload, signature])


def state_root(records: dict[bytes, bytes]) -> bytes:
    """Section 12, for a tree as a whole."""

    def node(leaves: list[tuple[int, bytes]], depth: int) -> bytes:
        if not leaves:
            return bytes(32)
        if len(leaves) == 1:
            return sha256(b"gridpact/tree/1\0\0" + leaves[0][1])
        bit = 1 << (255 - depth)
        left, right = [x for x in leaves if not x[0] & bit], [x for x in leaves if x[0] & bit]
        return sha256(b"gridpact/tree/1\0\1" + node(left, depth + 1) + node(right, depth + 1))

    rows = [(sha256(key), sha256(value)) for key, value in records.items()]
    return node([(int.from_bytes(key, "big"), key + value) for key, value in rows], 0)


def computed() -> list[str]:
    """Return all values in the order of the list."""
    genesis = json.dumps(
        {
            "accounts": {B_KEY.hex(): 1000},
            "chain_id": CHAIN,
            "consensus": {
                "alpha_percent": 20,
                "idle_ms": 1000,
                "view_timeout_max_ms": 15000,
                "view_timeout_ms": 1500,
            },
            "limits": 5,
            "time_ms": 1_700_000_000_000,
            "validators": [{"key": A_KEY.hex(), "moniker": "v1", "weight": 1}],
        },
        separators=(",", ":"),
        sort_keys=True,
    )
    genesis_hash = tagged_hash("genesis/1", genesis.encode())
    members = pack([0, [[A_KEY, 1, "v1"]]])
    payload, signature, signed = signed_tx(bytes(range(8)))
    leaves = [sha256(b"gridpact/batchtx/1\0\0" + tx) for tx in (signed, signed_tx(bytes(8))[2])]
    root = sha256(b"gridpact/batchtx/1\0\1" + b"".join(leaves))
    batch = tagged_hash("batch/1", struct.pack(">I", 2) + root)
    fields: list[Value] = [CHAIN, 0, 1, 7, 0, genesis_hash, 1_700_000_001_000, A_KEY, 0, bytes(32)]
    header = pack([*fields, sha256(members), sha256(members), [batch]])
    statement = pack([3, 0, 7, tagged_hash("block/1", header)])
    proof = sign(A, "hello/1", A_KEY + B_KEY)
    hello = pack([1, CHAIN, genesis_hash, "v1", ["validator"], 0, A_KEY, proof])
    chunks = sha256(sha256(bytes(262_144)) + sha256(bytes(1))).hex()
    values: list[bytes | str] = [A_KEY, peer_id(A_KEY), B_KEY, genesis, genesis_hash, members]
    values += [payload, tagged_hash("txid/1", payload), signature, signed, batch]
    values += [header, tagged_hash("block/1", header), statement, sign(A, "vote/1", statement)]
    values += [state_root({b"account/" + B_KEY: pack([995]), b"supply": b"\x91\x05"}), hello]
    values += [sign(A, "node/1", pack(["alpha", B_KEY, "BE"]))]
    following = pack([1, [[A_KEY, 2, "v1"]]])
    until = struct.pack(">Q", 1_800_000_000_000)
    values += [following, sign(A, "validators/2", until + following), *envelope_signatures()]
    values += [*founding(), struct.pack(">IBQ", 9, 4, 1), chunks]
    return [value.hex() if isinstance(value, bytes) else value for value in values]


def envelope_signatures() -> list[bytes | str]:
    """Section 2: over the payload `{}`, plain and as an SSHSIG."""
    message = b"DSSEv1 28 application/vnd.in-toto+json 2 {}"

    def strings(*parts: bytes) -> bytes:
        return b"".join(struct.pack(">I", len(part)) + part for part in parts)

    said = (b"gridpact", b"", b"sha512")
    made = A.sign(b"SSHSIG" + strings(*said, hashlib.sha512(message).digest())).signature
    key, signature = (strings(b"ssh-ed25519", part) for part in (A_KEY, made))
    blob = b"SSHSIG" + struct.pack(">I", 1) + strings(key, *said, signature)
    return [A.sign(message).signature, blob]


def founding() -> list[bytes | str]:
    """Section 3, organisations: the founding deed, its hash and a signature."""
    member = {"key": A_KEY.hex(), "name": "A", "roles": ["board"], "weight": 1}
    deed = {
        "act": "found",
        "chain_id": CHAIN,
        "charter": {"members": [member], "name": "O", "quorum": 1},
        "organisation": "",
        "rotation": None,
        "says": "",
        "valid_until_ms": 1_800_000_000_000,
        "version": 1,
    }
    text = json.dumps(deed, separators=(",", ":"), sort_keys=True)
    kind = b"application/vnd.gridpact.organisation+json"
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(text), text.encode())
    return [text, sha256(text.encode()), A.sign(message).signature]


def test_every_vector_is_computed_here() -> None:
    assert len(computed()) == len(NAMES)


@pytest.mark.parametrize("place", range(len(NAMES)), ids=NAMES)
def test_the_text_alone_gives_the_vector(place: int) -> None:
    assert computed()[place] == SHOWN[NAMES[place]]
