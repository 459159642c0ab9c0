"""Every bound of the network layer, each with its reason."""

from typing import Final

# --- frames and streams -------------------------------------------------------------------------------------
# A noise message carries at most 65,535 B with its tag, and a yamux header travels in it too: one write of up
# to 65,500 B becomes one noise message; a full 64 KiB would become two, at half the speed (measured).
WRITE_BYTES_MAX: Final = 65_500
READ_AHEAD_BYTES: Final = 65_536  # taken from a socket at once and held: the largest noise message
READS_IN_A_ROW_MAX: Final = 4  # of that size, before other tasks have their turn: 150 us of opening
LONG_WRITE_BYTES: Final = 196_608  # written before other tasks have their turn: 150 us of sealing
# One message = one DATA, REQUEST or RESPONSE: 1 MiB of payload and room for a header.
PAYLOAD_BYTES_MAX: Final = 1_048_576
MESSAGE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 4_096
# At a full yamux window the library resets the stream after 5 s and loses the data. Stay below 1 MiB.
CREDIT_BYTES: Final = 786_432
# Of yamux, for each stream: half of it may be read and not given back, while all the credit is on its way.
WINDOW_BYTES: Final = 2 * CREDIT_BYTES
# The receiver acknowledges each time that this much was taken in: a third of the credit, so the pipe never
# dries; each costs both ends some 100 us.
ACK_EVERY_BYTES: Final = 262_144
# Streams that a peer may hold open to us on one connection: our two, gossip, identify, some being reopened.
STREAMS_IN_MAX: Final = 16
# One large read costs the same as a small one.
READ_BYTES: Final = 262_144
HELLO_BYTES_MAX: Final = 8_192  # chain id, roles, a key proof; no reason to be longer
REASON_BYTES_MAX: Final = 256  # a sentence
METHOD_BYTES_MAX: Final = 64  # a name
INSTANCE_BYTES: Final = 16  # random per process start, as wide as a UUID

# --- queues: what is full sheds, and `send` says so --------------------------------------------------------
CONSENSUS_QUEUE_BYTES: Final = 4_194_304  # four of the largest proposals
CONSENSUS_QUEUE_FRAMES: Final = 8_192  # votes of 100 validators for 80 views
BULK_QUEUE_BYTES: Final = 16_777_216  # about 0.3 s at full speed; memory for 100 neighbours
BULK_QUEUE_FRAMES: Final = 16_384
CONTROL_QUEUE_FRAMES: Final = 64  # pings come every few seconds; more is a flood

# --- what a peer may bring: beyond it is read more slowly, and who goes on breaks a rule -------------------
CONSENSUS_RATE_PER_S: Final = 4_000  # a hundred validators' votes for ten views a second, four times
BULK_RATE_PER_S: Final = 2_000  # batches go out every 4 ms at most, requests wait for answers
PAUSE_S_MAX: Final = 2.0  # below the heartbeats that may be missed: a slowed peer is not silent
SLOWED_FAULT_S: Final = 5.0  # of pauses for one fault: who floods without end is banned in half a minute
SLOWED_RECOVERY: Final = 0.1  # of a pause is forgotten in a second: bursts a minute apart are no flood

# --- what anybody may read ---------------------------------------------------------------------------------
LENGTH_BYTES: Final = 4  # before a public value
PUBLIC_VALUE_BYTES_MAX: Final = 1_048_576  # a genesis is at most that long
PUBLIC_READERS_MAX: Final = 16  # at once: strangers cost at most 16 MiB on their way

# --- requests -----------------------------------------------------------------------------------------------
REQUESTS_OUT_MAX: Final = 64  # outstanding to one peer: 64 answers of 256 KiB fill the bulk queue
REQUESTS_IN_MAX: Final = 64  # served at once for one peer; beyond it the peer hears BUSY

# --- time --------------------------------------------------------------------------------------------------
HEARTBEAT_S: Final = 2.5  # the library never notices a silent peer; design: 2-3 s
HEARTBEATS_MISSED_MAX: Final = 3
HEARTBEATS_PER_RTT: Final = 8  # a peer that talks anyway is pinged for its round trip every 20 s only
HANDSHAKE_S: Final = 8.0  # from a connection to both streams and both hellos; a busy machine needs seconds
DIAL_S: Final = 8.0
CLOSE_S: Final = 2.0  # the library's disconnect can hang
FLUSH_S: Final = 0.5  # for the GOODBYE to leave before the connection is closed
LINGER_S: Final = 0.2  # … and to be read: js-libp2p drops what it has not decrypted when the socket closes
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 15.0  # a restarted validator is back in the mesh within this
EXCHANGE_FIRST_S: Final = 2.0
EXCHANGE_EVERY_S: Final = 30.0  # ask a neighbour for addresses while we have room for more neighbours
DIAL_TICK_S: Final = 1.0  # how often the dialler looks for due dials when nothing wakes it

