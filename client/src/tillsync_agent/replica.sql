-- The replica's layout, version 1. Plain enough for SQLite 3.24: tills are old.

-- One row: where the copy stands, and how far this device's edits have come.
CREATE TABLE place (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    copy_id INTEGER NOT NULL,                   -- minted with the file
    cursor BLOB NOT NULL DEFAULT x'',           -- of the last checkpoint
    staged_cursor BLOB NOT NULL DEFAULT x'',    -- of what was staged since; empty: nothing was
    everything INTEGER NOT NULL DEFAULT 0,      -- whether what is staged replaces the whole copy
    version INTEGER NOT NULL DEFAULT 0,         -- of the last checkpoint
    history_id TEXT NOT NULL DEFAULT '',
    store_id TEXT NOT NULL DEFAULT '',          -- the store that the device belongs to
    checkpoint_at INTEGER,                      -- milliseconds since 1970, by the device's clock
    epoch INTEGER NOT NULL,                     -- under which number edits are counted
    last_sequence INTEGER NOT NULL DEFAULT 0,   -- the last edit that was made
    pushed INTEGER NOT NULL DEFAULT 0,          -- the last edit that was ever on its way
    answered INTEGER NOT NULL DEFAULT 0,        -- the last edit that the service answered
    mark INTEGER NOT NULL DEFAULT 0,            -- the last edit that the copy holds
    loads INTEGER NOT NULL DEFAULT 0,           -- how often everything was loaded
    heals INTEGER NOT NULL DEFAULT 0            -- how often a collection was not what it should be
);

CREATE TABLE collection (
    name TEXT PRIMARY KEY,
    policy INTEGER NOT NULL,
    lookup_keys TEXT NOT NULL                   -- a JSON list
);

-- The records of one collection in one scope. A load fills a new part beside the visible one and
-- takes its place at the checkpoint; the rows of a dropped part go little by little.
CREATE TABLE part (
    part_id INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    store_id TEXT NOT NULL,                     -- empty: the whole tenant's
    state TEXT NOT NULL CHECK (state IN ('visible', 'loading', 'dropped')),
    record_count INTEGER NOT NULL DEFAULT 0,
    digest BLOB NOT NULL DEFAULT x'00000000000000000000000000000000'
);
CREATE UNIQUE INDEX part_live ON part (collection, store_id, state) WHERE state <> 'dropped';

CREATE TABLE record (
    part_id INTEGER NOT NULL,
    record_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (part_id, record_id)
) WITHOUT ROWID;

-- find(): a record by the value of one of its collection's lookup keys.
CREATE TABLE record_key (
    part_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    record_id TEXT NOT NULL,
    PRIMARY KEY (part_id, name, value, record_id)
) WITHOUT ROWID;

-- Changes to visible parts since the last checkpoint; without a body the record goes.
CREATE TABLE staged (
    part_id INTEGER NOT NULL,
    record_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT,
    PRIMARY KEY (part_id, record_id)
) WITHOUT ROWID;

-- This device's own edits. One is shown over the copy while its sequence is after place.mark.
CREATE TABLE edit (
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    collection TEXT NOT NULL,
    store_id TEXT NOT NULL,
    record_id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    base_version INTEGER NOT NULL,
    body TEXT NOT NULL,
    edit_id TEXT NOT NULL,                      -- minted with it: no two edits are the same
    made_at INTEGER NOT NULL,                   -- milliseconds since 1970, by the device's clock
    outcome INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    field TEXT NOT NULL DEFAULT '',
    description TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (epoch, sequence)
) WITHOUT ROWID;

-- lookup(): the edits of one record.
CREATE INDEX edit_by_record ON edit (collection, record_id);

-- Which files that were set aside have given back what they held.
CREATE TABLE brought_back (name TEXT PRIMARY KEY);
