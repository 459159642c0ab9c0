"""`gridpact approve`, `reject`, `revoke`: a stakeholder's signature, made here over what was read."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from ledger.codec import decode
from ledger.documents import PAYLOAD_TYPE, open_document, pae, payload_of, seal_payload, sign_payload
from ledger.keys import SEED_BYTES, Key
from ledger.light import Trust
from ledger.manifest import decode_manifest, expand, most_spent
from ledger.manifest_types import Manifest, Terms, manifest_digest
from ledger.people import Roll, names_of, words_of
from ledger.policy import describe
from ledger.policy_records import capacities
from ledger.policy_types import Act
from ledger.policy_words import describe_rest
from ledger.predicates import ApprovalPredicate
from ledger.quantities import parse_duration
from ledger.records import Deployment, key_deployment
from ledger.transactions import Decide
from node.amounts import cpu_text, credits_text, size_text, span_text, time_text, value_text
from node.cli.context import EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.organisation_state import organisation_of
from node.cli.output import clean, confirm, emit_facts, say
from node.cli.query import proved, trust_of
from node.errors import ConfigError
from node.sdk import ApiError, Client

Decision = Literal["granted", "rejected", "revoked"]
Role = Annotated[
    str,
    Parameter(
        name=["--as", "--role"], help="The role to decide in (default: the only one that the key has here)."
    ),
]
KeyName = Annotated[str, Parameter(name="--key", help="Name of your key.")]
Ssh = Annotated[
    str,
    Parameter(
        name="--ssh",
        help="Sign with an Ed25519 SSH key instead: its file, 'agent', or 'agent:WORD' of its comment.",
    ),
]
Save = Annotated[
    Path | None,
    Parameter(help="Folder to write what was signed to, with the commands by which stock tools check it."),
]
Signoff = Annotated[
    bool, Parameter(negative="", help="Decide on the sign-off of what ran, not on the deployment.")
]
Delete = Annotated[
    bool, Parameter(negative="", help="Decide on the deployment's end: the consent that its cancel needs.")
]
Expires = Annotated[
    str, Parameter(help="How long it counts, such as 72h (default: as long as the contract says).")
]
Comment = Annotated[str, Parameter(help="A word for the record.")]
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask.")]

_PROOF_WAIT_S = 10.0
_APART = {"none": "anywhere", "node": "each on another node", "farm": "each on another farm"}


def approve(
    deployment: str,
    /,
    *,
    key: KeyName = "",
    ssh: Ssh = "",
    role: Role = "",
    signoff: Signoff = False,
    delete: Delete = False,
    expires: Expires = "",
    comment: Comment = "",
    save: Save = None,
    yes: Yes = False,
) -> int:
    """Sign an approval of a deployment, or its sign-off.

    The manifest is fetched, hashed and compared here; the signature binds exactly those bytes.

    Parameters
    ----------
    deployment: Its id, or the first 6 or more digits.
    """
    wish = Wish("granted", _act(signoff, delete), role, expires, comment)
    return _decide(deployment, signer_of(key, ssh), wish, save, yes)


def reject(
    deployment: str,
    /,
    *,
    key: KeyName = "",
    ssh: Ssh = "",
    role: Role = "",
    signoff: Signoff = False,
    delete: Delete = False,
    comment: Comment = "",
    save: Save = None,
    yes: Yes = False,
) -> int:
    """Sign a rejection of a deployment.

    Parameters
    ----------
    deployment: Its id, or the first 6 or more digits.
    """
    wish = Wish("rejected", _act(signoff, delete), role, "", comment)
    return _decide(deployment, signer_of(key, ssh), wish, save, yes)


def revoke(
    deployment: str,
    /,
    *,
    key: KeyName = "",
    ssh: Ssh = "",
    role: Role = "",
    signoff: Signoff = False,
    delete: Delete = False,
    comment: Comment = "",
    save: Save = None,
    yes: Yes = False,
) -> int:
    """Withdraw an approval; what runs by it stops.

    Parameters
    ----------
    deployment: Its id, or the first 6 or more digits.
    """
    wish = Wish("revoked", _act(signoff, delete), role, "", comment)
    return _decide(deployment, signer_of(key, ssh), wish, save, yes)


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to say. `expires`: a duration, or nothing."""

    decision: Decision
    act: Act
    role: str
    expires: str
    comment: str


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs: a key of ours, or an SSH key, `ssh` saying where."""

    public: bytes
    key: Key | None
    ssh: str

    def envelope(self, payload: bytes) -> bytes:
        """The signed document. Raises ConfigError when the SSH key cannot sign."""
        if self.key is not None:
            return sign_payload(self.key, payload)
        from node.ssh import sign

        return seal_payload(payload, self.public, sign(self.ssh, self.public, pae(PAYLOAD_TYPE, payload)))


def signer_of(key: str, ssh: str) -> Signer:
    """The signer that --key or --ssh names. Raises Failure(2), ConfigError."""
    if bool(key) == bool(ssh):
        raise Failure(EXIT_USAGE, "say who signs: either --key NAME or --ssh FILE|agent")
    if ssh:
        from node.ssh import public_key

        return Signer(public_key(ssh), None, ssh)
    found = current.key(key)
    return Signer(found.public, found, "")


def _decide(ref: str, signer: Signer, wish: Wish, save: Path | None, yes: bool) -> int:
    client = current.client()
    deal = read_deal(client, ref)
    act, decision, deployment = wish.act, wish.decision, deal.id
    role = wish.role or _only_role(deal, act, signer.public)
    made_ms = time.time_ns() // 1_000_000
    predicate = ApprovalPredicate(
        chain_id=client.status().chain_id,
        deployment=deployment,
        act=act,
        role=role,
        decision=decision,
        expires_ms=made_ms + parse_duration(wish.expires) * 1000 if wish.expires else 0,
        comment=wish.comment,
        made_ms=made_ms,
    )
    if not yes or current.output == "table":
        say(what_is_signed(deal, predicate, signer.public))
    confirm("Sign this?", yes)
    envelope = signer.envelope(payload_of("approval", "manifest", deal.digest, predicate))
    open_document(envelope, "approval")  # what others would refuse never leaves here
    # Anybody may carry a decision in: an SSH key signs no transactions, so a key of the moment does.
    carrier = signer.key or Key(secrets.token_bytes(SEED_BYTES))
    result = client.send(carrier, Decide(envelope))
    if save is not None:
        name = "-".join((deployment[:12], act, role or "by-key", decision))
        save_statement(save, name, envelope, signer.key)
    emit_facts(
        {
            "deployment": deployment,
            "act": act,
            "role": role,
            "decision": decision,
            "tx": result.id,
            "height": result.height,
        },
        (
            ("deployment", deployment),
            ("decision", f"{decision} as {role or 'named key'} ({act})"),
            ("signer", signer.public.hex()),
            ("transaction", result.id),
            ("final", f"{time_text(result.time_ms)} UTC, height {result.height}"),
        ),
    )
    return 0


def save_statement(folder: Path, name: str, envelope: bytes, key: Key | None = None) -> None:
    """Write a document for stock tools, and say how they check it."""
    from node.stock_formats import write_statement

    folder.mkdir(parents=True, exist_ok=True)
    commands = write_statement(folder, name, envelope, key)
    say(f"in {folder}, check it with:\n  " + "\n  ".join(commands))


def _act(signoff: bool, delete: bool) -> Act:
    if signoff and delete:
        raise Failure(EXIT_USAGE, "--signoff and --delete are two decisions: sign each by itself")
    return "signoff" if signoff else "delete" if delete else "deploy"


def _only_role(deal: Deal, act: Act, signer: bytes) -> str:
    """The role of a key that has one only; "" when the policy names the key itself."""
    found = capacities(deal.manifest, deal.roll, act, signer)
    if len(found) != 1:
        names = ", ".join(name or "by key" for name in found) or "none: it is no stakeholder here"
        raise Failure(EXIT_USAGE, f"say in which role, with --as; roles of this key: {names}")
    return found[0]


@dataclass(frozen=True, slots=True)
class Deal:
    """What there is to decide on. `types`: of the contract's parameters. `roll`: who holds the roles now."""

    id: str
    digest: bytes
    manifest: Manifest
    types: dict[str, str]
    roll: Roll


