"""A compose file becomes a draft: what maps, and what is refused or dropped, by line, never in silence."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.contracts.language import parse_contract
from ledger.errors import Refused
from ledger.limits import PARAMETERS_MAX
from ledger.text.template import substitute
from ledger.text.yaml_tree import ContractError, Mapping, Node, Scalar, Sequence, load
from node.cli.main import main
from node.client.compose import import_compose

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
        (36, "volumes", "dropped"),
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
    ["", "a: 1", "services: []", "services: {}", "services: [*a]",
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


SHARED = """\
x-app: &app
  image: app:${TAG:-2}
  environment: &env {LEVEL: info, MODE: slow}
  volumes: ["keep:/keep", "./conf.yml:/etc/app.yml:ro,z", "/var/run/docker.sock:/sock:ro", "./code:/code"]
services:
  web:
    <<: *app
    environment: {<<: *env, MODE: fast, "a.b": c}
    deploy:
      replicas: ${COUNT:-2}
      resources: {limits: {memory: 1.5g, cpus: lots}, reservations: {cpus: "1"}}
    ports: [{target: 5353, protocol: udp}, {target: 8080, published: 80}, "${PORT:-8081}:8081"]
    depends_on: {load: {condition: service_completed_successfully}, db: {condition: service_healthy}, far: {}}
  load:
    <<: [*app, {user: "${UID:-5}:0"}]
    command: ["sh", "-c", "echo $$HOME $${HOME} $$${HOME}", "${A:-${B}}", "two\\nlines"]
    ports: ["9000"]
  db:
    build: ./db
    pids_limit: -1
    volumes: [{type: volume, source: data, target: /data, volume: {nocopy: true}}, {type: tmpfs, target: /x}]
