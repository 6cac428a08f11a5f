"""Reads what devices are sent: each step in one snapshot."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Role, Row, Transaction, statements
from tillsync_service.foundation.errors import InvalidRequest, NotFound
from tillsync_service.foundation.identity import Device
from tillsync_service.sync import cursors, pull
from tillsync_service.sync.cursors import Cursor
from tillsync_service.sync.pull import Checkpoint, Place, Step
from tillsync_service.sync.scopes import TENANT

_SQL = statements("tillsync_service.sync")


@dataclass(frozen=True, slots=True)
class Batch:
    """The changes of a tenant after `start` up to `end`, in the scopes that were asked for.

    `rows` None: too many to remember."""

    start: int
    end: int
    history_id: UUID
    scopes: frozenset[UUID]
    rows: dict[UUID, list[Row]] | None
    digests: dict[UUID, list[Row]]
    marks: dict[UUID, list[tuple[int, int]]]
    moved: frozenset[UUID]
    definitions: Sequence[Row] | None
    size_bytes: int


class ReadStore:
    """`page_records` and `page_bytes` bound a step; one record is sent however large."""

    def __init__(
        self,
        database: Database,
        *,
        page_records: int = limits.MAX_PAGE_RECORDS,
        page_bytes: int = limits.MAX_PAGE_BYTES,
    ) -> None:
        self._database = database
        self._page = (page_records, page_bytes)

    async def step(self, device: Device, cursor: Cursor | None, reload: Sequence[str]) -> Step:
        """What the device is sent after `cursor`; `reload` names collections to be loaded anew.
        Raises NotFound for a device that is gone, InvalidRequest for a collection that is not and
        for a cursor that was not given to anybody."""
        async with self._database.transaction(device.tenant_id, snapshot=True) as transaction:
            place = await _place(transaction, device)
            reason = pull.reset(cursor, place)
            load = None
            if cursor is None or reason is not None:  # without a cursor there is a reason
                definitions = await transaction.fetch(_SQL["definitions"], device.tenant_id)
                cursor, load = pull.everything(reason, place, definitions)
            elif any(scope not in {TENANT, cursor.store_id} for _, scope in cursor.load):
                raise cursors.invalid()
            elif cursor.store_id != place.store_id:
                definitions = await transaction.fetch(_SQL["definitions"], device.tenant_id)
                cursor, load = pull.moved(cursor, place, definitions)
            elif reload:
                definitions = await transaction.fetch(_SQL["definitions"], device.tenant_id)
                cursor, load = pull.asked_for(cursor, _named(reload, definitions))
            if cursor.load:
                return await self._part_page(transaction, device.tenant_id, cursor, load)
            return await self._changes(transaction, device, cursor, place, load)

    async def _part_page(
        self, transaction: Transaction, tenant_id: UUID, cursor: Cursor, load: pull.Load | None
    ) -> Step:
        part = cursor.load[0]
        rows = await transaction.fetch(
            _SQL["part_page"], tenant_id, *part, cursor.after, *self._page
        )
        is_last = self._is_all(rows)
        return Step(pull.after_part_page(cursor, rows, is_last=is_last), load, rows)

    async def _changes(
        self,
        transaction: Transaction,
        device: Device,
        cursor: Cursor,
        place: Place,
        load: pull.Load | None,
    ) -> Step:
        scopes = [TENANT, cursor.store_id]
        rows = await transaction.fetch(
            _SQL["changes"], device.tenant_id, scopes, cursor.position, *self._page
        )
        is_last = self._is_all(rows)
        following = pull.after_changes(cursor, rows, place, is_last=is_last)
        if not is_last:
            return Step(following, load, rows)
        marks = await transaction.fetch(_SQL["marks"], device.tenant_id, device.device_id)
        checkpoint = Checkpoint(
            digests=await transaction.fetch(_SQL["digests"], device.tenant_id, scopes),
            marks=[(row["epoch"], row["last_sequence"]) for row in marks],
            definitions=await transaction.fetch(_SQL["definitions"], device.tenant_id),
            complete=True,
        )
        return Step(following, load, rows, checkpoint)

    def _is_all(self, rows: Sequence[Row]) -> bool:
        """Whether these are all that there were. Each says how many the database looked at."""
        return not rows or (len(rows) == rows[0]["looked_at"] < self._page[0])

    async def batch(
        self, tenant_id: UUID, history_id: UUID, start: int, scopes: frozenset[UUID]
    ) -> Batch | None:
        """What the tenant's live streams must hear of after `start`; None: nothing happened, or the
        tenant is gone."""
        limit = limits.MAX_TAIL_RECORDS
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            head = await transaction.fetch_one(_SQL["head"], tenant_id)
            if head is None or (head["position"], head["history_id"]) == (start, history_id):
                return None
            rows = await transaction.fetch(
                _SQL["changes"], tenant_id, list(scopes), start, limit, limits.MAX_TAIL_BYTES
            )
            is_all = not rows or len(rows) == rows[0]["looked_at"] < limit
            told = await transaction.fetch(_SQL["tail"], tenant_id, start)
            definitions = await transaction.fetch(_SQL["definitions"], tenant_id)
            parts = {(row["collection"], row["scope"]) for row in rows} if is_all else set()
            digests = await transaction.fetch(
                _SQL["digests_of"],
                tenant_id,
                [collection for collection, _ in parts],
                [scope for _, scope in parts],
            )
        marks: dict[UUID, list[tuple[int, int]]] = {}
        for row in told:
            if row["epoch"] is not None:
                pair = (row["epoch"], row["last_sequence"])
                marks.setdefault(row["device_id"], []).append(pair)
        return Batch(
            start=start,
            end=head["position"],
            history_id=head["history_id"],
            scopes=scopes,
            rows=_by_scope(rows) if is_all else None,
            digests=_by_scope(digests),
            marks=marks,
            moved=frozenset(row["device_id"] for row in told if row["epoch"] is None),
            definitions=(
                definitions if any(row["version"] > start for row in definitions) else None
            ),
            size_bytes=sum(map(_size_bytes, rows)) if is_all else 0,
        )

    async def heads(self, tenant_ids: Iterable[UUID]) -> dict[UUID, tuple[UUID, int]]:
        """How far the records of these tenants are: history and version."""
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(_SQL["heads"], list(tenant_ids))
        return {row["tenant_id"]: (row["history_id"], row["position"]) for row in rows}


async def _place(transaction: Transaction, device: Device) -> Place:
    row = await transaction.fetch_one(_SQL["place"], device.tenant_id, device.device_id)
    if row is None:
        raise NotFound(
            "The tenant or the device is gone.", reason=ErrorReason.ERROR_REASON_TENANT_GONE
        )
    return Place(row["history_id"], row["position"], row["horizon"], row["store_id"])


def _named(names: Sequence[str], definitions: Sequence[Row]) -> list[Row]:
    known = {row["name"] for row in definitions}
    for name in names:
        if name not in known:
            raise InvalidRequest(
                "reload_collections",
                f"There is no collection {name!r}.",
                reason=ErrorReason.ERROR_REASON_COLLECTION_UNKNOWN,
            )
    return [row for row in definitions if row["name"] in names]


def _size_bytes(row: Row) -> int:
    return len(row["record_id"].encode()) + len((row["body"] or "").encode())


def _by_scope(rows: Iterable[Row]) -> dict[UUID, list[Row]]:
    scopes: dict[UUID, list[Row]] = {}
    for row in rows:
        scopes.setdefault(row["scope"], []).append(row)
    return scopes
