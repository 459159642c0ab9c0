"""What a workload of runtime oci is: rules that hold for contracts and manifests alike.

[Z1] A container stands on one image, an artifact of kind image at the path /, with its other artifacts on
     top; nothing else has an image, a user or a folder. In a manifest its user is UID:GID, and its command
     a path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ledger.contracts.types import WorkloadTemplate
from ledger.limits import CONTAINER_MEMORY_BYTES_MIN
from ledger.manifests.check import Report, check_path
from ledger.manifests.types import Workload
from ledger.text.template import has_template

MADE: Final = ("/etc/hostname", "/etc/passwd", "/etc/group", "/run/.containerenv")
"""What a container engine puts in the place of an image's own file: an artifact there would not be seen."""

_ID: Final = "(?:0|[1-9][0-9]{0,4})"
_NUMBERS: Final = re.compile(f"{_ID}:{_ID}")
_NAMES: Final = re.compile(f"(?:{_ID}|[a-z_][a-z0-9_-]{{0,31}})(?::(?:{_ID}|[a-z_][a-z0-9_-]{{0,31}}))?")
_ID_MAX: Final = 65_535


def check_container(
    workload: Workload | WorkloadTemplate,
    paths: Sequence[tuple[str, str]],
    field: str,
    report: Report,
    *,
    built: bool = True,
) -> None:
    """[Z1] A container stands on one image, and nothing else does. `paths`: (path, kind) of its artifacts.

    Before it is `built`, its user may have a name and its folder may be left to the image.
    """
    images = [path for path, kind in paths if kind == "image"]
    if workload.runtime != "oci":
        if images:
            report(f"{field}.artifacts", "contract.image", "an image is for a workload of runtime oci")
        if workload.user or workload.working_dir not in ("/", *(() if built else ("",))):
            report(f"{field}.user", "contract.container", "a user and a folder are for runtime oci")
        return
    if images != ["/"]:
        report(
            f"{field}.artifacts", "contract.image", "a workload of runtime oci has one image, at the path /"
        )
    for index, (path, _) in enumerate(paths):
        if path in MADE:
            where = f"{field}.artifacts[{index}].path"
            report(where, "contract.path_reserved", f"{path} is made by the container's engine")
    folder = workload.working_dir
    if folder != "/" and (built or folder):
        check_path(folder, f"{field}.working_dir", report)
    if not built:
        named = not workload.user or _NAMES.fullmatch(workload.user) is not None
    else:
        named = _NUMBERS.fullmatch(workload.user) is not None
        named = named and all(int(part) <= _ID_MAX for part in workload.user.split(":"))
    if not named or has_template(workload.user):
        report(f"{field}.user", "contract.container", f"USER or UID:GID wanted, numbers up to {_ID_MAX}")
    need = workload.resources.memory_bytes
    if isinstance(need, int) and need < CONTAINER_MEMORY_BYTES_MIN:
        detail = f"{need} B, at least {CONTAINER_MEMORY_BYTES_MIN} for a container to start in"
        report(f"{field}.resources.memory", "contract.container", detail)
    for volume in workload.volumes:
        if "," in volume.path or '"' in volume.path:
            where = f"{field}.volumes.{volume.name}.path"
            report(where, "contract.container", "no comma and no quote in a path of a container")
