-- The outbox's layout, version 1. Plain enough for SQLite 3.24: tills are old.
-- The prefix is for a point of sale that has these tables inside its own file.

CREATE TABLE tillsync_event (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    recorded_at INTEGER NOT NULL,               -- milliseconds since 1970, by the device's clock
    bytes INTEGER NOT NULL,                     -- of the envelope, so that sums need not read it
    state TEXT NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'accepted', 'duplicate', 'conflict', 'rejected')),
    retry_at INTEGER NOT NULL DEFAULT 0,        -- milliseconds since 1970; 0: at once
    last_error TEXT NOT NULL DEFAULT '',
    settled_at INTEGER,
    position INTEGER,
    history_id TEXT,
    reason TEXT,
    field TEXT,
    description TEXT,
    envelope BLOB NOT NULL                      -- last: nobody reads through it to another column
);

-- record(): is this very event here already? Also: one key may have two bodies (a conflict that
-- the service must see), but not one body twice.
CREATE UNIQUE INDEX tillsync_event_for_record ON tillsync_event (key, digest);

-- take() and summary(): only what waits, so that settled rows cost nothing. (Here and below: without
-- the state among its columns SQLite would look each row up to read it.)
CREATE INDEX tillsync_event_for_take ON tillsync_event (id, retry_at, bytes, state)
    WHERE state = 'waiting';

-- prune(): the oldest settled row first, and what they all weigh.
CREATE INDEX tillsync_event_for_prune ON tillsync_event (settled_at, bytes, state)
    WHERE state IN ('accepted', 'duplicate');

-- dead_letters()
CREATE INDEX tillsync_event_for_dead_letters ON tillsync_event (id, state)
    WHERE state IN ('conflict', 'rejected');

-- One row. The sequence is a counter and not AUTOINCREMENT, which burns a number on every
-- ignored insert. last_id begins at random: the answer to a batch of a file that was set aside
-- must never settle a row of the file that took its place.
CREATE TABLE tillsync_counter (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    epoch INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    clock_offset_ms INTEGER
);

-- What the agent wants to remember for `status`.
CREATE TABLE tillsync_note (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
