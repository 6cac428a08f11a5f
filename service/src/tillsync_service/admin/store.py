"""What operators keep in order: tenants, their stores, codes and devices."""

from collections.abc import Callable
from uuid import UUID, uuid4

from tillsync_service.foundation.db import Database, DataRefused, Role, Row, Transaction, statements
from tillsync_service.foundation.errors import AlreadyExists, NotFound, StateForbids
from tillsync_service.foundation.pages import Asked, Page, page

_SQL = statements("tillsync_service.admin")

# Everything that a tenant has, in the order in which it is removed: what refers to something goes
# before it. The first keeps new events out; the big ones go in chunks, the others in one
# transaction with the tenant itself.
REMOVED_FIRST = "tenant_head"
# (projection is the first of them: it waits for who is projecting, and nobody begins after that.)
REMOVED_IN_CHUNKS = (
    "projection",
    "sale",
    "sale_line",
    "tender",
    "movement",
    "stock_level",
    "dead_letter",
    "event",
    "event_key",
    "record",
)
REMOVED_AT_LAST = (
    "day_total",
    "record_digest",
    "record_staging",
    "collection",
    "mutation",
    "mutation_progress",
    "conflict",
    "outbox_claim",
    "day_claim",
    "day_close",
    "waiver",
    "audit",
    "feed_consumer",
    "quarantine",
    "rejection",
    "device_progress",
    "device_day",
    "enrolment_code",
    "device_secret",
    "device",
    "store",
    "tenant",
)
REMOVE_CHUNK_ROWS = 10_000


