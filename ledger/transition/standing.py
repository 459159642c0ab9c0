"""What stands about a node beside its offer: who certified it, and when it leaves.

[F5] A certification is a certifier's signed word about a node; the node or its farm's owner carries it in, at
     most CERTIFIERS_MAX stand at a time, each for at most CERTIFIED_MS_MAX. The certifier withdraws it at any
     time; one that was made before that, or before the last of the same certifier, is refused.
[F6] Drain: the node says when it leaves, at least DRAIN_NOTICE_MS_MIN ahead. Its offer is withdrawn at once;
     at that time the ledger releases what it still holds (S2), so that each slot moves to another node, and
     nothing counts as broken or given up. A new offer before then takes the notice back.
"""

from __future__ import annotations

from msgspec.structs import replace

from ledger.certification import certifies
from ledger.errors import Refused
from ledger.keys import PUBLIC_KEY_BYTES
from ledger.limits import (
    CERTIFIED_MS_MAX,
    CERTIFIERS_MAX,
    DETAIL_CHARS_MAX,
    DRAIN_NOTICE_MS_MIN,
    DRAIN_SLOTS_PER_STEP_MAX,
    OFFER_VALID_MS_MAX,
)
from ledger.records import Farm, Node, held_parts, key_due, key_farm, key_held, key_node
from ledger.trade_records import CertificationRecord, key_certification
from ledger.transactions import CertifyNode, DrainNode, UncertifyNode
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.slots import release_slot


def certify_node(env: Env, body: CertifyNode) -> None:
    """[F5] Raises Refused("certify.…")."""
    word = body.certification
    if len(word.says) > DETAIL_CHARS_MAX:
        raise Refused("certify.says", f"at most {DETAIL_CHARS_MAX} characters", "certification.says")
    if len(word.node) != PUBLIC_KEY_BYTES or len(body.certifier) != PUBLIC_KEY_BYTES:
        raise Refused("certify.key", f"public keys of {PUBLIC_KEY_BYTES} bytes wanted", "certifier")
    node = env.need(Node, key_node(word.node), "certify.unknown_node", "no registered node")
    owner = env.must(Farm, key_farm(node.farm)).owner
    if env.sender not in (node.key, owner):
        raise Refused("certify.not_yours", "only the node or its farm's owner carries this in")
    if not env.time_ms < word.valid_until_ms <= env.time_ms + CERTIFIED_MS_MAX:
        text = f"within the next {CERTIFIED_MS_MAX} ms"
        raise Refused("certify.valid_until", text, "certification.valid_until_ms")
    if not certifies(body.certifier, env.chain_id, word, body.signature):
        raise Refused("certify.signature", "not the certifier's signature over these words", "signature")
    key = key_certification(word.node, body.certifier)
    former = env.read(CertificationRecord, key)
    if former is not None and word.made_ms <= former.made_ms:
        raise Refused("certify.superseded", f"a word of {former.made_ms} stands", "certification.made_ms")
    certified = {k: until_ms for k, until_ms in node.certified.items() if until_ms > env.time_ms}
    certified[body.certifier.hex()] = word.valid_until_ms
    if len(certified) > CERTIFIERS_MAX:
        raise Refused("certify.too_many", f"at most {CERTIFIERS_MAX} stand for a node at a time")
    env.write(key_node(node.key), replace(node, certified=certified))
    env.write(key, CertificationRecord(word.made_ms, word.valid_until_ms, word.says, body.signature))
    certifier = body.certifier.hex()
    env.emit("node.certified", node.key, certifier=certifier, valid_until_ms=word.valid_until_ms)


def uncertify_node(env: Env, body: UncertifyNode) -> None:
    """[F5] Raises Refused("certify.unknown_node" | "certify.none")."""
    node = env.need(Node, key_node(body.node), "certify.unknown_node", "no registered node")
    key, certifier = key_certification(body.node, env.sender), env.sender.hex()
    former = env.read(CertificationRecord, key)
    if former is None or certifier not in node.certified:
        raise Refused("certify.none", "the sender has certified nothing here")
    certified = {k: until_ms for k, until_ms in node.certified.items() if k != certifier}
    env.write(key_node(node.key), replace(node, certified=certified))
    # What was signed up to now is void for good, also what nobody has carried in yet.
    made_ms = max(former.made_ms, env.time_ms)
    env.write(key, CertificationRecord(made_ms, 0, former.says, former.signature))
    env.emit("node.uncertified", node.key, certifier=certifier)


def drain_node(env: Env, body: DrainNode) -> None:
    """[F6] Raises Refused("drain.…")."""
    node = env.need(Node, key_node(env.sender), "drain.unknown_node", "the sender is no registered node")
    earliest, latest = env.time_ms + DRAIN_NOTICE_MS_MIN, env.time_ms + OFFER_VALID_MS_MAX
    if not earliest <= body.leaves_ms <= latest:
        raise Refused("drain.notice", f"{earliest} to {latest} now", "leaves_ms")
    node = stay(env, node)
    env.write(key_node(node.key), replace(node, valid_until_ms=0, leaves_ms=body.leaves_ms))
    env.state.put(_due(body.leaves_ms, node.key, b""), b"")
    env.emit("node.draining", node.key, farm=node.farm, leaves_ms=body.leaves_ms, slots=node.slots_held)


def stay(env: Env, node: Node) -> Node:
    """[F6] Take a notice back, if there is one; the caller writes the record that is returned."""
    if node.leaves_ms:
        env.state.delete(_due(node.leaves_ms, node.key, b""))
    return replace(node, leaves_ms=0)


def _due(time_ms: int, node: bytes, after: bytes) -> bytes:
    return key_due(time_ms, "drain", node + b"/" + after)


def leave(env: Env, rest: bytes) -> int:
    """[F6] The timed work `drain`: release what the node holds, some at a time, from a held slot on; returns
    how many. What is left over is due right after this block."""
    key, after = rest[:PUBLIC_KEY_BYTES], rest[PUBLIC_KEY_BYTES + 1 :]
    node = env.must(Node, key_node(key))
    if not after:
        env.emit("node.left", key, farm=node.farm, slots=node.slots_held)
        node = replace(node, leaves_ms=0)
        env.write(key_node(key), node)
    if node.valid_until_ms:
        return 0  # it came back
    prefix = key_held(key, b"", "")
    start = prefix + after + b"\0" if after else prefix
    found = [k for k, _ in env.state.scan(prefix, start, DRAIN_SLOTS_PER_STEP_MAX)]
    for held in found:
        deployment, name = held_parts(held)
        release_slot(Deal.of(env, deployment), name)
    if len(found) == DRAIN_SLOTS_PER_STEP_MAX:
        env.state.put(_due(env.time_ms + 1, key, found[-1][len(prefix) :]), b"")
    return len(found)
