"""What the executor's tests share: Debian's static busybox as workload, a driver in a fresh folder."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from node.executor.drivers.base import Driver, FileSpec, PortSpec, Resources, TaskSpec, TreeSpec
from node.executor.drivers.launched import LaunchedDriver
from node.executor.drivers.running import Running
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.drivers.trial import Host
from node.executor.oci.driver import OciDriver

BUSYBOX = Path("/bin/busybox")
RESOURCES = Resources(cpu_millis=1000, memory_bytes=128 << 20, disk_bytes=4 << 20, pids=32)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_tar(members: Mapping[str, bytes | None], mode: int = 0o644) -> bytes:
    """Return a plain ustar of files, and of directories where the data is None."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if data is None else mode
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


@dataclass
class Bench:
    """A driver and short ways to make and run tasks on it."""

    driver: LaunchedDriver
    folder: Path
    count: int = field(default=0)

    async def plain(self) -> None:
        """Let tasks run from the tmpfs that hosts without sealed images have."""
        self.driver._host = dataclasses.replace(await self.driver.examined(), mkfs=None)

    def file(self, path: str, data: bytes, mode: int = 0o444) -> FileSpec:
        self.count += 1
        source = self.folder / f"artifact-{self.count}"
        source.write_bytes(data)
        return FileSpec(path, sha256(data), len(data), mode, source)

    def tree(self, path: str, data: bytes) -> TreeSpec:
        file = self.file(path, data)
        return TreeSpec(path, file.digest, file.size_bytes, file.source)

    def busybox(self) -> FileSpec:
        return self.file("/bin/busybox", BUSYBOX.read_bytes(), 0o555)

    def spec(
        self,
        command: tuple[str, ...],
        *,
        files: tuple[FileSpec, ...] = (),
        trees: tuple[TreeSpec, ...] = (),
        ports: tuple[PortSpec, ...] = (),
        resources: Resources = RESOURCES,
        results: tuple[str, ...] = (),
        log_bytes_max: int = 64 * 1024,
        env: Mapping[str, str] | None = None,
    ) -> TaskSpec:
        self.count += 1
        files = (self.busybox(), *files)
        task_id = f"d{self.count}.web.1"
        return TaskSpec(
            task_id, command, env or {}, files, trees, ports, resources, results, log_bytes_max,
            runtime=self.driver.name,
        )  # fmt: skip

    def shell(self, script: str, **options: object) -> TaskSpec:
        """Return a task that runs `script` in busybox's shell, where every applet is at hand by name."""
        return self.spec(("/bin/busybox", "sh", "-c", script), **options)  # type: ignore[arg-type]

    @asynccontextmanager
    async def running(self, spec: TaskSpec) -> AsyncIterator[Running]:
        handle = await self.driver.start(await self.driver.prepare(spec))
        try:
            yield handle
        finally:
            await self.driver.stop(handle, 0)

    async def output(self, spec: TaskSpec) -> str:
        """Run to the end; return what it wrote."""
        async with self.running(spec) as handle:
            with trio.fail_after(60):
                await self.driver.wait(handle)
            return self.driver.logs(handle, 1 << 20).decode()

    async def until_logged(self, handle: Running, word: str) -> str:
        """Wait until the log holds `word`; return the log."""
        with trio.fail_after(60):
            while word not in (text := self.driver.logs(handle, 1 << 20).decode(errors="replace")):
                assert handle.exit is None, f"ended early: {text}"
                await trio.sleep(0.01)
        return text


def found_below(folder: Path, value: bytes) -> list[Path]:
    """Files with this value in them."""
    return [file for file in folder.rglob("*") if file.is_file() and value in file.read_bytes()]


def needs_sandbox() -> None:
    """Skip, with the reason, on a host that cannot run the sandbox driver's tests."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")


D = TypeVar("D", bound=Driver)


# What the first driver of a kind found out by a trial, which takes up to a second: the host stays as it is.
_HOSTS: dict[type, Host] = {}
_TOOLS: dict[type, tuple[str, str]] = {}


def _examine_once(driver: LaunchedDriver) -> None:
    """Examine the host, or tell the driver what another of its kind has found; its groups are its own."""
    kind = type(driver)
    if kind not in _HOSTS:
        driver.fingerprint()
        assert driver._host is not None
        _HOSTS[kind] = driver._host
        if isinstance(driver, OciDriver):
            _TOOLS[kind] = driver._tools
    host = _HOSTS[kind]
    if host.groups is not None:
        host = dataclasses.replace(host, groups=dataclasses.replace(host.groups, scope=driver._scope))
    if isinstance(driver, OciDriver):
        driver.trust(host, _TOOLS[kind])
    else:
        driver._host = host


def usable(driver: D, runtime: str = "") -> D:
    """The driver; on a host where it cannot run tasks (of `runtime`, of several) a skip, with the reason."""
    needs_sandbox()
    if isinstance(driver, LaunchedDriver):
        _examine_once(driver)
    found = driver.fingerprint().of(runtime)
    if not found.usable:
        pytest.skip(f"the {found.driver} driver is not usable here: {found.reason}")
    return driver


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(usable(SandboxDriver(tmp_path / "run")), tmp_path)


@pytest.fixture
def oci(tmp_path: Path) -> Bench:
    return Bench(usable(OciDriver(tmp_path / "run")), tmp_path)


@pytest.fixture(params=["sandbox", "oci"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """First the one, then the other."""
    made = {"sandbox": SandboxDriver, "oci": OciDriver}[request.param]
    return Bench(usable(made(tmp_path / "run")), tmp_path)


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Return a function that compiles C into a static program's bytes."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed; the probes of system calls are in C")
    folder = tmp_path_factory.mktemp("c")

    def build(text: str) -> bytes:
        source = folder / f"{sha256(text.encode())[:16]}.c"
        program = source.with_suffix("")
        if not program.exists():
            source.write_text(text)
            command = [compiler, "-static", "-O1", "-w", "-o", str(program), str(source)]
            subprocess.run(command, check=True, timeout=60)
        return program.read_bytes()

    return build
