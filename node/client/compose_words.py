"""Why a part of a compose file is not taken over, by the part's name."""

from __future__ import annotations

import re
from typing import Final

# What a value is meant for, by its variable's name or by its own look. `…_FILE` names a file, not a value.
_SECRET_NAME: Final = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?|(API|ACCESS|PRIVATE|ENCRYPTION|SIGNING|SECRET)_?KEY)"
    r"(_BASE)?\d*$",
    re.IGNORECASE,
)
_SECRET_VALUE: Final = re.compile(r"://[^/\s:@]*:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY")
DROPPED: Final = {
    "container_name": "slots have names of their own",
    "hostname": "a slot has no host name",
    "labels": "a contract has tags",
    "logging": "logs are kept by the 3node, bounded",
    "expose": "a port is reached by its portal when it stands under ports",
    "stop_grace_period": "the lease rules say how long a stop may take",
    "init": "the sandbox has its own first process",
    "read_only": "always so",
    "security_opt": "no new privileges, always",
    "cap_drop": "no capability is there, always",
    "tmpfs": "/tmp is there, within resources.disk",
    "version": "compose files have no version any more",
}
REFUSED: Final = {
    "build": "nothing is built on a 3node: build it, then name the image or the files as artifacts",
    "privileged": "no workload has privileges",
    "cap_add": "no workload has capabilities",
    "devices": "no device reaches a workload",
    "network_mode": "a workload has no network but its loopback and its ports",
    "networks": "a workload has no network but its loopback and its ports",
    "links": "no workload reaches another by its name",
    "pid": "no workload sees other processes",
    "ipc": "no workload shares memory with others",
    "secrets": "their values are given to the 3bot: gridpact secrets set",
    "env_file": "its variables belong into environment; what not everybody may read, into secrets",
    "healthcheck": "a health check asks a port, or is a program of the artifacts: write health",
    "extends": "one file says all",
    "profiles": "a contract runs all that it names",
}
TOP: Final = {
    "volumes": "each replica has its own: see the volumes of its service",
    "version": DROPPED["version"],
}
WAITS: Final = {
    "service_started": "",
    "service_healthy": "it waits until the other runs, not until it is healthy: try again until it answers",
    "service_completed_successfully": "",
}


def why_not_public(name: str, value: str) -> str:
    """What to do with a variable of this name and value where everybody reads both; "" if nothing."""
    if "/run/secrets/" in value:
        return "secrets are files below /secrets here"
    if value and (_SECRET_NAME.search(name) or _SECRET_VALUE.search(value)):
        return "everybody reads contracts and parameters: name it under secrets, and read /secrets/NAME"
    return ""
