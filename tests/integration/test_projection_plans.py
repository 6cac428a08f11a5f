"""The statements of the projections stay quick among many sales, with and without statistics of
their tables: each finds rows by an index."""

from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from support.books import Books
from support.plans import plan_of, scanned, used
from tillsync_service.foundation.db import Database, Role, statements
from tillsync_service.projections.writing import BY_INDEX

TENANTS = 5
SALES = 4_000
SQL = statements("tillsync_service.projections")
OPERATORS = statements("tillsync_service.projections", "operator_queries.sql")
MODES = ("force_custom_plan", "force_generic_plan")
ANY = (0, 2**63 - 1, "", "", None)
# Statement, its arguments after the tenant, the indexes that it must use, and no table read whole.
FOUND_BY_INDEX = {
    "events": ((10, 4_000, 500, 10**6), {"event_pkey", "dead_letter_waiting_or_pkey"}),
    "events_at": (([1, 2, 3],), {"event_pkey"}),
    "count": ((list(range(1, 200)), 1), {"sale_pkey", "sale_line_pkey", "movement_pkey"}),
    "targets": (
        ([f"k{n}" for n in range(100)],),
        {"event_key_pkey", "sale_pkey", "movement_pkey"},
    ),
    "mark_sales": (([1, 2, 3], [4, 5, 6]), {"sale_pkey"}),
    "mark_movements": (([1, 2, 3], [4, 5, 6]), {"movement_pkey"}),
    "voided_between": ((10, 500), {"sale_voided", "movement_voided"}),
    "documents_between": ((10, 500), {"sale_pkey", "movement_pkey"}),
    "remove_between": (
        (10, 500),
        {"sale_pkey", "sale_line_pkey", "tender_pkey", "movement_pkey"},
    ),
    "beyond": ((4_000, 500), {"sale_pkey", "movement_pkey", "dead_letter_pkey"}),
    "start_rebuild": (("op",), {"event_pkey"}),
    "raise": (([1, 2, 3],), {"dead_letter_waiting_or_pkey"}),
}
_FILL = """
INSERT INTO tillsync.event_key
    SELECT $1::uuid, 'k' || n, n, ''
    FROM generate_series(1, $2) n;
INSERT INTO tillsync.event (tenant_id, position, key, store_id, device_id, outbox_epoch,
    device_sequence, business_day, flags, type_url, body, amounts, traceparent)
    SELECT $1::uuid, n, 'k' || n, $1::uuid, $1::uuid, 1, n, '2026-11-22', 0, 't', 'b', '{}', ''
    FROM generate_series(1, $2) n;
INSERT INTO tillsync.sale
    SELECT $1::uuid, n, 'sale', 'k' || n, $1::uuid, $1::uuid, '2026-11-22', NULL, 'EUR', 1, 0, 0,
        '', '', '', '', '', NULLIF(n % 50, 0)
    FROM generate_series(1, $2) n;
INSERT INTO tillsync.sale_line
    SELECT $1::uuid, n, l, '4711', 1, '', 1, 0, 1 FROM generate_series(1, $2) n,
        generate_series(1, 3) l;
INSERT INTO tillsync.tender
    SELECT $1::uuid, n, 1, 'cash', 1, ''
    FROM generate_series(1, $2) n;
INSERT INTO tillsync.movement
    SELECT $1::uuid, n, 1, 'cash', 'k', $1::uuid, $1::uuid, '2026-11-22', NULL, '', '', 0, 'EUR',
        1, '', '', NULLIF(n % 50, 0)
    FROM generate_series(1, $2) n;
INSERT INTO tillsync.dead_letter (tenant_id, position, key, store_id, device_id, type_url, reason,
    field, description, state, discarded_by, discarded_because, discarded_at)
    SELECT $1::uuid, n, 'k' || n, $1::uuid, $1::uuid, 't', 'TOTAL_WRONG', '', '', 'discarded',
        'op', 'why', now()
    FROM generate_series(1, $2) n;
UPDATE tillsync.dead_letter SET state = 'waiting', discarded_by = NULL, discarded_because = NULL,
    discarded_at = NULL WHERE tenant_id = $1::uuid AND $2 > 0 AND position % 500 = 0;
INSERT INTO tillsync.projection (tenant_id, name, history_id)
    SELECT $1::uuid, 'retail', $1::uuid
    WHERE $2 > 0
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["analyzed", "fresh"])
async def shops(postgres, request):
    """(tenant, serving pool): one of five tenants. Fresh: the planner knows nothing yet."""
    name = await postgres.make_database()
    connection = await asyncpg.connect(postgres.admin_url(name))
    for table in ("sale", "sale_line", "tender", "movement", "event", "event_key", "dead_letter"):
        await connection.execute(f"ALTER TABLE tillsync.{table} SET (autovacuum_enabled = off)")
    tenant_id = uuid4()
    for _ in range(TENANTS):
        tenant_id = await Books(connection).open_tenant()
        for statement in _FILL.split(";"):
            await connection.execute(statement.replace("$2", str(SALES)), tenant_id)
    if request.param == "analyzed":
        await connection.execute("ANALYZE")
    database = await Database.connect(postgres.serving_url(name))
    yield tenant_id, database
    await database.close()
    await connection.close()
    await postgres.drop_database(name)


async def explained(shops: tuple[UUID, Database], statement: str, *arguments, mode: str):
    """The plan of a statement as the worker gets it, behind row-level security."""
    tenant_id, database = shops
    setting = f"{BY_INDEX}; SET LOCAL plan_cache_mode = {mode}"
    async with database.transaction(tenant_id, role=Role.WORKER, then=setting) as transaction:
        return await plan_of(transaction, statement, tenant_id, *arguments)


def either(indexes: set[str]) -> set[str]:
    """Of the dead letters' two indexes either is quick."""
    names = {"dead_letter_waiting", "dead_letter_pkey"}
    return {"dead_letter_waiting_or_pkey" if name in names else name for name in indexes}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FOUND_BY_INDEX)
@pytest.mark.asyncio(loop_scope="module")
async def test_rows_are_found_by_indexes(shops, name, mode):
    """F36: a sale is in the tables as fast in the tenth year as on the first day."""
    arguments, indexes = FOUND_BY_INDEX[name]

    plan = await explained(shops, SQL[name], *arguments, mode=mode)

    assert either(indexes) <= either(used(plan))
    # One row a tenant: they are read by whatever is cheapest.
    assert scanned(plan) <= {"projection", "tenant_head"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.asyncio(loop_scope="module")
async def test_what_waits_is_found_among_what_was_discarded(shops, mode):
    """F36: after years of discarding, what waits is there at once."""
    bounds = (100, 10**6)
    plan = await explained(shops, OPERATORS["replayed"], 0, *ANY, *bounds, mode=mode)

    assert {"dead_letter_waiting", "event_pkey"} <= used(plan)
    assert scanned(plan) == set()
