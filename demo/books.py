"""What head office holds: read from PostgreSQL with SQL, past the service, as its superuser."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import asyncpg

_COUNTS = """
    SELECT device_id::text, count(*) FROM tillsync.event WHERE tenant_id = $1::uuid GROUP BY 1
"""
_EVENTS = """
    SELECT device_id::text, key, amounts FROM tillsync.event WHERE tenant_id = $1::uuid
"""
_TOTALS = """
    SELECT device_id::text, sum(event_count)::bigint, sum(amount_minor)::bigint
    FROM tillsync.device_day WHERE tenant_id = $1::uuid GROUP BY 1
"""
_RECORDS = """
    SELECT CASE WHEN scope = '00000000-0000-0000-0000-000000000000' THEN '' ELSE scope::text END,
        collection, record_id, body
    FROM tillsync.record WHERE tenant_id = $1::uuid AND body IS NOT NULL
"""
_CONFLICTS = "SELECT count(*) FROM tillsync.conflict WHERE tenant_id = $1::uuid"
_LATEST = """
    SELECT position, key, outbox_epoch, device_sequence, business_day, amounts, k.digest
    FROM tillsync.event e JOIN tillsync.event_key k USING (tenant_id, key, position)
    WHERE tenant_id = $1::uuid AND device_id = $2::uuid
    ORDER BY business_day DESC, position DESC LIMIT $3
"""
# As a disk loses a sale: with all that tells of it.
_LOSE = (
    "DELETE FROM tillsync.event WHERE tenant_id = $1::uuid AND position = $2",
    "DELETE FROM tillsync.event_key WHERE tenant_id = $1::uuid AND key = $2",
    """
    UPDATE tillsync.device_progress
    SET sequences = sequences - int8multirange(int8range($4, $4, '[]'))
    WHERE tenant_id = $1::uuid AND device_id = $2::uuid AND outbox_epoch = $3
    """,
    """
    UPDATE tillsync.device_day
    SET event_count = event_count - 1, amount_minor = amount_minor - $5::numeric,
        digest_sum = mod(digest_sum + 2::numeric ^ 128 - $6::text::numeric, 2::numeric ^ 128)
    WHERE tenant_id = $1::uuid AND device_id = $2::uuid AND business_day = $3 AND currency = $4
    """,
)
_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
_LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Stored:
    """One row of the history."""

    device_id: str
    key: str
    amounts: Mapping[str, int]
    """Currency to minor units."""


class Books:
    """Looks while the demo runs, and reads all of it at the end."""

    def __init__(self) -> None:
        self._url = ""
        self._connection: asyncpg.Connection | None = None
        self._seen: dict[str, int] = {}
        self._turn = asyncio.Lock()

    def open(self, url: str, tenant_id: str) -> None:
        """From now on there is something to look at."""
        self._url, self._tenant_id = url, tenant_id

    async def counts(self) -> dict[str, int]:
        """Events by device; the last known ones while PostgreSQL is away."""
        if not self._url:
            return {}
        with suppress(*_AWAY):
            async with asyncio.timeout(_LOOK_SECONDS):
                self._seen = dict(await self._fetch(_COUNTS))
        return self._seen

    async def events(self) -> list[Stored]:
        """The whole history."""
        return [
            Stored(device_id, key, json.loads(amounts))
            for device_id, key, amounts in await self._fetch(_EVENTS)
        ]

    async def totals(self) -> dict[str, tuple[int, int]]:
        """What the service's own day totals come to: device to (events, minor units)."""
        return {device: (count, money) for device, count, money in await self._fetch(_TOTALS)}

    async def records(self) -> dict[str, dict[tuple[str, str], str]]:
        """Every live record: by store, empty for the whole chain, (collection, id) to body."""
        held: dict[str, dict[tuple[str, str], str]] = {"": {}}
        for store_id, collection, record_id, body in await self._fetch(_RECORDS):
            held.setdefault(store_id, {})[collection, record_id] = body
        return held

    async def conflicts(self) -> int:
        """How many edits were kept with both sides."""
        ((count,),) = await self._fetch(_CONFLICTS)
        return int(count)

    async def lose(self, device_id: str, count: int) -> str:
        """A till's latest sales vanish, as if a disk had lost them; gives their business day."""
        sales = await self._fetch(_LATEST, device_id, count)
        event, key, progress, day = _LOSE
        for sale in sales:
            await self._execute(event, sale["position"])
            await self._execute(key, sale["key"])
            numbers = (sale["outbox_epoch"], sale["device_sequence"])
            await self._execute(progress, device_id, *numbers)
            digest = str(int.from_bytes(sale["digest"], "big"))
            for currency, minor in json.loads(sale["amounts"]).items():
                place = (device_id, sale["business_day"], currency)
                await self._execute(day, *place, minor, digest)
        return str(sales[0]["business_day"])

    async def close(self) -> None:
        if self._connection is not None:
            with suppress(*_AWAY):
                await self._connection.close(timeout=_LOOK_SECONDS)

    async def _fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._turn:
            connection = await self._connected()
            rows: list[asyncpg.Record] = await connection.fetch(query, self._tenant_id, *arguments)
        return rows

    async def _execute(self, statement: str, *arguments: object) -> None:
        async with self._turn:
            await (await self._connected()).execute(statement, self._tenant_id, *arguments)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url, ssl=False)
        return self._connection
