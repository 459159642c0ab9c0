"""Every bound of a running peer, with its reason."""

from __future__ import annotations

from typing import Final

from ledger.limits import EXPIRY_BLOCKS_MAX, RECENT_ROOTS

MIB: Final = 1024 * 1024

# --- mempool ------------------------------------------------------------------------------------
BATCH_SEAL_BYTES: Final = 128 * 1024  # a batch goes out when it is this big …
BATCH_SEAL_MS: Final = 4  # … or so long after the last one: small beside a view, bundles a burst
MEMPOOL_BYTES_MAX: Final = 64 * MIB  # uncommitted batches and transactions held in memory
MEMPOOL_TXS_MAX: Final = 100_000
MEMPOOL_MAKER_BYTES_MAX: Final = 16 * MIB  # uncommitted batches of one validator: one cannot fill it for all
# Pending and batched transactions of one account: one client cannot fill the pool for all others.
MEMPOOL_SENDER_TXS_MAX: Final = 10_000
MEMPOOL_SENDER_BYTES_MAX: Final = 8 * MIB
VERIFIED_MAX: Final = 50_000  # transactions whose signature was checked, so it is checked once …
VERIFIED_BYTES_MAX: Final = 32 * MIB  # … and their bytes: one may be 128 KiB
OVERLOAD_RETRY_S: Final = 1.0

# --- admission by time: what is accepted is soon final ------------------------------------------------
BATCH_ENTRY_BYTES: Final = 16  # of a transaction in a batch, beside its own
TX_WORK_BYTES: Final = 512  # checks and execution of one cost as much as so many of its bytes
QUEUE_MS_MAX: Final = 2_000  # that a transaction may have to wait for its batch; who brings more comes again
# Too little to wait long, whatever the estimate says: some 80 small transactions of an account, 20 accounts
# of a bringer. A network that stands still takes this much of each.
QUEUE_FREE_ACCOUNT_BYTES: Final = 64 * 1024
QUEUE_FREE_SOURCE_BYTES: Final = 20 * QUEUE_FREE_ACCOUNT_BYTES
RETRY_MS_MIN: Final = 100
RETRY_MS_MAX: Final = 10_000
# Own batches that are not final yet. Small: turns are taken before a batch is made, not after. But not so
# small that blocks cost more than what is in them: from 4 KiB to 64 two cores with four validators go from
# 1,300 to 2,250 transactions a second, and who sends little beside a flood waits no longer.
PACE_WINDOW_BYTES: Final = 64 * 1024
PACE_WINDOW_BYTES_MIN: Final = 64 * 1024
PACE_WINDOW_BYTES_MAX: Final = 4 * MIB
PACE_SLACK_MS: Final = 10  # beyond twice the delay of batches of which none waits: for filling blocks well
PACE_EXPRESS_BYTES: Final = 8 * 1024  # of clients that had nothing waiting; goes out beside a full window …
PACE_EXPRESS_MS: Final = 8  # … so often: 2 % of a validator's work
PACE_RATE_HALF_MS: Final = 1_000  # after so much busy time a measurement counts half
PACE_FORGET_MS: Final = 10_000  # a rate measured longer ago says nothing
PACE_LOST_MS: Final = 30_000  # a batch that is not final by then holds up no others

# --- outbox: transactions of our own, re-sent until final or expired -------------------------------
OUTBOX_TXS_MAX: Final = 4_096
OUTBOX_RESEND_S: Final = 2.0
OUTBOX_ASK_S: Final = 3.0  # for a validator's first answer
OUTBOX_ASKED_MAX: Final = 4  # validators asked for a first answer; one of them on each re-send
OUTBOX_RESENDS_AT_ONCE: Final = 16  # a validator that stalls holds up these, not all
OUTBOX_SENDER_TXS_MAX: Final = 1_280  # of one account: a node's TENURES_MAX receipts, claims, renewals
OUTBOX_SOURCE_TXS_MAX: Final = 2_048  # of one client of ours

