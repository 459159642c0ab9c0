"""What stands about a node beside its offer: who certified it or its farm, and when it leaves.

[F5] A certification is a certifier's signed word about a node or a farm; the node or the farm's owner carries
     it in, at most CERTIFIERS_MAX stand at a time, each for at most CERTIFIED_MS_MAX. The certifier withdraws
     it at any time; one that was made before that, or before the last of the same certifier, is refused.
[F6] Drain: the node says when it leaves, at least DRAIN_NOTICE_MS_MIN ahead. Its offer is withdrawn at once;
     at that time the ledger releases what it still holds (S2), so that each slot moves to another node, and
     nothing counts as broken or given up. A new offer before then takes the notice back.
"""

from __future__ import annotations

from msgspec.structs import replace

from ledger.certification import Certification, FarmCertification, certifies, certifies_farm
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
from ledger.trade_records import CertificationRecord, key_certification, key_farm_certification
from ledger.transactions import CertifyFarm, CertifyNode, DrainNode, UncertifyFarm, UncertifyNode
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.notices import end_offer
from ledger.transition.slots import release_slot


def certify_node(env: Env, body: CertifyNode) -> None:
    """[F5] Raises Refused("certify.…")."""
    word = body.certification
    if len(word.node) != PUBLIC_KEY_BYTES or len(body.certifier) != PUBLIC_KEY_BYTES:
        raise Refused("certify.key", f"public keys of {PUBLIC_KEY_BYTES} bytes wanted", "certifier")
    node = env.need(Node, key_node(word.node), "certify.unknown_node", "no registered node")
    owner = env.must(Farm, key_farm(node.farm)).owner
    if env.sender not in (node.key, owner):
        raise Refused("certify.not_yours", "only the node or its farm's owner carries this in")
    _check_word(env, word)
    if not certifies(body.certifier, env.chain_id, word, body.signature):
        raise Refused("certify.signature", "not the certifier's signature over these words", "signature")
    key = key_certification(word.node, body.certifier)
    certified = _with_word(env, key, node.certified, body)
    env.write(key_node(node.key), replace(node, certified=certified))
    certifier = body.certifier.hex()
    env.emit("node.certified", node.key, certifier=certifier, valid_until_ms=word.valid_until_ms)


def uncertify_node(env: Env, body: UncertifyNode) -> None:
    """[F5] Raises Refused("certify.unknown_node" | "certify.none")."""
    node = env.need(Node, key_node(body.node), "certify.unknown_node", "no registered node")
    certified = _without_word(env, key_certification(body.node, env.sender), node.certified)
    env.write(key_node(node.key), replace(node, certified=certified))
    env.emit("node.uncertified", node.key, certifier=env.sender.hex())


def certify_farm(env: Env, body: CertifyFarm) -> None:
    """[F5] Raises Refused("certify.…")."""
    word = body.certification
    if len(body.certifier) != PUBLIC_KEY_BYTES:
        raise Refused("certify.key", f"a public key of {PUBLIC_KEY_BYTES} bytes wanted", "certifier")
    farm = env.need(Farm, key_farm(word.farm), "certify.unknown_farm", "no registered farm")
    if env.sender != farm.owner:
        raise Refused("certify.not_yours", "only the farm's owner carries this in")
    _check_word(env, word)
    if not certifies_farm(body.certifier, env.chain_id, word, body.signature):
        raise Refused("certify.signature", "not the certifier's signature over these words", "signature")
    certified = _with_word(env, key_farm_certification(farm.name, body.certifier), farm.certified, body)
    env.write(key_farm(farm.name), replace(farm, certified=certified))
    certifier = body.certifier.hex()
    env.emit("farm.certified", farm.name, certifier=certifier, valid_until_ms=word.valid_until_ms)


def uncertify_farm(env: Env, body: UncertifyFarm) -> None:
    """[F5] Raises Refused("certify.unknown_farm" | "certify.none")."""
    farm = env.need(Farm, key_farm(body.farm), "certify.unknown_farm", "no registered farm")
    certified = _without_word(env, key_farm_certification(farm.name, env.sender), farm.certified)
    env.write(key_farm(farm.name), replace(farm, certified=certified))
    env.emit("farm.uncertified", farm.name, certifier=env.sender.hex())


def _check_word(env: Env, word: Certification | FarmCertification) -> None:
    if len(word.says) > DETAIL_CHARS_MAX:
        raise Refused("certify.says", f"at most {DETAIL_CHARS_MAX} characters", "certification.says")
    if not env.time_ms < word.valid_until_ms <= env.time_ms + CERTIFIED_MS_MAX:
        text = f"within the next {CERTIFIED_MS_MAX} ms"
        raise Refused("certify.valid_until", text, "certification.valid_until_ms")


def _with_word(
    env: Env, key: bytes, certified: dict[str, int], body: CertifyNode | CertifyFarm
) -> dict[str, int]:
    """Record a certifier's word; returns who stands with it. Raises Refused("certify.…")."""
    word = body.certification
    former = env.read(CertificationRecord, key)
    if former is not None and word.made_ms <= former.made_ms:
        raise Refused("certify.superseded", f"a word of {former.made_ms} stands", "certification.made_ms")
    standing = {k: until_ms for k, until_ms in certified.items() if until_ms > env.time_ms}
    standing[body.certifier.hex()] = word.valid_until_ms
    if len(standing) > CERTIFIERS_MAX:
        raise Refused("certify.too_many", f"at most {CERTIFIERS_MAX} stand at a time")
    env.write(key, CertificationRecord(word.made_ms, word.valid_until_ms, word.says, body.signature))
    return standing


def _without_word(env: Env, key: bytes, certified: dict[str, int]) -> dict[str, int]:
    """Withdraw the sender's word; returns who stands without it. Raises Refused("certify.none")."""
    former, certifier = env.read(CertificationRecord, key), env.sender.hex()
    if former is None or certifier not in certified:
        raise Refused("certify.none", "the sender has certified nothing here")
    # What was signed up to now is void for good, also what nobody has carried in yet.
    made_ms = max(former.made_ms, env.time_ms)
    env.write(key, CertificationRecord(made_ms, 0, former.says, former.signature))
    return {k: until_ms for k, until_ms in certified.items() if k != certifier}


def drain_node(env: Env, body: DrainNode) -> None:
    """[F6] Raises Refused("drain.…")."""
    node = env.need(Node, key_node(env.sender), "drain.unknown_node", "the sender is no registered node")
    earliest, latest = env.time_ms + DRAIN_NOTICE_MS_MIN, env.time_ms + OFFER_VALID_MS_MAX
    if not earliest <= body.leaves_ms <= latest:
        detail = f"{DRAIN_NOTICE_MS_MIN // 1000} s to {OFFER_VALID_MS_MAX // 86_400_000} d ahead of the block"
        raise Refused("drain.notice", detail, "leaves_ms")
    node = stay(env, node)
    end_offer(env, node)
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
