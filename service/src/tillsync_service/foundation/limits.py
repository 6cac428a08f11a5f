"""Every bound of the service, by name. Units are in the names."""

# The contract's own bounds (protos/tillsync/v1): a change here is a change there.
MAX_BATCH_EVENTS = 1_000
MAX_REQUEST_BYTES = 4 * 1024 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_KEY_CHARACTERS = 200
MAX_TYPE_URL_CHARACTERS = 200
MAX_AMOUNTS = 16
MAX_CURRENCY_CHARACTERS = 12
MAX_TRACEPARENT_CHARACTERS = 55
CLOCK_PLAUSIBLE_SECONDS = 366 * 86_400

MAX_NAME_CHARACTERS = 200
MAX_DEVICE_NAME_CHARACTERS = 100
MAX_STORE_CODE_CHARACTERS = 50
MAX_PAGE_SIZE = 1_000
DEFAULT_PAGE_SIZE = 100
MAX_CODE_VALID_SECONDS = 30 * 86_400
DEFAULT_CODE_VALID_SECONDS = 86_400

# How many events are examined before the loop looks around: about a millisecond, if they are sales
# and not megabytes.
EXAMINE_SLICE_EVENTS = 256

# Group commit: a transaction takes at most this many events of one tenant; a tenant may have this
# many waiting before callers hear RESOURCE_EXHAUSTED.
MAX_GROUP_EVENTS = 1_000
MAX_WAITING_EVENTS = 50_000
# The same in bytes of bodies: events are 400 bytes or 1 MiB, and memory does not count events.
MAX_GROUP_BYTES = 8 * 1024 * 1024
MAX_WAITING_BYTES = 64 * 1024 * 1024
# The second group waits at the head row while the first writes; a third would only hold one of the
# pool's connections.
MAX_GROUPS_PER_TENANT = 2

# What is inside at once, of all tenants and of one: raw bytes of requests, from before they are
# received (then the largest request is reckoned) until they are answered. Parsed and as rows they
# take a few times as much.
MAX_RECEIVE_BYTES = MAX_REQUEST_BYTES + 64 * 1024  # with room for the frame around it
MAX_BYTES_INSIDE = 128 * 1024 * 1024
MAX_BYTES_INSIDE_PER_TENANT = 32 * 1024 * 1024
# What waits for room: calls, which have sent nothing yet, and messages of streams, which came
# when they came.
MAX_CALLS_WAITING = 10_000
MAX_BYTES_WAITING = 512 * 1024 * 1024
# Open calls of one method, streams above all: a round over them asks for every token, so all of
# the tokens must be cached.
MAX_CALLS_INSIDE = 10_000
ROUND_SECONDS = 1.0
ROUND_CHUNK_CALLS = 500
# Who waits longer than this for his peer loses his room if somebody has waited as long for it.
PEER_PATIENCE_SECONDS = 5.0

# Tokens.
ACCESS_TOKEN_SECONDS = 15 * 60
MAX_CACHED_TOKENS = 20_000
STANDING_REFRESH_SECONDS = 1.0
STANDING_STALE_SECONDS = 2.0

# The database. The server gives up a lock or a statement before the client gives up waiting.
CONNECT_SECONDS = 0.8
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 15_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000
TCP_USER_TIMEOUT_MS = 10_000
COMMAND_SECONDS = 20.0
POOL_CONNECTIONS = 10
# Beside them: for tokens, enrolments and operators, and for what the service itself must know.
# Sales that wait at their tenant's head row keep all of theirs busy.
OFFICE_POOL_CONNECTIONS = 4
CONTROL_POOL_CONNECTIONS = 2
# For what devices pull and push: it must not take the sales' connections, nor wait behind them.
SYNC_POOL_CONNECTIONS = 6

# For what integrators read.
FEED_POOL_CONNECTIONS = 4

# Links to devices: a silent peer is noticed after time + timeout.
KEEPALIVE_TIME_MS = 20_000
KEEPALIVE_TIMEOUT_MS = 10_000
MIN_PING_INTERVAL_MS = 10_000

