"""One row in each table that no ordinary sale fills, for tests that ask about every table."""

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
    "projection VALUES ($1, 'retail', 1, $2)",
    "sale VALUES ($1, 1, 'sale', 'k', $2, $2, '-infinity', NULL, 'X', 1, 0, 0, '', '', '', '', '')",
    "sale_line VALUES ($1, 1, 1, '4711', 1, '', 1, 0, 1)",
    "tender VALUES ($1, 1, 1, 'cash', 1, '')",
    "movement VALUES ($1, 2, 1, 'cash', 'k', $2, $2, '-infinity', NULL, '', '', 0, 'X', 1, '', '')",
    "stock_level VALUES ($1, $2, '4711', 1)",
    "day_total VALUES ($1, $2, '2026-11-22', 'EUR', 1, 1, 0, 0, 0, 1, 0)",
    "dead_letter VALUES ($1, 3, 'k3', $2, $2, 'x', 'BODY_UNREADABLE', 'body', '')",
)


async def fill(database: Database, tenant_id: UUID, some_id: UUID) -> None:
    """`some_id` stands for whatever a row needs an id of."""
    async with database.transaction(tenant_id) as transaction:
        for row in _ROWS:
            arguments = (tenant_id, some_id)[: 1 + ("$2" in row)]
            await transaction.execute(f"INSERT INTO tillsync.{row}", *arguments)
