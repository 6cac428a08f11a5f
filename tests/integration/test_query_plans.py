"""The statements of ingest stay quick when the ledger has grown: each finds rows by an index."""

from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from support.books import Books
from support.plans import plan_of, scanned, used
from tillsync_service.foundation.db import Database, statements

ROWS = 200_000
NO_NUMBERS = ([], [], [])
SQL = statements("tillsync_service.ingest")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledger(postgres):
    """(tenant, device, serving pool) of a tenant with a long history, beside another one."""
    name = await postgres.make_database()
    connection = await asyncpg.connect(postgres.admin_url(name))
    books = Books(connection)
    device = await books.enrol()
    other = await books.enrol()
    for tenant_id in (device.tenant_id, other.tenant_id):
        await connection.execute(
            "INSERT INTO tillsync.event_key"
            " SELECT $1::uuid, 'k' || n, n, '\\x00' FROM generate_series(1, $2::int) n",
            tenant_id,
            ROWS // 2,
        )
        await connection.execute(
            "INSERT INTO tillsync.device_progress (tenant_id, device_id, outbox_epoch, sequences)"
            " SELECT $1::uuid, gen_random_uuid(), n, '{[1,100)}' FROM generate_series(1, 5000) n",
            tenant_id,
        )
    await connection.execute("ANALYZE")
    database = await Database.connect(postgres.serving_url(name))
    yield device.tenant_id, database
    await database.close()
    await connection.close()
    await postgres.drop_database(name)


async def explained(ledger, name: str, *arguments, mode: str) -> list[dict]:
    """The plan of a statement as the serving role gets it, behind row-level security."""
    tenant_id, database = ledger
    async with database.transaction(
        tenant_id, then=f"SET LOCAL plan_cache_mode = {mode}"
    ) as transaction:
        return await plan_of(transaction, SQL[name], tenant_id, *arguments)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("keys", [1, 1000])
@pytest.mark.asyncio(loop_scope="module")
async def test_taken_keys_are_found_by_the_primary_key(ledger, mode, keys):
    """F36: a sale takes as long in the tenth year as on the first day."""
    plan = await explained(
        ledger, "look", [f"k{number * 7}" for number in range(keys)], *NO_NUMBERS, mode=mode
    )

    assert "event_key_pkey" in used(plan)
    assert "event_key" not in scanned(plan)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_tills_numbers_are_found_by_the_primary_key(ledger, mode):
    """F36: with thousands of tills in a chain, one till's numbers are found as quickly."""
    plan = await explained(ledger, "look", [], [uuid4()], [1], ["{[1,2)}"], mode=mode)

    assert "device_progress_pkey" in used(plan)
    assert "device_progress" not in scanned(plan)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_plans_of_a_full_ledger_are_cheap(ledger):
    """F36: a thousand keys are a thousand short walks down the index, not one through it all."""
    plan = await explained(
        ledger, "look", [f"k{n}" for n in range(1000)], *NO_NUMBERS, mode="force_custom_plan"
    )

    assert plan[0]["Plan Rows"] <= 2000
    assert plan[0]["Total Cost"] < 10_000
