"""The ingest transaction: lock the head, compare, judge, write, commit."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation.db import Database, Row, Transaction, statements
from tillsync_service.foundation.errors import NotFound
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.batch import Batch, array_items
from tillsync_service.ingest.verdicts import (
    Holder,
    Judgement,
    Number,
    Outbox,
    Quarantined,
    Ranges,
    Rejected,
    Verdicts,
    judge,
    presented,
    ranges,
)

T = TypeVar("T")

_SQL = statements("tillsync_service.ingest")

# Rides in the opening round trip; such a statement takes no arguments, hence the literal.
_LOCK_HEAD = (
    "SELECT FROM tillsync.tenant_head WHERE tenant_id = '{tenant}' AND stream = 'event' FOR UPDATE"
)

DIGEST_MODULUS = 2**128
_BOOK_COLUMNS = 6
_PROGRESS_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Receipt:
    """One verdict per event, in order, and the history that their positions belong to."""

    history_id: str
    verdicts: Verdicts


class IngestStore:
    """The only writer of the ledger and the history. `stored` is called with the tenant after each
    commit of new events; it must not raise."""

    def __init__(
        self, database: Database, stored: Callable[[UUID], None] = lambda _tenant_id: None
    ) -> None:
        self._database = database
        self._stored = stored

    async def commit(self, tenant_id: UUID, batches: Sequence[Batch]) -> list[Receipt]:
        """Stores a group of one tenant's batches in one transaction and returns what became of
        each. Raises DataRefused when Postgres refuses one of their events, and nothing was stored;
        Unavailable when nothing is known to be stored; NotFound for a tenant that is gone.
        """
        lock = _LOCK_HEAD.format(tenant=tenant_id)
        # Nothing is worked out under the lock that can be known before.
        keys = _storable_keys(batches)
        numbers = presented(batches)
        async with self._database.transaction(tenant_id, then=lock) as transaction:
            rows = await _look(transaction, tenant_id, keys, numbers)
            seen = _seen(rows)
            judged = partial(
                judge,
                batches,
                head=rows[0]["head"],
                held=_held(rows),
                seen=seen,
                numbers=numbers,
            )
            judgement = judged(used=seen)
            if judgement.forks:
                judgement = judged(used=await _used(transaction, tenant_id, judgement.forks))
            await _write(transaction, tenant_id, judgement)
        if judgement.stored:
            self._stored(tenant_id)
        history_id = str(rows[0]["history_id"])
        return [Receipt(history_id, verdicts) for verdicts in judgement.verdicts]

    async def knows(self, device: Device) -> bool:
        """Whether the device is enrolled, in this store of this tenant. Raises Unavailable."""
        async with self._database.transaction(device.tenant_id) as transaction:
            row = await transaction.fetch_one(
                _SQL["device"], device.tenant_id, device.device_id, device.store_id
            )
        return row is not None


def _storable_keys(batches: Iterable[Batch]) -> list[str]:
    return [
        key
        for batch in batches
        for key, refusal in zip(batch.keys, batch.refusals, strict=True)
        if refusal is None
    ]


async def _look(
    transaction: Transaction,
    tenant_id: UUID,
    keys: Sequence[str],
    numbers: Mapping[Outbox, Ranges],
) -> list[Row]:
    presented_columns = _columns(_progress_rows(numbers), _PROGRESS_COLUMNS)
    rows = await transaction.fetch(_SQL["look"], tenant_id, keys, *presented_columns)
    if not rows:
        raise NotFound("The tenant is gone.", reason=ErrorReason.ERROR_REASON_TENANT_GONE)
    return rows


def _held(rows: Iterable[Row]) -> dict[str, Holder]:
    return {row["key"]: (row["position"], row["digest"]) for row in rows if row["key"] is not None}


def _seen(rows: Iterable[Row]) -> dict[Outbox, Ranges]:
    return {
        (row["device_id"], row["outbox_epoch"]): tuple(
            (part.lower, part.upper) for part in row["sequences"]
        )
        for row in rows
        if row["device_id"] is not None
    }


async def _used(
    transaction: Transaction, tenant_id: UUID, numbers: Sequence[Number]
) -> dict[Outbox, Ranges]:
    """Which of the numbers events of the history have."""
    rows = await transaction.fetch(_SQL["used"], tenant_id, *_columns(numbers, 3))
    found: dict[Outbox, set[int]] = {}
    for row in rows:
        outbox = row["device_id"], row["outbox_epoch"]
        found.setdefault(outbox, set()).add(row["device_sequence"])
    return {outbox: ranges(members) for outbox, members in found.items()}


async def _write(transaction: Transaction, tenant_id: UUID, judgement: Judgement) -> None:
    """Each statement only where it has something to do: a retry finds nothing but duplicates."""
    if judgement.stored or judgement.progress:
        await transaction.execute(
            _SQL["write"],
            tenant_id,
            judgement.head,
            *_event_columns(judgement.stored),
            *_columns(_book_rows(judgement), _BOOK_COLUMNS),
            *_columns(_progress_rows(judgement.progress), _PROGRESS_COLUMNS),
        )
    if judgement.forks:
        forks = _fork_rows(judgement.forks)
        await transaction.execute(_SQL["forked"], tenant_id, *_columns(forks, 4))
    if judgement.quarantined:
        quarantined = map(_quarantine_row, judgement.quarantined)
        await transaction.execute(_SQL["quarantine"], tenant_id, *_columns(quarantined, 6))
    if judgement.rejected:
        rejected = map(_rejection_row, judgement.rejected)
        await transaction.execute(_SQL["reject"], tenant_id, *_columns(rejected, 5))


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[Sequence[Any]]:
    """Rows as the columns that unnest() takes: `width` of them, also when there is no row."""
    return list(zip(*rows, strict=True)) or [()] * width


def _event_columns(stored: Sequence[Batch]) -> list[Any]:
    """What `write` takes for the history, in the order of its parameters."""
    return [
        _joined(batch.keys for batch in stored),
        _joined(batch.digests for batch in stored),
        _array(",".join([str(batch.device.store_id)] * len(batch)) for batch in stored),
        _array(",".join([str(batch.device.device_id)] * len(batch)) for batch in stored),
        _array(array_items(batch.epochs) for batch in stored),
        _array(array_items(batch.sequences) for batch in stored),
        _array(batch.seconds for batch in stored),
        _array(batch.nanos for batch in stored),
        _array(",".join(batch.days) for batch in stored),
        _array(batch.offsets_ms for batch in stored),
        _array(array_items(batch.flags) for batch in stored),
        _joined(batch.types for batch in stored),
        _joined(batch.bodies for batch in stored),
        "[" + ",".join(batch.amounts for batch in stored) + "]",
        _array(batch.traceparents for batch in stored),
    ]


def _joined(columns: Iterable[Iterable[T]]) -> list[T]:
    return list(chain.from_iterable(columns))


def _array(items: Iterable[str]) -> str:
    """Numbers, ids, dates and the like, which need no quoting, as one array literal: asyncpg takes
    several times as long to encode an array of them, item by item, as Postgres to parse it."""
    return "{" + ",".join(items) + "}"


def _book_rows(judgement: Judgement) -> list[tuple[Any, ...]]:
    return [
        (
            device_id,
            *day_and_currency,
            total.event_count,
            str(total.amount_minor),
            str(total.digest_sum % DIGEST_MODULUS),
        )
        for device_id, totals in judgement.days.items()
        for day_and_currency, total in totals.items()
    ]


def _progress_rows(progress: Mapping[Outbox, Ranges]) -> list[tuple[UUID, int, str]]:
    return [(*outbox, _multirange(ranges)) for outbox, ranges in progress.items()]


def _fork_rows(forks: Sequence[Number]) -> list[tuple[UUID, int, int, int]]:
    """For each device the last of its numbers, and how many there are."""
    events = Counter(device_id for device_id, _, _ in forks)
    latest = {device_id: (epoch, sequence) for device_id, epoch, sequence in forks}
    return [(device_id, *latest[device_id], count) for device_id, count in events.items()]


def _quarantine_row(quarantined: Quarantined) -> tuple[Any, ...]:
    held_position, batch, place = quarantined
    return (
        batch.keys[place],
        batch.digests[place],
        held_position,
        batch.device.store_id,
        batch.device.device_id,
        batch.events[batch.places[place]].SerializeToString(),
    )


def _rejection_row(rejected: Rejected) -> tuple[Any, ...]:
    *number, refusal = rejected
    return (*number, refusal.reason, refusal.field)


def _multirange(ranges: Ranges) -> str:
    return "{" + ",".join(f"[{first},{end})" for first, end in ranges) + "}"
