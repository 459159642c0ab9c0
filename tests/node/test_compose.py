"""A compose file becomes a draft: what maps, and what is refused or dropped, by line, never in silence."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.contract import parse_contract
from ledger.errors import Refused
from ledger.yaml_tree import ContractError, load
from node.cli.main import main
from node.compose import import_compose

COMPOSE = """\
name: shop
services:
  web:
    image: nginx:1.27
    build: .
    command: nginx -g "daemon off;"
    environment:
      - MODE=${MODE:-prod}
      - PRICE=$$5
      - TOKEN
    ports: ["8080:8080", "80:80", "127.0.0.1:9000:9001/tcp", "5000-5010:5000"]
    depends_on: [db, Load_Data]
    volumes: ["./www:/www:ro", "data:/data", "../up:/up:ro"]
    privileged: true
    labels: {a: b}
    restart: always
    healthcheck: {test: curl x}
    deploy:
      replicas: 3
      placement: {constraints: [a]}
      resources: {limits: {cpus: "0.5", memory: 256M, pids: 64}}
    x-odd: 1
  db:
    image: registry.example/library/postgres@sha256:abc
    user: postgres
    working_dir: /var/lib
    entrypoint: [/bin/db, "--data=${DATA_DIR}"]
    environment: {LEVEL: 3, EMPTY: }
    mem_limit: 1g
    cpus: 2
  Load_Data:
    command: [/bin/load]
    user: "5"
    restart: "no"
    depends_on: {db: {condition: service_healthy}}
volumes: {data: {}}
networks: {back: {}}
"""


def test_what_maps() -> None:
    draft = import_compose(COMPOSE, "compose.yaml", "My Shop!")
    web, db, load_data = draft.contract["workloads"].values()
    assert list(draft.contract["workloads"]) == ["web", "db", "load_data"]
    assert draft.contract["name"] == "my_shop"
    assert web["command"] == ["nginx", "-g", "daemon off;"]
    assert web["environment"] == {"MODE": "${mode}", "PRICE": "$5", "TOKEN": "${token}"}
    assert web["ports"] == {"p8080": 8080, "p9001": 9001, "p5000": 5000}
    assert web["depends_on"] == ["db", "load_data"]
    assert (web["runtime"], "runtime" in load_data) == ("oci", False)
    assert web["artifacts"] == [{"path": "/", "image": "images/nginx-1.27"}, {"path": "/www", "tree": "www"}]
    assert (db["user"], db["working_dir"]) == ("postgres", "/var/lib")
    assert (web["replicas"], web["resources"]) == (3, {"cpu": "0.5", "memory": "256MiB", "pids": 64})
    assert db["command"] == ["/bin/db", "--data=${data_dir}"]
    assert db["environment"] == {"LEVEL": "3", "EMPTY": "${empty}"}
    assert db["resources"] == {"cpu": "2", "memory": "1GiB"}
    assert (load_data["kind"], load_data["depends_on"]) == ("job", ["db"])
    parameters = draft.contract["parameters"]
    assert parameters["mode"]["default"] == "prod" and "default" not in parameters["token"]


def test_nothing_is_dropped_in_silence() -> None:
    told = {(r.line, r.field, r.kind) for r in import_compose(COMPOSE, "compose.yaml", "shop").remarks}
    assert {
        (4, "services.web.image", "to do"),
        (5, "services.web.build", "refused"),
        (11, "services.web.ports", "refused"),
        (13, "services.web.volumes", "to do"),
        (13, "services.web.volumes", "refused"),
        (14, "services.web.privileged", "refused"),
        (15, "services.web.labels", "dropped"),
        (16, "services.web.restart", "dropped"),
        (17, "services.web.healthcheck", "refused"),
        (20, "services.web.deploy.placement", "refused"),
        (22, "services.web.x-odd", "refused"),
        (6, "services.web.command", "to do"),
        (33, "services.Load_Data.user", "refused"),
        (36, "volumes", "refused"),
        (37, "networks", "refused"),
    } <= told


def test_the_draft_is_a_contract_but_for_its_artifacts() -> None:
    draft = import_compose(COMPOSE, "compose.yaml", "shop")
    with pytest.raises(ContractError) as caught:
        parse_contract(draft.text, "contract.yaml")
    wanted = {"contract.command_artifact", "contract.path"}  # nginx has no path of its own here
    assert {problem.rule for problem in caught.value.problems} <= wanted
    for workload in draft.contract["workloads"].values():
        if "runtime" in workload:
            continue  # an image is a name of something that is not here yet
        workload["command"] = ["/bin/x", *workload["command"][1:]]
        workload["artifacts"].append({"path": "/bin/x", "file": "x", "executable": True})
    made = parse_contract(draft.text, "contract.yaml").contract
    assert [(w.name, w.kind, w.replicas) for w in made.workloads] == [
        ("web", "service", 3), ("db", "service", 1), ("load_data", "job", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "a: 1", "services: []", "services: {}", "services: &a {b: {}}",
     "services: {a-b: {}, a_b: {}}", "services: {a: {environment: {X: $V, Y: $v}}}"],
)  # fmt: skip
def test_what_is_no_compose_file(text: str) -> None:
    with pytest.raises(Refused):
        import_compose(text, "compose.yaml", "x")


@given(st.text(alphabet="abz:-[]{}\n \"'$0189./,", max_size=120))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Fuzz: under services, whatever stands there."""
    try:
        draft = import_compose("services:\n  a:\n    " + text.replace("\n", "\n    "), "f", "x")
    except Refused:
        return
    load(draft.text, "draft")


def test_the_command_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "shop" / "compose.yaml"
    source.parent.mkdir()
    source.write_text(COMPOSE)
    words = ["contract", "import", str(source), "--out", str(tmp_path / "made")]
    assert main(words) == 0
    assert "no workload has privileges" in capsys.readouterr().out
    assert "name: shop" in (tmp_path / "made" / "contract.yaml").read_text()
    assert main(words) == 1
    assert "nothing was changed" in capsys.readouterr().err
