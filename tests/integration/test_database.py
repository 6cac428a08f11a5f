"""Transactions against a real Postgres: what whoever holds one is told of its end."""

import asyncio

import pytest

from support.polling import eventually
from tillsync_service.foundation.db import Database

STATEMENTS_OF_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
)


async def test_work_that_is_cancelled_in_the_middle_of_a_statement_ends_as_cancelled(
    database_url, migrator
):
    """A service that stops while it reads for its tills does stop: no part of it takes the cancel
    for a lost database and goes on, and the pool has its connection back."""
    database = await Database.connect(database_url, connections=1)
    try:
        task = asyncio.create_task(_sleep(database))
        await eventually(lambda: migrator.fetchval(STATEMENTS_OF_OTHERS))

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(database.ping(), 20)
    finally:
        await asyncio.wait_for(database.close(), 20)


async def _sleep(database):
    async with database.transaction(None) as transaction:
        await transaction.execute("SELECT pg_sleep(60)")
