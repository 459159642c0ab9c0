"""Why a part of a compose file is not taken over, by the part's name."""

from __future__ import annotations

from typing import Final

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
    "env_file": "its variables belong into environment",
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