# Records and sync (protos/tillsync/v1/record.proto and its neighbours).
MAX_RECORD_BYTES = 64 * 1024
MAX_RECORD_ID_CHARACTERS = 200
MAX_COLLECTION_CHARACTERS = 63
MAX_COLLECTIONS = 100
MAX_LOOKUP_KEYS = 8
MAX_LOOKUP_KEY_CHARACTERS = 100
MAX_IMPORT_RECORDS = 2_000_000
MAX_IMPORT_MESSAGE_RECORDS = 1_000
# How much of an import is examined before the loop looks around: about a millisecond.
EXAMINE_SLICE_CHARACTERS = 64 * 1024
MAX_MUTATIONS = 500
MAX_MUTATION_ID_CHARACTERS = 100
# A catalogue is published by one statement; whoever edits meanwhile waits for its lock, and then
# sends the same again.
PUBLISH_TIMEOUT_MS = 600_000
# At once in this replica: each keeps a connection of the office busy, for minutes perhaps.
MAX_PUBLISHING = 2
# One page of a pull. A stream that is behind holds two of them, one made and one being taken.
MAX_PAGE_RECORDS = 1_000
MAX_PAGE_BYTES = 256 * 1024
# Streams that are behind and read the database, at once in this replica; the others wait for them.
MAX_STREAMS_BEHIND = 64
# What a replica remembers of a tenant's latest changes, for its live streams; a stream may be sent
# all of it in one message.
MAX_TAIL_RECORDS = 2_000
MAX_TAIL_BYTES = 1024 * 1024
MAX_TAIL_BATCHES = 100
# Who is served for longer than this while others wait comes again later; it loses nothing.
BEHIND_TURN_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
MAX_PULL_SECONDS = 600.0
WAKE_EVERY_SECONDS = 0.05
POLL_EVERY_SECONDS = 1.0

# Books (protos/tillsync/v1/reconcile_service.proto and books_service.proto).
MAX_OUTBOX_CLAIMS = 100
MAX_DAY_CLAIMS = 100
MAX_DAY_CURRENCIES = 100
# A day that is held in more currencies than can be claimed is shown with one more: it is not equal.
MAX_SHOWN_CURRENCIES = MAX_DAY_CURRENCIES + 1
MAX_AMOUNT_DIGITS = 38
MAX_SPANS = 1_000
MAX_MISSING_SPANS = 1_000
MAX_DISPOSITIONS = 1_000
# Each number that is here is looked up in the ledger, about ten microseconds apiece.
MAX_SPAN_NUMBERS = 1_000_000
# In spans of so many numbers each number is explained that is not part of the history.
MAX_EXPLAINED_SPAN = 128
# What an operator is shown of one device: the lowest spans, the latest days.
MAX_LISTED_HOLES = 100
MAX_LISTED_DAYS = 100
MAX_REASON_CHARACTERS = 500
# What is read of a device's quarantine in one call.
MAX_QUARANTINED_READ = 1_000
MAX_QUARANTINED_BYTES = 4 * 1024 * 1024
# Deletions are kept for this long; a device that was away for longer loads everything anew.
DEFAULT_KEEP_DELETIONS_DAYS = 90
FORGET_EVERY_SECONDS = 3_600.0

# The feed (protos/tillsync/v1/feed_service.proto). A page ends with the event that reaches its
# bytes, so it holds at most one event's more. A stream holds two of them.
DEFAULT_FEED_PAGE_EVENTS = 1_000
MAX_FEED_PAGE_EVENTS = 5_000
MAX_FEED_PAGE_BYTES = 512 * 1024
# How many events a filter looks at for one page: some ten milliseconds of the database.
MAX_FEED_SCAN_EVENTS = 20_000
MAX_FEED_TYPES = 50
MAX_FEED_STORES = 1_000
MAX_FEED_CONSUMERS = 100
MAX_CONSUMER_CHARACTERS = 100
# Open at once in this replica, and of one tenant; its reads of the database at once.
MAX_FEED_STREAMS = 200
MAX_FEED_STREAMS_PER_TENANT = 20
MAX_FEED_READS_PER_TENANT = 2
MAX_FEED_SECONDS = 600.0
# How many events become messages before the loop looks around: about a millisecond.
FEED_SLICE_EVENTS = 128
FEED_POLL_SECONDS = 0.2
# A live stream that nothing is for says how far it is no more often than this.
FEED_QUIET_SECONDS = 1.0
FEED_LAG_EVERY_SECONDS = 15.0
# Consumers of all tenants whose lag is watched.
MAX_FEED_LAGS = 10_000

# Projections. A page is one transaction; of ten-line sales it takes some eighty milliseconds. Its
# rows are written chunk by chunk, so that the next are looked into meanwhile.
MAX_DOCUMENT_LINES = 10_000
PROJECT_PAGE_EVENTS = 500
PROJECT_CHUNK_EVENTS = 100
PROJECT_PAGE_BYTES = 2 * 1024 * 1024
MAX_REPLAY_EVENTS = 250
# How many events are looked into before the loop looks around: about a millisecond.
PROJECT_SLICE_EVENTS = 25
DEFAULT_PROJECTION_WORKERS = 2
# Beside those of the workers: to see who is behind.
PROJECTION_MORE_CONNECTIONS = 1
PROJECT_RETRY_SECONDS = 1.0
MAX_PROJECT_RETRY_SECONDS = 30.0
COUNT_DEAD_LETTERS_SECONDS = 10.0
REBUILD_SHOW_SECONDS = 0.5
