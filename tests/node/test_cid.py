"""CIDv1 beside our digests: known names, both ways, and nothing but the one spelling."""

from __future__ import annotations

import hashlib

import pytest

from node.files.cid import cid_of, sha256_of

# Published: the readme of Rust's cid, the documentation of Elixir's excid, and IPFS's name of nothing.
KNOWN = {
    b"beep boop": "bafkreieq5jui4j25lacwomsqgjeswwl3y5zcdrresptwgmfylxo2depppq",
    b"hello": "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
    b"": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
}


@pytest.mark.parametrize("data", KNOWN)
def test_known_names(data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    assert cid_of(digest) == KNOWN[data]
    assert sha256_of(KNOWN[data]) == digest
    assert sha256_of(digest) == digest


def test_the_library_of_the_network_names_it_the_same() -> None:
    cid = pytest.importorskip("cid")
    digest = hashlib.sha256(b"some bytes").digest()
    made = cid.make_cid(1, "raw", bytes((0x12, 32)) + digest)
    assert made.encode("base32").decode() == cid_of(digest.hex())


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ab" * 31,
        "AB" * 32,
        "../../etc/passwd",
        KNOWN[b""].upper(),
        KNOWN[b""] + "a",
        KNOWN[b""][:-1] + "v",  # the spare bits of the last letter are not zero: another spelling
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",  # dag-pb: a tree of blocks
        "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn",  # version 0
    ],
)
def test_nothing_else_is_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="wanted"):
        sha256_of(name)
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        cid_of(name)
