"""What our documents say: the predicates of contracts, approvals (also sign-offs) and receipts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ledger.contracts.types import Contract
from ledger.errors import Refused
from ledger.limits import (
    ADDRESS_CHARS_MAX,
    APPROVALS_PER_DEPLOYMENT_MAX,
    ARTIFACTS_MAX,
    ATTRIBUTES_MAX,
    EGRESS_MAX,
    NAME_CHARS_MAX,
    NUMBER_MAX,
    PATH_CHARS_MAX,
    PORTS_MAX,
    RESULT_SEAL_BYTES,
    RESULTS_MAX,
    TEXT_CHARS_MAX,
)
from ledger.policies.types import Act as Act

_HEX: Final = frozenset("0123456789abcdef")

ReceiptStatus = Literal[
    "fetching", "verified", "running", "committed", "succeeded", "failed", "quarantined", "released"
]


class ContractPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published contract, in its built form."""

    contract: Contract

    def check(self) -> None:
        """Shape only; `ledger.contracts.check.check_contract` holds the rules of the language."""


class ApprovalPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stakeholder's decision on a manifest digest (the subject), bound to one deployment and chain.

    `made_ms`, the signer's clock, orders the signer's own decisions: one that is carried in late never
    replaces a newer one. 0: none given, then the order of arrival counts. `update`: number of the update that
    brings, or brought, the manifest; 0: the order did.
    """

    chain_id: str
    deployment: str  # hex id
    act: Act
    role: str  # the role that the signer decides in; "" when the policy names the key itself
    decision: Literal["granted", "rejected", "revoked"]
    expires_ms: int = 0  # 0: as long as the policy's validity
    comment: str = ""
    made_ms: int = 0
    update: int = 0
    results: str | UnsetType = UNSET  # of a release: the digest (hex) of the results that it is about

    @property
    def released(self) -> str:
        """Digest (hex) of the results whose release this decides on; "" for any other act."""
        return self.results or ""

    def check(self) -> None:
        """Raises Refused(document.field) for a value out of its bounds."""
        _text(self.chain_id, NAME_CHARS_MAX, "chain_id")
        _hex(self.deployment, "deployment")
        _number(self.update, "update")
        if self.results is not UNSET:
            _hex(self.results, "results")
        _text(self.role, NAME_CHARS_MAX, "role")
        _number(self.expires_ms, "expires_ms")
        _number(self.made_ms, "made_ms")
        _text(self.comment, TEXT_CHARS_MAX, "comment")


class ResultFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A result (node.sealed.sealed_results): `sha256` of a salt and its content, `size_bytes` of the content
    alone; `sealed` and `sealed_bytes` are digest and size of what the consumer alone can open."""

    sha256: str
    size_bytes: int
    sealed: str
    sealed_bytes: int

    def check(self) -> None:
        """[Y6] Raises Refused(document.field)."""
        _hex(self.sha256, "results")
        _hex(self.sealed, "results")
        _number(self.size_bytes, "results")
        if self.sealed_bytes != self.size_bytes + RESULT_SEAL_BYTES:
            detail = f"a sealed form of {self.size_bytes + RESULT_SEAL_BYTES} bytes wanted"
            raise Refused("document.field", detail, "results")


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the slot used in this term so far."""

    cpu_ms: int = 0
    memory_bytes_max: int = 0


class ReceiptPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A node's statement of what it verified, ran and found for one slot and term."""

    chain_id: str
    deployment: str  # hex id
    contract: str  # hex id
    slot: str  # workload/index
    term: int
    node: str  # hex key
    status: ReceiptStatus
    time_ms: int  # the node's clock
    driver: str = ""
    level: str = ""  # how far the driver keeps the workload from its host: sandbox, container or wasm
    isolation: dict[str, str] = {}  # feature: "enforced", or why not
    artifacts: dict[str, str] = {}  # path: sha256, verified
    approvals: tuple[str, ...] = ()  # ids of the approval documents that the node checked
    checks: int = 0  # re-checks of the bytes so far
    endpoints: dict[str, str] = {}  # port name: host:port
    exit_code: int | None = None
    results: dict[str, ResultFile] = {}
    commitment: str = ""  # to results that are not told yet, where replicas must agree (ledger.commitments)
    nonce: str = ""  # opens the commitment
    usage: Usage = Usage()
    detail: str = ""
    secrets: str = ""  # sha256 of the sealed secrets that the holder was given in this term
    egress: dict[str, str] = {}  # host:port of the contract: the addresses that it was in this term

    def check(self) -> None:
        """Raises Refused(document.field) for a value out of its bounds."""
        _text(self.chain_id, NAME_CHARS_MAX, "chain_id")
        for name in ("deployment", "contract", "node"):
            _hex(getattr(self, name), name)
        _text(self.slot, NAME_CHARS_MAX + 8, "slot")
        for name in ("term", "time_ms", "checks"):
            _number(getattr(self, name), name)
        _number(self.usage.cpu_ms, "usage.cpu_ms")
        _number(self.usage.memory_bytes_max, "usage.memory_bytes_max")
        if self.exit_code is not None and not -1024 <= self.exit_code <= 1024:
            raise Refused("document.field", "an exit code", "exit_code")
        _text(self.driver, NAME_CHARS_MAX, "driver")
        _text(self.level, NAME_CHARS_MAX, "level")
        _text(self.detail, TEXT_CHARS_MAX, "detail")
        _items(self.egress.items(), EGRESS_MAX, ADDRESS_CHARS_MAX + 8, "egress")
        for name in ("secrets", "commitment", "nonce"):
            if getattr(self, name):
                _hex(getattr(self, name), name)
        _items(self.isolation.items(), ATTRIBUTES_MAX, NAME_CHARS_MAX, "isolation")
        _items(self.endpoints.items(), PORTS_MAX, NAME_CHARS_MAX, "endpoints")
        _items(self.artifacts.items(), ARTIFACTS_MAX, PATH_CHARS_MAX, "artifacts")
        for digest in self.artifacts.values():
            _hex(digest, "artifacts")
        _items(((path, "") for path in self.results), RESULTS_MAX, PATH_CHARS_MAX, "results")
        for result in self.results.values():
            result.check()
        if len(self.approvals) > APPROVALS_PER_DEPLOYMENT_MAX:
            raise Refused("document.field", f"at most {APPROVALS_PER_DEPLOYMENT_MAX} entries", "approvals")
        for document in self.approvals:
            _hex(document, "approvals")


def _hex(text: str, field: str) -> None:
    if len(text) != 64 or not _HEX.issuperset(text):
        raise Refused("document.field", "64 lower-case hex digits wanted", field)


def _text(text: str, most: int, field: str) -> None:
    if len(text) > most:
        raise Refused("document.field", f"{len(text)} characters, at most {most}", field)


def _number(number: int, field: str) -> None:
    if not 0 <= number <= NUMBER_MAX:
        raise Refused("document.field", f"0 to {NUMBER_MAX} wanted", field)


def _items(items: Iterable[tuple[str, str]], most: int, key_chars: int, field: str) -> None:
    count = 0
    for key, value in items:
        count += 1
        _text(key, key_chars, field)
        _text(value, TEXT_CHARS_MAX, field)
    if count > most:
        raise Refused("document.field", f"{count} entries, at most {most}", field)
