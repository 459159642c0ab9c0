"""`gridpact approve`, `reject`, `revoke`: a stakeholder's signature, made here over what was read."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from msgspec import UNSET

from ledger.documents import PAYLOAD_TYPE, open_document, pae, payload_of, seal_payload, sign_payload
from ledger.keys import SEED_BYTES, Key
from ledger.policies.records import capacities
from ledger.policies.types import Act
from ledger.predicates import ApprovalPredicate
from ledger.transactions import Decide
from node.api.models import DeploymentDetail
from node.cli.context import EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.deal import Deal, read_deal, what_is_signed
from node.cli.deployments import policy_text, update_facts
from node.cli.output import confirm, emit_facts, say
from node.client.amounts import parse_span, time_text

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
Update = Annotated[
    bool, Parameter(negative="", help="Decide on the update under way, not on what is in force.")
]
Release = Annotated[
    bool, Parameter(negative="", help="Decide on handing out the results of its jobs, which are held back.")
]
Expires = Annotated[
    str, Parameter(help="How long it counts, such as 72h (default: as long as the contract says).")
]
Comment = Annotated[str, Parameter(help="A word for the record.")]
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask.")]


def approve(
    deployment: str,
    /,
    *,
    key: KeyName = "",
    ssh: Ssh = "",
    role: Role = "",
    signoff: Signoff = False,
    delete: Delete = False,
    update: Update = False,
    release: Release = False,
    expires: Expires = "",
    comment: Comment = "",
    save: Save = None,
    yes: Yes = False,
) -> int:
    """Sign an approval of a deployment, or its sign-off.

    The manifest is fetched, hashed and compared here; the signature binds exactly those bytes.

    Args:
        deployment: Its id, or the first 6 or more digits.
    """
    wish = Wish("granted", _act(signoff, delete, update, release), role, expires, comment)
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
    update: Update = False,
    release: Release = False,
    comment: Comment = "",
    save: Save = None,
    yes: Yes = False,
) -> int:
    """Sign a rejection of a deployment.

    Args:
        deployment: Its id, or the first 6 or more digits.
    """
    wish = Wish("rejected", _act(signoff, delete, update, release), role, "", comment)
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
    update: Update = False,
    release: Release = False,
    comment: Comment = "",
    save: Save = None,
    yes: Yes = False,
) -> int:
    """Withdraw an approval; what runs by it stops.

    Args:
        deployment: Its id, or the first 6 or more digits.
    """
    wish = Wish("revoked", _act(signoff, delete, update, release), role, "", comment)
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
        from node.client.ssh import sign

        return seal_payload(payload, self.public, sign(self.ssh, self.public, pae(PAYLOAD_TYPE, payload)))


def signer_of(key: str, ssh: str) -> Signer:
    """The signer that --key or --ssh names. Raises Failure(2), ConfigError."""
    if bool(key) == bool(ssh):
        raise Failure(EXIT_USAGE, "say who signs: either --key NAME or --ssh FILE|agent")
    if ssh:
        from node.client.ssh import public_key

        return Signer(public_key(ssh), None, ssh)
    found = current.key(key)
    return Signer(found.public, found, "")


def _decide(ref: str, signer: Signer, wish: Wish, save: Path | None, yes: bool) -> int:
    client = current.client()
    counts_s = parse_span(wish.expires, "--expires") if wish.expires else None
    if counts_s == 0:
        raise Failure(EXIT_USAGE, f"--expires {wish.expires}: it would count for no time")
    deal = read_deal(client, ref, wish.act)
    act, decision, deployment = wish.act, wish.decision, deal.id
    role = wish.role or _only_role(deal, act, signer.public)
    made_ms = time.time_ns() // 1_000_000
    predicate = ApprovalPredicate(
        chain_id=client.status().chain_id,
        deployment=deployment,
        act=act,
        role=role,
        decision=decision,
        expires_ms=made_ms + counts_s * 1000 if counts_s else 0,
        comment=wish.comment,
        made_ms=made_ms,
        update=deal.number,
        results=deal.results if act == "release" else UNSET,
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
            *(_where_it_stands(client.deployment(deployment), act) if current.output == "table" else ()),
        ),
    )
    return 0


def _where_it_stands(found: DeploymentDetail, act: Act) -> list[tuple[str, str]]:
    """Whether others are still needed: who has signed wants to know."""
    if act == "update":
        return update_facts(found)
    return [("policy", policy_text(getattr(found.policies, act))), ("status", found.status)]


def save_statement(folder: Path, name: str, envelope: bytes, key: Key | None = None) -> None:
    """Write a document for stock tools, and say how they check it."""
    from node.client.stock_formats import write_statement

    folder.mkdir(parents=True, exist_ok=True)
    commands = write_statement(folder, name, envelope, key)
    say(f"in {folder}, check it with:\n  " + "\n  ".join(commands))


def _act(signoff: bool, delete: bool, update: bool, release: bool) -> Act:
    chosen: dict[Act, bool] = {"signoff": signoff, "delete": delete, "update": update, "release": release}
    acts = [act for act, wanted in chosen.items() if wanted]
    if len(acts) > 1:
        flags = ", ".join(f"--{act}" for act in chosen)
        raise Failure(EXIT_USAGE, f"{flags} are decisions of their own: one at a time")
    return acts[0] if acts else "deploy"


def _only_role(deal: Deal, act: Act, signer: bytes) -> str:
    """The role of a key that has one only; "" when the policy names the key itself."""
    found: tuple[str, ...] = tuple(
        dict.fromkeys(
            name for side, asked, roll in deal.sides(act) for name in capacities(side, roll, asked, signer)
        )
    )
    if not found:
        words = f"this key holds no role here; ask who ordered whether they have it right: {signer.hex()}"
        raise Failure(EXIT_REJECTED, f"approval.not_a_stakeholder: {words}")
    if len(found) != 1:
        names = ", ".join(name or "by key" for name in found)
        raise Failure(EXIT_USAGE, f"say in which role, with --as; roles of this key: {names}")
    return found[0]
