"""Sales as tables: how fast a backlog is projected beside bare batched SQL that writes the same
rows, and whether the projection keeps level with tills that sell."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg
import grpc

from bench.figures import Figures, percentile
from bench.rig import Rig, Target
from bench.sales import Till, batches
from tillsync.v1.event_pb2 import Event
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent.ids import mint_key
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database
from tillsync_service.projections.enrich import enrich
from tillsync_service.projections.rows import Recorded, Rows
from tillsync_service.projections.store import ProjectionStore
from tillsync_service.projections.worker import Worker
from tillsync_service.projections.writing import SQL

SALES = 10_000
ROUNDS = 3
LINES = 10
# A supermarket's catalogue: the same products are sold again and again.
PRODUCTS = 10_000
STORES = 20
LIVE_SALES_A_SECOND = 1_500
LIVE_SECONDS = 20
# After the last sale.
LEVEL_WITHIN_SECONDS = 3.0
_BATCH = 75
_DAY = "2026-11-02"
_WATCH_SECONDS = 0.1
_LAG = """
    SELECT h.position - COALESCE(p.position, 0)
    FROM tillsync.tenant_head h LEFT JOIN tillsync.projection p USING (tenant_id)
    WHERE h.tenant_id = $1 AND h.stream = 'event'
"""


async def measure(bench: Rig, say: Callable[[str], None]) -> Figures:
    """Figures by name."""
    await bench.database("projections")
    # A service that projects nothing itself: what is measured here is one worker in this process.
    async with bench.service("projections") as target:
        rounds = []
        for number in range(ROUNDS):
            say(f"a backlog of {SALES:,} ten-line sales, round {number + 1}")
            rounds.append(await _round(target))
    middle = median([one.projected / one.bare for one in rounds])
    figures: Figures = {
        "bare_rows_sales_per_s": (median([one.bare for one in rounds]), ""),
        "projected_sales_per_s": (median([one.projected for one in rounds]), ""),
        "projected_to_bare": (middle, ">= 0.60"),
        "enrich_us_per_sale": (_enrich_us(), ""),
    }
    async with bench.service(
        "projections", projection_workers=str(limits.DEFAULT_PROJECTION_WORKERS)
    ) as target:
        say(f"{LIVE_SALES_A_SECOND:,} ten-line sales a second, ingested and projected")
        figures |= await _live(target)
    return figures


@dataclass(frozen=True, slots=True)
class Round:
    """Sales a second."""

    bare: float
    projected: float


async def _round(target: Target) -> Round:
    """The same sales, written bare in one tenant and projected in another."""
    bare_tills, tills = await _tills(target), await _tills(target)
    bare = await _bare(target, bare_tills)
    events = _spread(tills, SALES)
    await _store(target, tills, events)
    database = await Database.connect(target.serving_url, connections=3)
    try:
        began = time.perf_counter()
        await _until_level(database, tills[0].device.tenant_id)
        seconds = time.perf_counter() - began
    finally:
        await database.close()
    return Round(SALES / bare, SALES / seconds)


async def _tills(target: Target) -> list[Till]:
    """A till in each store of a new tenant."""
    (first,) = await target.tills(tenants=1, count=1)
    return [first, *await target.tills_of([first.device.tenant_id] * (STORES - 1))]


async def _until_level(database: Database, tenant_id: UUID) -> None:
    """One worker, as the service runs it, until nothing is behind."""
    level = asyncio.Event()

    def observe(name: str, value: float, **labels: str) -> None:
        if name == "projection_lag_events" and labels["tenant"] == str(tenant_id) and not value:
            level.set()

    worker = asyncio.create_task(Worker(ProjectionStore(database), 1, observe=observe).run())
    try:
        await level.wait()
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker


def _spread(tills: Sequence[Till], count: int) -> list[list[Event]]:
    chance = random.Random(7)  # noqa: S311  # the same sales at every run
    each = count // len(tills)
    return [[_event(till, n, chance) for n in range(1, each + 1)] for till in tills]


def _event(till: Till, number: int, chance: random.Random) -> Event:
    sale = Sale(receipt_number=f"{number:08}", currency="USD", cashier_id="c17")
    for _ in range(LINES):
        pieces, price = chance.randint(1, 4), chance.randint(49, 1999)
        line = sale.lines.add(
            product_id=f"{chance.randint(1, PRODUCTS) * 7919:012}",
            unit_price_minor=price,
            total_minor=pieces * price,
        )
        line.quantity.unscaled = pieces
        sale.total_minor += line.total_minor
    tax = sale.total_minor // 20
    sale.taxes.add(code="A", base_minor=sale.total_minor, amount_minor=tax, included=True)
    sale.tenders.add(kind="card", amount_minor=sale.total_minor, reference=f"T{number:010}")
    event = Event(
        key=mint_key(), business_day=_DAY, outbox_epoch=till.epoch, device_sequence=number
    )
    event.occurred_at.GetCurrentTime()
    event.body.Pack(sale)
    event.amounts.add(currency="USD", minor_units=sale.total_minor)
    return event


async def _store(target: Target, tills: Sequence[Till], events: Sequence[list[Event]]) -> None:
    """Takes the events in, through the service."""
    async with grpc.aio.insecure_channel(target.address) as channel:
        for till, own in zip(tills, events, strict=True):
            for request in batches(iter(own), limits.MAX_BATCH_EVENTS):
                await _send(channel, target.token(till), request)


async def _send(channel: grpc.aio.Channel, token: str, request: bytes) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        "/tillsync.v1.IngestService/Ingest"
    )
    await call(request, metadata=(("authorization", f"Bearer {token}"),))


_STOCK = """
    INSERT INTO tillsync.stock_level AS s
    SELECT $1, c.* FROM unnest($2::uuid[], $3::text[], $4::text::numeric[]) AS c
    ON CONFLICT (tenant_id, store_id, product_id) DO UPDATE
    SET quantity = s.quantity + excluded.quantity
