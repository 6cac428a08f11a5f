"""What operators ask the books, and what they say about what is missing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from tillsync_service.books.claims import UNDECLARED_DAY, Span
from tillsync_service.books.comparison import Held
from tillsync_service.books.missing import Found, Lacking, by_device, lacking
from tillsync_service.books.store import held_days, keep_tenant
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Role, Row, Transaction, statements
from tillsync_service.foundation.errors import InvalidRequest, NotFound
from tillsync_service.foundation.pages import Asked, page

_SQL = statements("tillsync_service.books", "operator_queries.sql")


@dataclass(frozen=True, slots=True)
class Listed:
    """A page: those that something is missing from, of the devices that were looked at."""

    devices: Sequence[Lacking]
    examined: int
    next_token: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a device stands on a day."""

    device: Row
    last_heard_at: datetime | None
    held: Held


class BooksStore:
    """What belongs to another tenant is NotFound, as if it did not exist."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_missing(
        self, tenant_id: UUID, store_id: UUID | None, since: date | None, asked: Asked
    ) -> Listed:
        """A page of the tenant's devices, or of one store's. Raises NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            await _must_exist(transaction, tenant_id, store_id)
            rows = await transaction.fetch(
                _SQL["devices"], tenant_id, store_id, asked.after, asked.rows_to_read
            )
            shown = page(asked, rows, "device_id")
            ids = [row["device_id"] for row in shown.rows]
            found = await _found(transaction, tenant_id, ids, since)
        return Listed(lacking(shown.rows, found, since), len(ids), shown.next_token)

    async def list_day(self, tenant_id: UUID, store_id: UUID, day: date) -> list[Standing]:
        """Every device of the store that is not revoked, by id; `device` says whether
        the day was `claimed` and `waived`. Raises NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            await _must_exist(transaction, tenant_id, store_id)
            rows = await transaction.fetch(
                _SQL["day_of_store"],
                tenant_id,
                store_id,
                day.isoformat(),
                limits.MAX_SHOWN_CURRENCIES,
            )
            devices = {row["device_id"]: row for row in rows}
            heard = await transaction.fetch(_SQL["heard_of"], tenant_id, list(devices))
        return [
            Standing(device, moment["last_heard_at"], held)
            for device, moment, held in zip(
                devices.values(), heard, held_days(rows, "device_id"), strict=True
            )
        ]

    async def waive(
        self, tenant_id: UUID, device_id: UUID, what: Span | date, reason: str, actor: str
    ) -> Row:
        """The waiver of an outbox's numbers or of a business day, and the note of it, committed.
        Raises NotFound, and InvalidRequest for numbers that were never given to an event."""
        span = what if isinstance(what, Span) else (None, None, None)
        day = what.isoformat() if isinstance(what, date) else None
        keep = keep_tenant(tenant_id)
        async with self._database.transaction(tenant_id, then=keep) as transaction:
            if isinstance(what, Span):
                await _must_be_counted(transaction, tenant_id, device_id, what)
            row = await transaction.fetch_one(
                _SQL["waive"], tenant_id, device_id, *span, day, reason, actor
            )
        if row is None:
            raise _not_found("device")
        return row

    async def declare_restored(self, reason: str, actor: str) -> int:
        """New ids for the histories of every tenant, tenant by tenant, each committed with a note
        of it; how many tenants that were. Ended half-way, a repeat gives all of them new ids."""
        renewed = 0
        last = UUID(int=0)
        while tenant_ids := await self._tenants_after(last):
            for tenant_id in tenant_ids:
                renewed += await self._renew(tenant_id, reason, actor)
            last = tenant_ids[-1]
        return renewed

    async def _tenants_after(self, last: UUID) -> list[UUID]:
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(_SQL["list_tenants"], last, limits.MAX_PAGE_SIZE)
        return [row["tenant_id"] for row in rows]

    async def _renew(self, tenant_id: UUID, reason: str, actor: str) -> bool:
        """Whether there was something to renew: a tenant that is being deleted has no head."""
        async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
            heads = await transaction.fetch(_SQL["lock_heads"], tenant_id)
            if heads:
                ended = {head["stream"]: str(head["history_id"]) for head in heads}
                detail = json.dumps({"reason": reason, "ended": ended})
                await transaction.execute(_SQL["renew_histories"], tenant_id, actor, detail)
        return bool(heads)


async def _found(
    transaction: Transaction, tenant_id: UUID, ids: Sequence[UUID], since: date | None
) -> Found:
    from_day = since.isoformat() if since else UNDECLARED_DAY
    heard = await transaction.fetch(_SQL["heard_of"], tenant_id, ids)
    holes = await transaction.fetch(_SQL["holes_of"], tenant_id, ids, limits.MAX_LISTED_HOLES)
    differences = await transaction.fetch(
        _SQL["differences_of"], tenant_id, ids, from_day, limits.MAX_LISTED_DAYS
    )
    waivers = await transaction.fetch(_SQL["waivers_of"], tenant_id, ids)
    forks = await transaction.fetch(_SQL["forks_of"], tenant_id, ids)
    return Found(*map(by_device, (heard, holes, differences, waivers, forks)))


async def _must_exist(transaction: Transaction, tenant_id: UUID, store_id: UUID | None) -> None:
    if await transaction.fetch_one(_SQL["find_tenant"], tenant_id) is None:
        raise _not_found("tenant")
    if store_id and await transaction.fetch_one(_SQL["find_store"], tenant_id, store_id) is None:
        raise _not_found("store")


async def _must_be_counted(
    transaction: Transaction, tenant_id: UUID, device_id: UUID, span: Span
) -> None:
    """A slip of the operator's hand must not waive the sales of next year."""
    row = await transaction.fetch_one(_SQL["counted"], tenant_id, device_id, span.epoch)
    if row and span.last > row["last"]:
        raise InvalidRequest(
            "span.last", f"Outbox {span.epoch} of this device counted up to {row['last']:,} only."
        )


def _not_found(thing: str) -> NotFound:
    return NotFound(f"There is no such {thing}.")
