#!/usr/bin/env bash
# What `make bench` compares us with: etcd from Debian, and CometBFT built from a released version. Not part of
# `make setup`: nothing else needs them, and `make bench` says what it skips without them. Safe to run again.
#
#   COMETBFT=v0.38.26 scripts/bench_setup.sh     another version of CometBFT
set -euo pipefail

# The newest release of the line that its users run, when this was written.
cometbft=${COMETBFT:-v0.38.26}
bin=${XDG_CACHE_HOME:-$HOME/.cache}/gridpact-bench/bin

say() { printf 'bench setup: %s\n' "$*"; }

if command -v etcd >/dev/null; then
    say "etcd is here: $(etcd --version | head -n 1)"
elif [ "$(id -u)" -ne 0 ]; then
    say "etcd is missing; run this once: sudo apt-get install --no-install-recommends -y etcd-server etcd-client"
else
    # policy-rc.d: the package would start an etcd of its own, which would run beside every measurement.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=120 install --no-install-recommends -y etcd-server etcd-client
    say "etcd installed: $(etcd --version | head -n 1)"
fi

if "$bin/cometbft" version 2>/dev/null | grep -qxF "${cometbft#v}"; then
    say "CometBFT is here: $cometbft"
elif ! command -v go >/dev/null; then
    say "no Go here, so no CometBFT: make bench skips it"
else
    say "building CometBFT $cometbft (two minutes the first time)"
    mkdir -p "$bin"
    GOBIN=$bin go install "github.com/cometbft/cometbft/cmd/cometbft@$cometbft"
    say "CometBFT built: $("$bin/cometbft" version)"
fi
