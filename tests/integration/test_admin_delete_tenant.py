"""A tenant made for a test goes with everything in it; a retailer's sales are kept."""

import asyncio
from uuid import UUID

import grpc

from support.builders import an_event
from support.service import Caller, failure_of
from tillsync_service.admin import store as admin_store


async def tables_with_a_tenant(migrator):
    rows = await migrator.fetch(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'tillsync'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND a.attname = 'tenant_id'"
    )
    return {row["relname"] for row in rows}


async def rows_left(migrator, tenant_id):
    """How many rows the tenant has, by table; those with none are left out."""
    left = {
        table: await migrator.fetchval(
            f"SELECT count(*) FROM tillsync.{table} WHERE tenant_id = $1", UUID(tenant_id)
        )
        for table in await tables_with_a_tenant(migrator)
    }
    return {table: count for table, count in left.items() if count}


def delete(fleet, tenant_id):
    return fleet.operator().call("DeleteTenant", tenant_id=tenant_id)


async def test_the_removal_forgets_no_table(migrator):
    """Whoever adds a table is told here to say how a tenant's rows leave it."""
    listed = [
        admin_store.REMOVED_FIRST,
        *admin_store.REMOVED_IN_CHUNKS,
        *admin_store.REMOVED_AT_LAST,
    ]

    assert sorted(listed) == sorted(await tables_with_a_tenant(migrator))
    assert listed[-1] == "tenant"


async def test_a_disposable_tenant_goes_with_everything_in_it(fleet, migrator, monkeypatch):
    """A load test cleans up after itself: every row of its tenant goes, in chunks, nobody else's
    does, and the operator hears how many events went."""
    monkeypatch.setattr(admin_store, "REMOVE_CHUNK_ROWS", 2)
    tenant_id, _ = await fleet.a_busy_tenant()
    other_id, _ = await fleet.a_busy_tenant()
    before = await rows_left(migrator, other_id)
    assert before.keys() == await tables_with_a_tenant(migrator), "the test fills every table"

    assert (await delete(fleet, tenant_id)).events_removed == 5

    assert await rows_left(migrator, tenant_id) == {}
    assert await rows_left(migrator, other_id) == before
    again = await failure_of(delete(fleet, tenant_id))
    assert (again.code, again.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_retailers_tenant_is_kept(fleet, migrator):
    """An operator who deletes the wrong tenant is stopped: sales are kept."""
    tenant_id, _ = await fleet.a_busy_tenant()
    await migrator.execute("UPDATE tillsync.tenant SET disposable = false")
    before = await rows_left(migrator, tenant_id)

    failure = await failure_of(delete(fleet, tenant_id))

    assert (failure.code, failure.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "STATE_FORBIDS",
    )
    assert await rows_left(migrator, tenant_id) == before


async def test_a_removal_that_broke_off_goes_on_where_it_was(fleet, migrator):
    """The database goes away in the middle of a removal: the tenant takes no more sales, and the
    same call again removes the rest."""
    tenant_id, token = await fleet.a_busy_tenant()
    await migrator.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '57014'; END $$;"
        "CREATE TRIGGER refuse BEFORE DELETE ON tillsync.event_key"
        " FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )

    failure = await failure_of(delete(fleet, tenant_id))

    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert {"tenant", "event_key"} < (await rows_left(migrator, tenant_id)).keys()
    async with Caller(fleet.address, token) as sender:
        assert (await failure_of(sender.offer(an_event()))).reason == "TENANT_GONE"
    await migrator.execute("DROP TRIGGER refuse ON tillsync.event_key")
    assert (await delete(fleet, tenant_id)).events_removed == 0
    assert await rows_left(migrator, tenant_id) == {}


async def test_a_sale_that_comes_during_a_removal_leaves_nothing_behind(fleet, migrator):
    """A load test's last tills still send while its tenant is removed: each sale goes with the
    tenant or is refused, and no row stays."""
    tenant_id, token = await fleet.a_busy_tenant()

    async def sell_until_refused():
        async with Caller(fleet.address, token) as sender:
            while True:
                try:
                    await sender.offer(an_event())
                except grpc.aio.AioRpcError as error:
                    return dict(error.trailing_metadata())["tillsync-reason"]

    selling = [asyncio.ensure_future(sell_until_refused()) for _ in range(4)]
    await delete(fleet, tenant_id)

    assert set(await asyncio.gather(*selling)) == {"TENANT_GONE"}
    assert await rows_left(migrator, tenant_id) == {}
