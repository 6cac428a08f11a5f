"""A process that projects is killed in the middle of its transaction."""

import asyncio
import signal
import subprocess
import sys

import pytest

from support.polling import eventually
from support.projections import Tables, a_sale, a_worker, ingest, recording, unreadable

WORKER = """
import asyncio, sys
from tillsync_service.foundation.db import Database
from tillsync_service.projections.store import ProjectionStore
from tillsync_service.projections.worker import Worker

async def main():
    await Worker(ProjectionStore(await Database.connect(sys.argv[1])), 1).run()

asyncio.run(main())
"""
GATE = 20_261_123
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses SIGKILL")


@pytest.fixture
def tables(migrator, device):
    return Tables(migrator, device.tenant_id)


async def build_gate(migrator):
    """Whoever is about to move a cursor, all rows being written, waits while the gate is closed."""
    await migrator.execute(
        f"""
        CREATE FUNCTION public.pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock_shared({GATE});
            RETURN NEW;
        END $$;
        CREATE TRIGGER gate BEFORE UPDATE ON tillsync.projection
        FOR EACH ROW EXECUTE FUNCTION public.pass_gate();
        """
    )


async def one_waits(migrator):
    return await migrator.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )


async def nobody_is_inside(migrator):
    """Postgres has noticed, and rolled back."""
    return not await migrator.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND state <> 'idle'"
    )


@pytest.mark.parametrize("times", [1, 3])
async def test_f35_a_killed_worker_leaves_nothing_half(
    database, database_url, device, tables, migrator, times
):
    """The machine dies after the rows were written and before the cursor was: none of the rows is
    there, and the next worker writes all of them, once."""
    await build_gate(migrator)
    await ingest(
        database,
        device,
        *(recording(f"{n}", a_sale()) for n in range(20)),
        recording("p", unreadable()),
    )
    for _ in range(times):
        await migrator.execute(f"SELECT pg_advisory_lock({GATE})")
        process = subprocess.Popen([sys.executable, "-c", WORKER, database_url])  # noqa: ASYNC220
        await eventually(lambda: one_waits(migrator), within_seconds=30)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        await migrator.execute(f"SELECT pg_advisory_unlock({GATE})")
        await eventually(lambda: nobody_is_inside(migrator))

        for table in ("sale", "sale_line", "tender", "stock_level", "day_total", "dead_letter"):
            assert await tables.rows(table) == [], table

    worker = asyncio.create_task(a_worker(database).run())
    try:
        await eventually(lambda: at(tables, 21), within_seconds=20)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    assert len(await tables.rows("sale")) == 20
    assert list(await tables.dead()) == [21]
    await tables.must_add_up()


async def at(tables, position):
    rows = await tables.rows("projection")
    return bool(rows) and rows[0]["position"] == position


async def test_f35_a_cancelled_worker_leaves_nothing_half(database, device, tables, migrator):
    """The service stops in the middle of a page: the page is as if it had not begun."""
    await build_gate(migrator)
    await ingest(database, device, *(recording(f"{n}", a_sale()) for n in range(20)))
    await migrator.execute(f"SELECT pg_advisory_lock({GATE})")
    worker = asyncio.create_task(a_worker(database).run())
    await eventually(lambda: one_waits(migrator), within_seconds=20)

    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    await migrator.execute(f"SELECT pg_advisory_unlock({GATE})")
    await eventually(lambda: nobody_is_inside(migrator))

    assert await tables.rows("sale") == []
    again = asyncio.create_task(a_worker(database).run())
    try:
        await eventually(lambda: at(tables, 20), within_seconds=20)
    finally:
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
    await tables.must_add_up()
