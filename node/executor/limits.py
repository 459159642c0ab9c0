"""Bounds of the executor, each with its reason."""

from __future__ import annotations

TASK_ID_CHARS_MAX = 128
"""A task id is a directory name and a cgroup name; both allow 255, and deployment ids are 64 hex."""

FILES_MAX = 256
"""One sealed memfd and thus one file descriptor each; the usual soft limit is 1,024."""

TREES_MAX = 32
"""As above; a tree is one descriptor however many files it holds."""

TREE_MEMBERS_MAX = 20_000
"""Each member costs an inode and a hash per recheck; a large web site has a few thousand."""

TREE_DEPTH_MAX = 32
"""Deeper than any sane tree; keeps a path walk cheap."""

PATH_BYTES_MAX = 1_024
"""A quarter of Linux's PATH_MAX, which leaves room for the prefix under /proc/PID/root."""

ARTIFACT_BYTES_MAX = 1 << 30
"""Sealed bytes live in memory (memfd, then tmpfs); 1 GiB is what a small node can spare."""

COMMAND_ARGS_MAX = 256
"""Bounds the argument list long before the kernel's ARG_MAX would refuse it with a vague error."""

COMMAND_BYTES_MAX = 64 * 1024
"""Command and environment together; they travel in one JSON line to the launcher."""

ENV_MAX = 256
"""As COMMAND_ARGS_MAX."""

PORTS_MAX = 16
"""One listening socket each, all served by one portal process."""

RESULTS_MAX = 64
"""Result files are named one by one in the manifest."""

RESULT_BYTES_MAX = 16 << 20
"""All result files of a task together; they are read into memory and hashed."""

HELD_BYTES_MAX = 1 << 30
"""Sealed results that wait for their release, of all deployments: as many as 64 jobs can leave behind."""

HELD_LOOK_S = 0.5
"""Between two looks at what is held back; a release takes days, so half a second more is nothing."""

LOG_BYTES_MAX = 4 << 20
"""The largest log ring; it is a memfd of that size."""

LOG_RATE_BYTES_S = 4 << 20
"""A workload that writes faster than this is held back, so that a flood costs no more than this."""

PIDS_MAX = 4_096
"""Above this, one attestation (a maps file per process) would take longer than a lease renewal."""

CPU_MILLIS_MIN = 10
"""The kernel refuses a CPU quota below 1 ms per 100 ms period."""

MEMORY_BYTES_MIN = 4 << 20
"""Less than this and the isolation's own set-up does not fit."""

SCRATCH_INODES_PER_MIB = 64
"""tmpfs inodes are kernel memory; without a bound, empty files would eat it."""

START_TIMEOUT_S = 15.0
"""Unpacking and mounting take well under a second; the rest is a loaded machine."""

KILL_WITHIN_S = 2.0
"""From the end of the grace to the last process gone (design section 8, rule 4)."""

TRIAL_TIMEOUT_S = 10.0
"""One trial sandbox for the fingerprint; it takes some 100 ms when the machine is idle."""

QUARANTINE_MAX = 256
"""Manifests that drifted here: a host with so many has one trouble, not many."""

QUARANTINE_DETAIL_CHARS_MAX = 500
"""As a receipt's detail; it says what differed, for a person."""

QUARANTINE_BYTES_MAX = 1 << 20
"""Of the file: 256 entries of at most 2.5 KiB each, escaped."""

IMAGE_TIMEOUT_S = 10.0
"""mkfs.erofs copies a gigabyte in a second or two; the rest is a loaded machine."""

LOOP_ATTEMPTS_MAX = 16
"""A free loop device that somebody else took first is followed by the next one; so many at once are few."""

PORTAL_CONNECTIONS_MAX = 128
"""Open connections through one portal; a connection holds two sockets and two buffers."""

PORTAL_BUFFER_BYTES = 64 * 1024
"""Per direction of one connection; a slow reader stops the writer at this much."""

PORTAL_IDLE_S = 60.0
"""A connection on which nothing moved for this long is closed."""

ATTEST_PROCESSES_MAX = 4_096
"""Equal to PIDS_MAX; more processes than that cannot be ours."""

