"""How podman is called: its configuration and its options.

podman(1), podman-create(1), containers.conf(5), version 4.3. Every path lies in a tmpfs of the container's
own engine, in a mount namespace of its own: nothing on the host's disk, no other container's state, no
configuration of the host. Standard library only: the launcher uses it.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

BASE_UID = 0x7000_0000
"""The host's number of a container's user 0; 65,536 follow. No distribution gives these to anybody
(systemd, "Users, Groups, UIDs and GIDs")."""

IDS = 65_536
FOLDER = "/run/gridpact"
CONTAINER = "task"
PID_FILE = f"{FOLDER}/pid"
RUNTIMES = ("runc", "crun")
"""In the order in which they are tried."""

MADE = ("/etc/hostname", "/etc/passwd", "/etc/group", "/run/.containerenv")
"""Files that podman mounts over the root's own, or in their place: the root must have some. The same as
ledger.manifests.image.MADE, where no artifact may stand."""

_ENGINE = """[containers]
log_driver = "passthrough"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
"""
_STORAGE = f"""[storage]
driver = "vfs"
graphroot = "{FOLDER}/root"
runroot = "{FOLDER}/runroot"
"""
_ENVIRONMENT = {
    "PATH": f"{os.defpath}:/usr/sbin:/sbin:/usr/local/bin",
    "HOME": FOLDER,
    "TMPDIR": FOLDER,
    "XDG_RUNTIME_DIR": FOLDER,
    "CONTAINERS_CONF": f"{FOLDER}/containers.conf",
    "CONTAINERS_STORAGE_CONF": f"{FOLDER}/storage.conf",
    "CONTAINERS_REGISTRIES_CONF": f"{FOLDER}/registries.conf",
}


def find(name: str) -> str | None:
    """Return the path of a program of the host's, None when it is not installed."""
    return shutil.which(name, path=_ENVIRONMENT["PATH"])


def environment() -> dict[str, str]:
    """Return what podman's processes have as their environment: nothing of the node's."""
    return dict(_ENVIRONMENT)


def write_configuration(filter_json: bytes, environment_file: bytes) -> None:
    """Write podman's configuration and the task's own environment into FOLDER. Raises OSError."""
    files = {
        "containers.conf": _ENGINE.encode(),
        "storage.conf": _STORAGE.encode(),
        "registries.conf": b"unqualified-search-registries = []\n",
        "seccomp.json": filter_json,
        "environment": environment_file,
    }
    for name, data in files.items():
        with open(f"{FOLDER}/{name}", "wb") as file:
            file.write(data)


def command(podman: str, runtime: str, *words: str) -> list[str]:
    """Return a call of podman on the engine of this container alone."""
    places = ["--root", f"{FOLDER}/root", "--runroot", f"{FOLDER}/runroot", "--tmpdir", f"{FOLDER}/tmp"]
    return [podman, *places, "--storage-driver", "vfs", "--runtime", runtime, "--log-level", "error", *words]


def create_options(config: dict[str, Any]) -> list[str]:
    """Return the words of `podman create` for a launcher's configuration."""
    user = config["user"] or "0:0"
    options = ["create", "--name", CONTAINER, "--label", f"gridpact.task={config['task_id']}"]
    options += ["--restart", "no", "--network", "none", "--no-hosts", "--hostname", "gridpact"]
    options += ["--cap-drop", "all", "--security-opt", "no-new-privileges", "--security-opt", "label=disable"]
    options += ["--security-opt", f"seccomp={FOLDER}/seccomp.json", "--read-only", "--read-only-tmpfs=false"]
    options += ["--uidmap", f"0:{BASE_UID}:{IDS}", "--gidmap", f"0:{BASE_UID}:{IDS}", "--user", user]
    options += ["--cgroups", "no-conmon", "--cgroup-parent", config["cgroup"], "--cgroupns", "private"]
    options += [
        "--pids-limit",
        "0",
        "--memory",
        str(config["memory_bytes"]),
        "--systemd",
        "false",
        "--http-proxy=false",
        "--image-volume",
        "ignore",
    ]
    options += ["--sdnotify", "ignore", "--umask", "0022", "--shm-size", str(config["shm_bytes"])]
    for name, value in config["rlimits"].items():
        options += ["--ulimit", f"{name.removeprefix('RLIMIT_').lower()}={value}:{value}"]
    options += ["--unsetenv-all", "--env-file", f"{FOLDER}/environment", "--workdir", config["working_dir"]]
    for source, target, how in config["mounts"]:
        options += ["--mount", f"type=bind,src={source},dst={target},{how},nosuid,nodev,noexec"]
    options += ["--pidfile", PID_FILE, "--conmon-pidfile", f"{FOLDER}/conmon"]
    words = config["command"]
    return [*options, "--entrypoint", json.dumps([words[0]]), "--rootfs", config["rootfs"], *words[1:]]
