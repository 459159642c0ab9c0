"""Bounds of the API, each with its reason."""

from __future__ import annotations

from typing import Final

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 200  # an answer stays below a megabyte
EPOCHS_PAGE_MAX: Final = 20  # some 50 KB each with 128 validators
BODY_BYTES_MAX: Final = 256 * 1024  # of a JSON request: a plan's parameters and role keys
RECEIPTS_SHOWN_MAX: Final = 500  # of one deployment, the newest; the audit file has all
BILLS_SHOWN_MAX: Final = 500
HISTORY_SHOWN_MAX: Final = 500  # transaction ids of one deployment
WAIT_S_DEFAULT: Final = 30.0
WAIT_S_MAX: Final = 300.0  # longer than any healthy finality; frees the handler
REQUESTS_MAX: Final = 256  # at once; each holds a task and perhaps an open wait
REQUESTS_OF_CLIENT_MAX: Final = 192  # of one address: a quarter is left for others, whatever it does
# Audit files that are made, wait for their turn, or are read by a client: each may have ledger.audit.file's
# AUDIT_BYTES_MAX in memory. The next turn is worth waiting for, a row of them is not.
AUDITS_MAX: Final = 4
AUDITS_OF_CLIENT_MAX: Final = 3  # of one address, as above
EVENT_CLIENTS_MAX: Final = 64  # each wakes at every block
EVENTS_OF_CLIENT_MAX: Final = 48  # of one address, as above
# TCP connections: twice the requests, as browsers and clients keep some open for 5 s. When all are taken, the
# client that has the most makes room.
CONNECTIONS_MAX: Final = 512
CONNECTIONS_OF_CLIENT_MAX: Final = 384
SEND_PIECE_BYTES: Final = 64 * 1024
SEND_S: Final = 20.0  # for a client to read that much: 26 kbit/s, and a line that is cut for a while
BODY_S: Final = 30.0  # for a body of at most BODY_BYTES_MAX to come
HEARTBEAT_S: Final = 15.0  # proxies close a silent stream after 30 to 60 s
RETRY_AFTER_S: Final = 1.0
STREAMS_OF_CLIENT_MAX: Final = 24  # of one address
STREAMS_MAX: Final = 32  # of transactions, at once; each may have this many under way:
STREAM_TXS_MAX: Final = 4_096  # some batches of the largest size; further ones wait at the client
STREAM_GROUP_BYTES: Final = 32 * 1024  # taken at once: some 200 small transactions, 10 ms of signatures
# An overloaded peer keeps its answer back for so long, so that who asks again at once is slowed down.
OVERLOAD_HOLD_S: Final = 1.0
PREFIX_DIGITS_MIN: Final = 6  # of a shortened id: 24 bits tell some thousand deployments apart
HEADER_BYTES_MAX: Final = 32 * 1024  # of a request's head
# Ready: a block was final within this many view time-outs (and idle waits), or FINAL_AGE_MS_MIN.
FINAL_AGE_VIEWS: Final = 4
FINAL_AGE_MS_MIN: Final = 10_000
EXPLORER_LIST_MAX: Final = 200  # deployments on one page
DEEDS_SHOWN_MAX: Final = 100  # of an organisation, the newest; some 15 KiB each at the most members
UPDATES_DIFFED_MAX: Final = 16  # of a deployment, shown with what they change: some 0.3 ms each