WALK_REST = 9
"""As LOOK_REST, for walks over /proc, which take some 40 ms each on a full node."""

ATTEST_DRIFTS_MAX = 32
"""Differences listed in one attestation; one is enough to stop, some help to explain."""

# --- the executor above the drivers ---------------------------------------------------------------------

RENEW_IDLE_S = 1.0
"""Between two looks for terms to renew while none is held: the first renewal is due after L/3."""

LOOK_EVERY_S = 0.05
"""Between two looks at the ledger: blocks may come faster, and slots are measured in seconds."""

LOOK_REST = 9
"""Times what a look took are there before the next one: on a full node they take a tenth of its processor."""

OPENINGS_LOOKED_AT_MAX = 1_024
"""Open slots read in one look; the others come when these are taken."""

CLAIMS_PENDING_MAX = 64
"""Claims under way; a node that wants more at once is better served by another farm's."""

TENURES_MAX = 1_024
"""Slots held at once: four renewals of RENEW_SLOTS_MAX. Idle services of so many take 19 GiB, and their
re-checks, proofs and guards most of what one process can do."""

ORDERS_BYTES_MAX = 8 << 20
"""Fetched orders kept: 64 of the largest, some 8,000 usual ones. Running terms hold theirs apart."""

ORDERS_WANTED_MAX = 1_024
"""As OPENINGS_LOOKED_AT_MAX: more slots are not looked at."""

ORDERS_ASKED_AT_ONCE = 4
"""Orders under way: half a frame at the most, and one neighbour that stalls holds up few."""

ORDER_ASK_S = 3.0
"""For one neighbour's answer, of 128 KiB at the most; then the next is asked."""

COOL_S = 2.0
"""A slot that does not fit, or whose approvals do not prove, is looked at again after this."""

COOL_FAILED_S = 30.0
"""A slot that failed here is left to others for this long."""

GUARD_TICK_S = 0.25
"""How often lease deadlines and renewals are looked at: small beside K, cheap when idle."""

GUARD_REST_S = 1.0
"""And while the deadline is farther away than this: a full node has a thousand guards."""

FETCH_STALLED_S = 120.0
"""A slot whose artifacts nobody serves for this long is given back."""

FINAL_WAIT_S = 5.0
"""One wait for a transaction to be final; afterwards the world is looked at and the wait goes on."""

GOODBYE_S = 2.0
"""For the last receipts when the node stops; the lease tells the rest."""

TX_BLOCKS = 1_000
"""Until a claim or receipt of ours expires: seconds under full load, minutes when idle."""

ORPHANS_EVERY_S = 5.0
"""Between two searches for slots that we hold without knowing; each reads all slots."""

OFFER_RETRY_S = 10.0
"""After an offer that was refused."""

LAST_EXITS_MAX = 64
"""Ended terms remembered for people."""

FIRST_HEALTHY_S = 15.0
"""A service may take this long until its first healthy answer, or longer where its own rule allows it."""

FIRST_PROBE_EVERY_S = 0.2
"""While a service starts: who waits for it should not wait for a whole interval."""

HINTS_MAX = 8
"""Addresses of other holders that a fetch dials: as many as it asks at once."""

SECRETS_WAIT_S = 120.0
"""For the consumer's bot to give a term its secrets: it looks at each block, but may be restarting."""

SECRETS_ASK_S = 5.0
"""For one answer of the bot, of 68 KiB at the most."""

SECRETS_MAX = 16
"""As the contract language allows (ledger.limits)."""

SECRETS_BYTES_MAX = 64 * 1024
"""What a slot may be given (node.limits): memory that cannot be swapped out."""

LOGS_EVERY_S = 0.5
"""Between two answers about one slot: each is 256 KiB, copied and sealed."""

LOG_KEPT_BYTES = 64 * 1024
"""Of a run that is over, so that its consumer can see why; LAST_EXITS_MAX of these are 4 MiB."""

EGRESS_MAX = 32
"""As the contract language allows: addresses and ports that a workload may reach."""

EGRESS_ADDRESSES_MAX = 128
"""Of all names together: one listening socket each, and one message may hand over 253 of them."""

EGRESS_NAME_ADDRESSES_MAX = 8
"""Addresses of one name that are used; further ones add nothing but sockets."""

