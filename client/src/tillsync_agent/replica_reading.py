"""What is shown of the replica: the copy's records under this device's own edits. Each function
reads inside the caller's transaction."""

import json
from collections.abc import Iterable
from typing import Literal, TypeAlias

from tillsync_agent import overlay, replica_edits
from tillsync_agent.errors import CollectionUnknown
from tillsync_agent.overlay import Record
from tillsync_agent.storage import Cursor

Scope: TypeAlias = Literal["shown", "store", "tenant"]
"""Whose record: the one that is shown, the own store's, or the whole tenant's."""

PAGE_RECORDS = 500

# JOIN: the few parts first, whatever the planner thinks. It would read every record.
_BODIES = (
    "SELECT p.store_id, r.version, r.body FROM part p CROSS JOIN record r USING (part_id)"
    " WHERE p.collection = ? AND p.state = 'visible' AND r.record_id = ?"
)
_BY_KEY = (
    "SELECT DISTINCT k.record_id FROM part p CROSS JOIN record_key k USING (part_id)"
    " WHERE p.collection = ? AND p.state = 'visible' AND k.name = ? AND k.value = ?"
)
_EDITED = (
    "SELECT DISTINCT record_id FROM edit WHERE collection = ?"
    " AND epoch = (SELECT epoch FROM place) AND sequence > (SELECT mark FROM place)"
)
# Of the edits only those that may have given a record this value: they name the key, and the value
# too, unless it is a sum.
_EDITED_KEY = f"{_EDITED} AND instr(body, ?) AND (instr(body, ?) OR kind = {int(overlay.ADD)})"
_IDS = (
    "SELECT r.record_id FROM part p CROSS JOIN record r USING (part_id)"
    " WHERE p.collection = ? AND p.state = 'visible' AND r.record_id > ? ORDER BY r.record_id"
)


def shown(
    collection: str, record_id: str, cursor: Cursor, only_scope: str | None = None
) -> Record | None:
    """The own store's record, or else the tenant's, under the edits; or that of `only_scope`."""
    held = {
        store_id: (version, body)
        for store_id, version, body in cursor.execute(_BODIES, (collection, record_id))
    }
    layers = replica_edits.layers(cursor, collection, record_id)
    for store_id in sorted(held.keys() | layers.keys(), reverse=True):
        if only_scope is not None and store_id != only_scope:
            continue
        version, body = held.get(store_id, (0, None))
        over = layers.get(store_id, [])
        fields = overlay.shown(body, over)
        if fields is not None:
            return Record(collection, record_id, store_id, version, fields, bool(over))
    return None


def found(collection: str, name: str, value: str, cursor: Cursor) -> list[Record]:
    ids = {row[0] for row in cursor.execute(_BY_KEY, (collection, name, value))}
    texts = (json.dumps(name, ensure_ascii=False), json.dumps(value, ensure_ascii=False)[1:-1])
    ids |= {row[0] for row in cursor.execute(_EDITED_KEY, (collection, *texts))}
    records = (shown(collection, record_id, cursor) for record_id in sorted(ids))
    return [record for record in records if record and _has(record.fields.get(name), value)]


def _has(held: object, value: str) -> bool:
    values = held if isinstance(held, list) else [held]
    return any(str(one) == value for one in values if isinstance(one, (str, int)))


def page(
    collection: str, after: str, including: str, cursor: Cursor
) -> list[tuple[str, Record | None]]:
    """The next ids after `after`, and `including` itself, each with what is shown of it."""
    ids: set[str] = set()
    for (record_id,) in cursor.execute(f"{_IDS} LIMIT ?", (collection, after, 2 * PAGE_RECORDS)):
        ids.add(record_id)
        if len(ids) == PAGE_RECORDS:
            break
    last = max(ids) if len(ids) == PAGE_RECORDS else None
    edited: Iterable[tuple[str]] = cursor.execute(_EDITED, (collection,)).fetchall()
    ids |= {each for (each,) in edited if each > after and (last is None or each <= last)}
    if including:
        ids.add(including)
    return [(each, shown(collection, each, cursor)) for each in sorted(ids)]


def must_be_known(cursor: Cursor, collection: str) -> None:
    names = [name for (name,) in cursor.execute("SELECT name FROM collection ORDER BY name")]
    if collection not in names:
        raise CollectionUnknown(collection, names)


def store_of(cursor: Cursor, scope: Scope) -> str | None:
    """The store that a scope names, empty for the tenant; None: whichever is shown."""
    if scope == "shown":
        return None
    return "" if scope == "tenant" else own_store(cursor)


def own_store(cursor: Cursor) -> str:
    return str(cursor.execute("SELECT store_id FROM place").fetchone()[0])


def base_version(cursor: Cursor, collection: str, record_id: str, store_id: str) -> int:
    for store, version, _ in cursor.execute(_BODIES, (collection, record_id)):
        if store == store_id:
            return int(version)
    return 0
