"""The floors: the same rows written by asyncpg directly, without a service in between."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import asyncpg

from bench.sales import Till
from tillsync.v1.event_pb2 import Event
from tillsync_service.foundation.db import statements
from tillsync_service.ingest import store
from tillsync_service.ingest.examine import examine
from tillsync_service.ingest.verdicts import judge, presented

_SQL = statements("tillsync_service.ingest")

BARE_TABLE = (
    "CREATE TABLE IF NOT EXISTS public.bare "
    "(key text PRIMARY KEY, received_at timestamptz, body bytea)"
)
BARE_INSERT = (
    "INSERT INTO public.bare SELECT k, now(), b FROM unnest($1::text[], $2::bytea[]) AS x (k, b)"
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall-clock seconds, and CPU seconds of this process."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Ready-made arguments of the service's own statements; only the positions are missing."""

    keys: list[str]
    numbers: list[Sequence[Any]]
    events: list[Sequence[Any]]
    books: list[Sequence[Any]]
    bodies: list[bytes]


def prepare(till: Till, events: Sequence[Event]) -> Batch:
    """The arguments for one batch, made before the clock runs."""
    now = datetime.now(UTC)
    batch = examine(events, till.device, now)
    numbers = presented([batch])
    judgement = judge([batch], head=0, held={}, seen={}, used={}, numbers=numbers)
    return Batch(
        batch.keys,
        store._columns(store._progress_rows(numbers), 3),  # noqa: SLF001
        store._event_columns(judgement.stored),  # noqa: SLF001
        store._columns(store._book_rows(judgement), 6),  # noqa: SLF001
        batch.bodies,
    )


async def write(url: str, lanes: Sequence[tuple[Till, Sequence[Batch]]]) -> Cost:
    """What it costs to write every lane's batches, one connection a lane."""
    return await _timed(url, [partial(_lane, till=till, batches=own) for till, own in lanes])


async def write_bare(url: str, lanes: Sequence[tuple[Till, Sequence[Batch]]]) -> Cost:
    """The same for one bare table with one index: the difference is what the guarantees cost."""
    return await _timed(url, [partial(_bare_lane, batches=own) for _till, own in lanes])


async def _timed(
    url: str, lanes: Sequence[Callable[[asyncpg.Connection], Awaitable[None]]]
) -> Cost:
    connections = [await asyncpg.connect(url, server_settings={"jit": "off"}) for _ in lanes]
    try:
        began, cpu_began = time.perf_counter(), time.process_time()
        await asyncio.gather(*(lane(c) for c, lane in zip(connections, lanes, strict=True)))
        return Cost(time.perf_counter() - began, time.process_time() - cpu_began)
    finally:
        for connection in connections:
            await connection.close()


async def _bare_lane(connection: asyncpg.Connection, batches: Sequence[Batch]) -> None:
    for batch in batches:
        await connection.execute(BARE_INSERT, batch.keys, batch.bodies)


async def _lane(connection: asyncpg.Connection, till: Till, batches: Sequence[Batch]) -> None:
    tenant_id = till.device.tenant_id
    opening = (
        f"BEGIN; SET LOCAL ROLE tillsync_app; SET LOCAL tillsync.tenant = '{tenant_id}'; "
        f"SELECT FROM tillsync.tenant_head WHERE tenant_id = '{tenant_id}' AND stream = 'event' "
        "FOR UPDATE"
    )
    for batch in batches:
        await connection.execute(opening)
        rows = await connection.fetch(_SQL["look"], tenant_id, batch.keys, *batch.numbers)
        await connection.execute(
            _SQL["write"],
            tenant_id,
            rows[0]["head"],
            *batch.events,
            *batch.books,
            *batch.numbers,
        )
        await connection.execute("COMMIT")