"""
_DAYS = """
    INSERT INTO tillsync.day_total AS d
    SELECT $1, c.store_id, $4, 'USD', 1, c.minor, 0, 0, 0, 0, 0
    FROM unnest($2::uuid[], $3::text::numeric[]) AS c (store_id, minor)
    ON CONFLICT (tenant_id, store_id, business_day, currency) DO UPDATE
    SET sale_count = d.sale_count + excluded.sale_count,
        sale_minor = d.sale_minor + excluded.sale_minor
"""


async def _bare(target: Target, tills: Sequence[Till]) -> float:
    """Seconds to write the rows of such sales, nothing being read, parsed, checked or locked: every
    argument is ready before the clock runs."""
    tenant_id = tills[0].device.tenant_id
    every = [event for own in _spread(tills, SALES) for event in own]
    stores = [till.device.store_id for till in tills for _ in range(SALES // len(tills))]
    pages = [
        _page(tills, every[at : at + limits.PROJECT_PAGE_EVENTS], stores, at)
        for at in range(0, SALES, limits.PROJECT_PAGE_EVENTS)
    ]
    connection = await asyncpg.connect(target.admin_url, server_settings={"jit": "off"})
    try:
        began = time.perf_counter()
        for rows, stock, days in pages:
            async with connection.transaction():
                await connection.execute(SQL["write"], tenant_id, *rows)
                await connection.execute(_STOCK, tenant_id, *stock)
                await connection.execute(_DAYS, tenant_id, *days, date.fromisoformat(_DAY))
        return time.perf_counter() - began
    finally:
        await connection.close()


def _page(
    tills: Sequence[Till], events: Sequence[Event], stores: Sequence[UUID], after: int
) -> tuple[list[Any], list[Any], list[Any]]:
    """The arguments of a page's statements."""
    rows = _enriched(events, stores[after : after + len(events)], tills[0].device.device_id, after)
    stock: Counter[tuple[UUID, str]] = Counter()
    days: Counter[UUID] = Counter()
    for number, (event, facts) in enumerate(zip(rows.sales, rows.sale_facts, strict=True)):
        days[event.store_id] += facts[2]
        for line in range(number * LINES, (number + 1) * LINES):
            stock[event.store_id, rows.products[line]] -= int(rows.quantities[line])
    columns = rows.document_columns()
    keys = list(stock)
    return (
        columns,
        [[store for store, _ in keys], [product for _, product in keys], _numbers(stock.values())],
        [list(days), _numbers(days.values())],
    )


def _numbers(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _enriched(events: Sequence[Event], stores: Sequence[UUID], device_id: UUID, after: int) -> Rows:
    rows = Rows()
    enrich(
        [
            Recorded(
                after + number,
                event.key,
                store,
                device_id,
                event.business_day,
                event.occurred_at.ToDatetime(UTC),
                event.body.type_url,
                event.body.value,
            )
            for number, (event, store) in enumerate(zip(events, stores, strict=True), start=1)
        ],
        rows,
    )
    return rows


def _enrich_us() -> float:
    """What the pure part takes for a sale."""
    (events,) = _spread([Till.nowhere()], 2_000)
    stores = [Till.nowhere().device.store_id] * len(events)
    began = time.perf_counter()
    rows = _enriched(events, stores, stores[0], 0)
    rows.document_columns()
    return (time.perf_counter() - began) / len(events) * 1e6


async def _live(target: Target) -> Figures:
    """Lags while tills sell at a steady rate."""
    tills = await _tills(target)
    per_till = LIVE_SALES_A_SECOND * LIVE_SECONDS // len(tills)
    requests = [list(batches(iter(own), _BATCH)) for own in _spread(tills, per_till * len(tills))]
    tokens = [target.token(till) for till in tills]
    order = [
        (tokens[till], requests[till][number])
        for number in range(len(requests[0]))
        for till in range(len(tills))
    ]
    lags: list[float] = []
    async with _watched(target, tills[0].device.tenant_id, lags):
        began = time.perf_counter()
        await _sell(target, order)
        seconds = time.perf_counter() - began
        await asyncio.sleep(LEVEL_WITHIN_SECONDS)
    return {
        "live_ingested_sales_per_s": (len(order) * _BATCH / seconds, ""),
        "live_lag_p50_events": (percentile(lags, 50), ""),
        "live_lag_p95_events": (percentile(lags, 95), "<= 3,000"),
        "live_lag_at_the_end_events": (lags[-1], "<= 0"),
    }


async def _sell(target: Target, order: Sequence[tuple[str, bytes]]) -> None:
    """Sends each batch at its moment, whether or not those before are answered."""
    async with grpc.aio.insecure_channel(target.address) as channel:
        began = time.perf_counter()
        sent = []
        for number, (token, request) in enumerate(order):
            moment = began + number * _BATCH / LIVE_SALES_A_SECOND
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            sent.append(asyncio.create_task(_send(channel, token, request)))
        await asyncio.gather(*sent)


@asynccontextmanager
async def _watched(target: Target, tenant_id: UUID, lags: list[float]) -> AsyncIterator[None]:
    """Adds to `lags`, all the time, how many events wait."""
    connection = await asyncpg.connect(target.admin_url)

    async def watch() -> None:
        while True:
            lags.append(await connection.fetchval(_LAG, tenant_id))
            await asyncio.sleep(_WATCH_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await connection.close()
