"""Every bound of the ledger, with its reason. Protocol limits: all peers must agree on them."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

DOMAIN_PREFIX: Final = b"gridpact/"
LIMITS_VERSION: Final = 5  # a chain's genesis names it: whoever changes a protocol limit below adds one

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
WEIGHT_MAX: Final = 1 << 32  # of one validator: all together stay far within 64 bits
VALIDATORS_BYTES_MAX: Final = VALIDATORS_MAX * (64 + 4 * NAME_CHARS_MAX)  # of an encoded set
# Evidence counts against the sets of this many ended epochs: each lasts at least as long as a quorum of its
# validators takes to agree on the next, and reports come within seconds.
EVIDENCE_EPOCHS_MAX: Final = 8
# A signed change of the validators is void after the time that its signers set, at most this far ahead: time
# enough for a quorum of organisations, and an end to what nobody carried in.
CHANGE_VALID_MS_MAX: Final = 30 * 24 * 3_600_000

# What one deployment may hold; an apply touches each slot a bounded number of times.
WORKLOADS_MAX: Final = 32
REPLICAS_MAX: Final = 64
SLOTS_MAX: Final = 256
ARTIFACTS_MAX: Final = 64
ARTIFACT_BYTES_MAX: Final = 64 * 1024 * MIB
PORTS_MAX: Final = 16
SECRETS_MAX: Final = 16  # of a workload; each is a file of its own
EGRESS_MAX: Final = 32  # addresses that a workload may connect to
VOLUMES_MAX: Final = 4  # of a workload; each is a mount and a loop device
VOLUME_BYTES_MIN: Final = 16 * MIB  # less leaves no room beside what a file system itself takes
RPO_S_MIN: Final = 10  # a transaction and a pause of the workload each time: as often as a lease is renewed
RPO_S_MAX: Final = 86_400  # a copy a day at least, else it is no use to ask for one
COPIED_VOLUME_BYTES_MAX: Final = 4 * 1024 * MIB  # the workload stands still while it is read: 7 to 15 s
COPY_KEEPERS_MAX: Final = 4  # nodes that keep one copy
COPY_BOX_BYTES_MAX: Final = 512  # a sealed key with what it is for
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
ATTRIBUTES_MAX: Final = 64  # of an offer: some 25 features of the sandbox, 7 of each other driver, and room
DUE_PER_BLOCK_MAX: Final = 2_000  # timed work executed in one block; the rest waits for the next
DUE_SLOTS_PER_BLOCK_MAX: Final = 64 * SLOTS_MAX  # slots that it touches: half a second at the worst

UPDATES_MAX: Final = 256  # of one deployment; each stays on its record, with its approvals

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
# Block time between two blocks beyond this is no time that anybody had: a holder that renews on time (every
# L/3) can't. What goes beyond one idle block is missed: not billed, not counted.
OUTAGE_MS: Final = LEASE_MS // 3
PENALTY_MS: Final = 3_600_000  # a broken lease costs the farmer what the slot costs for this long
NOTICE_SHARE: Final = 10  # what ends by itself says so when a tenth of its time is left …
NOTICE_MS_MAX: Final = 86_400_000  # … but no more than a day ahead
ESCROW_LOOK_MS: Final = 600_000  # looks at all slots of a deployment: not with each renewal
CLAIM_WINDOW_MS: Final = 600  # candidates gather this long after the first claim of a slot

PROOF_DEPTH_MAX: Final = 256
# A chunk of a snapshot with its hashes fits a frame; the least that may be asked for holds any one pair.
SNAPSHOT_CHUNK_BYTES_MAX: Final = 900 * KIB
SNAPSHOT_PAIR_BYTES_MAX: Final = 256 * KIB
RECENT_ROOTS: Final = 256  # heights whose state root a peer remembers to check delayed roots

# Genesis is read once; 1 MiB holds the most accounts it may name.
GENESIS_BYTES_MAX: Final = 1 * MIB
ACCOUNTS_GENESIS_MAX: Final = 10_000

# Money is counted in signed 64-bit everywhere, so that any language can check it.
AMOUNT_MAX: Final = (1 << 63) - 1
TIME_MS_MAX: Final = 1 << 53  # exact in JSON readers that know doubles only

# Organisations: as many members as a role has keys. A deed of 64 with roles has some 15 KiB, with SSH
# signatures of all before and after it 35 KiB more: it fits a transaction.
ORGANISATION_MEMBERS_MAX: Final = 64
ORGANISATION_BYTES_MAX: Final = 64 * KIB
ORGANISATION_KEYS_MAX: Final = 8  # that one member had before: each is looked at with each approval
ORGANISATION_DEEDS_MAX: Final = 1_024  # all are kept, and replayed: one a week for 19 years
ORGANISATION_VALID_MS_MAX: Final = 30 * 24 * 3_600_000  # as for a change of the validators
ORGANISATION_DEALS_PER_STEP_MAX: Final = 32  # deployments judged again in one step after a change
ORGANISATION_DEAL_SLOTS: Final = 64  # what judging one counts as among timed work: some 2 ms

DETAIL_CHARS_MAX: Final = 500  # text of a refusal or of a holder's report, as kept
# Replay ids forgotten per block: twice what one block can add, so the window always catches up.
SEEN_PRUNED_PER_BLOCK_MAX: Final = 2 * BLOCK_TXS_MAX
VAULT_NAMES_MAX: Final = 64  # records one owner may keep; the 3bot needs a few
RUNTIMES_MAX: Final = 16
ADDRESS_CHARS_MAX: Final = 256
CAPACITY_MAX: Final = 1 << 50  # of one node, in its unit: a pebibyte; keeps sums of prices in 64 bits
PRICE_MAX: Final = 1 << 40  # micro-credits per unit and hour

# What a contract may say. All of these also bound the manifest that it expands to.
NUMBER_MAX: Final = 2**53 - 1  # a browser reads every integer of a manifest exactly
TITLE_CHARS_MAX: Final = 120
TAGS_MAX: Final = 16
COMMAND_ARGUMENTS_MAX: Final = 64
ENVIRONMENT_MAX: Final = 64
ARGUMENT_CHARS_MAX: Final = 4_000  # a short script fits, a program belongs in an artifact
PATH_CHARS_MAX: Final = 255
RESULTS_MAX: Final = 32
RESULT_SEAL_BYTES: Final = 80  # what a sealed result has beside its content: 32 of salt, 48 of the box
COUNTRIES_MAX: Final = 64  # also farms
CHOICES_MAX: Final = 64
PARAMETER_CHARS_MAX: Final = 1_000
PATTERN_CHARS_MAX: Final = 200
PATTERN_ATOMS_MAX: Final = 32
PATTERN_REPEAT_MAX: Final = 1_000
# A sizing rule runs on every peer: all of a contract's together cost some 10 ms at the worst.
EXPRESSION_CHARS_MAX: Final = 500
EXPRESSION_PARTS_MAX: Final = 100
EXPRESSION_DEPTH_MAX: Final = 16
EXPRESSIONS_MAX: Final = 128
CPU_MILLIS_MIN: Final = 10  # the kernel knows no smaller quota
CPU_MILLIS_MAX: Final = 1_024_000  # the largest machine on sale has some 1,000 threads
MEMORY_BYTES_MIN: Final = 4 * MIB  # the isolation itself needs as much; less is a forgotten unit
MEMORY_BYTES_MAX: Final = 16 * 1024 * 1024 * MIB
DISK_BYTES_MAX: Final = 1024 * 1024 * 1024 * MIB
CONTAINER_MEMORY_BYTES_MIN: Final = 32 * MIB  # the OCI runtime starts in the container's group
# Of a WebAssembly program's memory, for what runs it: 15 MiB were measured, and 16 B for each of the program.
WASM_ENGINE_BYTES: Final = 32 * MIB
WASM_COMPILED: Final = 16
FUEL_DEFAULT: Final = 10_000_000_000  # of a WebAssembly program: a minute or two on a machine of today
PIDS_MAX: Final = 4_096  # a re-check reads the memory maps of each
DURATION_S_MAX: Final = 10 * 366 * 86_400  # ten years; renewals go on from there
GRACE_S_MAX: Final = 90 * 86_400  # a quarter: then the escrow's rest goes back at last
AVAILABLE_S_MAX: Final = 86_400  # what runs without the notary hears of no revocation: a day of that at most
INTERVAL_S_MAX: Final = 86_400  # health checks and re-checks at least once a day
RESTARTS_MAX: Final = 1_000
POLICY_PLACES_MAX: Final = 256  # signatures that one policy may ask for
SIGNOFF_AGAIN_MS: Final = 60_000  # a sign-off or release that comes due while suspended waits so long
STRAGGLER_MS_MIN: Final = 60_000  # replicas that are not done when enough have committed: a fetch, a restart
REVEAL_MS: Final = 120_000  # to tell what one committed to: several times what a node needs to come back
RELEASE_MS_MAX: Final = 90 * 24 * 3_600_000  # results held back after the end, on the nodes' disks: a quarter
POLICY_WEIGHT_MAX: Final = 1_000_000  # of one entry and of a sum: shares in parts of a million
POLICY_STEPS_MAX: Final = 10_000  # bounds the search of one evaluation to some 20 ms
YAML_DEPTH_MAX: Final = 20
YAML_NODES_MAX: Final = 10_000
PROBLEMS_MAX: Final = 20  # errors told at once about one contract
CERTIFIERS_MAX: Final = 8  # who may stand for one node at a time; its record is read with each claim
CERTIFIED_MS_MAX: Final = 2 * 366 * 24 * 3_600_000  # machines change; then somebody looks again
DRAIN_NOTICE_MS_MIN: Final = 60_000  # a consumer's bot sees it, and others post offers
DRAIN_SLOTS_PER_STEP_MAX: Final = 256  # as many as a deployment holds
DISPUTES_MAX: Final = 64  # of one deployment; each stays on its record
DISPUTES_PER_PARTY_MAX: Final = 8  # so that no party fills the record alone
DISPUTE_MS_MAX: Final = 90 * 24 * 3_600_000  # after its end a deployment is open to dispute for a quarter
OFFER_VALID_MS_MAX: Final = 31 * 24 * 3_600_000  # a node that is gone must not look available for longer
