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

    async def close(self) -> None:
        if self._connection is not None:
            with suppress(*_AWAY):
                await self._connection.close(timeout=_LOOK_SECONDS)

    async def _fetch(self, query: str) -> list[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url, ssl=False)
        rows: list[asyncpg.Record] = await self._connection.fetch(query, self._tenant_id)
        return rows