# --- peers -------------------------------------------------------------------------------------------------
NEIGHBOURS_MAX: Final = 64
LINKS_PENDING_MAX: Final = 64  # connections still in their handshake
LINKS_PENDING_OF_GROUP_MAX: Final = 32  # of one /24: half, so that who floods from one keeps nobody else out
HANDSHAKES_MAX: Final = 64  # connections not even secured yet
HANDSHAKES_OF_GROUP_MAX: Final = 32
DIALS_AT_ONCE_MAX: Final = 8
DIALS_OF_GROUP_MAX: Final = 4  # of one /24, of peers that nobody configured: half, as it may answer nobody
# Of one /24 and peers that nobody configured. Each peer that hears a false address dials a victim that often:
# a thousand of them, 200 times a second, below what an idle web server notices.
DIAL_FAILURES_PER_S: Final = 0.2
DIAL_FAILURES_BURST: Final = 32  # a network restarts, or an old book is read
DIAL_GROUPS_MAX: Final = 4_096  # remembered: more than a book's peers have
HELD_MAX: Final = 512  # links kept for now: two sets of 128 validators, two places to look for each
BOOK_PEERS_MAX: Final = 1_000
BOOK_ADDRESSES_MAX: Final = 8  # per peer
BOOK_SAID_MAX: Final = 4  # of these, what the peer says of itself, so that others keep a place
DIRECT_TRIES_MAX: Final = 3  # addresses dialled to go round a relay, each for up to DIAL_S
# A peer that we only heard of is forgotten after so many failed dials in a row.
BOOK_FAILURES_MAX: Final = 8
ADDRESS_BYTES_MAX: Final = 256
EXCHANGE_PEERS_MAX: Final = 64  # in one answer to p2p/addresses
REFUSAL_ADDRESSES_MAX: Final = 3  # told to who is refused for want of room: what a GOODBYE has space for
SCORE_MIN: Final = -100  # at or below this: disconnected and banned
SCORE_MAX: Final = 0
SCORE_RECOVERY_PER_S: Final = 0.1  # a fault of ten points is forgiven in under two minutes
FAULT_POINTS: Final = 20  # for a PeerFault without points of its own: five in a row ban
BAN_S: Final = 300.0
BANS_MAX: Final = 4_096  # oldest go first
OPERATOR_BANS_MAX: Final = 1_024  # by hand; they stand in the book's file with up to 256 B of reason each

# --- relay (circuit v2) ------------------------------------------------------------------------------------
RELAY_RESERVATIONS_MAX: Final = 32  # neighbours that we keep a place for
RELAY_RESERVATIONS_OF_GROUP_MAX: Final = 16  # of one /24: half, so that one owner does not take them all
RELAY_RESERVATION_S: Final = 600  # a peer that has left for good holds its place no longer than that
RELAY_CIRCUITS_MAX: Final = 32  # at once: at 64 KiB on its way each, 2 MiB
RELAY_CIRCUITS_OF_GROUP_MAX: Final = 16  # from one /24: half, so that one owner does not take them all
RELAY_CIRCUITS_OF_PEER_MAX: Final = 4  # from one peer, and to one: well below STREAMS_IN_MAX
RELAY_CIRCUIT_S: Final = 3_600  # then both ends meet anew, perhaps by another relay
RELAY_CIRCUIT_BYTES: Final = 268_435_456  # 256 MiB both ways together: hours of a chain; no way for images
RELAY_CIRCUIT_BYTES_S: Final = 2_097_152  # of one circuit: a chain's; all of them leave a line for others
RELAY_CIRCUIT_HURRY_S: Final = 4.0  # of that rate at once: who starts catches up
RELAY_MESSAGE_BYTES_MAX: Final = 4_096  # a status with a few addresses
RELAY_STEP_S: Final = 8.0  # to answer one message, as long as a handshake
RELAYS_WANTED: Final = 2  # reservations of a peer behind NAT: one relay may die
RELAY_LOOK_S: Final = 5.0  # how often it looks whether it has them, when no link came or went
RELAY_ASK_AGAIN_S: Final = 120.0  # before a peer that refused is asked again

# --- peer routing (Kademlia) -------------------------------------------------------------------------------
DHT_PEERS_MAX: Final = 20  # in an answer: k of the specification
DHT_ADDRESSES_MAX: Final = 4  # of each of them
DHT_MESSAGE_BYTES_MAX: Final = 65_536  # 20 peers, also with the signed records that others send along
DHT_QUESTIONS_MAX: Final = 16  # on one stream
DHT_ANSWER_S: Final = 10.0  # to one question, and for the next one to come
DHT_FIRST_S: Final = 3.0
DHT_EVERY_S: Final = 60.0

# --- local network (mDNS) ----------------------------------------------------------------------------------
MDNS_ADDRESSES_MAX: Final = 8  # of one answer; each stands in one UDP packet with the others
MDNS_ANSWER_S: Final = 3.0  # for a peer's TXT record to come

# --- gossip ------------------------------------------------------------------------------------------------
GOSSIP_HEARTBEAT_S: Final = 1.0
GOSSIP_BYTES_MAX: Final = 1_000_000  # the library silently drops above 1 MiB, its own envelope included
GOSSIP_QUEUE_MAX: Final = 1_024  # messages waiting to be published by us
GOSSIP_PEER_QUEUE_MAX: Final = 1_024  # waiting to leave to one peer (library default 32 loses bursts)
# Of one neighbour on one topic: what is more is not judged (library default 10 loses bursts, own ones too).
GOSSIP_TOPIC_RATE_PER_S: Final = 200
GOSSIP_TOPIC_BURST: Final = 1_024  # a whole queue at once
GOSSIP_PUBLISH_PER_S: Final = 150  # of our own: below what any neighbour judges of one peer …
GOSSIP_PUBLISH_BURST: Final = 768  # … also while some of it is still on its way
# In all: five times what is judged of a topic, no honest neighbour passes on more; it is read more slowly.
GOSSIP_RATE_PER_S: Final = 1_000
GOSSIP_SEEN_MAX: Final = 65_536  # digests remembered for dedup
GOSSIP_SEEN_S: Final = 120.0
GOSSIP_VALIDATING_MAX: Final = 256  # validations at once
TOPICS_MAX: Final = 32
TOPIC_BYTES_MAX: Final = 128

# --- disk --------------------------------------------------------------------------------------------------
BOOK_SAVE_S: Final = 5.0  # at most one write of the peer book in this time
BOOK_FILE_BYTES_MAX: Final = 4_194_304  # 1,000 peers of 8 addresses of 256 B, and change
