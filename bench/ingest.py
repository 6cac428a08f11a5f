"""Streamed and single-event ingest, against their floors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from uuid import UUID

import asyncpg

from bench import floor, load
from bench.rig import Target
from bench.sales import Till, batches, sales

STREAMS = 4
BATCH_EVENTS = 500
IN_FLIGHT = 75

# Rows like those of ingest, written by the server itself. The keys ascend as UUIDv7 do.
_FILL = """
    WITH filler AS (
        SELECT g AS position, '00000000-' || lpad(g::text, 27, '0') AS key
        FROM generate_series(1, {rows}) AS g
    ), ledger AS (
        INSERT INTO tillsync.event_key (tenant_id, key, position, digest)
        SELECT '{tenant}', key, position, substring(sha256(key::bytea) FOR 16) FROM filler
    ), history AS (
        INSERT INTO tillsync.event (
            tenant_id, position, key, store_id, device_id, outbox_epoch, device_sequence,
            business_day, flags, type_url, body, amounts, traceparent
        )
        SELECT '{tenant}', position, key, '{store}', '{device}', 1, position, '2026-11-01', 0,
            'type.googleapis.com/tillsync.v1.Sale',
            decode(repeat(md5(key), 25), 'hex'), '{{"USD": 100}}', ''
        FROM filler
    )
    UPDATE tillsync.tenant_head SET position = {rows}
    WHERE tenant_id = '{tenant}' AND stream = 'event'
"""


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over the same number of events: rates in events/s, CPU in µs an event."""

    floor: float
    service: float
    floor_client_us: float
    service_us: float

    @property
    def ratio(self) -> float:
        return self.service / self.floor

    @property
    def overhead_us(self) -> float:
        """What the service spends above what the floor's own client does."""
        return self.service_us - self.floor_client_us


async def stream_round(replicas: Sequence[Target], tills: list[Till], events: int) -> Round:
    """The floor and then the service, each with `events` new events in all; the streams are
    spread over the replicas."""
    target = replicas[0]
    each = events // len(tills)
    lanes = [(till, _prepared(till, each)) for till in _new_outboxes(tills)]
    floor_cost = await floor.write(target.serving_url, lanes)
    del lanes

    requests = [
        (replica.address, replica.token(till), batches(sales(till, each), BATCH_EVENTS))
        for till, replica in zip(_new_outboxes(tills), cycle(replicas), strict=False)
    ]
    cpu_began = sum(replica.cpu_seconds() for replica in replicas)
    seconds = await load.streams(requests)
    cpu_seconds = sum(replica.cpu_seconds() for replica in replicas) - cpu_began

    total = each * len(tills)
    return Round(
        floor=total / floor_cost.seconds,
        service=total / seconds,
        floor_client_us=floor_cost.cpu_seconds / total * 1e6,
        service_us=cpu_seconds / total * 1e6,
    )


async def bare_rate(target: Target, tills: list[Till], events: int) -> float:
    """Events a second into one bare table with one index."""
    connection = await asyncpg.connect(target.admin_url)
    try:
        await connection.execute(floor.BARE_TABLE)
        await connection.execute("GRANT INSERT, SELECT ON public.bare TO PUBLIC")
    finally:
        await connection.close()
    each = events // len(tills)
    lanes = [(till, _prepared(till, each)) for till in _new_outboxes(tills)]
    return each * len(tills) / (await floor.write_bare(target.serving_url, lanes)).seconds


async def unary_calls(target: Target, events: int) -> load.Calls:
    """One event a call, from one till."""
    (till,) = await target.tills(tenants=1, count=1)
    requests = batches(sales(till, events), 1)
    return await load.unary(target.address, target.token(till), requests, in_flight=IN_FLIGHT)


async def fill(target: Target, till: Till, rows: int) -> None:
    """Makes the till's tenant one with `rows` events."""
    device = till.device
    statement = _FILL.format(
        rows=rows, tenant=device.tenant_id, store=device.store_id, device=device.device_id
    )
    connection = await asyncpg.connect(target.admin_url)
    try:
        await connection.execute(statement)
        await connection.execute("VACUUM ANALYZE tillsync.event, tillsync.event_key")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def bytes_per_event(target: Target, tenant_id: UUID) -> dict[str, float]:
    """Disk bytes an event, by table, indexes included. The database holds this tenant only."""
    connection = await asyncpg.connect(target.admin_url)
    try:
        events = await connection.fetchval(
            "SELECT position FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'event'",
            tenant_id,
        )
        sizes = await connection.fetch(
            "SELECT relname, pg_total_relation_size(oid) AS bytes FROM pg_class "
            "WHERE relname IN ('event', 'event_key') "
            "AND relnamespace = 'tillsync'::regnamespace"
        )
    finally:
        await connection.close()
    return {row["relname"]: row["bytes"] / events for row in sizes}


def middle(rounds: list[Round]) -> Round:
    """The median of each figure."""
    return Round(
        *(
            median(getattr(one, name) for one in rounds)
            for name in ("floor", "service", "floor_client_us", "service_us")
        )
    )


def middle_ratio(rounds: list[Round]) -> float:
    """The median of the ratios, each taken within one round."""
    return median(one.ratio for one in rounds)


async def alternate(
    setups: list[tuple[Sequence[Target], list[Till]]], *, rounds: int, events: int
) -> list[list[Round]]:
    """Rounds on several setups in turn, so that a slow minute of the machine hits all of them."""
    results: list[list[Round]] = [[] for _ in setups]
    for _ in range(rounds):
        for (replicas, tills), rows in zip(setups, results, strict=True):
            rows.append(await stream_round(replicas, tills, events))
    return results


def _new_outboxes(tills: list[Till]) -> list[Till]:
    return [Till.of_device(till.device) for till in tills]


def _prepared(till: Till, events: int) -> list[floor.Batch]:
    all_events = list(sales(till, events))
    return [
        floor.prepare(till, all_events[start : start + BATCH_EVENTS])
        for start in range(0, events, BATCH_EVENTS)
    ]
