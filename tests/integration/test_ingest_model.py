"""Dedup against a model, through everything that can happen between a till and the disk."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.books import Books, CommitGate
from support.builders import an_event, examined
from support.faultproxy import FaultProxy
from support.polling import eventually
from support.service import names
from tillsync.v1.event_pb2 import Event
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.errors import Unavailable
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import IngestStore


@dataclass
class ModelTenant:
    """What one tenant's books must say, kept by hand and event by event."""

    ledger: dict = field(default_factory=dict)
    quarantine: set = field(default_factory=set)
    days: dict = field(default_factory=dict)
    numbers: dict = field(default_factory=dict)
    rejected: set = field(default_factory=set)

    def take(self, event: Event, device: Device) -> tuple[str, int]:
        if event.device_sequence:
            outbox = (device.device_id, event.outbox_epoch)
            self.numbers.setdefault(outbox, set()).add(event.device_sequence)
        if not event.key:
            if event.device_sequence:
                self.rejected.add((*outbox, event.device_sequence))
            return "REJECTED", 0
        digest = sha256(event.body.type_url.encode() + b"\0" + event.body.value).digest()[:16]
        if event.key in self.ledger:
            position, held = self.ledger[event.key]
            if held == digest:
                return "DUPLICATE", position
            self.quarantine.add((event.key, digest))
            return "CONFLICT", position
        self.ledger[event.key] = (len(self.ledger) + 1, digest)
        self._count(event, device, digest)
        return "ACCEPTED", len(self.ledger)

    def _count(self, event: Event, device: Device, digest: bytes) -> None:
        amounts = Counter()
        for amount in event.amounts:
            amounts[amount.currency] += amount.minor_units
        day = date.fromisoformat(event.business_day) if event.business_day else date.min
        for currency in {amount.currency for amount in event.amounts} or {"XXX"}:
            book = (device.device_id, day, currency)
            count, money, digests = self.days.get(book, (0, 0, 0))
            digests = (digests + int.from_bytes(digest, "big")) % 2**128
            self.days[book] = (count + 1, money + amounts[currency], digests)


@dataclass(frozen=True)
class Sale:
    key: str
    receipt: str
    amounts: tuple
    day: str
    number: int | None
    epoch: int

    def event(self) -> Event:
        return an_event(
            self.key,
            receipt=self.receipt,
            amounts=self.amounts,
            business_day=self.day,
            number=self.number,
            epoch=self.epoch,
        )


@dataclass(frozen=True)
class Volley:
    """Batches of (till, sales) that are sent at once, and what befalls their transaction."""

    batches: list
    fault: str  # "none", "killed before commit", "answer lost after commit"


sales = st.builds(
    Sale,
    key=st.sampled_from(["a", "b", "c", "d", "e", "f", ""]),
    receipt=st.sampled_from("12"),
    amounts=st.sampled_from(
        [(), (("USD", 5),), (("USD", -(2**63)),), (("EUR", 2**63 - 1), ("EUR", 2**63 - 1))]
    ),
    day=st.sampled_from(["", "2026-11-22", "2026-11-23"]),
    number=st.none() | st.integers(1, 12),
    epoch=st.sampled_from([1, 2]),
)
volleys = st.builds(
    Volley,
    batches=st.lists(
        st.tuples(st.integers(0, 2), st.lists(sales, min_size=1, max_size=6)),
        min_size=1,
        max_size=4,
    ),
    fault=st.sampled_from(["none", "none", "killed before commit", "answer lost after commit"]),
)


