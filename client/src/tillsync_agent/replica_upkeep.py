"""What keeps a replica sound and small. Each function works inside the caller's transaction."""

from tillsync_agent.replica_receiving import record_hash
from tillsync_agent.storage import Cursor

PRUNE_CHUNK_ROWS = 2_000
VERIFY_CHUNK_ROWS = 5_000


def is_sound(part_id: int, cursor: Cursor) -> bool:
    """Whether a part's records are those that were written; its count and digest are, afterwards,
    what is there."""
    total, count, after = 0, 0, ""
    while rows := cursor.execute(
        "SELECT record_id, body FROM record WHERE part_id = ? AND record_id > ?"
        " ORDER BY record_id LIMIT ?",
        (part_id, after, VERIFY_CHUNK_ROWS),
    ).fetchall():
        total += sum(record_hash(*row) for row in rows)
        count += len(rows)
        after = rows[-1][0]
    found = (count, (total % 2**128).to_bytes(16, "big"))
    held = cursor.execute(
        "SELECT record_count, digest FROM part WHERE part_id = ?", (part_id,)
    ).fetchone()
    if found != held:
        cursor.execute(
            "UPDATE part SET record_count = ?, digest = ? WHERE part_id = ?", (*found, part_id)
        )
    return bool(found == held)


def prune_dropped(cursor: Cursor) -> int:
    """Some rows of dropped parts; when nothing is left of one, the part itself."""
    row = cursor.execute("SELECT part_id FROM part WHERE state = 'dropped' LIMIT 1").fetchone()
    if row is None:
        return 0
    gone = 0
    for table, key in (("record", "record_id"), ("record_key", "name, value, record_id")):
        gone += cursor.execute(
            f"DELETE FROM {table} WHERE part_id = ? AND ({key}) IN"  # noqa: S608 -- our own names
            f" (SELECT {key} FROM {table} WHERE part_id = ? LIMIT ?)",
            (*row, *row, PRUNE_CHUNK_ROWS),
        ).rowcount
    if not gone:
        gone = cursor.execute("DELETE FROM part WHERE part_id = ?", row).rowcount
    return gone