class AdminStore:
    """Acts on one tenant at a time, and returns rows with the columns of their tables. What
    belongs to another tenant is NotFound, as if it did not exist. `moved` is called with the tenant
    when a device has come into another store."""

    def __init__(
        self,
        database: Database,
        *,
        new_id: Callable[[], UUID] = uuid4,
        moved: Callable[[UUID], None] = lambda _tenant_id: None,
    ) -> None:
        self._database = database
        self._moved = moved
        self._new_id = new_id

    async def create_tenant(self, tenant_id: UUID | None, name: str, *, disposable: bool) -> Row:
        """A new tenant, committed. Raises AlreadyExists for a `tenant_id` that is taken."""
        tenant_id = tenant_id or self._new_id()
        try:
            async with self._database.transaction(tenant_id) as transaction:
                return await _the_row(transaction, "create_tenant", tenant_id, name, disposable)
        except DataRefused as error:
            if error.constraint == "tenant_pkey":
                raise AlreadyExists("There is a tenant with this tenant_id.") from error
            raise

    async def list_tenants(self, asked: Asked) -> Page:
        """A page of all tenants."""
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(_SQL["list_tenants"], asked.after, asked.rows_to_read)
        return page(asked, rows, "tenant_id")

    async def delete_tenant(self, tenant_id: UUID) -> int:
        """Removes a disposable tenant with everything in it and returns how many events went.
        Ended half-way, the tenant is there still, takes no more events, and a repeat goes on.

        Raises NotFound, StateForbids for a tenant that is not disposable."""
        async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
            await _lock_disposable(transaction, tenant_id)
            await _remove(transaction, REMOVED_FIRST, tenant_id)
        removed = {table: await self._remove_big(table, tenant_id) for table in REMOVED_IN_CHUNKS}
        async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
            await _lock_disposable(transaction, tenant_id)
            for table in REMOVED_AT_LAST:
                await _remove(transaction, table, tenant_id)
        return removed["event"]

    async def create_store(self, tenant_id: UUID, code: str, name: str) -> Row:
        """A new store, committed. Raises AlreadyExists for a code that is taken, NotFound."""
        store_id = self._new_id()
        try:
            async with self._database.transaction(tenant_id) as transaction:
                return await _the_row(transaction, "create_store", tenant_id, store_id, code, name)
        except DataRefused as error:
            if error.constraint == "store_tenant_id_code_key":
                raise AlreadyExists(f"The tenant has a store with the code {code!r}.") from error
            if error.constraint == "store_tenant_id_fkey":
                raise _not_found("tenant") from error
            raise

    async def list_stores(self, tenant_id: UUID, asked: Asked) -> Page:
        """A page of the tenant's stores. Raises NotFound."""
        async with self._database.transaction(tenant_id) as transaction:
            await _must_exist(transaction, "tenant", tenant_id)
            rows = await transaction.fetch(
                _SQL["list_stores"], tenant_id, asked.after, asked.rows_to_read
            )
        return page(asked, rows, "store_id")

    async def create_code(
        self, tenant_id: UUID, store_id: UUID, code_hash: bytes, valid_seconds: float
    ) -> Row:
        """An enrolment code, committed: when it ends. Raises NotFound."""
        async with self._database.transaction(tenant_id) as transaction:
            await _must_exist(transaction, "store", tenant_id, store_id)
            return await _the_row(
                transaction, "create_code", tenant_id, code_hash, store_id, valid_seconds
            )

    async def list_devices(self, tenant_id: UUID, store_id: UUID | None, asked: Asked) -> Page:
        """A page of the tenant's devices, or of one store's. Raises NotFound."""
        arguments = (tenant_id, asked.after, asked.rows_to_read)
        async with self._database.transaction(tenant_id) as transaction:
            if store_id is None:
                await _must_exist(transaction, "tenant", tenant_id)
                rows = await transaction.fetch(_SQL["list_devices"], *arguments)
            else:
                await _must_exist(transaction, "store", tenant_id, store_id)
                rows = await transaction.fetch(_SQL["list_devices_of_store"], *arguments, store_id)
        return page(asked, rows, "device_id")

    async def revoke_device(self, tenant_id: UUID, device_id: UUID) -> Row:
        """The device, revoked, committed. Raises NotFound."""
        async with self._database.transaction(tenant_id) as transaction:
            row = await transaction.fetch_one(_SQL["revoke_device"], tenant_id, device_id)
        if row is None:
            raise _not_found("device")
        return row

    async def clear_suspicion(self, tenant_id: UUID, device_id: UUID) -> Row:
        """The device, no longer suspect, committed. The first of its known secrets to be presented
        from now on is taken for the honest one's. Raises NotFound."""
        async with self._database.transaction(tenant_id) as transaction:
            if await transaction.fetch_one(_SQL["clear_suspicion"], tenant_id, device_id):
                await transaction.execute(_SQL["retire_secrets"], tenant_id, device_id)
            row = await transaction.fetch_one(_SQL["find_device"], tenant_id, device_id)
        if row is None:
            raise _not_found("device")
        return row

    async def move_device(self, tenant_id: UUID, device_id: UUID, store_id: UUID) -> Row:
        """The device in its store, committed. Its move is a version of the records' head, so that
        its live stream hears of it. Raises NotFound."""
        async with self._database.transaction(tenant_id) as transaction:
            await _must_exist(transaction, "store", tenant_id, store_id)
            await transaction.execute(_SQL["lock_record_head"], tenant_id)
            await transaction.execute(_SQL["move_device"], tenant_id, device_id, store_id)
            row = await transaction.fetch_one(_SQL["find_device"], tenant_id, device_id)
        if row is None:
            raise _not_found("device")
        self._moved(tenant_id)
        return row

    async def list_quarantine(
        self, tenant_id: UUID, store_id: UUID | None, after: tuple[str, bytes], limit: int
    ) -> list[Row]:
        """The first events in quarantine after a key and digest, or a store's. Raises NotFound."""
        async with self._database.transaction(tenant_id) as transaction:
            if store_id is None:
                await _must_exist(transaction, "tenant", tenant_id)
            else:
                await _must_exist(transaction, "store", tenant_id, store_id)
            return await transaction.fetch(
                _SQL["list_quarantine"], tenant_id, *after, limit, store_id
            )

    async def quarantined(
        self, tenant_id: UUID, key: str, digest: bytes | None
    ) -> tuple[Row, Row | None]:
        """An event in quarantine, and the one that holds its key; None: it is not there, as after
        a restore. Raises NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            row = await transaction.fetch_one(_SQL["quarantined"], tenant_id, key, digest)
            if row is None:
                raise _not_found("event in quarantine")
            held = await transaction.fetch_one(_SQL["held_event"], tenant_id, row["held_position"])
        return row, held

    async def _remove_big(self, table: str, tenant_id: UUID) -> int:
        removed = 0
        while True:
            async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
                chunk = await _remove(transaction, table, tenant_id, REMOVE_CHUNK_ROWS)
            removed += chunk
            if chunk < REMOVE_CHUNK_ROWS:
                return removed


async def _the_row(transaction: Transaction, statement: str, *arguments: object) -> Row:
    """The one row that the statement returns whenever it does not fail."""
    (row,) = await transaction.fetch(_SQL[statement], *arguments)
    return row


async def _must_exist(transaction: Transaction, thing: str, *ids: UUID) -> None:
    if await transaction.fetch_one(_SQL[f"find_{thing}"], *ids) is None:
        raise _not_found(thing)


async def _lock_disposable(transaction: Transaction, tenant_id: UUID) -> None:
    row = await transaction.fetch_one(_SQL["lock_tenant"], tenant_id)
    if row is None:
        raise _not_found("tenant")
    if not row["disposable"]:
        raise StateForbids("This tenant was not created as disposable: its sales are kept.")


async def _remove(transaction: Transaction, table: str, *arguments: object) -> int:
    """How many rows went."""
    status = await transaction.execute(_SQL[f"remove_{table}"], *arguments)
    return int(status.removeprefix("DELETE "))


def _not_found(thing: str) -> NotFound:
    return NotFound(f"There is no such {thing}.")
