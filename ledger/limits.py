"""Every bound of the ledger, with its reason. Protocol limits: all peers must agree on them."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

DOMAIN_PREFIX: Final = b"gridpact/"

# Sizes of what travels. A transaction must fit one gossip message (1 MiB) many times over.
TX_BYTES_MAX: Final = 128 * KIB  # a contract envelope is the largest body
ENVELOPE_BYTES_MAX: Final = 96 * KIB
CONTRACT_BYTES_MAX: Final = 64 * KIB  # YAML source as published
MANIFEST_BYTES_MAX: Final = 64 * KIB
TEXT_CHARS_MAX: Final = 2_000  # a comment or reason
NAME_CHARS_MAX: Final = 64
BATCH_BYTES_MAX: Final = 512 * KIB  # half a frame: streams stay responsive
BATCH_TXS_MAX: Final = 2_000
BLOCK_BATCHES_MAX: Final = 64
BLOCK_TXS_MAX: Final = 8_000  # bounds the time to execute one block

# Replay window: a transaction expires at most this many blocks ahead; ids are kept as long.
# At 200 blocks/s under load this is still 20 s, at the idle rate over an hour.
EXPIRY_BLOCKS_MAX: Final = 4_000
EXPIRY_BLOCKS_DEFAULT: Final = 2_000

# Block time may run ahead of a validator's clock by this much before it refuses to vote.
TIME_AHEAD_MS_MAX: Final = 2_000

VALIDATORS_MAX: Final = 128

# What one deployment may hold; an apply touches each slot a bounded number of times.
WORKLOADS_MAX: Final = 32
REPLICAS_MAX: Final = 64
SLOTS_MAX: Final = 256
ARTIFACTS_MAX: Final = 64
ARTIFACT_BYTES_MAX: Final = 64 * 1024 * MIB
PORTS_MAX: Final = 16
PARAMETERS_MAX: Final = 64
ROLES_MAX: Final = 32
ROLE_KEYS_MAX: Final = 64
POLICY_DEPTH_MAX: Final = 8
POLICY_NODES_MAX: Final = 128
APPROVALS_PER_DEPLOYMENT_MAX: Final = 512
CANDIDATES_PER_SLOT_MAX: Final = 64
RECEIPTS_PER_TERM_MAX: Final = 1_000
VAULT_RECORD_BYTES_MAX: Final = 64 * KIB
RENEW_SLOTS_MAX: Final = 256
ATTRIBUTES_MAX: Final = 32
DUE_PER_BLOCK_MAX: Final = 2_000  # timed work executed in one block; the rest waits for the next

CHUNK_BYTES: Final = 256 * KIB  # artifact transfer unit

# Leases (design section 8). Ledger-side margin G covers clock rates, kill time and block delay:
# G >= 2 rho L / (1 - rho) + K + 2 blocks + 1 s
LEASE_MS: Final = 30_000
KILL_MS: Final = 10_000
CLOCK_RATE_PERCENT: Final = 1
BLOCK_IDLE_MS: Final = 1_000
LEASE_GUARD_MS: Final = (
    -(-2 * CLOCK_RATE_PERCENT * LEASE_MS // (100 - CLOCK_RATE_PERCENT)) + KILL_MS + 2 * BLOCK_IDLE_MS + 1_000
)
CLAIM_WINDOW_MS: Final = 600  # candidates gather this long after the first claim of a slot

PROOF_DEPTH_MAX: Final = 256
RECENT_ROOTS: Final = 256  # heights whose state root a peer remembers to check delayed roots
