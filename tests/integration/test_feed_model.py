"""The feed against a model, through everything that can happen between a till and an ERP."""

import asyncio
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import pytest
from google.protobuf.any_pb2 import Any
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.books import Books
from support.builders import an_event
from support.feed import FeedServed, Reader, feed_served
from support.service import failure_of
from tillsync.v1.event_pb2 import Event
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.identity import Device

COUNTED = "type.example.com/stock.Counted"
MOST_EVENTS = 1000


@dataclass
class ModelConsumer:
    """What a consumer must have received, and what is on its disk."""

    name: str
    tenant: int
    filter: dict
    page_size: int
    cursor: bytes = b""
    position: int = 0
    """Of the last event on its disk."""
    committed: tuple[bytes, int] = (b"", 0)
    received: list = field(default_factory=list)
    """(position, key) of everything that ever came, repeats too."""

    def wants(self, event: Event) -> bool:
        return event.body.type_url in self.filter.get("type_urls", [event.body.type_url])


@dataclass(frozen=True)
class Sell:
    till: int
    kinds: list

    async def play(self, world: "World") -> None:
        await world.sell(self.till, self.kinds)


@dataclass(frozen=True)
class Read:
    """Some pages; then the link breaks. `meanwhile` is sold while they come."""

    consumer: int
    pages: int
    live: bool
    meanwhile: list

    async def play(self, world: "World") -> None:
        selling = asyncio.gather(*(world.sell(till, kinds) for till, kinds in self.meanwhile))
        await world.read(world.consumers[self.consumer], self.pages, live=self.live)
        await selling


@dataclass(frozen=True)
class Commit:
    consumer: int

    async def play(self, world: "World") -> None:
        await world.commit(world.consumers[self.consumer])


@dataclass(frozen=True)
class LoseDisk:
    """The consumer goes on elsewhere, by its name."""

    consumer: int

    async def play(self, world: "World") -> None:
        consumer = world.consumers[self.consumer]
        consumer.cursor, consumer.position = b"", consumer.committed[1]


@dataclass(frozen=True)
class RestartService:
    async def play(self, world: "World") -> None:
        await world.restart()


kinds = st.lists(st.sampled_from(["sale", "count"]), min_size=1, max_size=4)
sells = st.tuples(st.integers(0, 2), kinds)
whose = st.integers(0, 2)
steps = st.one_of(
    st.builds(Sell, st.integers(0, 2), kinds),
    st.builds(Read, whose, st.integers(1, 4), st.booleans(), st.lists(sells, max_size=3)),
    st.builds(Commit, whose),
    st.builds(LoseDisk, whose),
    st.builds(RestartService),
)


class World:
    """Two tenants with three tills, a service, and three consumers of its feed."""

    def __init__(self, books: Books, url: str) -> None:
        self._books = books
        self._url = url
        self._served: FeedServed | None = None
        self._open = None
        self.events: tuple[dict[int, Event], ...] = ({}, {})
        self.consumers = [
            ModelConsumer("erp", 0, {}, 2),
            ModelConsumer("warehouse", 0, {"type_urls": [COUNTED]}, 3),
            ModelConsumer("erp", 1, {}, 1),
        ]

    async def begin(self) -> None:
        first = await self._books.enrol()
        self.tills = [first, await self._books.enrol(first.tenant_id), await self._books.enrol()]
        await self._start()

    async def _start(self) -> None:
        self._database = await Database.connect(self._url)
        self._open = feed_served(self._database, scan_events=3, heartbeat_seconds=0.05)
        self._served = await self._open.__aenter__()

    async def end(self) -> None:
        await self._open.__aexit__(None, None, None)
        await self._database.close()

    async def restart(self) -> None:
        await self.end()
        await self._start()

    async def sell(self, till: int, kinds: list) -> None:
        device: Device = self.tills[till]
        events = [
            an_event(body=Any(type_url=COUNTED, value=b"1")) if kind == "count" else an_event()
            for kind in kinds
        ]
        positions = await self._served.tills.sell(device, *events)
        self.events[0 if till < 2 else 1].update(zip(positions, events, strict=True))

    async def read(self, consumer: ModelConsumer, pages: int, *, live: bool) -> None:
        request = {
            "cursor": consumer.cursor,
            "consumer": consumer.name,
            "filter": consumer.filter,
            "page_size": consumer.page_size,
            "live": live,
        }
        async with self._reader(consumer) as reader, aclosing(reader.pages(**request)) as stream:
            async for page in stream:
                for event in page.events:
                    # In order, and nothing again of what is on the disk.
                    assert event.position > consumer.position
                    consumer.position = event.position
                    consumer.received.append((event.position, event.event.key))
                consumer.cursor = page.cursor
                pages -= 1
                if not pages:
                    break

    async def commit(self, consumer: ModelConsumer) -> None:
        if not consumer.cursor:
            return
        async with self._reader(consumer) as reader:
            call = reader.commit(consumer.name, consumer.cursor)
            if consumer.position < consumer.committed[1]:
                assert (await failure_of(call)).reason == "CURSOR_BEHIND"
            else:
                answer = await call
                assert answer.position >= consumer.position
                consumer.committed = (consumer.cursor, consumer.position)

    @asynccontextmanager
    async def _reader(self, consumer: ModelConsumer):
        tenant_id = self.tills[0 if consumer.tenant == 0 else 2].tenant_id
        async with Reader.of(self._served.address, tenant_id) as reader:
            yield reader

    async def check(self) -> None:
        for consumer in self.consumers:
            await self.read(consumer, MOST_EVENTS, live=False)
            wanted = {
                (position, event.key)
                for position, event in self.events[consumer.tenant].items()
                if consumer.wants(event)
            }
            assert set(consumer.received) == wanted


@pytest.fixture
def model_database(postgres):
    """One database for all schedules; each has tenants of its own in it."""
    name = asyncio.run(postgres.make_database())
    yield postgres.admin_url(name), postgres.serving_url(name)
    asyncio.run(postgres.drop_database(name))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schedule=st.lists(steps, min_size=1, max_size=12))
def test_i5_i8_any_schedule_gives_each_consumer_every_event_in_order(model_database, schedule):
    """Tills sell while consumers read a few pages, lose their link, commit, lose their disk and go
    on by name, and the service restarts. In the end each consumer has had every event that its
    filter lets through, in order, and none of the other tenant's."""

    async def play() -> None:
        admin_url, serving_url = model_database
        connection = await asyncpg.connect(admin_url)
        world = World(Books(connection), serving_url)
        await world.begin()
        try:
            for step in schedule:
                await step.play(world)
            await world.check()
        finally:
            await world.end()
            await connection.close()

    asyncio.run(play())