"""


def leaves(node: Node, field: str) -> Iterator[tuple[str, Scalar]]:
    if isinstance(node, Mapping):
        for key, item in node.entries.items():
            yield from leaves(item, f"{field}.{key}")
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from leaves(item, field)
    else:
        yield field, node


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", " ", text.lower()).strip()


@pytest.mark.parametrize("text", [COMPOSE, SHARED], ids=["plain", "shared"])
def test_every_value_stands_in_the_draft_or_is_told(text: str) -> None:
    draft = import_compose(text, "compose.yaml", "shop")
    root = load(text, "compose.yaml", shared=True)
    assert isinstance(root, Mapping)
    told, drawn = {remark.field for remark in draft.remarks}, plain(draft.text)
    seen = 0
    for field, leaf in leaves(root.entries["services"], "services"):
        parts = field.split(".")
        if any(".".join(parts[:n]) in told for n in range(2, len(parts) + 1)):
            continue
        seen += 1
        words = plain(leaf.text).split() if leaf.value is not None else []
        assert all(word in drawn for word in words), (field, leaf.text)
    assert seen > 3


def test_anchors_aliases_and_merge_keys_are_followed() -> None:
    draft = import_compose(SHARED, "compose.yaml", "")
    web, load_, db = draft.contract["workloads"].values()
    assert draft.contract["name"] == "compose"
    assert web["environment"] == {"LEVEL": "info", "MODE": "fast"}
    assert (web["replicas"], web["resources"]) == (2, {"cpu": "250m", "memory": "1.5GiB"})
    assert web["ports"] == {"p8080": 8080, "p8081": 8081}, "what is udp is none"
    assert web["depends_on"] == ["load", "db"]
    assert web["artifacts"] == [
        {"path": "/", "image": "images/app-2"}, {"path": "/etc/app.yml", "file": "conf.yml"}
    ]  # fmt: skip
    assert web["volumes"] == {"keep": {"path": "/keep", "size": "1GiB"}}
    assert (load_["kind"], load_["user"], "ports" in load_, "volumes" in load_) == (
        "job",
        "5:0",
        False,
        False,
    )
    assert (db["runtime"], db["artifacts"]) == ("oci", [{"path": "/", "image": "images/db"}])
    assert db["volumes"] == {"data": {"path": "/data", "size": "1GiB"}}


def test_what_is_lost_of_it_is_told() -> None:
    told = {(r.field.removeprefix("services."), r.kind) for r in import_compose(SHARED, "c", "").remarks}
    assert {
        ("x-app", "dropped"),
        ("services", "to do"),
        ("web.image", "dropped"),
        ("web.environment.a.b", "refused"),
        ("web.deploy.resources.limits.cpus", "refused"),
        ("web.deploy.resources.reservations", "dropped"),
        ("web.ports", "refused"),
        ("web.ports", "dropped"),
        ("web.depends_on.db", "dropped"),
        ("web.depends_on", "refused"),
        ("web.volumes", "refused"),
        ("load.command", "refused"),
        ("load.ports", "refused"),
        ("load.volumes", "refused"),
        ("db.image", "to do"),
        ("db.pids_limit", "refused"),
        ("db.volumes.volume", "dropped"),
        ("db.volumes", "dropped"),
    } <= told


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("POSTGRES_PASSWORD: hunter2", True),
        ("POSTGRES_PASSWORD: '${DB_PASSWORD}'", True),
        ("API_TOKEN: ", True),
        ("SECRET_KEY_BASE: 0123abcd", True),
        ("DATABASE_URL: 'postgres://app:hunter2@db/app'", True),
        ("DB_PASSWORD_FILE: /run/secrets/db", True),
        ("DB_PASSWORD_FILE: /secrets/db", False),
        ("POSTGRES_PASSWORD: ''", False),
        ("HOME_URL: 'https://example.org:8080/a@b'", False),
        ("TOKENS_MAX: 5", False),
    ],
)
def test_what_everybody_would_read_is_told(variable: str, told: bool) -> None:
    """A contract is published: a password in its environment would stand on the ledger for good."""
    draft = import_compose(f"services:\n  a:\n    image: x\n    environment: {{{variable}}}\n", "c", "")
    name = variable.partition(":")[0]
    assert ((f"services.a.environment.{name}", "to do") in {(r.field, r.kind) for r in draft.remarks}) is told


def test_a_dollar_stays_a_dollar() -> None:
    """`$$` is a plain `$` there, `$${` a plain `${` here: none becomes a reference, or stops being one."""
    draft = import_compose(SHARED, "c", "")
    shell, nested = draft.contract["workloads"]["load"]["command"][2:4]
    values: dict[str, str | int | bool] = {"home": "/h", "b": "beta"}
    assert substitute(shell, values) == "echo $HOME ${HOME} $/h"
    assert substitute(nested, values) == "${A:-beta}"
    assert set(draft.contract["parameters"]) == {"home", "b"}


@pytest.mark.parametrize(
    ("text", "rule", "field"),
    [
        ("services: *a", "contract.yaml", "services"),
        ("services: {a: &a {b: *a}}", "contract.yaml", "services.a.b"),
        ("services: {a: {<<: [x]}}", "contract.yaml", "services.a.<<"),
        ("a: &a [" + "x, " * 200 + "]\nservices: [" + "*a, " * 50 + "]", "contract.too_many", "services[48]"),
    ],
)
def test_what_no_alias_may_do(text: str, rule: str, field: str) -> None:
    with pytest.raises(ContractError) as caught:
        import_compose(text, "compose.yaml", "x")
    assert (caught.value.rule, caught.value.field) == (rule, field)


def test_more_variables_than_parameters_are_told() -> None:
    lines = "".join(f"\n      V{n}: ${{V{n}}}" for n in range(PARAMETERS_MAX + 1))
    draft = import_compose(f"services:\n  a:\n    image: x\n    environment:{lines}\n", "c", "")
    assert len(draft.contract["parameters"]) == PARAMETERS_MAX
    assert (f"services.a.environment.V{PARAMETERS_MAX}", "refused") in {
        (r.field, r.kind) for r in draft.remarks
    }


def test_each_volume_is_told_by_its_place() -> None:
    remarks = import_compose(SHARED, "c", "").remarks
    told = " ".join(remark.why for remark in remarks if remark.field == "services.web.volumes")
    assert all(place in told for place in ("/keep", "./conf.yml", "/var/run/docker.sock", "./code"))
