"""Writes records under the order rule: lock the record head, compare, write, commit."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Role, Transaction, statements
from tillsync_service.foundation.errors import NotFound
from tillsync_service.sync import scopes

_SQL = statements("tillsync_service.sync")

LOCK_HEAD = (
    "SELECT FROM tillsync.tenant_head WHERE tenant_id = '{tenant}' AND stream = 'record' FOR UPDATE"
)
# No nested loops where there is another way: what an import does not name is found by hashing, and
# without statistics the planner would compare each record with each (92,331 of them: 190 s).
_PUBLISHING = (
    f"SET LOCAL statement_timeout = {limits.PUBLISH_TIMEOUT_MS}; SET LOCAL enable_nestloop = off; "
    f"{LOCK_HEAD}"
)


# The hash of a record that was refused: an import of everything must not delete what it named.
REFUSED = -1


@dataclass(frozen=True, slots=True)
class Staged:
    """A record of an import. Without body and hash: it is deleted; with the hash REFUSED: it stays
    as it is."""

    record_id: str
    body: str | None
    hash: int | None


@dataclass(frozen=True, slots=True)
class Published:
    """What an import changed. `version`: the head's after it."""

    changed: int
    unchanged: int
    deleted: int
    version: int


class RecordStore:
    """Imports: staged without the lock, published by one statement under it. `changed` is called
    with the tenant after each commit that a device may want to hear of."""

    def __init__(
        self, database: Database, changed: Callable[[UUID], None] = lambda _tenant_id: None
    ) -> None:
        self._database = database
        self._changed = changed

    async def stage(
        self, tenant_id: UUID, import_id: UUID, first_number: int, records: Sequence[Staged]
    ) -> None:
        """Puts records beside, numbered from `first_number`, committed; nobody sees them yet."""
        ids = [record.record_id for record in records]
        bodies = [record.body for record in records]
        hashes = [None if record.hash is None else str(record.hash) for record in records]
        async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
            await transaction.execute(
                _SQL["stage"], tenant_id, import_id, first_number, ids, bodies, hashes
            )

    async def publish(
        self,
        tenant_id: UUID,
        import_id: UUID,
        collection: str,
        scope: UUID,
        *,
        complete: bool,
        refused: int = 0,
        actor: str = "",
    ) -> Published:
        """Makes what was staged the records of the collection in the scope, all at once,
        committed, and writes down that `actor` did, who had `refused` others refused. With
        `complete`, the rest of them is deleted. Raises NotFound."""
        lock = _PUBLISHING.format(tenant=tenant_id)
        async with self._database.transaction(
            tenant_id, role=Role.WORKER, then=lock
        ) as transaction:
            published = await publish_staged(
                transaction, tenant_id, import_id, collection, scope, complete=complete
            )
            detail = {
                "collection": collection,
                "store_id": scopes.to_wire(scope),
                "complete": complete,
                "refused": refused,
                **asdict(published),
            }
            await transaction.execute(
                _SQL["write_audit"], tenant_id, actor, "import_records", json.dumps(detail)
            )
        self._changed(tenant_id)
        return published

    async def discard(self, tenant_id: UUID, import_id: UUID) -> None:
        """Forgets what was staged."""
        async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
            await transaction.execute(_SQL["unstage"], tenant_id, import_id)


async def publish_staged(
    transaction: Transaction,
    tenant_id: UUID,
    import_id: UUID,
    collection: str,
    scope: UUID,
    *,
    complete: bool,
) -> Published:
    """Makes what was staged the records of the collection in the scope. The transaction is the
    worker's and holds the record head. Raises NotFound."""
    row = await transaction.fetch_one(
        _SQL["publish"],
        tenant_id,
        import_id,
        collection,
        scope,
        complete,
        timeout_seconds=limits.PUBLISH_TIMEOUT_MS / 1000,
    )
    if row is None:
        raise NotFound("There is no such tenant.")
    await transaction.execute(_SQL["unstage"], tenant_id, import_id)
    unchanged = row["named"] - row["changed"]
    return Published(row["changed"], unchanged, row["deleted"], row["version"])