# --- engine ---------------------------------------------------------------------------------------
# Messages of one validator; beyond, its own are dropped: the protocol lives with loss.
INBOX_MEMBER_MAX: Final = 1_024
INBOX_MEMBER_BYTES_MAX: Final = 4 * MIB  # four of the largest proposals
CERTIFICATES_RIDING_MAX: Final = 64  # certificates that wait for a synced write of the sign state
PRUNE_EVERY_VIEWS: Final = 16  # sign state is pruned that often: a write and four scans less a block
ENGINE_DRAIN_MAX: Final = 256  # messages handled before others get the loop again …
ENGINE_DRAIN_MS: Final = 25  # … or for so long: a proposal may bring hundreds of signatures
BATCHES_OPENING_MAX: Final = 16  # batches of one validator that are being checked: 8 MiB at the most
FETCH_ANSWERS_MAX: Final = 64  # batches sent to one validator in FETCH_ANSWERS_MS: what a core wants at once
FETCH_ANSWERS_MS: Final = 250
# A report of evidence that is not final by then is made anew: above what a validator waits for its turn.
EVIDENCE_EXPIRY_BLOCKS: Final = 500
MESH_EVERY_S: Final = 2.0  # validators look whether all have links: a joiner is found in the first views
MESH_ASK_S: Final = 5.0  # for one answer
OTHER_EPOCH_EVERY_MS: Final = 100  # messages of a key without a seat are read that often: one says it all
# Shorter batches (some 64 transactions) are checked in place: a thread hop costs three signatures.
VERIFY_THREAD_BYTES: Final = 12_800

# --- following --------------------------------------------------------------------------------------
TIP_EVERY_S: Final = 0.03  # announcements to one's neighbours are coalesced to this
RANGE_BYTES_MAX: Final = 768 * 1024  # one answer fits a frame with room
RANGE_TIMEOUT_S: Final = 10.0
FOLLOW_STALLED_S: Final = 1.5  # a validator fetches blocks only when consensus brought none for so long
FOLLOW_BACKOFF_S: Final = 0.25  # until a peer that did not deliver is asked again; doubles …
FOLLOW_BACKOFF_MAX_S: Final = 30.0  # … up to this
# Blocks that come one by one are fetched at most so often, together: a request, its proof and its write cost
# a follower some 3 ms however few blocks they are for.
FOLLOW_PACE_S: Final = 0.1
BEHIND_BLOCKS_MAX: Final = 16  # further behind is catching up; less comes in a few paces at 40 blocks/s
RANGE_HURRY_S: Final = 3.0  # for an answer when another peer could be asked instead
PIECES_MAX: Final = 8  # ranges under way or waiting for their turn: 6 MiB at the most, some 2,000 blocks
PIECES_PER_SOURCE: Final = 2  # one is on its way while the other is being sent: the pipe never dries
PIECE_BYTES: Final = 256 * 1024  # what a range is asked to be: 0.1 s of work
PIECE_BLOCKS_MAX: Final = 512
FOLLOW_HEDGE_S: Final = 0.5  # until another source is asked, too, for the piece that holds up all others
FOLLOW_LIED_REST_S: Final = 300.0  # as long as a ban
GROUP_MS: Final = 25  # commits in one synced write hold the loop for so long, as a validator's messages do …
GROUP_BYTES: Final = MIB  # … and are no larger in memory
RANGE_BATCHES_AT_ONCE: Final = 8  # of one big block, fetched apart: 4 MiB at the most
TIP_VALIDATORS_EVERY_S: Final = 5.0  # consensus tells validators of blocks; this is for who missed it all
FAULT_POINTS: Final = 25  # a lie: four of them and the peer is banned
ANNOUNCE_EVERY_S: Final = 5.0  # by gossip, for strangers: costs milliseconds of CPU per peer
ANNOUNCE_RELAY_BLOCKS: Final = 64  # held blocks that we still pass on: seconds of a busy chain

