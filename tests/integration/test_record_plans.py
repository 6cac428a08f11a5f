"""The statements that publish records stay quick in a large catalogue, with and without statistics
of its tables: each finds rows by an index."""

from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from support.books import Books
from support.plans import plan_of, scanned, used
from tillsync_service.foundation.db import Database, Role, statements
from tillsync_service.sync.scopes import TENANT

RECORDS = 20_000
TENANTS = 10
SQL = statements("tillsync_service.sync")
PLAN_MODES = ("force_custom_plan", "force_generic_plan")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["analyzed", "fresh"])
async def catalogue(postgres, request):
    """(tenant, import, serving pool): one of ten tenants, about to publish an import. Fresh: the
    planner knows nothing of the tables."""
    name = await postgres.make_database()
    connection = await asyncpg.connect(postgres.admin_url(name))
    for table in ("record", "record_staging", "conflict", "record_digest"):
        await connection.execute(f"ALTER TABLE tillsync.{table} SET (autovacuum_enabled = off)")
    import_id = uuid4()
    for _ in range(TENANTS):
        tenant_id = await Books(connection).open_tenant()
        await connection.execute(
            "INSERT INTO tillsync.record (tenant_id, collection, scope, record_id, version, body,"
            " hash) SELECT $1::uuid, 'price', $2, 'k' || n, n, '{}', n"
            " FROM generate_series(1, $3::int) n",
            tenant_id,
            TENANT,
            RECORDS,
        )
        await connection.execute(
            "INSERT INTO tillsync.record_staging"
            " SELECT $1::uuid, $2::uuid, n, 'k' || n, '{}', n + n % 2"
            " FROM generate_series(1, $3::int) n",
            tenant_id,
            import_id,
            RECORDS // 10,
        )
        await connection.execute(
            "INSERT INTO tillsync.conflict SELECT $1::uuid, n, $1::uuid, 1, n, 'price', $2,"
            " 'k', 'put', 1, '{}', 2, '{}', CASE WHEN n % 50 = 0 THEN 'parked' ELSE 'lost' END, ''"
            " FROM generate_series(1, $3::int) n",
            tenant_id,
            TENANT,
            RECORDS // 10,
        )
    if request.param == "analyzed":
        await connection.execute("ANALYZE")
    database = await Database.connect(postgres.serving_url(name))
    yield tenant_id, import_id, database
    await database.close()
    await connection.close()
    await postgres.drop_database(name)


async def explained(catalogue, name: str, *arguments, mode: str) -> list[dict]:
    """The plan of a statement as the store gets it, behind row-level security."""
    tenant_id, _, database = catalogue
    async with database.transaction(
        tenant_id,
        role=Role.WORKER,
        then=f"SET LOCAL plan_cache_mode = {mode}; SET LOCAL enable_nestloop = off",
    ) as transaction:
        return await plan_of(transaction, SQL[name], tenant_id, *arguments)


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.asyncio(loop_scope="module")
async def test_publishing_finds_its_records_by_indexes(catalogue, mode, complete):
    """F36: a price list takes as long among a hundred retailers as it took alone."""
    _, import_id, _ = catalogue

    plan = await explained(catalogue, "publish", import_id, "price", TENANT, complete, mode=mode)

    assert {"record_pkey", "record_staging_pkey"} <= used(plan)
    assert not {"record", "record_staging"} & scanned(plan)


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.asyncio(loop_scope="module")
async def test_open_conflicts_are_found_among_many_that_are_decided(catalogue, mode):
    """F36: after years of edits, what waits for the operator is there at once."""
    plan = await explained(catalogue, "list_open_conflicts", 0, 101, mode=mode)

    assert used(plan) == {"conflict_open"}


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.asyncio(loop_scope="module")
async def test_one_record_is_found_by_its_key(catalogue, mode):
    """F36: a look at one product takes as long in a large catalogue as in a small one."""
    plan = await explained(catalogue, "record", "price", TENANT, "k7", mode=mode)

    assert used(plan) == {"record_pkey"}
