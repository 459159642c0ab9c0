"""A process that writes chunks of an artifact into a store until it is killed.

    python -m tests.node.artifact_taker FOLDER SHA256 SOURCE

Chunks come in a scattered order from the file SOURCE, one for each line on stdin; each is told on stdout
when it is written.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from ledger.limits import CHUNK_BYTES
from node.files.artifacts import ArtifactStore
from node.files.chunks import chunk_digests


def main(folder: Path, sha256: str, source: Path) -> None:
    """Until killed, or nothing more is asked for, or all is written and named."""
    data = source.read_bytes()
    part = ArtifactStore(folder).partial(sha256, len(data), chunk_digests(source), is_signed=True)
    print(f"missing {len(part.missing())}", flush=True)
    order = part.missing()
    random.Random(4).shuffle(order)
    for index in order:
        if not sys.stdin.readline():
            return
        part.write(index, data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        print(f"wrote {index}", flush=True)
    part.finish()
    print("finished", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
