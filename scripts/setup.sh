#!/usr/bin/env bash
# Makes .venv from the locks: `make setup`. Safe to run at any time; when nothing has changed it returns at once.
#
# It installs the Debian packages that are missing (as root; else it says which and stops), makes .venv with the
# system's Python, and installs exactly what requirements-build.lock and requirements.lock name, hashes checked.
# Details go to .cache/setup.log. pip's and apt's own settings (mirrors, proxies, certificates) are respected.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd -- "$root"

# gcc, python3-dev, libgmp-dev: fastecdsa comes as source only.  libseccomp2: pyseccomp loads it.
# bubblewrap: the sandbox driver.  erofs-utils: the sealed roots of its workloads.
# busybox-static: the example workload and the drivers' tests.
# podman, crun, runc: the container driver.  e2fsprogs: volumes.
# minisign, openssl: what we sign is checked by them alone, in the tests.
# iproute2, nftables: network namespaces as machines, in the tests, when root.
# openssh-client: ssh-keygen signs and checks approvals (SSHSIG).  git: the house test reads what is committed.
debian_packages=(
    ca-certificates git python3 python3-venv python3-dev gcc libc6-dev libgmp-dev
    libseccomp2 bubblewrap erofs-utils busybox-static openssh-client iproute2 nftables
    podman crun runc e2fsprogs minisign openssl
)
# plyvel has wheels for x86_64 alone; elsewhere it is built against Debian's LevelDB.
[ "$(uname -m)" = x86_64 ] || debian_packages+=(g++ libleveldb-dev)
log=.cache/setup.log
venv=.venv
started_s=$SECONDS
logged=  # becomes yes with the first step

mkdir -p .cache
# Two runs at once (make test and make demo in two terminals): the second waits, then finds the work done.
exec 9>.cache/setup.lock
flock 9

say() { printf 'setup: %s\n' "$*"; }

fail() {
    say "FAILED: $1" >&2
    if [ "$logged" ]; then
        say "the last lines of $log:" >&2
        tail -n 25 "$log" | sed 's/^/    /' >&2
    fi
    exit 1
}

run() {  # run WHAT COMMAND...: one line for the reader, the rest for the log
    local what=$1 from_s=$SECONDS
    shift
    [ "$logged" ] || : >"$log"  # a new log for each run that does anything
    logged=yes
    { printf '\n== %s\n$ %s\n' "$what" "$*"; } >>"$log"
    "$@" >>"$log" 2>&1 </dev/null || fail "$what"
    say "$what ($((SECONDS - from_s)) s)"
}

missing_packages() {
    # One query for all: it exits 1 when it knows one of them not at all, which is an answer, not a fault.
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${debian_packages[@]}" 2>/dev/null |
        sed -n 's/^installed //p') || true
    local package
    for package in "${debian_packages[@]}"; do
        grep -qx -- "$package" <<<"$installed" || printf '%s\n' "$package"
    done
}

apt_install() {
    local get=(apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -y)
    export DEBIAN_FRONTEND=noninteractive
    if compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
        "${get[@]}" install --no-install-recommends "$@" && return
        echo 'again, with fresh package lists'
    fi
    "${get[@]}" update && "${get[@]}" install --no-install-recommends "$@"
}

install_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian system: see to it that these are there yourself: ${debian_packages[*]}" >&2
        return
    fi
    local missing
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        say "these Debian packages are missing; run this once, then try again:" >&2
        printf '    sudo apt-get install --no-install-recommends -y %s\n' "${missing[*]}" >&2
        exit 1
    fi
    run "Debian packages: ${missing[*]}" apt_install "${missing[@]}"
}

find_python() {
    local candidate
    for candidate in /usr/bin/python3.11 /usr/bin/python3.12 python3.11 python3.12 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
            2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

digest() { cat -- "$@" | sha256sum | cut -d ' ' -f 1; }

make_venv() {
    local python
    python=$(find_python) || fail "no Python 3.11 or 3.12 with venv was found"
    rm -rf -- "$venv"
    run "$venv with $("$python" -V)" "$python" -m venv "$venv"
    run "build tools, hashes checked" "${pip[@]}" --only-binary :all: --require-hashes -r requirements-build.lock
    run "$(grep -c '^[a-z0-9].*==' requirements.lock) locked packages, hashes checked (about half a minute)" \
        "${pip[@]}" --no-build-isolation --require-hashes -r requirements.lock
}

install_packages

# The stamps: what the environment was made from, and where (an environment cannot be moved).
locked="$(digest requirements.lock requirements-build.lock) $root"
project="$(digest pyproject.toml) $root"
# A user's settings for other environments must not leak into this one.
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIREMENT PIP_CONSTRAINT
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input install --progress-bar off)

if [ "$(cat "$venv/.locked" 2>/dev/null)" != "$locked" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    make_venv
    printf '%s\n' "$locked" >"$venv/.locked"
fi
if [ "$(cat "$venv/.project" 2>/dev/null)" != "$project" ]; then
    run "gridpact itself, editable" "${pip[@]}" --no-deps --no-build-isolation --editable .
    printf '%s\n' "$project" >"$venv/.project"
    say "ready: $venv/bin/gridpact ($((SECONDS - started_s)) s)"
fi
