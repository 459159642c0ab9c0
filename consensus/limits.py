"""Every bound of the consensus core, with its reason."""

from __future__ import annotations

from typing import Final

# Votes are kept only this far above the frontier: an honest peer is never further ahead without
# certificates that move the frontier too (rule 10).
VIEW_WINDOW: Final = 64

# Statements are remembered this far below the frontier for comparison with later ones (rule 11): a second
# instance of a validator may be late by an outage. With 128 validators it is some 20 MiB at the most.
EVIDENCE_VIEWS: Final = 64

# Certificates embedded in one proposal, or sent in one answer to a Status: with 128 validators a
# certificate is under 6 KiB, so an answer stays well under one frame. The rest follows next time.
SKIPS_PER_PROPOSAL_MAX: Final = 64
CERTIFICATES_PER_ANSWER_MAX: Final = 64
VOTES_PER_ANSWER_MAX: Final = 64
ANSWER_EVERY_MS: Final = 200  # to one peer: a Status is small, the answer is not

# For a leader that was away and said nothing since (rule 14): one that is back is heard by its Status before
# it proposes; this is for one whose Status is still on its way in a local network, behind a busy loop. And
# no longer than a fifth of what any other would get: short timeouts are for short ways.
SILENT_GRACE_MS: Final = 30
SILENT_GRACE_SHARE: Final = 5  # of the timeout

# Headers wanted at once while following parent links; further behind, range sync takes over.
WANTS_MAX: Final = 64
# A certificate is relayed to members that have not shown within this time that they hold it: some
# round trips of a wide network, and short beside a view's timeout.
RELAY_AFTER_MS: Final = 300
RELAYS_MAX: Final = 1_024  # certificates that wait

FETCH_GRACE_MS: Final = 100  # for a batch named before it arrived
FETCH_RETRY_MS: Final = 250  # doubles per try, another peer each time
FETCH_RETRY_MAX_MS: Final = 4_000

# Uncommitted headers and views held in memory. Beyond this the oldest view without certificate goes.
HEADERS_MAX: Final = 4_096
RECENT_HEADERS: Final = 64  # committed headers kept to answer a peer a few blocks behind; further, range sync

MESSAGE_BYTES_MAX: Final = 900 * 1024  # under one frame of the network
STATUS_VIEWS_MAX: Final = 1_024  # views a have-map may speak of
