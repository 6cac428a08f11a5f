"""The statements of the feed stay quick in a long history: each finds rows by an index."""

import asyncpg
import pytest
import pytest_asyncio

from support.books import Books
from support.plans import plan_of, scanned, used
from tillsync_service.foundation.db import Database, Role, statements

ROWS = 50_000
SQL = statements("tillsync_service.feed")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history(postgres):
    """(tenant, serving pool) of a tenant with a long history, beside another one."""
    name = await postgres.make_database()
    connection = await asyncpg.connect(postgres.admin_url(name))
    books = Books(connection)
    tenants = [(await books.enrol()).tenant_id for _ in range(2)]
    for tenant_id in tenants:
        await connection.execute(
            "INSERT INTO tillsync.event (tenant_id, position, key, store_id, device_id,"
            " outbox_epoch, device_sequence, business_day, flags, type_url, body, amounts,"
            " traceparent) SELECT $1::uuid, n, 'k' || n, gen_random_uuid(), gen_random_uuid(),"
            " 1, n, '2026-11-22', 0, 't' || n % 50, '\\x00', '{}', ''"
            " FROM generate_series(1, $2::int) n",
            tenant_id,
            ROWS,
        )
    await connection.execute("ANALYZE")
    database = await Database.connect(postgres.serving_url(name))
    yield tenants[0], database
    await database.close()
    await connection.close()
    await postgres.drop_database(name)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("types", [None, ["t7"]])
@pytest.mark.parametrize("position", [0, 40_000])
@pytest.mark.asyncio(loop_scope="module")
async def test_f36_a_page_is_read_from_its_cursor_on(history, position, types, mode):
    """A page costs the same in the tenth year as on the first day: it is read from the
    cursor on, in order; what a rare filter lets through is of a bounded part, and may be sorted."""
    tenant_id, database = history
    arguments = (tenant_id, position, position + 20_000, 1000, 2**19, types, None, None, None)
    async with database.transaction(
        tenant_id, then=f"SET LOCAL plan_cache_mode = {mode}"
    ) as transaction:
        plan = await plan_of(transaction, SQL["page"], *arguments)

    assert "event_pkey" in used(plan)
    assert not scanned(plan)
    assert types or "Sort" not in {node["Node Type"] for node in plan}


@pytest.mark.asyncio(loop_scope="module")
async def test_the_poll_looks_at_the_heads_that_it_names(history):
    """However many retailers there are, the poll looks at those with live readers."""
    tenant_id, database = history
    async with database.transaction(
        None, role=Role.WORKER, then="SET LOCAL enable_seqscan = off"
    ) as transaction:
        plan = await plan_of(transaction, SQL["heads"], [tenant_id])

    assert used(plan) == {"tenant_head_pkey"}
