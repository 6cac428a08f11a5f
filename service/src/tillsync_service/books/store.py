"""Writes down what devices claim, and compares it with what is held."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync.v1.event_pb2 import Event
from tillsync_service.books.claims import DIGEST_MODULUS, Book, Claims, Outbox, Span
from tillsync_service.books.comparison import Closing, Content, DayFound, Held, compared
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Row, Transaction, statements
from tillsync_service.foundation.errors import NotFound
from tillsync_service.foundation.identity import Device

_SQL = statements("tillsync_service.books")

_BOOK_COLUMNS = 5
_CLOSING_COLUMNS = 4
_SPAN_COLUMNS = 3
_LAST_NUMBER = 2**63 - 2


def keep_tenant(tenant_id: UUID) -> str:
    """For the opening round trip: it keeps the tenant. Who deletes it waits, and finds what was
    written."""
    return f"SELECT FROM tillsync.tenant WHERE tenant_id = '{tenant_id}' FOR KEY SHARE"


@dataclass(frozen=True, slots=True)
class Sum:
    """How many events the history holds of a span, and their digests' sum modulo 2^128."""

    event_count: int
    digest_sum: int


@dataclass(slots=True)
class Reconciled:
    """What the service holds of what a device claimed; days and sums in the order of the claims."""

    history_id: UUID
    missing: Sequence[Span]
    waived: Sequence[Span]
    more_missing: bool
    days: Sequence[DayFound] = ()
    sums: Sequence[Sum] = ()
    dispositions: Sequence[Row] = field(default_factory=list)


class ReconcileStore:
    """Acts for one device at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reconcile(self, device: Device, claims: Claims) -> Reconciled:
        """Writes the claims and the closings down, committed, and returns what is held.

        Raises NotFound for a tenant or device that is gone, Unavailable."""
        keep = keep_tenant(device.tenant_id)
        async with self._database.transaction(device.tenant_id, then=keep) as transaction:
            return await _Reconciliation(transaction, device).run(claims)


class _Reconciliation:
    """One transaction. Later statements see more than earlier ones, never less: what is said to be
    here is here."""

    def __init__(self, transaction: Transaction, device: Device) -> None:
        self._transaction = transaction
        self._ids = (device.tenant_id, device.device_id)

    async def run(self, claims: Claims) -> Reconciled:
        if claims.outboxes or claims.days:
            await self._claim(claims)
        result, whole = await self._missing(claims.outboxes)
        if claims.days:
            result.days = await self._compared(claims, whole=whole)
        if claims.spans:
            result.sums = await self._sums(claims.spans)
        if claims.outboxes or claims.spans:
            result.dispositions = await self._dispositions(claims)
        return result

    async def _claim(self, claims: Claims) -> None:
        books = [
            (day.name, currency, book.event_count, str(book.amount_minor), str(book.digest_sum))
            for day in claims.days
            for currency, book in day.books.items()
        ]
        await self._transaction.execute(
            _SQL["claim"],
            *self._ids,
            *_columns(claims.outboxes, 2),
            [day.name for day in claims.days],
            *_columns(books, _BOOK_COLUMNS),
            limits.MAX_DAY_CLAIMS * limits.MAX_DAY_CURRENCIES,
        )

    async def _missing(self, outboxes: Sequence[Outbox]) -> tuple[Reconciled, bool]:
        """What is missing, and whether nothing is."""
        rows = await self._transaction.fetch(
            _SQL["holes"], *self._ids, *_columns(outboxes, 2), limits.MAX_MISSING_SPANS + 1
        )
        if not rows:
            raise NotFound(
                "The tenant or the device is gone.",
                reason=ErrorReason.ERROR_REASON_TENANT_GONE,
            )
        holes = [row for row in rows if row["epoch"] is not None]
        shown = holes[: limits.MAX_MISSING_SPANS]
        result = Reconciled(
            rows[0]["history_id"],
            missing=_spans(shown),
            waived=_spans(row for row in shown if row["is_waived"]),
            more_missing=len(holes) > len(shown),
        )
        return result, rows[0]["whole"]

    async def _compared(self, claims: Claims, *, whole: bool) -> list[DayFound]:
        names = [day.name for day in claims.days]
        rows = await self._transaction.fetch(
            _SQL["days"], *self._ids, names, limits.MAX_SHOWN_CURRENCIES
        )
        found, closings = compared(claims.days, held_days(rows, "number"), whole=whole)
        if closings:
            columns = _columns(map(_closing_row, closings), _CLOSING_COLUMNS)
            await self._transaction.execute(_SQL["close"], *self._ids, *columns)
        return found

    async def _sums(self, spans: Sequence[Span]) -> list[Sum]:
        rows = await self._transaction.fetch(
            _SQL["span_sums"], *self._ids, *_columns(spans, _SPAN_COLUMNS)
        )
        return [Sum(row["event_count"], _joined(row)) for row in rows]

    async def _dispositions(self, claims: Claims) -> list[Row]:
        within = [Span(outbox.epoch, 1, _LAST_NUMBER) for outbox in claims.outboxes]
        within += claims.spans
        envelopes = await self._transaction.fetch(
            _SQL["quarantined"],
            *self._ids,
            limits.MAX_QUARANTINED_READ,
            limits.MAX_QUARANTINED_BYTES,
        )
        return await self._transaction.fetch(
            _SQL["dispositions"],
            *self._ids,
            *_columns(within, _SPAN_COLUMNS),
            *_columns(map(_number_of, envelopes), 2),
            limits.MAX_EXPLAINED_SPAN,
            limits.MAX_DISPOSITIONS,
            [False] * len(claims.outboxes) + [True] * len(claims.spans),
        )


def _spans(holes: Iterable[Row]) -> list[Span]:
    return [Span(row["epoch"], row["first"], row["last"]) for row in holes]


def held_days(rows: Iterable[Row], by: str) -> Iterator[Held]:
    """The days that rows of `days` tell of; `by` is the column whose value each has one of."""
    for _, of_day in groupby(rows, key=itemgetter(by)):
        books: dict[str, Book] = {}
        for row in of_day:
            if row["currency"] is not None:
                books[row["currency"]] = Book(
                    row["event_count"], int(row["amount_minor"]), int(row["digest_sum"])
                )
        closing = None
        if row["revision"]:
            closing = Content(row["closed_count"], int(row["closed_digest"]))
        yield Held(books, row["revision"], closing, waived=row["waived"])


def _closing_row(closing: Closing) -> tuple[Any, ...]:
    name, revision, (event_count, digest_sum) = closing
    return name, revision, event_count, str(digest_sum)


def _joined(row: Row) -> int:
    """The digests' sum from the sums of their four parts."""
    total = 0
    for part in ("part_1", "part_2", "part_3", "part_4"):
        total = (total << 32) + int(row[part] or 0)
    return total % DIGEST_MODULUS


def _number_of(quarantined: Row) -> tuple[int, int]:
    """The number of a quarantined event, or (0, 0), which no span has."""
    event = Event.FromString(quarantined["envelope"])
    return event.outbox_epoch, event.device_sequence


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[Sequence[Any]]:
    """Rows as the columns that unnest() takes: `width` of them, also when there is no row."""
    return list(zip(*rows, strict=True)) or [()] * width
