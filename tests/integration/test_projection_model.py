"""Any schedule ends as a plain model says: events, voids, poison, workers that die, replays,
discards, rebuilds and restores, in whatever order."""

import asyncio
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.books import Books
from support.polling import eventually
from support.projections import (
    PAGE,
    Model,
    Tables,
    a_line,
    a_return,
    a_sale,
    a_void,
    a_worker,
    cash,
    day_close,
    ingest,
    projected,
    recording,
    stock,
    unknown,
    unreadable,
)
from tillsync_service.foundation.db import Database
from tillsync_service.projections.dead_letters import Asked, DeadLetterStore, Filter
from tillsync_service.projections.rebuilding import RebuildStore
from tillsync_service.projections.store import ProjectionStore

products = st.sampled_from(["4711", "milk", ""])
lines = st.builds(
    a_line, products, st.integers(-3, 50), st.integers(-500, 500), st.sampled_from([0, 0, 1, 3])
)
money = st.integers(0, 10**6)
# A void names one of the first keys: of what came, of what is still to come, or of what never is.
documents = st.one_of(
    st.lists(lines, min_size=1, max_size=4).map(lambda of: a_sale(*of)),
    st.lists(lines.filter(lambda line: line.total_minor >= 0), min_size=1, max_size=2).map(
        lambda of: a_return(*of)
    ),
    st.integers(0, 30).map(lambda number: a_void(f"k{number}")),
    st.builds(cash, money, st.sampled_from(["EUR", "USD"])),
    st.builds(stock, st.just("4711"), st.integers(-9, 99), st.sampled_from([0, 2])),
    st.builds(day_close, EUR=money),
    st.just(unreadable()),
    st.just(unknown()),
    st.just(a_sale(total_minor=1)),
    st.just(a_sale(currency="EURO")),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("sell"), st.lists(documents, min_size=1, max_size=6)),
        st.tuples(st.just("project"), st.integers(1, PAGE)),
        st.tuples(st.just("two workers"), st.none()),
        st.tuples(st.just("crash"), st.integers(1, 12)),
        st.tuples(st.just("replay"), st.integers(1, 5)),
        st.tuples(st.just("discard"), st.integers(1, 20)),
        st.tuples(st.just("rebuild"), st.none()),
        st.tuples(st.just("rebuild a page"), st.integers(1, PAGE)),
        st.tuples(st.just("history"), st.none()),
    ),
    min_size=2,
    max_size=12,
)


class World:
    """One tenant, its model, and what can happen to them. The model hears of an event when it is
    projected, because replays see only what was."""

    def __init__(self, database, migrator, device):
        self.database = database
        self.device = device
        self.tenant = device.tenant_id
        self.model = Model()
        self.tables = Tables(migrator, device.tenant_id)
        self.store = ProjectionStore(database)
        self.letters = DeadLetterStore(database)
        self.rebuilds = RebuildStore(database)
        self.coming = []
        self.sold = 0
        self.rebuilding = False

    async def sell(self, documents):
        events = []
        for document in documents:
            events.append(recording(f"k{self.sold}", document))
            self.sold += 1
        positions = await ingest(self.database, self.device, *events)
        self.coming += zip(positions, events, strict=True)

    async def project(self, most):
        await self.store.advance(self.tenant, most)
        await self.catch_up()

    async def catch_up(self):
        """The model takes what the cursor has passed."""
        rows = await self.tables.rows("projection")
        while rows and self.coming and self.coming[0][0] <= rows[0]["position"]:
            position, event = self.coming.pop(0)
            self.model.take(position, event, self.device)

    async def two_workers(self, _):
        workers = [asyncio.create_task(a_worker(self.database).run()) for _ in range(2)]
        await asyncio.sleep(0)
        await projected_by_others(self)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        self.rebuild_is_done()
        await self.catch_up()

    async def crash(self, statements):
        """A worker's connection is cut after so many statements."""
        async with dying_after(self.database, statements):
            with suppress(ConnectionError):
                await self.store.advance(self.tenant, PAGE)
        await self.catch_up()

    async def replay(self, size):
        waiting = [
            position for position in sorted(self.model.dead) if position not in self.model.discarded
        ][:size]
        await self.finish_following()
        await self.letters.replay(self.tenant, Asked(Filter(), 0, size))
        for position in waiting:
            self.model.replay(position)

    async def discard(self, until):
        chosen = Filter(to_position=until)
        await self.letters.discard(self.tenant, Asked(chosen, 0, 100), "why", "op")
        self.model.discarded |= {position for position in self.model.dead if position <= until}

    async def rebuild(self, _):
        await self.finish_rebuild()
        await self.rebuilds.start(self.tenant, "op")
        self.rebuilding = True

    async def rebuild_a_page(self, most):
        if self.rebuilding:
            await self.tables.must_add_up()
            before = await self.tables.projection()
            await self.store.rebuild(self.tenant, most)
            after = await self.tables.projection()
            self.tried_again(before["rebuild_position"], after["rebuild_position"])
            self.rebuilding = after["rebuild_position"] is not None
            await self.tables.must_add_up()

    def tried_again(self, first, last):
        if last is not None:
            self.model.rebuild(last, first)

    async def finish_rebuild(self):
        while self.rebuilding:
            await self.rebuild_a_page(PAGE)

    async def history(self, _):
        """The database was restored to where it is: everything is made anew."""
        await self.finish_rebuild()
        await self.tables.connection.execute(
            "UPDATE tillsync.tenant_head SET history_id = gen_random_uuid() WHERE tenant_id = $1",
            self.tenant,
        )
        await self.finish_following()

    async def finish_following(self):
        rows = await self.tables.connection.fetch(
            "SELECT FROM tillsync.projection p JOIN tillsync.tenant_head h USING (tenant_id)"
            " WHERE tenant_id = $1 AND h.stream = 'event' AND h.history_id <> p.history_id",
            self.tenant,
        )
        if rows:
            await self.store.advance(self.tenant, PAGE)
            self.rebuilding = True

    def rebuild_is_done(self):
        self.rebuilding = False


