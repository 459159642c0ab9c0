"""Test vectors for docs/spec.md: one example of each encoding, hash and signature, by the production code."""

from __future__ import annotations

import hashlib

from ledger import sshsig
from ledger.blocks import ZERO_HASH, Batch, Header, batch_digest
from ledger.codec import encode
from ledger.consent import sign_consent
from ledger.documents import PAYLOAD_TYPE, pae
from ledger.epochs import sign_change
from ledger.genesis import Genesis, GenesisValidator
from ledger.keys import Key
from ledger.limits import CHUNK_BYTES
from ledger.organisations.organisation import Charter, Deed, Member, organisation_id, sign_deed
from ledger.proofs import tree
from ledger.proofs.certificate import VOTE_DOMAIN, Statement, Validator, ValidatorSet, VoteKind, vote_message
from ledger.records import Account, key_account
from ledger.transactions import SignedTx, Transfer, Tx, decode_tx, sign_tx
from node.files.chunks import chunks_root
from node.wire import HELLO_DOMAIN, Hello, hello_message
from p2p import frames
from p2p.ids import peer_id_of
from scripts.marked import table

CHAIN = "vectors"
ALICE, BOB = Key(b"\x01" * 32), Key(b"\x02" * 32)


def transfer(salt: bytes) -> bytes:
    """Return a signed transfer from ALICE to BOB."""
    return sign_tx(ALICE, Tx(CHAIN, ALICE.public, 100, salt, Transfer(BOB.public, 5)))


def header(batch: bytes) -> Header:
    """Return a header of block 1 that names one batch."""
    return Header(
        chain_id=CHAIN,
        epoch=0,
        height=1,
        view=7,
        parent_view=0,
        parent_hash=genesis().hash,
        time_ms=1_700_000_001_000,
        proposer=ALICE.public,
        state_height=0,
        state_root=ZERO_HASH,
        validators=genesis().validator_set.hash,
        next_validators=genesis().validator_set.hash,
        batches=(batch,),
    )


def genesis() -> Genesis:
    """Return a genesis with one validator and one account."""
    validator = GenesisValidator(key=ALICE.public.hex(), weight=1, moniker="v1")
    return Genesis(
        chain_id=CHAIN, time_ms=1_700_000_000_000, validators=(validator,), accounts={BOB.public.hex(): 1_000}
    )


def vectors() -> dict[str, str]:
    """Return what is shown, by name, in the order of the specification."""
    raw = transfer(bytes(range(8)))
    tx = decode_tx(raw, CHAIN)
    batch = encode(Batch((raw, transfer(bytes(8)))))
    block = header(batch_digest(batch))
    vote = Statement(VoteKind.FINAL, 0, 7, block.hash)
    account = key_account(BOB.public)
    root, _ = tree.update(lambda path: None, {account: encode(Account(995)), b"supply": b"\x91\x05"})
    alice, bob = peer_id_of(ALICE.public), peer_id_of(BOB.public)
    proof = ALICE.sign(HELLO_DOMAIN, CHAIN, hello_message(alice, bob))
    hello = Hello(1, CHAIN, genesis().hash, "v1", ("validator",), 0, ALICE.public, proof)
    zeros = [hashlib.sha256(bytes(CHUNK_BYTES)).digest(), hashlib.sha256(bytes(1)).digest()]
    following = encode(ValidatorSet(1, (Validator(ALICE.public, 2, "v1"),)))
    charter = Charter(
        name="O", members=(Member(name="A", key=ALICE.public.hex(), weight=1, roles=("board",)),), quorum=1
    )
    deed = Deed(
        chain_id=CHAIN,
        organisation="",
        version=1,
        act="found",
        valid_until_ms=1_800_000_000_000,
        charter=charter,
    ).encode()
    found: dict[str, bytes | str] = {
        "seed of A: 32 × 01; public key": ALICE.public,
        "peer id of A": alice,
        "seed of B: 32 × 02; public key": BOB.public,
        "genesis, canonical": genesis().encode().decode(),
        "genesis hash": genesis().hash,
        "validator set, encoded": encode(genesis().validator_set),
        "`Tx`: transfer of 5 from A to B, expires 100, salt 00…07": tx.payload,
        "its id": tx.id,
        "its signature": tx.signature,
        "`SignedTx`": encode(SignedTx(tx.payload, tx.signature)),
        "digest of a batch of it and the same with salt 8 × 00": batch_digest(batch),
        "`Header` of block 1 in view 7 with this batch": block.encode(),
        "its hash": block.hash,
        "`Statement` Final of it": vote_message(vote),
        "A's vote (signature)": ALICE.sign(VOTE_DOMAIN, CHAIN, vote_message(vote)),
        "state root of `account/`B: `Account(995)` and `supply`: 9105": root,
        "`Hello` of A to B": encode(hello),
        "A's consent to be a node in BE of B's farm `alpha` (signature)": sign_consent(
            ALICE, CHAIN, "alpha", BOB.public, "BE"
        ),
        "the next validator set: A with weight 2, in epoch 1": following,
        "A's signature for it (a change of the validators), valid up to 1,800,000,000,000 ms": sign_change(
            ALICE, CHAIN, following, 1_800_000_000_000
        ),
        "A's signature of the payload `{}` in an envelope, plain": ALICE.sign_raw(pae(PAYLOAD_TYPE, b"{}")),
        "the same as an SSHSIG": sshsig.blob_of(
            ALICE.public, ALICE.sign_raw(sshsig.signed_bytes(pae(PAYLOAD_TYPE, b"{}")))
        ),
        "founding deed of `O`: its only member A, weight 1, role `board`, quorum 1": deed.decode(),
        "its sha256, the organisation's id": organisation_id(deed),
        "A's signature of it, plain": sign_deed(ALICE, deed),
        "PING with token 1": frames.encode(frames.Kind.PING, (1).to_bytes(8, "big")),
        "`chunks` of 262,145 zero bytes": chunks_root(zeros),
    }
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in found.items()}


def vectors_table() -> str:
    """Return the table for the specification."""
    return table(("what", "value"), [(name, f"`{value}`") for name, value in vectors().items()])
