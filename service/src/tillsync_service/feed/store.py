"""Reads the feed, and writes down how far its consumers have come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.feed import cursors
from tillsync_service.feed.cursors import Cursor
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Role, Row, Transaction, statements
from tillsync_service.foundation.errors import NotFound, StateForbids

_SQL = statements("tillsync_service.feed")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscription wants in a page. None: any."""

    page_events: int = limits.DEFAULT_FEED_PAGE_EVENTS
    type_urls: Sequence[str] | None = None
    store_ids: Sequence[UUID] | None = None
    received_from: datetime | None = None
    received_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Where a tenant's history ends."""

    history_id: UUID
    position: int


@dataclass(frozen=True, slots=True)
class Page:
    """Events in ascending position; `cursor` is where it ends."""

    cursor: Cursor
    head_position: int
    rows: Sequence[Row] = ()

    @property
    def caught_up(self) -> bool:
        return self.cursor.position == self.head_position


@dataclass(frozen=True, slots=True)
class Consumers:
    """Some consumers, beside the head of the same snapshot."""

    head: Head
    rows: Sequence[Row]


class FeedStore:
    """Its methods raise NotFound for a tenant that is gone, and Unavailable. `page_bytes` bounds a
    page; one event is sent however large."""

    def __init__(
        self,
        database: Database,
        *,
        page_bytes: int = limits.MAX_FEED_PAGE_BYTES,
        scan_events: int = limits.MAX_FEED_SCAN_EVENTS,
    ) -> None:
        self._database = database
        self._page_bytes = page_bytes
        self._scan_events = scan_events

    async def start(self, tenant_id: UUID, consumer: str, *, from_head: bool) -> Cursor:
        """Where a subscription without a cursor begins: where the consumer is (a name or ""), else
        at the head or at the beginning."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            head = await _head(transaction, tenant_id)
            if consumer:
                row = await transaction.fetch_one(_SQL["consumer"], tenant_id, consumer)
                if row is not None:
                    return Cursor(row["history_id"], row["position"])
        return Cursor(head.history_id, head.position if from_head else 0)

    async def page(self, tenant_id: UUID, cursor: Cursor, wanted: Wanted) -> Page:
        """The next page after the cursor. Raises what cursors.must_be_of does."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            head = await _head(transaction, tenant_id)
            cursors.must_be_of(cursor, head.history_id, head.position)
            if cursor.position == head.position:
                return Page(cursor, head.position)
            last_looked_at = min(head.position, cursor.position + self._scan_events)
            rows = await transaction.fetch(
                _SQL["page"],
                tenant_id,
                cursor.position,
                last_looked_at,
                wanted.page_events,
                self._page_bytes,
                wanted.type_urls,
                wanted.store_ids,
                wanted.received_from,
                wanted.received_before,
            )
        is_full = bool(rows) and (
            len(rows) == wanted.page_events or rows[-1]["bytes_so_far"] >= self._page_bytes
        )
        position = rows[-1]["position"] if is_full else last_looked_at
        return Page(Cursor(cursor.history_id, position), head.position, rows)

    async def heads(self, tenant_ids: Iterable[UUID]) -> dict[UUID, Head]:
        """Of those tenants that there are."""
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(_SQL["heads"], list(tenant_ids))
        return {row["tenant_id"]: Head(row["history_id"], row["position"]) for row in rows}

    async def commit(
        self, tenant_id: UUID, consumer: str, cursor: Cursor, *, rewind: bool
    ) -> Consumers:
        """The consumer, at the cursor, committed. Raises what cursors.must_be_of does, and
        StateForbids (CURSOR_BEHIND; too many consumers)."""
        async with self._database.transaction(tenant_id) as transaction:
            head = await _head(transaction, tenant_id)
            cursors.must_be_of(cursor, head.history_id, head.position)
            counted = await transaction.fetch_one(_SQL["other_consumers"], tenant_id, consumer)
            if counted is not None and counted["others"] >= limits.MAX_FEED_CONSUMERS:
                raise StateForbids(
                    f"A tenant has at most {limits.MAX_FEED_CONSUMERS} consumers: delete one."
                )
            row = await transaction.fetch_one(
                _SQL["commit"], tenant_id, consumer, cursor.position, cursor.history_id, rewind
            )
            if row is None:
                raise StateForbids(
                    "A later cursor of this consumer is committed. To go back, say rewind.",
                    reason=ErrorReason.ERROR_REASON_CURSOR_BEHIND,
                )
        return Consumers(head, [row])

    async def consumers(self, tenant_id: UUID) -> Consumers:
        """All of the tenant's, by name."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            head = await _head(transaction, tenant_id)
            return Consumers(head, await transaction.fetch(_SQL["consumers"], tenant_id))

    async def delete(self, tenant_id: UUID, consumer: str) -> None:
        """Raises NotFound where there is none by that name."""
        async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
            done = await transaction.execute(_SQL["delete_consumer"], tenant_id, consumer)
        if done == "DELETE 0":
            raise NotFound("There is no such consumer.")

    async def lags(self, most: int) -> dict[tuple[UUID, str], int]:
        """(tenant, consumer) to the events that it has not committed, of every tenant."""
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(_SQL["lags"], most)
        return {(row["tenant_id"], row["name"]): row["lag_events"] for row in rows}


async def _head(transaction: Transaction, tenant_id: UUID) -> Head:
    row = await transaction.fetch_one(_SQL["head"], tenant_id)
    if row is None:
        raise NotFound("The tenant is gone.", reason=ErrorReason.ERROR_REASON_TENANT_GONE)
    return Head(row["history_id"], row["position"])