def read_deal(client: Client, ref: str) -> Deal:
    """A deployment and its manifest, none of it on the peer's word alone.

    The record is proved against the home's genesis, if it has one; the manifest's digest is computed
    from its bytes; and the manifest is expanded anew from the author's signed contract.
    """
    detail = client.deployment(ref)
    data = client.manifest(detail.manifest_digest)
    digest = manifest_digest(data)
    if digest.hex() != detail.manifest_digest:
        raise Failure(EXIT_REJECTED, "the peer's manifest does not have the digest that it is named by")
    _check_record(client, detail.id, digest)
    manifest = decode_manifest(data)
    contract = open_document(client.contract(manifest.contract).envelope, "contract")
    if contract.id.hex() != manifest.contract or contract.signer.hex() != manifest.author:
        raise Failure(
            EXIT_REJECTED, "the contract is not the one that the manifest names, or not its author's"
        )
    source = contract.predicate.contract
    bound = {role.name: words_of(role) for role in manifest.roles if _is_bound(source.roles, role.name)}
    again = expand(
        source, contract.id, contract.signer, bytes.fromhex(manifest.consumer), manifest.parameters, bound
    )
    if again != data:
        raise Failure(EXIT_REJECTED, "the manifest is not what the author's contract expands to")
    types: dict[str, str] = {parameter.name: parameter.type for parameter in source.parameters}
    roll = Roll(manifest.roles, lambda organisation: organisation_of(organisation.hex()))
    return Deal(detail.id, digest, manifest, types, roll)


