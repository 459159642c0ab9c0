"""Contracts for tests: a small service in its built form, and its source as YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from ledger.contracts.language import parse_contract
from ledger.contracts.types import (
    Contract,
    ContractRole,
    Parameter,
    ResourcesTemplate,
    TermsTemplate,
    Value,
    WorkloadTemplate,
)
from ledger.keys import Key
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Artifact, Health, Manifest, Placement, Policies, Port, Restart, Rule
from ledger.text.yaml_tree import ContractError, Problem

DIGEST = "ab" * 32
AUTHOR, CONSUMER, IT, LEGAL, BUDGET, STRANGER = (Key(bytes([n]) * 32) for n in range(1, 7))
ROLES: Mapping[str, Sequence[str]] = {
    "it-expert": [IT.public.hex()],
    "legal": [LEGAL.public.hex()],
    "budget": [BUDGET.public.hex()],
}
TWO_OF_THREE = Rule(all=(Rule(role="budget"), Rule(any=(Rule(role="it-expert"), Rule(role="legal")))))

BUSYBOX = Artifact(
    path="/bin/busybox", kind="file", sha256=DIGEST, size_bytes=10, chunks=DIGEST, executable=True
)


def workload(**changes: Any) -> WorkloadTemplate:
    base = WorkloadTemplate(
        name="web",
        kind="service",
        runtime="sandbox",
        replicas="${replicas}",
        command=("/bin/busybox", "httpd", "-f"),
        environment={"TITLE": "site: ${title}"},
        artifacts=(BUSYBOX,),
        resources=ResourcesTemplate(cpu_millis=100, memory_bytes=64 << 20, disk_bytes=0, pids=32),
        ports=(Port(name="http", port=8080),),
        health=Health(port="http", http_path="/"),
        restart=Restart(),
        placement=Placement(countries=("${country}",), distinct="farm"),
        results=(),
        recheck_s=10,
    )
    return msgspec.structs.replace(base, **changes)


def contract(**changes: Any) -> Contract:
    base = Contract(
        gridpact=1,
        name="site",
        version="1.0.0",
        title="A site",
        summary="",
        tags=(),
        parameters=(
            Parameter(name="replicas", type="integer", default=2, min=1, max=4),
            Parameter(name="country", type="country", default="BE"),
            Parameter(name="title", type="string", default="hello", max=40),
            Parameter(name="budget", type="money", default=5_000_000, max=9_000_000),
        ),
        roles=tuple(ContractRole(name=name, bind="order") for name in ROLES),
        workloads=(workload(),),
        policies=Policies(deploy=TWO_OF_THREE, signoff=None),
        terms=TermsTemplate(duration_s=3_600, budget="${budget}", fee=1_000),
    )
    return msgspec.structs.replace(base, **changes)


def expanded(
    template: Contract | None = None,
    parameters: Mapping[str, Value] | None = None,
    roles: Mapping[str, Sequence[str]] | None = None,
) -> Manifest:
    return decode_manifest(
        expand(
            template or contract(),
            b"c" * 32,
            AUTHOR.public,
            CONSUMER.public,
            parameters or {},
            ROLES if roles is None else roles,
        )
    )


def problems(text: str) -> list[Problem]:
    """All that is wrong with a source; fails when nothing is."""
    with pytest.raises(ContractError) as caught:
        parse_contract(text, "contract.yaml")
    return list(caught.value.problems)


SOURCE = """\
gridpact: 1
name: site
version: 1.0.0
title: A site
tags: [web]
parameters:
  replicas: {type: integer, default: 2, min: 1, max: 4}
  country: {type: country, default: NO}
  title: {type: string, default: hello, max: 40}
  budget: {type: money, default: 5 credits, max: 9 credits}
roles:
  it-expert: {bind: order}
  legal: {bind: order}
  budget: {bind: order}
workloads:
  web:
    kind: service
    replicas: ${replicas}
    command: [/bin/busybox, httpd, -f, -p, 8080]
    environment: {TITLE: "site: ${title}"}
    artifacts:
      - {path: /bin/busybox, file: /bin/busybox, executable: true}
      - {path: /www, tree: www}
    resources: {cpu: 100m, memory: 64MiB, disk: 16MiB, pids: 32}
    ports: {http: 8080}
    health: {http: /, port: http, interval: 5s, timeout: 2s, failures: 3}
    restart: {attempts: 3}
    placement: {country: "${country}", distinct: farm}
    recheck: 10s
approval:
  deploy:
    all:
      - role: budget
      - any: {count: 1, of: [{role: it-expert}, {role: legal}]}
  signoff: none
  delete: none
  validity: 72h
terms: {duration: 1h, budget: "${budget}", fee: 1000}
"""
