"""The statements of the books stay quick in a long history, with and without statistics of its
tables: each finds a till's rows by an index."""

from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from support.books import Books
from support.plans import plan_of, scanned, used
from tillsync_service.foundation.db import Database, statements

TENANTS = 4
TILLS = 20
DAY = "2026-11-22"
SQL = {
    **statements("tillsync_service.books"),
    **statements("tillsync_service.books", "operator_queries.sql"),
    "used": statements("tillsync_service.ingest")["used"],
}
PLAN_MODES = ("force_custom_plan", "force_generic_plan")

# What fills each table of a tenant, $1, whose tills have the ids $2.
_TILLS = "FROM unnest($2::uuid[]) till, generate_series"
FILLED = (
    "event_key SELECT $1::uuid, 'k' || n, n, '\\x00' FROM generate_series(1, 20000) n",
    """event (
        tenant_id, position, key, store_id, device_id, outbox_epoch, device_sequence, business_day,
        flags, type_url, body, amounts, traceparent
    )
    SELECT $1::uuid, n, 'k' || n, $1, ($2::uuid[])[1 + n % 20], 7, n, '2026-11-22', 0, '', '', '{}',
        ''
    FROM generate_series(1, 20000) n""",
    f"rejection SELECT $1::uuid, till, 7, n, '', '' {_TILLS}(1, 100) n",
    f"device_progress SELECT $1::uuid, till, n, '{{[1,100)}}' {_TILLS}(1, 50) n",
    f"outbox_claim SELECT $1::uuid, till, n, 9 {_TILLS}(1, 50) n",
    f"device_day SELECT $1::uuid, till, date '2026-01-01' + n, 'USD', 1, 1, 1 {_TILLS}(1, 300) n",
    f"day_claim SELECT $1::uuid, till, date '2026-01-01' + n, 'USD', 1, 1, 2 {_TILLS}(1, 300) n",
    f"day_close SELECT $1::uuid, till, date '2026-01-01' + n, 1, 1, 1 {_TILLS}(1, 300) n",
    f"""audit (tenant_id, audit_id, actor, action, detail)
    SELECT $1::uuid, gen_random_uuid(), '', '', '{{}}' {_TILLS}(1, 50) n""",
    f"waiver SELECT $1::uuid, gen_random_uuid(), till, n, '[1,2)', NULL, '', '' {_TILLS}(1, 50) n",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["analyzed", "fresh"])
async def history(postgres, request):
    """(a till's device, serving pool) of one of several tenants. Fresh: the planner knows nothing
    of the tables."""
    name = await postgres.make_database()
    connection = await asyncpg.connect(postgres.admin_url(name))
    for statement in FILLED:
        table = statement.split(" ")[0]
        await connection.execute(f"ALTER TABLE tillsync.{table} SET (autovacuum_enabled = off)")
    for _ in range(TENANTS):
        device = await Books(connection).enrol()
        tills = [device.device_id, *(uuid4() for _ in range(TILLS - 1))]
        for statement in FILLED:
            arguments = (device.tenant_id, tills)[: 1 + ("$2" in statement)]
            await connection.execute(f"INSERT INTO tillsync.{statement}", *arguments)
    if request.param == "analyzed":
        await connection.execute("ANALYZE")
    database = await Database.connect(postgres.serving_url(name))
    yield device, database
    await database.close()
    await connection.close()
    await postgres.drop_database(name)


def about(device):
    """By statement: its arguments, and the indexes that serve it."""
    ids, tills = (device.tenant_id, device.device_id), (device.tenant_id, [device.device_id])
    one = ([7], [1], [100])
    return {
        "holes": (
            (*ids, [7], [100], 1001),
            {"device_progress_pkey", "outbox_claim_pkey", "waiver_by_device"},
        ),
        "days": ((*ids, [DAY], 101), {"device_day_pkey", "day_close_pkey"}),
        "span_sums": ((*ids, *one), {"event_by_number", "event_key_pkey"}),
        "dispositions": (
            (*ids, *one, [], [], 128, 1000, [True]),
            {"rejection_pkey", "device_progress_pkey", "event_by_number"},
        ),
        "used": ((*tills, [7], [1]), {"event_by_number"}),
        "heard_of": (tills, {"device_progress_pkey", "outbox_claim_pkey", "day_claim_pkey"}),
        "holes_of": (
            (*tills, 100),
            {"device_progress_pkey", "outbox_claim_pkey", "waiver_by_device"},
        ),
        "differences_of": (
            (*tills, DAY, 100),
            {"day_claim_pkey", "device_day_pkey", "device_progress_pkey", "waiver_by_device"},
        ),
        "counted": ((*ids, 7), {"outbox_claim_pkey", "device_progress_pkey"}),
        "forks_of": (tills, {"audit_pkey"}),
        "waivers_of": (tills, {"waiver_by_device"}),
        "day_of_store": (
            (device.tenant_id, device.store_id, DAY, 101),
            {"device_day_pkey", "day_close_pkey", "day_claim_pkey", "waiver_by_device"},
        ),
    }


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_books_find_a_tills_rows_by_indexes(history, mode):
    """F36: whether anything is missing is known as quickly in the tenth year as on the first
    day, for a till and for the operator."""
    device, database = history
    filled = {statement.split(" ")[0] for statement in FILLED}
    for name, (arguments, indexes) in about(device).items():
        async with database.transaction(
            device.tenant_id, then=f"SET LOCAL plan_cache_mode = {mode}"
        ) as transaction:
            plan = await plan_of(transaction, SQL[name], *arguments)

        assert indexes <= used(plan), (name, indexes - used(plan))
        assert not scanned(plan) & filled, name
        # The tenant alone would find by the same indexes, and read all that is the tenant's.
        wide = [
            node["Index Cond"]
            for node in plan
            if node.get("Index Name", "").startswith(tuple(filled))
            and "device_id" not in node["Index Cond"]
            and "key = " not in node["Index Cond"]
            and "audit_id = " not in node["Index Cond"]
        ]
        assert wide == [], name