EGRESS_RESOLVE_S = 10.0
"""For all names together."""

EGRESS_ADDRESS_S = 2.0
"""Until an address that was added to a loopback can be listened on."""

EGRESS_BACKLOG = 64
"""Connections that wait to be carried; beyond it the kernel lets them come again."""

EGRESS_IDLE_S = 900.0
"""A connection outwards on which nothing moved for this long is closed: pools of connections rest long."""

VOLUMES_MAX = 4
"""As the contract language allows (ledger.limits): one mount and one loop device each."""

VOLUME_MKFS_S = 60.0
"""An empty file system of a terabyte takes seconds on a slow disk."""

FREEZE_WITHIN_S = 5.0
"""Until the last process stands still: one that waits for a disk takes as long as the disk does."""

STILL_S_MAX = 15.0
"""For which a workload may stand still while its volumes are copied: less than usual health checks bear."""

COPIES_WANTED = 2
"""Nodes that keep each copy: with the one that runs, what is lost takes three."""

KEEPERS_TRIED_MAX = 8
"""Nodes asked for one copy; where so many have no room, others hardly have."""

COPY_ASK_S = 5.0
"""For one short answer."""

COPY_POLL_S = 0.25
"""Until a keeper is asked again whether it has all of a copy."""

COPY_FETCH_S = 600.0
"""For one keeper to fetch one copy: 4 GiB at 60 Mbit/s."""

COPY_REFUSALS_MAX = 8
"""A keeper that is some blocks behind does not know yet that a holder is one: two seconds."""

COPY_RETRY_S = 5.0
"""After copies that could not be made; the rpo may be as short as ten."""

COPY_LAST_S = 20.0
"""For the last copies when the node itself stops: less than service managers give, and than a lease has."""

COPY_LAST_TRIES = 3
"""Where nobody keeps a copy after so many, a slot is better off elsewhere with an older one than nowhere."""

COPY_LAST_OWN_S = 600.0
"""For the last copies of a term that gives its slot back; its lease is renewed meanwhile."""

RESTING_S = 15.0
"""Until the kernel has let go of a volume whose last process is gone."""

COPIES_LOOK_S = 2.0
"""Between two looks at what the ledger says that is kept here."""

COPIES_KEPT_MAX = 1_024
"""Copies kept for others; the ledger's index of them is read at each look."""

COPY_UNRECORDED_S = 900.0
"""A copy that no record names yet: longer than the other keepers need to fetch it."""

UNRECORDED_MAX = 2
"""Copies of one volume that no record names yet: the one being kept, and one whose record is under way."""

KEPT_SHARE = 4
"""A quarter of the artifact store at most is for copies of others' volumes."""

ENTER_WITHIN_S = 10.0
"""Until a health check's command executes: some 50 ms when the machine is idle."""

VOLUME_SWEEP_S = 60.0
"""Between two looks for volumes whose deployment has ended: they cost disk, and nothing else."""

# --- container images -------------------------------------------------------------------------------------

IMAGE_LAYERS_MAX = 128
"""As container engines allow: one descriptor each."""

IMAGE_JSON_BYTES_MAX = 1 << 20
"""Of one index, manifest or configuration, and of files such as passwd(5); they have a few KiB."""

IMAGE_BYTES_MAX = 1 << 30
"""All layers together when decompressed, and all files when unpacked: as ARTIFACT_BYTES_MAX, in memory."""

IMAGE_MEMBERS_MAX = 50_000
"""Of one layer and of the whole image: a Debian with an interpreter has 10,000 to 30,000."""

IMAGE_PAX_BYTES_MAX = 64 * 1024
"""Of one extended header: a long path, and attributes that are left out."""

IMAGE_LINK_BYTES_MAX = 1_024
"""Of a symbolic link's text, as PATH_BYTES_MAX."""

ENGINE_TIMEOUT_S = 10.0
"""One call of podman takes 50 to 100 ms; the rest is a loaded machine."""

ENGINE_BYTES = 16 << 20
"""Of podman's own state of one container, in memory: some 100 KiB are used."""

ENGINE_PIDS = 24
"""Threads of the OCI runtime in a container's group until its command executes: 8 to 12 were seen."""