class World:
    """Two tenants with three tills, one replica, and a bad link between it and Postgres."""

    def __init__(self, books: Books, gate: CommitGate, network: FaultProxy, url: str) -> None:
        self._books = books
        self._gate = gate
        self._network = network
        self._url = url

    async def begin(self) -> None:
        self._database = await Database.connect(self._url)
        self._group_commit = GroupCommit(IngestStore(self._database))
        first = await self._books.enrol()
        self.tills = [first, await self._books.enrol(first.tenant_id), await self._books.enrol()]
        self.models = {till.tenant_id: ModelTenant() for till in self.tills}

    async def end(self) -> None:
        self._database.abandon()

    async def play(self, volley: Volley) -> None:
        batches = [(self.tills[till], [sale.event() for sale in of]) for till, of in volley.batches]
        if volley.fault == "none":
            await self._offer(batches)
        else:
            # One batch, so that the model knows what was in the transaction that failed.
            await self._offer_into_fault(batches[0], volley.fault)
            await self._offer(batches)

    async def _offer(self, batches) -> None:
        receipts = await asyncio.gather(*(self._submit(till, events) for till, events in batches))
        # The first of each tenant goes alone, the others gather behind it in their order.
        for (till, events), receipt in zip(batches, receipts, strict=True):
            expected = [self.models[till.tenant_id].take(event, till) for event in events]
            found = receipt.verdicts.positions
            assert list(zip(names(receipt.verdicts), found, strict=True)) == expected

    async def _submit(self, till, events):
        return await self._group_commit.submit(till.tenant_id, examined(till, *events))

    async def _offer_into_fault(self, batch, fault: str) -> None:
        till, events = batch
        await self._gate.close()
        call = asyncio.create_task(self._submit(till, events))
        await eventually(lambda: call.done() or self._gate_reached())
        if call.done():  # nothing new in it, so no transaction stands at the gate
            await self._gate.open()
            receipt = await call
            expected = [self.models[till.tenant_id].take(event, till)[0] for event in events]
            assert names(receipt.verdicts) == expected
            return
        (backend,) = await self._gate.waiting()
        if fault == "killed before commit":
            await self._books.connection.execute("SELECT pg_terminate_backend($1)", backend)
        else:
            self._network.cut()
        failure = (await asyncio.gather(call, return_exceptions=True))[0]
        assert isinstance(failure, Unavailable)
        await self._gate.open()
        await eventually(lambda: self._is_gone(backend))
        if fault == "answer lost after commit":
            for event in events:
                self.models[till.tenant_id].take(event, till)

    async def _gate_reached(self) -> bool:
        return bool(await self._gate.waiting())

    async def _is_gone(self, backend: int) -> bool:
        return not await self._books.connection.fetch(
            "SELECT FROM pg_stat_activity WHERE pid = $1", backend
        )

    async def check(self) -> None:
        for tenant_id, model in self.models.items():
            books = self._books
            assert await books.ledger(tenant_id) == model.ledger
            assert await books.keys(tenant_id) == list(model.ledger)
            assert await books.head(tenant_id) == len(model.ledger)
            kept = await books.quarantine(tenant_id)
            assert {(row["key"], row["digest"]) for row in kept} == model.quarantine
            assert await books.days(tenant_id) == model.days
            assert await books.progress(tenant_id) == model.numbers
            assert {row[:3] for row in await books.rejections(tenant_id)} == model.rejected


@pytest.fixture
def model_database(postgres):
    """One database for all schedules; each has tenants of its own in it."""
    name = asyncio.run(postgres.make_database())

    async def build_gate() -> None:
        connection = await asyncpg.connect(postgres.admin_url(name))
        await CommitGate(connection).build()
        await connection.close()

    asyncio.run(build_gate())
    yield postgres.admin_url(name), postgres.serving_url(name)
    asyncio.run(postgres.drop_database(name))


@asynccontextmanager
async def a_world(admin_url: str, serving_url: str):
    parts = urlsplit(serving_url)
    connection = await asyncpg.connect(admin_url)
    books = Books(connection)
    async with FaultProxy(parts.hostname, parts.port) as network:
        login = parts.netloc.rpartition("@")[0]
        url = urlunsplit(parts._replace(netloc=f"{login}@{network.address}"))
        world = World(books, CommitGate(connection), network, url)
        await world.begin()
        yield world
        await world.end()
    await connection.close()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schedule=st.lists(volleys, min_size=1, max_size=6))
def test_i2_i3_any_schedule_ends_as_the_model_says(model_database, schedule):
    """Tills send, resend, send at once and send each other's numbers; connections die before and
    after the commit. In the end the verdicts, the sales, the quarantine, the money of each day and
    the numbers that were seen are those of a model that took one event at a time."""

    async def play() -> None:
        async with a_world(*model_database) as world:
            for volley in schedule:
                await world.play(volley)
            await world.check()

    asyncio.run(play())
