"""What a stakeholder decides on: a deployment's manifest, none of it on a peer's word alone, and in words."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ledger.contracts.differences import manifest_changes
from ledger.documents import open_document
from ledger.manifests.expansion import decode_manifest, expand, most_spent
from ledger.manifests.types import Manifest, PriceCaps, Terms, manifest_digest
from ledger.policies.decision import describe
from ledger.policies.people import Roll, names_of, words_of
from ledger.policies.records import Side, change_sides
from ledger.policies.types import Act
from ledger.policies.words import describe_rest
from ledger.predicates import ApprovalPredicate
from ledger.records import Deployment, key_deployment
from ledger.results import accepted, results_digest, results_of
from node.api.models import DeploymentDetail
from node.cli.context import EXIT_REJECTED, Failure
from node.cli.organisation_state import organisation_of
from node.cli.output import clean
from node.cli.query import read_proved
from node.cli.workload_words import workload_lines
from node.client.amounts import credits_text, duration_text, term_text, time_text, value_text
from node.client.sdk import Client


@dataclass(frozen=True, slots=True)
class Deal:
    """What there is to decide on. `types`: of the contract's parameters. `roll`: who holds the roles now.
    `number`: of the update that brings the manifest; `former`: what it leads from, while it is under way."""

    id: str
    digest: bytes
    manifest: Manifest
    types: dict[str, str]
    roll: Roll
    number: int = 0
    former: Manifest | None = None
    ground: Act = "deploy"
    results: str = ""  # digest of what its jobs left behind, computed here
    files: tuple[tuple[str, str, str], ...] = ()  # slot, path, sha256 of each

    def sides(self, act: Act) -> tuple[Side, ...]:
        """Whose policies, of which act, a decision may count for."""
        if self.former is not None:
            return change_sides(self.former, self.manifest, _roll)
        return ((self.manifest, self.ground if act == "deploy" else act, self.roll),)


def read_deal(client: Client, ref: str, act: Act = "deploy") -> Deal:
    """A deployment and its manifest, none of it on the peer's word alone.

    The record is proved against the home's genesis, if it has one; the manifest's digest is computed
    from its bytes; and the manifest is expanded anew from the author's signed contract. `act` "update": the
    manifest of the update under way.
    """
    detail = client.deployment(ref)
    wanted, number, former = detail.manifest_digest, detail.generation, None
    if act == "update":
        if not detail.updates or detail.updates[-1].ended_ms:
            raise Failure(EXIT_REJECTED, f"no update of {detail.id[:12]} is under way")
        wanted, number = detail.updates[-1].manifest_digest, detail.updates[-1].number
        former = decode_manifest(_manifest(client, detail.manifest_digest))
    if act == "release" and not detail.results:
        raise Failure(EXIT_REJECTED, f"no results of {detail.id[:12]} wait for a release")
    data = _manifest(client, wanted)
    digest = manifest_digest(data)
    record = _check_record(client, detail.id, digest, number, act)
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
    deal = Deal(detail.id, digest, manifest, types, _roll(manifest), number, former, detail.ground)
    return deal if act != "release" else _with_results(deal, detail, record)


def _with_results(deal: Deal, detail: DeploymentDetail, record: Deployment | None) -> Deal:
    """What is released: the results that the peer shows are hashed here, and are those on record."""
    wanted = detail.results if record is None else record.results.hex()
    slots = {slot.name: slot for slot in detail.slots}
    found = results_digest(bytes.fromhex(deal.id), deal.digest, deal.manifest, slots).hex()
    if found != wanted:
        raise Failure(EXIT_REJECTED, "the results that the peer shows are not those on record")
    files = [
        (slot.name, path, sha256)
        for workload in deal.manifest.workloads
        for slot in accepted(workload, slots)
        for path, sha256 in results_of(slot)
    ]
    return replace(deal, results=found, files=tuple(files))


def _roll(manifest: Manifest) -> Roll:
    return Roll(manifest.roles, lambda organisation: organisation_of(organisation.hex()))


def _manifest(client: Client, digest: str) -> bytes:
    data = client.manifest(digest)
    if manifest_digest(data).hex() != digest:
        raise Failure(EXIT_REJECTED, "the peer's manifest does not have the digest that it is named by")
    return data


def _is_bound(roles: object, name: str) -> bool:
    return any(role.name == name and role.bind == "order" for role in roles)  # type: ignore[attr-defined]


def _check_record(client: Client, deployment: str, digest: bytes, number: int, act: Act) -> Deployment | None:
    """The record, proved from genesis and about this manifest; None where there is no genesis to prove it."""
    key = key_deployment(bytes.fromhex(deployment))

    def is_here(record: Deployment) -> bool:
        """Whether what this is about has been proved yet."""
        told = record.updates if act == "update" else record.generation
        return told >= number and (act != "release" or bool(record.results))

    record = read_proved(client, Deployment, key, "the deployment's record", is_here)
    if record is None:
        return None
    in_force, under_way = (record.manifest, record.generation), (record.updating, record.updates)
    if (digest, number) != (under_way if act == "update" else in_force):
        raise Failure(EXIT_REJECTED, "the ledger proves another manifest for this deployment")
    return record


def what_is_signed(deal: Deal, predicate: ApprovalPredicate, signer: bytes) -> str:
    """What a signature means, in words."""
    manifest = deal.manifest
    what = {
        "deploy": "the deployment",
        "signoff": "the sign-off",
        "delete": "the end",
        "update": f"update {deal.number}",
        "release": "the release of the results",
    }[predicate.act]
    verb = {"granted": "APPROVE", "rejected": "REJECT", "revoked": "WITHDRAW your approval of"}[
        predicate.decision
    ]
    policies = manifest.policies
    answers = [f"{n}: {value_text(deal.types.get(n, ''), v)}" for n, v in manifest.parameters.items()]
    lines = [
        f"You {verb} {what} of {manifest.name} {manifest.version} as {predicate.role or 'a named key'}",
        f"  chain       {predicate.chain_id}",
        f"  deployment  {predicate.deployment}",
        f"  manifest    {deal.digest.hex()} (hashed here)",
        f"  contract    {manifest.contract}",
        f"  your key    {signer.hex()}",
        f"  author      {manifest.author}",
        f"  consumer    {manifest.consumer}",
        f"  parameters  {', '.join(answers) or '-'}",
        *(f"  asked for   {describe(side.policies.of(act))}" for side, act, _ in deal.sides(predicate.act)),
        *(f"  held by     role {role}: {holder}" for role, holder in names_of(manifest.roles).items()),
        f"  also        {describe_rest(policies)}",
        f"  costs       {cost_text(manifest.terms)}",
    ]
    for workload in manifest.workloads:
        heading, *rest = workload_lines(workload)
        lines += [f"  runs        {heading}", *(f"              {line}" for line in rest)]
    if predicate.act == "release":
        lines.append(f"  results     {deal.results} (hashed here), opened by the consumer alone")
        lines += [f"              {slot} {clean(path)} sha256 {sha256}" for slot, path, sha256 in deal.files]
    if deal.former is not None:
        for difference in manifest_changes(deal.former, manifest):
            field = difference.field
            before, after = (
                clean(term_text(field, text, deal.types)) or "nothing"
                for text in (difference.before_text, difference.after_text)
            )
            lines.append(f"  changes     {field}: {before} -> {after}")
    if predicate.expires_ms:
        lines.append(f"  counts until {time_text(predicate.expires_ms)} UTC")
    if predicate.comment:
        lines.append(f"  comment     {clean(predicate.comment)}")
    return "\n".join(lines)


def cost_text(terms: Terms) -> str:
    """What a deployment may cost in its term, and topped up and extended as far as its terms go."""
    budget, fee = credits_text(terms.budget), credits_text(terms.fee)
    text = f"at most {budget} credits in {duration_text(terms.duration_s)}, {fee} to the author"
    text += (
        f"; {duration_text(terms.grace_s)} of grace when its money or time is over" if terms.grace_s else ""
    )
    caps = [f"{credits_text(cap)} for {what}" for cap, what in _capped(terms.price) if cap is not None]
    text += f"; no dearer in an hour than {', '.join(caps)}" if caps else ""
    if terms.extension_s or terms.top_up:
        longest = duration_text(terms.duration_s + terms.extension_s)
        text += f"; topped up and extended, {credits_text(most_spent(terms))} in {longest}"
    return text


def _capped(price: PriceCaps) -> tuple[tuple[int | None, str], ...]:
    return (
        (price.cpu_core_hour, "a core"),
        (price.memory_gib_hour, "a GiB of memory"),
        (price.ssd_gib_hour, "a GiB of SSD"),
        (price.hdd_gib_hour, "a GiB of hard disk"),
    )
