-- The outbox's layout, from version 1 to version 2: what reconciliation asks for.

-- offer_again() and numbers(): an event by its number.
CREATE INDEX tillsync_event_for_books ON tillsync_event (epoch, sequence);

-- The epochs that this outbox counted under before its present one, and how far. `former`: as a
-- device that it is no more; what it counted then is not the present device's to give.
CREATE TABLE tillsync_epoch (
    epoch INTEGER PRIMARY KEY,
    last_sequence INTEGER NOT NULL,
    former INTEGER NOT NULL DEFAULT 0
);

-- The events that a former device had settled. They are kept, and no part of any book.
CREATE TABLE tillsync_former (
    id INTEGER PRIMARY KEY
);

-- What pruned events came to, so that their day can still be compared: see daybooks.py.
CREATE TABLE tillsync_pruned (
    business_day TEXT NOT NULL,
    currency TEXT NOT NULL,
    event_count INTEGER NOT NULL,
    amount_minor TEXT NOT NULL,                 -- text, as a sum may not fit into 64 bits
    digest_sum BLOB NOT NULL,                   -- 16 bytes, big-endian
    PRIMARY KEY (business_day, currency)
);
