"""What the outbox asks of SQLite; the layout and its indexes are in outbox*.sql."""

from tillsync_agent.entries import Waiting
from tillsync_agent.storage import Cursor

CHUNK_ROWS = 500  # in long work; between two chunks a sale can be recorded

FIND = "SELECT epoch, sequence FROM tillsync_event WHERE key = ? AND digest = ?"
COUNT_ON = "UPDATE tillsync_counter SET last_sequence = last_sequence + 1, last_id = last_id + 1"
COUNTER = "SELECT last_id, epoch, last_sequence, clock_offset_ms FROM tillsync_counter"
INSERT = (
    "INSERT INTO tillsync_event (id, epoch, sequence, key, digest, recorded_at, bytes, envelope)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
# INDEXED BY, because without statistics SQLite may walk the table instead, past everything that
# is settled.
TAKE = (
    "SELECT id, key, envelope, bytes FROM tillsync_event INDEXED BY tillsync_event_for_take"
    " WHERE state = 'waiting' AND id > ? AND (retry_at <= ? OR retry_at > ?) ORDER BY id LIMIT ?"
)
SETTLE = (
    "UPDATE tillsync_event SET state = ?, settled_at = ?, position = ?, history_id = ?,"
    " reason = ?, field = ?, description = ? WHERE id = ? AND state = 'waiting'"
)
HOLD = "UPDATE tillsync_event SET retry_at = ?, last_error = ? WHERE id = ? AND state = 'waiting'"
OLDEST_SETTLED = (
    "SELECT id, settled_at, bytes FROM tillsync_event INDEXED BY tillsync_event_for_prune"
    " WHERE state IN ('accepted', 'duplicate') ORDER BY settled_at LIMIT ?"
)
SETTLED = (
    "SELECT count(*), coalesce(sum(bytes), 0), max(settled_at)"
    " FROM tillsync_event INDEXED BY tillsync_event_for_prune"
    " WHERE state IN ('accepted', 'duplicate')"
)
DELETE = "DELETE FROM tillsync_event WHERE id = ? AND state IN ('accepted', 'duplicate')"
RESCUE_IDS = (
    "SELECT id FROM tillsync_event INDEXED BY tillsync_event_for_take WHERE state = 'waiting'"
)
RESCUE = (
    "SELECT epoch, sequence, key, digest, recorded_at, bytes, envelope FROM tillsync_event"
    " WHERE id = ? AND state = 'waiting'"
)
INSERT_RESCUED = INSERT.replace("INSERT", "INSERT OR IGNORE", 1)
NOTE_BROUGHT_BACK = "brought_back:"
WAITING = (
    "SELECT count(*), coalesce(sum(bytes), 0), min(id), coalesce(sum(retry_at > 0), 0)"
    " FROM tillsync_event INDEXED BY tillsync_event_for_take WHERE state = 'waiting'"
)
DEAD_LETTERS = (
    "SELECT id, key, state, epoch, sequence, reason, field, description, envelope"
    " FROM tillsync_event INDEXED BY tillsync_event_for_dead_letters"
    " WHERE state IN ('conflict', 'rejected') AND id > ? ORDER BY id LIMIT 1"
)
HELD_ERROR = (
    "SELECT last_error FROM tillsync_event INDEXED BY tillsync_event_for_take"
    " WHERE state = 'waiting' AND retry_at > 0 ORDER BY retry_at DESC LIMIT 1"
)
DEAD = (
    "SELECT count(*) FROM tillsync_event INDEXED BY tillsync_event_for_dead_letters"
    " WHERE state IN ('conflict', 'rejected')"
)

# What counts as this device's: see tillsync_former.
_BOOKS = (
    "SELECT id, epoch, sequence, state, reason, field, digest, envelope FROM tillsync_event"
    " WHERE id NOT IN (SELECT id FROM tillsync_former)"
)
BOOKS_PAGE = _BOOKS + " AND id > ? AND id <= ? ORDER BY id LIMIT ?"
BOOKS_AT = _BOOKS + " AND epoch = ? AND sequence = ?"
BOOKS_OF = _BOOKS + " AND id = ?"
_NUMBERS = (
    " FROM tillsync_event INDEXED BY tillsync_event_for_books"
    " WHERE epoch = ? AND sequence BETWEEN ? AND ?"
    " AND id NOT IN (SELECT id FROM tillsync_former)"
)
NUMBERS = "SELECT sequence, state, digest" + _NUMBERS + " ORDER BY sequence LIMIT ?"
OFFERABLE = (
    "SELECT id, sequence"
    + _NUMBERS
    + " AND state IN ('accepted', 'duplicate') ORDER BY sequence LIMIT ?"
)
OFFER_AGAIN = (
    "UPDATE tillsync_event SET state = 'waiting', retry_at = 0, last_error = '',"
    " settled_at = NULL, position = NULL, history_id = NULL WHERE id = ?"
)
# Those that were left behind, and those of events that came back from another file.
OTHER_EPOCHS = (
    "SELECT epoch, max(last_sequence) FROM"
    " (SELECT epoch, last_sequence FROM tillsync_epoch UNION ALL"
    " SELECT epoch, max(sequence) FROM tillsync_event INDEXED BY tillsync_event_for_books"
    " GROUP BY epoch)"
    " WHERE epoch NOT IN (SELECT epoch FROM tillsync_epoch WHERE former) AND epoch <> ?"
    " GROUP BY epoch ORDER BY min(epoch)"
)
KEEP_EPOCH = (
    "REPLACE INTO tillsync_epoch (epoch, last_sequence)"
    " SELECT epoch, last_sequence FROM tillsync_counter WHERE last_sequence > 0"
)
KEEP_OTHER_EPOCHS = (
    "INSERT OR IGNORE INTO tillsync_epoch (epoch, last_sequence)"
    " SELECT epoch, max(sequence) FROM tillsync_event GROUP BY epoch"
)
KEEP_FORMER = (
    "INSERT OR IGNORE INTO tillsync_former SELECT id FROM tillsync_event WHERE state <> 'waiting'"
)


def take(span: tuple[int, int, int, int], max_bytes: int, cursor: Cursor) -> list[Waiting]:
    taken: list[Waiting] = []
    for row_id, key, stored, size in cursor.execute(TAKE, span):
        max_bytes -= size
        if max_bytes < 0 and taken:
            break
        taken.append(Waiting(row_id, key, stored))
    return taken


def rescue(rows: list[tuple[object, ...]], cursor: Cursor) -> int:
    (row_id,) = cursor.execute("SELECT last_id FROM tillsync_counter").fetchone()
    cursor.execute("UPDATE tillsync_counter SET last_id = last_id + ?", (len(rows),))
    numbered = [(row_id + n, *row) for n, row in enumerate(rows, start=1)]
    return cursor.executemany(INSERT_RESCUED, numbered).rowcount
