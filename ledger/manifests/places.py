"""Rules of where slots may stand, in which order they start, and when replicas of a job agree.

They hold for contracts and for manifests; a number that a contract leaves to a parameter is judged when it
is known, in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ledger.limits import (
    ADDRESS_CHARS_MAX,
    ATTRIBUTES_MAX,
    NAME_CHARS_MAX,
    REPLICAS_MAX,
    WORKLOADS_MAX,
)
from ledger.manifests.check import Report, check_keys, check_text
from ledger.manifests.types import Placement
from ledger.text.nearest import nearest
from ledger.text.template import has_template


class Placed(Protocol):
    """What a workload and its template have in common here. A `str` is a template."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def replicas(self) -> int | str: ...
    @property
    def placement(self) -> Placement: ...
    @property
    def results(self) -> tuple[str, ...]: ...
    @property
    def depends_on(self) -> tuple[str, ...]: ...
    @property
    def agree(self) -> int | str: ...


def check_order(workloads: Sequence[Placed], report: Report) -> None:
    """Placement, start order and agreement of all workloads of a contract or manifest."""
    known = {workload.name: workload for workload in workloads[:WORKLOADS_MAX]}
    for workload in known.values():
        field = f"workloads.{workload.name}"
        _check_placement(workload, known, f"{field}.placement", report)
        _check_names(workload, workload.depends_on, known, f"{field}.depends_on", report)
        _check_agree(workload, f"{field}.agree", report)
    for name in known:
        if _leads_to(name, known):
            detail = f"{name} waits for itself in the end"
            report(f"workloads.{name}.depends_on", "contract.depends_on", detail)


def _leads_to(name: str, known: Mapping[str, Placed]) -> bool:
    """Whether a workload waits, over others, for itself."""
    reached: set[str] = set()
    pending = list(known[name].depends_on)
    while pending:
        other = pending.pop()
        if other == name:
            return True
        if other in known and other not in reached:
            reached.add(other)
            pending += known[other].depends_on
    return False


def _check_names(
    workload: Placed, names: Sequence[str], known: Mapping[str, Placed], field: str, report: Report
) -> None:
    if len(names) > WORKLOADS_MAX or len(set(names)) != len(names):
        report(field, "contract.depends_on", f"at most {WORKLOADS_MAX} workloads, each once")
        return
    for index, name in enumerate(names):
        if name not in known or name == workload.name:
            others = [other for other in known if other != workload.name]
            wanted = ", ".join(others) or "none"
            detail = f"another workload wanted, found {name[:NAME_CHARS_MAX]!r}; there are: {wanted}"
            report(f"{field}[{index}]", "contract.depends_on", detail, nearest(name, others))


def check_release(release: object, workloads: Sequence[Placed], report: Report) -> None:
    """A policy that holds results back has some to hold back."""
    if release is not None and not any(w.kind == "job" and w.results for w in workloads):
        report("approval.release", "contract.release", "no job has results that could be held back")


def _check_placement(workload: Placed, known: Mapping[str, Placed], field: str, report: Report) -> None:
    place, replicas = workload.placement, workload.replicas
    if len(place.attributes) > ATTRIBUTES_MAX:
        report(f"{field}.attributes", "contract.too_many", f"at most {ATTRIBUTES_MAX}")
    for name, value in place.attributes.items():
        where = f"{field}.attributes.{name[:NAME_CHARS_MAX]}"
        check_text(name, NAME_CHARS_MAX, where, report)
        check_text(value, ADDRESS_CHARS_MAX, where, report)
        if not name or has_template(name) or has_template(value):
            report(where, "contract.attribute", "a fixed name and value wanted, as offers have them")
    if place.certified_by:
        check_keys(place.certified_by, f"{field}.certified_by", report)
    if place.farm_certified_by:
        check_keys(place.farm_certified_by, f"{field}.farm_certified_by", report)
    if place.spread is not None and not 1 <= place.spread.most <= REPLICAS_MAX:
        report(f"{field}.spread.most", "contract.range", f"1 to {REPLICAS_MAX} wanted")
    if place.apart is not None:
        if not place.apart.workloads:
            report(f"{field}.apart.from", "contract.depends_on", "at least one other workload wanted")
        _check_names(workload, place.apart.workloads, known, f"{field}.apart.from", report)
    most = replicas if isinstance(replicas, int) else REPLICAS_MAX
    if not 1 <= place.min_farms <= max(most, 1):
        report(f"{field}.min_farms", "contract.range", f"{place.min_farms} is not in 1 to {most} replicas")
    elif place.min_farms > 1 and 0 < len(place.farms) < place.min_farms:
        detail = f"{place.min_farms} farms wanted, but only {len(place.farms)} allowed"
        report(f"{field}.min_farms", "contract.range", detail)


def _check_agree(workload: Placed, field: str, report: Report) -> None:
    """Replicas that agree are jobs with results, on nodes of their own: one node is one witness."""
    if workload.agree == 0:
        return
    if workload.kind != "job" or not workload.results:
        report(field, "contract.agree", "only a job with results has something to agree on")
    if workload.placement.distinct == "none":
        report(field, "contract.agree", "a node is one witness only: 'distinct: node' or more wanted")
    if isinstance(workload.agree, int) and isinstance(workload.replicas, int):
        most = workload.replicas
        if not most < 2 * workload.agree <= 2 * most:
            detail = f"{workload.agree} of {most}: more than half wanted, so that only one result can win"
            report(field, "contract.agree", detail)
