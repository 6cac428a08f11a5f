"""Writes records under the order rule: lock the record head, compare, write, commit."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Role, statements
from tillsync_service.foundation.errors import NotFound

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


@dataclass(frozen=True, slots=True)
class Staged:
    """A record of an import. Without body and hash: it is deleted."""

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
    """Imports: staged without the lock, published by one statement under it."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        self, tenant_id: UUID, import_id: UUID, collection: str, scope: UUID, *, complete: bool
    ) -> Published:
        """Makes what was staged the records of the collection in the scope, all at once,
        committed. With `complete`, the rest of them is deleted. Raises NotFound."""
        lock = _PUBLISHING.format(tenant=tenant_id)
        async with self._database.transaction(
            tenant_id, role=Role.WORKER, then=lock
        ) as transaction:
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
        return Published(
            row["changed"], row["named"] - row["changed"], row["deleted"], row["version"]
        )

    async def discard(self, tenant_id: UUID, import_id: UUID) -> None:
        """Forgets what was staged."""
        async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
            await transaction.execute(_SQL["unstage"], tenant_id, import_id)
