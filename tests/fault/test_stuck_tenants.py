"""Tenants whose sales cannot move on, and what that means for everybody else."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

from support.builders import an_event
from support.fleet import app_served
from support.polling import eventually
from support.service import Caller, names
from tillsync_service.foundation import limits

MORE_THAN_THE_POOL = limits.POOL_CONNECTIONS + 1


@pytest.fixture
def patient(monkeypatch):
    """What waits in Postgres waits until the test lets go: no clock decides."""
    monkeypatch.setattr(limits, "LOCK_TIMEOUT_MS", 60_000)
    monkeypatch.setattr(limits, "STATEMENT_TIMEOUT_MS", 60_000)
    monkeypatch.setattr(limits, "COMMAND_SECONDS", 60.0)


@asynccontextmanager
async def heads_held(admin_database_url, tenants):
    """Somebody else's transaction holds the head rows of these tenants."""
    holder = await asyncpg.connect(admin_database_url)
    try:
        async with holder.transaction():
            await holder.execute(
                "SELECT FROM tillsync.tenant_head WHERE tenant_id = ANY ($1) FOR UPDATE", tenants
            )
            yield
    finally:
        await holder.close()


async def connections_that_wait(books):
    return await books.connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )


async def test_tills_get_tokens_and_operators_answers_while_other_tenants_are_stuck(
    database_url, admin_database_url, books, tmp_path, patient
):
    """Somebody's maintenance holds the heads of eleven retailers, whose sales keep every connection
    for sales waiting. The tills of a twelfth join and fetch their tokens all the same, and an
    operator can look and act, before the first of those sales goes on."""
    stuck = [await books.enrol() for _ in range(MORE_THAN_THE_POOL)]

    async def sell(fleet, device):
        async with Caller(fleet.address, fleet.issuer.device_token(device)[0]) as caller:
            return names(await caller.offer(an_event()))

    async with app_served(database_url, tmp_path) as fleet:
        async with heads_held(admin_database_url, [device.tenant_id for device in stuck]):
            sales = [asyncio.create_task(sell(fleet, device)) for device in stuck]

            async def all_wait():
                return await connections_that_wait(books) == limits.POOL_CONNECTIONS

            await eventually(all_wait)

            till = await fleet.an_enrolled_till()
            await till.issue()
            await fleet.operator(till.identity.tenant_id).call(
                "RevokeDevice",
                tenant_id=till.identity.tenant_id,
                device_id=till.identity.device_id,
            )

            assert not any(sale.done() for sale in sales)
        assert await asyncio.gather(*sales) == [["ACCEPTED"]] * MORE_THAN_THE_POOL
