"""Health checks that are commands: in contracts and manifests, and who gets such a slot. Rule E8."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ledger.contracts.check import check_contract
from ledger.contracts.language import parse_contract
from ledger.errors import Refused
from ledger.manifests.expansion import check_manifest, decode_manifest, expand
from ledger.manifests.services import features_needed
from ledger.manifests.types import Health
from tests.ledger.contract_samples import SOURCE, problems
from tests.ledger.world import AUTHOR, CONSUMER, contract, service

PROGRAM = service().command[0]


def test_a_source_says_a_command() -> None:
    """[E8]"""
    web = parse_contract(SOURCE, "contract.yaml").contract.workloads[0]
    program = web.command[0]
    plain = "\n".join(line for line in SOURCE.splitlines() if "health:" not in line)
    text = plain.replace("recheck: 10s", f"recheck: 10s\n    health: {{exec: [{program}, ok], timeout: 3s}}")
    made = parse_contract(text, "contract.yaml").contract.workloads[0]
    assert made.health == Health(command=(program, "ok"), timeout_s=3)
    for line in ("{}", "{exec: [/bin/x], tcp: true, port: http}", "{exec: [/bin/x], http: /, port: http}"):
        found = problems(plain.replace("recheck: 10s", f"recheck: 10s\n    health: {line}"))
        assert "contract.health" in {problem.rule for problem in found}


BAD = [
    (Health(command=("/bin/none",)), "contract.command_artifact", ".exec[0]"),
    (Health(command=("relative",)), "contract.path", ".exec[0]"),
    (Health(command=(PROGRAM, "${size}")), "contract.health", ".exec"),
    (Health(command=(PROGRAM,), port="http"), "contract.health", ""),
    (Health(command=(PROGRAM,), http_path="/"), "contract.health", ""),
    (Health(command=(PROGRAM, *["x"] * 64)), "contract.command", ".exec"),
    (Health(command=(PROGRAM,), timeout_s=61), "contract.range", ".timeout"),
    (Health(), "contract.unknown_port", ".port"),
]


@pytest.mark.parametrize(("health", "rule", "where"), BAD)
def test_what_is_no_check(health: Health, rule: str, where: str) -> None:
    """[E8] In contracts and manifests alike."""
    with pytest.raises(Refused) as caught:
        check_contract(contract(service(health=health)))
    assert (caught.value.rule, caught.value.field) == (rule, f"workloads.web.health{where}")
    made = contract(service(health=Health(command=(PROGRAM,))))
    sound = decode_manifest(expand(made, bytes(32), AUTHOR.public, CONSUMER.public, {}, {}))
    assert sound.workloads[0].health == Health(command=(PROGRAM,))
    with pytest.raises(Refused) as caught:
        check_manifest(replace(sound, workloads=(replace(sound.workloads[0], health=health),)))
    assert caught.value.rule == rule


def test_only_nodes_that_run_commands_inside_get_such_a_slot() -> None:
    """[C10]"""

    def needs(health: Health | None) -> tuple[str, ...]:
        made = contract(service(health=health))
        found = decode_manifest(expand(made, bytes(32), AUTHOR.public, CONSUMER.public, {}, {}))
        return features_needed(found.workloads[0])

    assert needs(Health(command=(PROGRAM,))) == ("health-exec",)
    assert needs(Health(port="http")) == needs(None) == ()
