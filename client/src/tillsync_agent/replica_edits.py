"""A device's own edits in the replica: numbered without holes, pushed in order, kept until a
checkpoint has held them for long enough. Each function works inside the caller's transaction."""

from collections.abc import Sequence
from typing import Any

from tillsync.v1 import sync_service_pb2 as pb
from tillsync_agent.ids import mint_epoch
from tillsync_agent.overlay import Layer
from tillsync_agent.storage import Cursor

# Well below what a gRPC message may have; one edit is sent however large.
MAX_PUSH_BYTES = 1_000_000
_FRAME_BYTES = 1024  # what an edit has beside its body: texts of 400 characters at most

_WAITING = (
    "SELECT sequence, collection, store_id, record_id, kind, base_version, body, edit_id FROM edit"
    " WHERE epoch = (SELECT epoch FROM place) AND sequence > (SELECT answered FROM place)"
    " ORDER BY sequence LIMIT ?"
)
_OVER = (
    "SELECT store_id, kind, body FROM edit WHERE collection = ? AND record_id = ?"
    " AND epoch = (SELECT epoch FROM place) AND sequence > (SELECT mark FROM place)"
    " ORDER BY sequence"
)
_ANSWER = (
    "UPDATE edit SET outcome = ?, reason = ?, field = ?, description = ?"
    " WHERE epoch = (SELECT epoch FROM place) AND sequence = ?"
)
_INSERT = (
    "INSERT INTO edit (epoch, sequence, collection, store_id, record_id, kind, base_version, body,"
    " edit_id, made_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_PRUNE = (
    "DELETE FROM edit WHERE held_at < ? AND NOT"
    " (epoch = (SELECT epoch FROM place) AND sequence > (SELECT min(mark, answered) FROM place))"
)
_SHOWN = "(epoch = (SELECT epoch FROM place) AND sequence > (SELECT mark FROM place))"
_HELD = f"UPDATE edit SET held_at = ? WHERE held_at IS NULL AND NOT {_SHOWN}"  # noqa: S608 -- our own words
_HELD_NO_MORE = f"UPDATE edit SET held_at = NULL WHERE held_at IS NOT NULL AND {_SHOWN}"  # noqa: S608 -- our own words
RESCUE = (
    "SELECT e.epoch, e.sequence, e.collection, e.store_id, e.record_id, e.kind, e.base_version,"
    " e.body, e.edit_id, e.made_at, p.last_sequence, p.pushed, p.mark, p.answered FROM edit e"
    " JOIN place p ON p.epoch = e.epoch WHERE e.sequence = ?"
)
RESCUE_IDS = (
    "SELECT sequence FROM edit WHERE epoch = (SELECT epoch FROM place)"
    " AND sequence > (SELECT min(mark, answered) FROM place) ORDER BY sequence"
)


def layers(cursor: Cursor, collection: str, record_id: str) -> dict[str, list[Layer]]:
    """The edits that are shown over a record, by store, oldest first."""
    found: dict[str, list[Layer]] = {}
    for store_id, kind, body in cursor.execute(_OVER, (collection, record_id)):
        found.setdefault(store_id, []).append(Layer(kind, body))
    return found


def append(cursor: Cursor, row: Sequence[Any]) -> int:
    """Numbers and keeps an edit: collection, store, record, kind, base version, body, id, when."""
    cursor.execute("UPDATE place SET last_sequence = last_sequence + 1")
    epoch, sequence = cursor.execute("SELECT epoch, last_sequence FROM place").fetchone()
    cursor.execute(_INSERT, (epoch, sequence, *row))
    return int(sequence)


def to_push(limit: int, cursor: Cursor) -> tuple[int, list[pb.Mutation]]:
    """The epoch, and the oldest edits without an answer; that they are on their way is on the disk
    before they are."""
    (epoch,) = cursor.execute("SELECT epoch FROM place").fetchone()
    rows: list[tuple[Any, ...]] = []
    size_bytes = 0
    for row in cursor.execute(_WAITING, (limit,)):
        size_bytes += len(row[6].encode()) + _FRAME_BYTES
        if rows and size_bytes > MAX_PUSH_BYTES:
            break
        rows.append(row)
    if rows:
        cursor.execute("UPDATE place SET pushed = max(pushed, ?)", (rows[-1][0],))
    return epoch, [
        pb.Mutation(
            sequence=row[0],
            collection=row[1],
            store_id=row[2],
            record_id=row[3],
            kind=row[4],
            base_version=row[5],
            body=row[6],
            mutation_id=row[7],
        )
        for row in rows
    ]


def answered(results: Sequence[pb.MutationResult], next_sequence: int, cursor: Cursor) -> None:
    """Notes what became of edits, and from where to go on. A service that lacks earlier ones is
    given them again; where they are not kept any more, what is waiting is numbered anew."""
    cursor.executemany(
        _ANSWER,
        [
            (r.outcome, r.refusal.reason, r.refusal.field, r.refusal.description, r.sequence)
            for r in results
        ],
    )
    there = cursor.execute(
        "SELECT 1 FROM edit WHERE epoch = (SELECT epoch FROM place) AND sequence = ?",
        (next_sequence,),
    ).fetchone()
    if not results and not there:
        renumber(cursor)
        return
    last = results[-1].sequence if results else next_sequence - 1
    cursor.execute("UPDATE place SET answered = ?", (last,))


def renumber(cursor: Cursor) -> None:
    """Counts what has no answer as the edits of another device would be: the numbers were used."""
    epoch, last = cursor.execute("SELECT epoch, answered FROM place").fetchone()
    waiting = cursor.execute(
        "SELECT sequence FROM edit WHERE epoch = ? AND sequence > ? ORDER BY sequence",
        (epoch, last),
    ).fetchall()
    fresh = mint_epoch()
    cursor.executemany(
        "UPDATE edit SET epoch = ?, sequence = ?, outcome = 0 WHERE epoch = ? AND sequence = ?",
        [(fresh, number, epoch, old) for number, (old,) in enumerate(waiting, start=1)],
    )
    cursor.execute(
        "UPDATE place SET epoch = ?, last_sequence = ?, pushed = 0, answered = 0, mark = 0",
        (fresh, len(waiting)),
    )


def note_held(now_ms: int, cursor: Cursor) -> None:
    """Notes since when the copy holds the edits up to the mark. A mark that moved back, as after a
    restore, gives them up: they come in anew."""
    cursor.execute(_HELD, (now_ms,))
    cursor.execute(_HELD_NO_MORE)


def rescue(rows: Sequence[tuple[Any, ...]], cursor: Cursor) -> int:
    """Takes over edits of a file that was set aside, under their own numbers, so that those which
    the service has are known to it. A file that has counted itself since gives them new ones."""
    if not rows:
        return 0
    epoch, last_sequence, pushed, mark, given = rows[0][0], *rows[0][-4:]
    if cursor.execute("SELECT last_sequence FROM place").fetchone() != (0,):
        for row in rows:
            append(cursor, row[2:10])
        return len(rows)
    cursor.execute(
        "UPDATE place SET epoch = ?, last_sequence = ?, pushed = ?, mark = ?, answered = ?",
        (epoch, max(last_sequence, rows[-1][1]), pushed, mark, min(given, rows[0][1] - 1)),
    )
    cursor.executemany(_INSERT, [row[:10] for row in rows])
    return len(rows)


def prune(held_before_ms: int, cursor: Cursor) -> int:
    return cursor.execute(_PRUNE, (held_before_ms,)).rowcount
