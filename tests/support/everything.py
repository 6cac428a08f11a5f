"""One row in each table of sync, books and feed, for tests that ask about every table."""

from uuid import UUID

from tillsync_service.foundation.db import Database

_ROWS = (
    "collection VALUES ($1, 'price', 'server_wins', '{barcode}', 10, 1)",
    "record VALUES ($1, 'price', $2, '4711', 2, '{}', 1)",
    "record_digest VALUES ($1, 'price', $2, 1, 1)",
    "record_staging VALUES ($1, $2, 1, '4711', '{}', 1)",
    "mutation VALUES ($1, $2, 1, 1, '\\x00', 'lost', 3, '', '', '')",
    "mutation_progress VALUES ($1, $2, 1, 1, 3)",
    "conflict VALUES ($1, 3, $2, 1, 1, 'price', $2, '4711', 'put', 1, '{}', 2, '{}', 'lost', '')",
    "outbox_claim VALUES ($1, $2, 1, 1)",
    "day_claim VALUES ($1, $2, '2026-11-22', 'EUR', 1, 1, 1)",
    "day_close VALUES ($1, $2, '2026-11-22', 1, 1, 1)",
    "waiver VALUES ($1, gen_random_uuid(), $2, 1, '[1,2)', NULL, 'torn', 'op')",
    "audit VALUES ($1, $2, now(), 'op', 'waive', '{}')",
    "feed_consumer VALUES ($1, 'erp', 1, $2)",
)


async def fill(database: Database, tenant_id: UUID, some_id: UUID) -> None:
    """`some_id` stands for whatever a row needs an id of."""
    async with database.transaction(tenant_id) as transaction:
        for row in _ROWS:
            arguments = (tenant_id, some_id)[: 1 + ("$2" in row)]
            await transaction.execute(f"INSERT INTO tillsync.{row}", *arguments)
