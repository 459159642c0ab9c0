#!/usr/bin/env bash
# Writes requirements.lock and requirements-build.lock from pyproject.toml: `make lock`. Needs `uv` in PATH.
# Universal for Python 3.11 and 3.12, with the hash of every file of each version, and no index address, so that
# a mirror or a proxy can serve them. Versions stay as they are where the bounds allow; `UPGRADE=1` takes the newest.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

command -v uv >/dev/null || { echo "lock: needs uv (pipx install uv)" >&2; exit 1; }
compile=(
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes
    --no-header --no-emit-index-url --no-emit-find-links ${UPGRADE:+--upgrade}
)
"${compile[@]}" pyproject.toml --group dev --output-file requirements.lock >/dev/null
"${compile[@]}" --group pyproject.toml:build --constraint requirements.lock \
    --output-file requirements-build.lock >/dev/null
for lock in requirements.lock requirements-build.lock; do
    echo "lock: $lock: $(grep -c '^[a-z0-9].*==' "$lock") packages"
done