# --- states in chunks ---------------------------------------------------------------------------------
SNAPSHOT_EVERY_BLOCKS: Final = 1_000  # a freeze costs nothing, but old values live on in the store meanwhile
SNAPSHOTS_MAX: Final = 2  # on offer beside those that somebody fetches from (as many again)
SNAPSHOT_KEPT_S: Final = 120.0  # since somebody last asked for a chunk of it
SNAPSHOT_MEMORY_BYTES: Final = 32 * MIB  # of a sorted state; a larger one goes to a file
SNAPSHOT_BUCKETS_READ: Final = 4  # of 256 kept in memory by a server: a 64th of the state
SNAPSHOT_CHUNK_BYTES: Final = 512 * 1024  # half a frame: streams stay responsive
SNAPSHOT_ASKS_MAX: Final = 4  # chunks being cut for one peer: twice what an honest one asks for at once
SNAPSHOT_OFFERS_MAX: Final = 8  # in one answer
EPOCHS_ANSWER_BYTES: Final = 512 * 1024  # some 100 ends of epochs with the largest sets
STATE_BEHIND_BLOCKS: Final = 20_000  # further behind, fetching the state is less work than the blocks
STATE_DECIDE_S: Final = 3.0  # in which a peer far behind waits for offers before it takes blocks
STATE_ASK_S: Final = 5.0  # for one chunk or one list
STATE_BANNED_MAX: Final = 1_024  # liars remembered; the network bans them, too
STATE_WINDOW: Final = 2  # chunks under way from one source
STATE_SOURCES_MAX: Final = 8
STATE_FAILURES_MAX: Final = 3  # in a row, until a source is left alone in this round
STATE_RATE_BYTES_S: Final = 8 * 1024  # a source that gives less, over …
STATE_RATE_S: Final = 15.0  # … this long of being asked, is left alone: true pairs one by one have no end
STATE_SHORT_S: Final = 1.0  # what an answer counts at least that leaves something out: crumbs are slow
STATE_WHOLE_BYTES: Final = 4 * 1024  # what one counts at least that leaves nothing out: little was missing
STATE_HEDGE_S: Final = 1.5  # until another source is asked for the same, too, when nothing else is missing
STATE_PREPARING_S: Final = 0.25  # until a source that sorts its state is asked again …
STATE_PREPARING_MAX: Final = 480  # … so often, that is two minutes: some gigabytes
STATE_IDLE_S: Final = 15.0  # with no source at work: this state cannot be had
STATE_ROUNDS_MAX: Final = 3  # states tried, one after the other, before blocks are the way
STATE_RETRY_S: Final = 5.0  # until the next attempt; doubles …
STATE_RETRY_MAX_S: Final = 300.0  # … up to this
REPAIRS_MAX: Final = 3  # of a wrong state in one life: then it is not chance, and people must look

# --- retention ---------------------------------------------------------------------------------------
# Never dropped: the replay window, which a peer that comes with a state needs, and roots that headers name.
PRUNE_KEEP_BLOCKS: Final = EXPIRY_BLOCKS_MAX + 2 * RECENT_ROOTS
PRUNE_EVERY_BLOCKS: Final = 200  # a second under load, minutes when idle
PRUNE_TO_PERCENT: Final = 90  # of the budget: each compaction rewrites what stays
PRUNE_KEPT_PER_ROUND: Final = 2_000  # blocks kept for audits, looked at again

# --- events -----------------------------------------------------------------------------------------
EVENTS_PAGE: Final = 256
WAITERS_MAX: Final = 10_000

