"""What operators see and decide of records: collections, one record, conflicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Row, Transaction, statements
from tillsync_service.foundation.errors import InvalidRequest, NotFound, StateForbids
from tillsync_service.sync.edit_store import known_records, write_records
from tillsync_service.sync.edits import Known, NotApplicable, applied

_SQL = statements("tillsync_service.sync")


@dataclass(frozen=True, slots=True)
class Definition:
    """A collection as it shall be."""

    name: str
    policy: str
    lookup_keys: Sequence[str]
    load_order: int


class OperatorStore:
    """Acts on one tenant at a time, and returns rows with the columns of their tables. What
    belongs to another tenant is NotFound, as if it did not exist. `changed` is called with the
    tenant after each commit that a device may want to hear of."""

    def __init__(
        self, database: Database, changed: Callable[[UUID], None] = lambda _tenant_id: None
    ) -> None:
        self._database = database
        self._changed = changed

    async def define_collection(self, tenant_id: UUID, wanted: Definition) -> Row:
        """The collection as it is now, committed. A change of it is a version of the records'
        head. Raises NotFound, StateForbids when there are too many."""
        async with self._database.transaction(tenant_id) as transaction:
            await _lock_head(transaction, tenant_id)
            rows = await _all(transaction, "definitions", tenant_id)
            if len({row["name"] for row in rows} | {wanted.name}) > limits.MAX_COLLECTIONS:
                raise StateForbids(f"A tenant has at most {limits.MAX_COLLECTIONS} collections.")
            await transaction.execute(
                _SQL["define_collection"],
                tenant_id,
                wanted.name,
                wanted.policy,
                wanted.lookup_keys,
                wanted.load_order,
            )
            rows = await _all(transaction, "definitions", tenant_id)
        self._changed(tenant_id)
        return next(row for row in rows if row["name"] == wanted.name)

    async def list_collections(self, tenant_id: UUID) -> tuple[list[Row], list[Row]]:
        """All collections by name, and the digests of their parts that are not empty. Raises
        NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            await _must_exist(transaction, tenant_id)
            return (
                await _all(transaction, "definitions", tenant_id),
                await _all(transaction, "list_digests", tenant_id),
            )

    async def list_conflicts(
        self, tenant_id: UUID, *, after: int, limit: int, open_only: bool
    ) -> list[Row]:
        """The first conflicts after `after`, by id. Raises NotFound."""
        statement = "list_open_conflicts" if open_only else "list_conflicts"
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            await _must_exist(transaction, tenant_id)
            return await _all(transaction, statement, tenant_id, after, limit)

    async def conflict(self, tenant_id: UUID, conflict_id: int) -> tuple[Row, Row | None]:
        """A conflict, and its record as it is now. Raises NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            return await _conflict(transaction, tenant_id, conflict_id)

    async def resolve(self, tenant_id: UUID, conflict_id: int, choice: str, actor: str) -> Row:
        """The conflict, decided, committed: "apply" makes a version of its record, as an edit of
        nobody's; "keep" changes nothing. Raises NotFound, StateForbids for one that is not open, or
        whose edit cannot be applied any more."""
        async with self._database.transaction(tenant_id) as transaction:
            head = await _lock_head(transaction, tenant_id)
            row, _ = await _conflict(transaction, tenant_id, conflict_id)
            if row["outcome"] != "parked":
                raise StateForbids(
                    f"This edit has {row['outcome']}: only a parked one waits for a decision."
                )
            if row["choice"] is not None:
                raise StateForbids("This conflict is decided already.")
            version = 0
            if choice == "apply" and await _apply(transaction, tenant_id, row, head + 1):
                version = head + 1
            (decided,) = await _all(
                transaction, "decide_conflict", tenant_id, conflict_id, choice, actor, version
            )
        if version:
            self._changed(tenant_id)
        return decided

    async def must_know(self, tenant_id: UUID, collection: str, scope: UUID) -> None:
        """Raises NotFound for the tenant and the store, InvalidRequest with COLLECTION_UNKNOWN."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            await _must_know(transaction, tenant_id, collection, scope)

    async def record(self, tenant_id: UUID, collection: str, scope: UUID, record_id: str) -> Row:
        """One record as it is now. Raises as `must_know` does, and NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            await _must_know(transaction, tenant_id, collection, scope)
            row = await transaction.fetch_one(
                _SQL["record"], tenant_id, collection, scope, record_id
            )
        if row is None:
            raise NotFound("There is no such record.")
        return row


async def _all(transaction: Transaction, statement: str, *arguments: object) -> list[Row]:
    return await transaction.fetch(_SQL[statement], *arguments)


async def _conflict(
    transaction: Transaction, tenant_id: UUID, conflict_id: int
) -> tuple[Row, Row | None]:
    row = await transaction.fetch_one(_SQL["conflict"], tenant_id, conflict_id)
    if row is None:
        raise NotFound("There is no such conflict.")
    place = (row["collection"], row["scope"], row["record_id"])
    return row, await transaction.fetch_one(_SQL["record"], tenant_id, *place)


async def _apply(transaction: Transaction, tenant_id: UUID, conflict: Row, version: int) -> bool:
    """Whether the parked edit made this version of its record as it is now. Raises StateForbids."""
    key = (conflict["collection"], conflict["scope"], conflict["record_id"])
    known = await known_records(transaction, tenant_id, [key])
    present = known[key].body if key in known else None
    try:
        body = applied(conflict["kind"], conflict["edit_body"], present, key[2])
    except NotApplicable as refusal:
        raise StateForbids(f"The edit cannot be applied now: {refusal}") from None
    if body == present:
        return False
    await write_records(transaction, tenant_id, {key: Known(version, body)}, known)
    await transaction.execute(_SQL["advance_head"], tenant_id, version)
    return True


async def _lock_head(transaction: Transaction, tenant_id: UUID) -> int:
    """Where the records stand. Raises NotFound."""
    row = await transaction.fetch_one(_SQL["lock_head"], tenant_id)
    if row is None:
        raise NotFound("There is no such tenant.")
    position: int = row["position"]
    return position


async def _must_exist(transaction: Transaction, tenant_id: UUID) -> None:
    if await transaction.fetch_one(_SQL["head"], tenant_id) is None:
        raise NotFound("There is no such tenant.")


async def _must_know(
    transaction: Transaction, tenant_id: UUID, collection: str, scope: UUID
) -> None:
    (known,) = await _all(transaction, "known", tenant_id, collection, scope)
    for thing in ("tenant", "store"):
        if not known[thing]:
            raise NotFound(f"There is no such {thing}.")
    if not known["collection"]:
        raise collection_unknown("collection", collection)


def collection_unknown(field: str, name: str) -> InvalidRequest:
    return InvalidRequest(
        field,
        f"There is no collection {name[: limits.MAX_COLLECTION_CHARACTERS]!r}.",
        reason=ErrorReason.ERROR_REASON_COLLECTION_UNKNOWN,
    )
