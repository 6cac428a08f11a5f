"""What head office holds, read past the service with the migrator's rights."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID, uuid4

import asyncpg

from support.builders import a_device
from tillsync_service.foundation.identity import Device


class Books:
    """One test database, over a connection that sees every tenant's rows."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def open_tenant(self) -> UUID:
        tenant_id = uuid4()
        await self.connection.execute(
            "INSERT INTO tillsync.tenant VALUES ($1, 'Shops', true)", tenant_id
        )
        await self.connection.execute(
            "INSERT INTO tillsync.tenant_head (tenant_id, stream)"
            " VALUES ($1, 'event'), ($1, 'record')",
            tenant_id,
        )
        return tenant_id

    async def enrol(self, tenant_id: UUID | None = None) -> Device:
        """A device of the tenant, or of a new one."""
        device = a_device(tenant_id or await self.open_tenant())
        await self.connection.execute(
            "INSERT INTO tillsync.store VALUES ($1, $2, $3, 'Main street')",
            device.tenant_id,
            device.store_id,
            device.store_id.hex,
        )
        await self.connection.execute(
            "INSERT INTO tillsync.device (tenant_id, device_id, store_id, name)"
            " VALUES ($1, $2, $3, 'till')",
            device.tenant_id,
            device.device_id,
            device.store_id,
        )
        return device

    async def keys(self, tenant_id: UUID) -> list[str]:
        """The keys of the history, in its order."""
        return [row["key"] for row in await self.events(tenant_id)]

    async def positions(self, tenant_id: UUID) -> list[int]:
        return [row["position"] for row in await self.events(tenant_id)]

    async def events(self, tenant_id: UUID) -> Sequence[asyncpg.Record]:
        return await self.connection.fetch(
            "SELECT * FROM tillsync.event WHERE tenant_id = $1 ORDER BY position", tenant_id
        )

    async def event(self, tenant_id: UUID, key: str) -> asyncpg.Record:
        return await self.connection.fetchrow(
            "SELECT * FROM tillsync.event WHERE tenant_id = $1 AND key = $2", tenant_id, key
        )

    async def ledger(self, tenant_id: UUID) -> dict[str, tuple[int, bytes]]:
        rows = await self.connection.fetch(
            "SELECT key, position, digest FROM tillsync.event_key WHERE tenant_id = $1", tenant_id
        )
        return {row["key"]: (row["position"], row["digest"]) for row in rows}

    async def quarantine(self, tenant_id: UUID) -> Sequence[asyncpg.Record]:
        return await self.connection.fetch(
            "SELECT * FROM tillsync.quarantine WHERE tenant_id = $1 ORDER BY key, digest", tenant_id
        )

    async def rejections(self, tenant_id: UUID) -> list[tuple[UUID, int, int, str, str]]:
        rows = await self.connection.fetch(
            "SELECT device_id, outbox_epoch, device_sequence, reason, field"
            " FROM tillsync.rejection WHERE tenant_id = $1"
            " ORDER BY device_id, outbox_epoch, device_sequence",
            tenant_id,
        )
        return [tuple(row) for row in rows]

    async def days(self, tenant_id: UUID) -> dict[tuple[UUID, date, str], tuple[int, int, int]]:
        """(device, business day, currency) to (events, money, digest sum)."""
        rows = await self.connection.fetch(
            "SELECT * FROM tillsync.device_day WHERE tenant_id = $1", tenant_id
        )
        return {
            (row["device_id"], row["business_day"], row["currency"]): (
                row["event_count"],
                int(row["amount_minor"]),
                int(row["digest_sum"]),
            )
            for row in rows
        }

    async def progress(self, tenant_id: UUID) -> dict[tuple[UUID, int], set[int]]:
        """(device, epoch) to the numbers that were dealt with."""
        rows = await self.connection.fetch(
            "SELECT device_id, outbox_epoch, sequences FROM tillsync.device_progress"
            " WHERE tenant_id = $1",
            tenant_id,
        )
        return {
            (row["device_id"], row["outbox_epoch"]): {
                number for part in row["sequences"] for number in range(part.lower, part.upper)
            }
            for row in rows
        }

    async def head(self, tenant_id: UUID) -> int:
        return await self.connection.fetchval(
            "SELECT position FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'event'",
            tenant_id,
        )

    async def refuse_key(self, key: str, sqlstate: str) -> None:
        """From now on Postgres fails with `sqlstate` when this key is to be stored."""
        await self.connection.execute(
            f"""
            CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.key = '{key}' THEN
                    RAISE EXCEPTION 'row of % refused', NEW.tenant_id USING ERRCODE = '{sqlstate}';
                END IF;
                RETURN NEW;
            END $$;
            CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON tillsync.event_key
            FOR EACH ROW EXECUTE FUNCTION public.refuse()
            """
        )


class CommitGate:
    """Holds every transaction that stores an event inside its COMMIT while the gate is closed."""

    _LOCK = 20_261_122

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def build(self) -> None:
        await self._connection.execute(
            f"""
            CREATE FUNCTION public.pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock_shared({self._LOCK});
                RETURN NULL;
            END $$;
            CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON tillsync.event_key
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION public.pass_gate()
            """
        )

    async def close(self) -> None:
        await self._connection.execute(f"SELECT pg_advisory_lock({self._LOCK})")

    async def open(self) -> None:
        await self._connection.execute(f"SELECT pg_advisory_unlock({self._LOCK})")

    async def waiting(self) -> list[int]:
        """The server processes that stand before the gate."""
        rows = await self._connection.fetch(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return [row["pid"] for row in rows]