# --- artifacts ---------------------------------------------------------------------------------------
ARTIFACT_STORE_BYTES_MAX: Final = 8 * 1024 * MIB  # of a peer's disk, unless its settings say otherwise
ARTIFACT_DIGESTS_MAX: Final = 16_384  # chunk digests in one answer: half a frame, a list for 4 GiB
ARTIFACT_LISTS_BYTES_S: Final = 4 * MIB  # of digests to one peer: eight answers; it needs each list once
ARTIFACT_DISK_RESERVE_BYTES: Final = 512 * MIB  # of the disk, left to the ledger: files are never worth it
ARTIFACT_RESULT_KEPT_S: Final = 90 * 86_400  # a result; then it goes when room is needed, or when …
ARTIFACT_RESULT_SHARE: Final = 4  # … results have filled a quarter of the budget: jobs never fill it all
ARTIFACT_SYNC_BYTES: Final = 32 * MIB  # written between syncs: the last one, when all is here, stays short
ARTIFACT_READERS_MAX: Final = 32  # files kept open for others: two descriptors each
ARTIFACT_THREADS: Final = 4  # that hash, read and write chunks: files never take all threads of a peer
# Asked at once for one artifact. One that gave nothing for ARTIFACT_STALLED_S leaves its place to another …
ARTIFACT_SOURCES_MAX: Final = 8
ARTIFACT_STALLED_S: Final = 3.0
ARTIFACT_ASKED_MAX: Final = 32  # … up to so many in all
# Chunks of one source on their way or being checked: three fill a stream's credit, while as many are checked.
ARTIFACT_SOURCE_WINDOW: Final = 6
ARTIFACT_RUN_MAX: Final = 4  # chunks in one answer: 1 MiB, a whole message
ARTIFACT_RUN_WINDOW: Final = 4  # runs of one source at once, which takes the place of the six chunks …
ARTIFACT_RUN_S: Final = 0.15  # … of a source that is that fast with what it is asked for: 25 MiB/s and more
ARTIFACT_CHUNK_S: Final = 1.0  # … as long as none takes longer: then fewer, in proportion
ARTIFACT_ASK_S: Final = 30.0  # for one chunk: four at once on a line of 35 KiB/s; others take it over before
ARTIFACT_LIST_S: Final = 10.0  # for one part of a list, or for what a source holds
ARTIFACT_UNPROVED_S: Final = 15.0  # without a chunk of an unsigned list, before another list is tried
ARTIFACT_LIST_WAIT_S: Final = 2.0  # for the list that another source is giving, before one's own is asked for
ARTIFACT_HELD_S: Final = 0.5  # how often a source that is still fetching is asked what it holds by now
ARTIFACT_IDLE_S: Final = 60.0  # one that gives nothing so long leaves its place; above ARTIFACT_ASK_S
ARTIFACT_TICK_S: Final = 0.25  # how often an idle source looks for a chunk to take over
ARTIFACT_STEAL_S: Final = 0.5  # a chunk asked for so long, and twice the usual time, is asked of one more …
ARTIFACT_COPIES_MAX: Final = 4  # … up to so many in all: two that stall do not keep it from a third
ARTIFACT_PICKS_MAX: Final = 256  # missing chunks among which the rarest is looked for: 50 us
ARTIFACT_LOOKS_MAX: Final = 4_096  # missing chunks looked at for one that a source holds
ARTIFACT_FAILURES_MAX: Final = 3  # in a row, until a source rests
ARTIFACT_BUSY_S: Final = 0.5  # before a source that was busy is asked again
ARTIFACT_REST_S: Final = 1.0  # until a source that has nothing is asked again; it doubles …
ARTIFACT_REST_S_MAX: Final = 5.0  # … up to this, and for one that failed up to …
ARTIFACT_FAILED_REST_S_MAX: Final = 60.0
ARTIFACT_WANTED_MAX: Final = 10_240  # fetches under way: TENURES_MAX times ARTIFACT_OF_ORDER_MAX, and copies
ARTIFACT_OF_ORDER_MAX: Final = 8  # of one term
ARTIFACT_ASKING_MAX: Final = 64  # of all these, the ones that look for sources now: each asks many …
ARTIFACT_FETCHES_MAX: Final = 8  # … and the ones that ask for chunks: each keeps a disk and threads busy
# One gives its place up to another fetch after that long, and at once to a deployment that has fewer: files
# that nobody has, or that come slowly on purpose, keep no other deployment from its own.
ARTIFACT_TURN_S: Final = 4.0
ARTIFACT_SERVED_MAX: Final = 32  # chunks being read for others, or waiting for their turn of the line
ARTIFACT_SERVED_PEER_MAX: Final = 8  # of these for one peer: more than an honest one asks for at once
ARTIFACT_SERVE_WAIT_S: Final = 10.0  # longer than this for its turn: busy; below ARTIFACT_ASK_S
ARTIFACT_TAKERS_MAX: Final = 1_024  # peers whose rates are remembered: more than can be connected
ARTIFACT_TAKING_S: Final = 30.0  # who asked for an artifact so lately is taking it

OPEN_FILES_WANTED: Final = 32_768  # TENURES_MAX slots of nine files, their volumes, links and clients

# --- secrets and logs of workloads --------------------------------------------------------------------
SECRET_BYTES_MAX: Final = 16 * 1024  # a key or certificate chain with room to spare
SECRETS_BYTES_MAX: Final = 64 * 1024  # of one slot: they live in memory that is never swapped
SECRETS_DEPLOYMENTS_MAX: Final = 256  # whose secrets a bot keeps: twice what it watches
REACH_POLL_S: Final = 0.1  # between two looks whether a dialled node has become a neighbour
LOG_TAIL_BYTES_MAX: Final = 256 * 1024  # in one answer: a whole ring
LOG_ASK_BLOCKS_MAX: Final = 1_000  # between the heights of who asks and who answers: as an order lives
LOG_ASK_S: Final = 10.0  # to reach the node, and again for its answer
