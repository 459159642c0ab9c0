"""Every bound of the 3bot, with its reason."""

from __future__ import annotations

from typing import Final

# --- planning -----------------------------------------------------------------------------------
MARKET_NODES_MAX: Final = 4_096  # looked at for one plan: some tenths of a second of work
NODES_SHOWN_MAX: Final = 200  # candidates, and nodes with their reasons, in one answer of at most 150 KiB

# --- watching -----------------------------------------------------------------------------------
WATCHED_MAX: Final = 128  # not ended; with the ended ones the memory fits its record in the vault
KNOWN_MAX: Final = 2 * WATCHED_MAX  # of others' orders that name us; anybody may, so it must end somewhere
ENDED_KEPT_MAX: Final = 32  # the newest, so that a consumer still sees how they ended
INTENTS_MAX: Final = 4  # orders under way at once; each holds its parameters and role keys
WARNINGS_MAX: Final = 8  # standing at once for one deployment
DOING_CHARS_MAX: Final = 160  # one line for people
LOOK_EVERY_S: Final = 0.2  # a view at most so often, however fast blocks come
WARN_PART: Final = 10  # warn when a tenth of a term or of an approval's validity is left …
WARN_MS_MAX: Final = 86_400_000  # … but not more than a day ahead

# --- acting -------------------------------------------------------------------------------------
ORDER_EXPIRY_BLOCKS: Final = 1_000  # an order that no block took by then is given up
CANCEL_EXPIRY_BLOCKS: Final = 200  # asked again after that
CANCEL_TRIES_MAX: Final = 5
FINAL_WAIT_S: Final = 30.0
START_WAIT_S: Final = 10.0  # a request waits so long for a bot that is still starting
SUBMIT_TRIES_MAX: Final = 5  # while validators are overloaded
RETRY_S_MAX: Final = 5.0
SAVE_EXPIRY_BLOCKS: Final = 200  # a newer memory follows soon
SAVE_TRIES_MAX: Final = 4  # another bot of the same owner may write in between

# --- secrets ------------------------------------------------------------------------------------
SECRETS_RETRY_S: Final = 2.0  # until a holder that has not begun is told again
SECRETS_TELL_S: Final = 5.0  # for reaching it, and again for its answer
SECRETS_TELLS_AT_ONCE: Final = 16  # holders that stall hold up these, not all
