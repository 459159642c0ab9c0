"""Makes the image of this example: a folder `image` with an OCI image layout, from busybox and the pages of
the site example. No registry and no container engine is needed, and the same files give the same image.

    python3 examples/site-image/make_image.py [FOLDER]

FOLDER is where to put it; `image` beside this program without it. Pages in a folder `www` beside this program
are taken before those of the site example. It needs Debian's busybox-static. The form is that of the OCI
image specification, version 1.0: https://github.com/opencontainers/image-spec
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES = (HERE / "www", HERE.parent / "site" / "www")  # the first that is there
BUSYBOX = Path("/bin/busybox")
KIND = "application/vnd.oci.image"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
CONFIG = {
    "Entrypoint": ["busybox", "httpd", "-f", "-p", "8080"],
    "Cmd": ["-h", "/www"],
    "Env": ["PATH=/bin"],
    "User": "web",
    "WorkingDir": "/www",
}


def add(tar: tarfile.TarFile, name: str, data: bytes | None, mode: int = 0o644) -> None:
    """Add a file, or, without data, a folder. Both belong to root, and were made at no time."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
    info.mode = 0o755 if data is None else mode
    info.size = len(data or b"")
    tar.addfile(info, io.BytesIO(data or b""))


def layer(files: dict[str, tuple[bytes, int]]) -> bytes:
    """An uncompressed layer of these files, by name, with their modes, and of the folders they are in."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in sorted({str(Path(name).parent) for name in files}):
            add(tar, folder, None)
        for name in sorted(files):
            add(tar, name, *files[name])
    return buffer.getvalue()


class Layout:
    """An OCI image layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        """Keep a blob; return what names it."""
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs" / "sha256" / digest).write_bytes(data)
        return {"mediaType": f"{KIND}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    def save(self, name: str, value: dict[str, Any]) -> None:
        """Keep one of the two files that are found by name."""
        (self.folder / name).write_bytes(encode(value))


def encode(value: dict[str, Any]) -> bytes:
    """JSON, the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def make(folder: Path) -> str:
    """Write the image into `folder`; return its digest."""
    found = next((pages for pages in PAGES if pages.is_dir()), None)
    if found is None:
        raise SystemExit(f"no pages: put them into {PAGES[0]}")
    system = {
        "bin/busybox": (BUSYBOX.read_bytes(), 0o755),
        "etc/passwd": (b"root:x:0:0::/:/bin/false\nweb:x:1000:1000::/www:/bin/false\n", 0o644),
        "etc/group": (b"root:x:0:\nweb:x:1000:\n", 0o644),
    }
    pages = {f"www/{page.name}": (page.read_bytes(), 0o644) for page in sorted(found.iterdir())}
    layers = [layer(system), layer(pages)]
    layout = Layout(folder)
    config = {
        "os": "linux",
        "architecture": MACHINES.get(platform.machine(), platform.machine()),
        "config": CONFIG,
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "config": layout.blob(encode(config), "config.v1+json"),
        "layers": [layout.blob(one, "layer.v1.tar") for one in layers],
    }
    named = layout.blob(encode(manifest), "manifest.v1+json")
    layout.save("index.json", {"schemaVersion": 2, "manifests": [named]})
    layout.save("oci-layout", {"imageLayoutVersion": "1.0.0"})
    return str(named["digest"])


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "image"))
