"""The executor with the real sandbox driver: a web site that answers, and a job whose result is fetched."""

from __future__ import annotations

from pathlib import Path

from node.executor.drivers.sandbox import SandboxDriver
from tests.executor.conftest import BUSYBOX, make_tar, usable
from tests.node.executor_fixture import artifact_of, job, service
from tests.node.served import HEALTH, HTTPD, PAGE, serve_and_count


async def test_a_site_answers_and_a_job_gives_its_result(tmp_path: Path) -> None:
    driver = usable(SandboxDriver(tmp_path / "run"))
    busybox, tree = BUSYBOX.read_bytes(), make_tar({"index.html": PAGE})
    both = {
        "artifacts": (
            artifact_of(busybox, "/bin/busybox"),
            artifact_of(tree, "/www", kind="tree", executable=False),
        )
    }
    site = service(replicas=1, command=HTTPD, health=HEALTH, **both)
    script = "/bin/busybox wc -c < /www/index.html > /result/words.tsv"
    count = job(command=("/bin/busybox", "sh", "-c", script), **both)
    last, said = await serve_and_count(tmp_path, driver, site, count, busybox, tree)
    assert last.checks >= 1
    assert (last.driver, last.level, last.exit_code) == ("sandbox", "sandbox", 0)
    assert last.usage.memory_bytes_max > 0
    assert said.features["seccomp"] == "enforced"