def _is_bound(roles: object, name: str) -> bool:
    return any(role.name == name and role.bind == "order" for role in roles)  # type: ignore[attr-defined]


def _check_record(client: Client, deployment: str, digest: bytes) -> None:
    try:
        trust: Trust = trust_of(None)
    except ConfigError:
        say("no genesis in the home: the deployment's record is taken on the peer's word")
        return
    key = key_deployment(bytes.fromhex(deployment))
    deadline = time.monotonic() + _PROOF_WAIT_S
    while True:  # a header proves a state of some blocks ago: a fresh order takes a moment
        try:
            fact = proved(trust, client, client.query(key, True).proof, key)
        except ApiError as error:
            if error.problem.rule != "proof.not_yet" or time.monotonic() > deadline:
                raise
        else:
            if fact.value is not None:
                break
            if time.monotonic() > deadline:
                raise Failure(EXIT_REJECTED, "the ledger's state holds no such deployment")
        time.sleep(0.2)
    try:
        record = decode(Deployment, fact.value)
    except msgspec.MsgspecError as error:
        raise Failure(EXIT_REJECTED, f"the proved record is not understood: {error}") from None
    if record.manifest != digest:
        raise Failure(EXIT_REJECTED, "the ledger proves another manifest for this deployment")


def what_is_signed(deal: Deal, predicate: ApprovalPredicate, signer: bytes) -> str:
    """What a signature means, in words."""
    manifest = deal.manifest
    act = {"deploy": "the deployment", "signoff": "the sign-off", "delete": "the end"}[predicate.act]
    verb = {"granted": "APPROVE", "rejected": "REJECT", "revoked": "WITHDRAW your approval of"}[
        predicate.decision
    ]
    policies = manifest.policies
    answers = [f"{n}: {value_text(deal.types.get(n, ''), v)}" for n, v in manifest.parameters.items()]
    lines = [
        f"You {verb} {act} of {manifest.name} {manifest.version} as {predicate.role or 'a named key'}",
        f"  chain       {predicate.chain_id}",
        f"  deployment  {predicate.deployment}",
        f"  manifest    {deal.digest.hex()} (hashed here)",
        f"  your key    {signer.hex()}",
        f"  author      {manifest.author}",
        f"  consumer    {manifest.consumer}",
        f"  parameters  {', '.join(answers) or '-'}",
        f"  asked for   {describe(policies.of(predicate.act))}",
        *(f"  held by     role {role}: {holder}" for role, holder in names_of(manifest.roles).items()),
        f"  also        {describe_rest(policies)}",
        f"  costs       {_cost_text(manifest.terms)}",
    ]
    for workload in manifest.workloads:
        need = workload.resources
        where = ", ".join(workload.placement.countries) or "any country"
        lines.append(
            f"  runs        {workload.name}: {workload.replicas} x {workload.kind}, "
            f"{cpu_text(need.cpu_millis)}, {size_text(need.memory_bytes)}, in {where}, "
            f"{_APART[workload.placement.distinct]}"
        )
        lines.append(f"              {' '.join(workload.command)}")
        if workload.secrets:
            lines.append(f"              is given secrets by the consumer: {', '.join(workload.secrets)}")
        if workload.egress:
            lines.append(f"              may connect to {', '.join(workload.egress)}")
        lines += [
            f"              keeps {v.path} ({size_text(v.size_bytes)}) from term to term"
            for v in workload.volumes
        ]
        lines += [
            f"              {a.path} ({size_text(a.size_bytes)}) sha256 {a.sha256}"
            for a in workload.artifacts
        ]
    if predicate.expires_ms:
        lines.append(f"  counts until {time_text(predicate.expires_ms)} UTC")
    if predicate.comment:
        lines.append(f"  comment     {clean(predicate.comment)}")
    return "\n".join(lines)


def _cost_text(terms: Terms) -> str:
    """What a deployment may cost in its term, and topped up and extended as far as its terms go."""
    budget, fee = credits_text(terms.budget), credits_text(terms.fee)
    text = f"at most {budget} credits in {span_text(terms.duration_s * 1000)}, {fee} to the author"
    if terms.extension_s or terms.top_up:
        longest = span_text((terms.duration_s + terms.extension_s) * 1000)
        text += f"; topped up and extended, {credits_text(most_spent(terms))} in {longest}"
    return text