async def projected_by_others(world):
    """Until two workers have nothing left to do; what a rebuild tries again is noted before."""
    before = await world.tables.rows("projection")
    if world.rebuilding:
        world.tried_again(before[0]["rebuild_position"], before[0]["rebuild_until"])

    async def is_done():
        return not await world.tables.connection.fetch(
            "SELECT FROM tillsync.tenant_head h LEFT JOIN tillsync.projection p USING (tenant_id)"
            " WHERE h.tenant_id = $1 AND h.stream = 'event'"
            " AND (h.position > COALESCE(p.position, 0) OR p.rebuild_position IS NOT NULL)",
            world.tenant,
        )

    await eventually(is_done)


@asynccontextmanager
async def dying_after(database, statements):
    """The database's connection is lost at its n-th statement from now on."""
    left = statements
    real = asyncpg.Connection.execute, asyncpg.Connection.fetch

    def counted(method):
        async def execute(connection, *arguments, **named):
            nonlocal left
            left -= 1
            if left == 0:
                connection.terminate()
                raise ConnectionError
            return await method(connection, *arguments, **named)

        return execute

    asyncpg.Connection.execute, asyncpg.Connection.fetch = map(counted, real)
    try:
        yield
    except Exception:  # noqa: BLE001 - as a process that is no more
        pass
    finally:
        asyncpg.Connection.execute, asyncpg.Connection.fetch = real


@pytest.fixture(scope="module")
def database_urls(postgres):
    name = asyncio.run(postgres.make_database())
    yield postgres.serving_url(name), postgres.admin_url(name)
    asyncio.run(postgres.drop_database(name))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(steps)
def test_any_schedule_ends_as_the_model_says(database_urls, schedule):
    """Whatever happens between a sale and its rows: stock, days, voids and dead letters are what a
    person would have written down by hand, and the sums are those of the rows, at every step."""
    asyncio.run(run(database_urls, schedule))


async def run(database_urls, schedule):
    database = await Database.connect(database_urls[0])
    migrator = await asyncpg.connect(database_urls[1])
    try:
        world = World(database, migrator, await Books(migrator).enrol())
        for name, argument in schedule:
            await getattr(world, name.replace(" ", "_"))(argument)
            await world.tables.must_add_up()
        await world.finish_rebuild()
        await projected(database, world.tenant)
        await world.catch_up()
        await world.tables.must_be(world.model)
        await world.tables.must_add_up()
    finally:
        await migrator.close()
        await database.close()
