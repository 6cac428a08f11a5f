"""What a device that is behind is sent next: the rules, without the database. Pure.

    no cursor, another history,       a load of everything
    ahead of the head, or
    behind the horizon
    another store than before         a load of that store's parts
    collections asked for             a load of their parts
    parts to load                     the next page of the first of them
    otherwise                         the next page of changes after the position; if one snapshot
                                      held all of them, a checkpoint at that snapshot's head

A load begins at the head of its first snapshot: what changes later has a higher version, and comes
with the changes after the load. So the parts of a load may be read in any order, at any speed, and
the checkpoint at the end is one moment's state all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from tillsync.v1.sync_service_pb2 import LoadReason
from tillsync_service.foundation.db import Row
from tillsync_service.sync.cursors import Cursor, Part
from tillsync_service.sync.scopes import TENANT


@dataclass(frozen=True, slots=True)
class Place:
    """Where a snapshot stands, and the device in it."""

    history_id: UUID
    head: int
    horizon: int
    store_id: UUID


@dataclass(frozen=True, slots=True)
class Load:
    """A load that begins."""

    reason: "LoadReason.ValueType"
    parts: tuple[Part, ...]
    definitions: Sequence[Row]
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a snapshot's records come to. `definitions` None: they did not change. `complete`: the
    digests are of every part that is not empty."""

    digests: Sequence[Row]
    marks: Sequence[tuple[int, int]]
    definitions: Sequence[Row] | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One message to the device. Rows have collection, scope, record_id, version and body."""

    cursor: Cursor
    load: Load | None = None
    rows: Sequence[Row] = field(default=())
    checkpoint: Checkpoint | None = None


def reset(cursor: Cursor | None, place: Place) -> "LoadReason.ValueType | None":
    """Why everything must be loaded anew, if it must. Asked in every snapshot: the horizon may
    pass a device that is being served."""
    if cursor is None:
        return LoadReason.LOAD_REASON_FIRST
    if cursor.history_id != place.history_id:
        return LoadReason.LOAD_REASON_HISTORY_CHANGED
    if cursor.position > place.head:
        return LoadReason.LOAD_REASON_AHEAD_OF_HISTORY
    if cursor.position < place.horizon:
        return LoadReason.LOAD_REASON_BEHIND_HORIZON
    if cursor.store_id != place.store_id and not cursor.whole:
        # What is staged is of the old store, and of nobody knows what else.
        return LoadReason.LOAD_REASON_SCOPE_GAINED
    return None


def everything(
    reason: "LoadReason.ValueType | None", place: Place, definitions: Sequence[Row]
) -> tuple[Cursor, Load]:
    """A load of all there is, the collections in their order."""
    parts = _parts(definitions, (place.store_id, TENANT))
    cursor = Cursor(place.history_id, place.head, place.store_id, load=parts)
    return cursor, Load(reason or LoadReason.LOAD_REASON_FIRST, parts, definitions, everything=True)


def moved(cursor: Cursor, place: Place, definitions: Sequence[Row]) -> tuple[Cursor, Load]:
    """A load of the store that the device came into. The old one's records go at the checkpoint."""
    parts = _parts(definitions, (place.store_id,))
    load = Load(LoadReason.LOAD_REASON_SCOPE_GAINED, parts, definitions)
    return _loading(cursor, parts, store_id=place.store_id), load


def asked_for(cursor: Cursor, definitions: Sequence[Row]) -> tuple[Cursor, Load]:
    """A load of collections that the device does not trust."""
    parts = _parts(definitions, (cursor.store_id, TENANT))
    load = Load(LoadReason.LOAD_REASON_ASKED_FOR, parts, definitions)
    return _loading(cursor, parts, store_id=cursor.store_id), load


def after_part_page(cursor: Cursor, rows: Sequence[Row], *, is_last: bool) -> Cursor:
    return cursor.part_done() if is_last else cursor.past(rows[-1]["record_id"])


def after_changes(cursor: Cursor, rows: Sequence[Row], place: Place, *, is_last: bool) -> Cursor:
    position = place.head if is_last else rows[-1]["version"]
    return replace(cursor, position=position, whole=is_last)


def _loading(cursor: Cursor, parts: tuple[Part, ...], *, store_id: UUID) -> Cursor:
    return replace(cursor, store_id=store_id, whole=False, load=parts, after="")


def _parts(definitions: Sequence[Row], scopes: Sequence[UUID]) -> tuple[Part, ...]:
    """In the order of a first load."""
    ordered = sorted(definitions, key=lambda row: (row["load_order"], row["name"]))
    return tuple((row["name"], scope) for row in ordered for scope in scopes)
