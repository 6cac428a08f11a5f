"""The ingest transaction: lock the head, compare, judge, write, commit."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation.db import Database, Row, Transaction, statements
from tillsync_service.foundation.errors import NotFound
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.examine import Candidate, Refusal
from tillsync_service.ingest.verdicts import (
    DIGEST_MODULUS,
    Holder,
    Judgement,
    Outbox,
    Ranges,
    Verdict,
    judge,
    presented,
)

_SQL = statements("tillsync_service.ingest")

# Rides in the opening round trip; such a statement takes no arguments, hence the literal.
_LOCK_HEAD = (
    "SELECT FROM tillsync.tenant_head WHERE tenant_id = '{tenant}' AND stream = 'event' FOR UPDATE"
)

_LITERALS = tuple(
    Candidate._fields.index(name)
    for name in (
        "store_id",
        "device_id",
        "outbox_epoch",
        "device_sequence",
        "occurred_second",
        "occurred_nano",
        "business_day",
        "clock_offset_ms",
        "flags",
        "traceparent",
    )
)
_AMOUNTS = Candidate._fields.index("amounts")
_BOOK_COLUMNS = 6
_PROGRESS_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Receipt:
    """One verdict per event, in order, and the history that their positions belong to."""

    history_id: str
    verdicts: list[Verdict]


class IngestStore:
    """The only writer of the ledger and the history."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def commit(self, tenant_id: UUID, examined: Sequence[Candidate | Refusal]) -> Receipt:
        """Stores a group of one tenant's events in one transaction and returns what became of
        each. Raises DataRefused when Postgres refuses one of them, and nothing was stored;
        Unavailable when nothing is known to be stored; NotFound for a tenant that is gone.
        """
        lock = _LOCK_HEAD.format(tenant=tenant_id)
        async with self._database.transaction(tenant_id, then=lock) as transaction:
            numbers = presented(examined)
            rows = await _head_and_holders(transaction, tenant_id, examined)
            judgement = judge(
                examined,
                head=rows[0]["head"],
                held=_held(rows),
                seen=await _seen(transaction, tenant_id, numbers),
                numbers=numbers,
            )
            await _write(transaction, tenant_id, judgement)
        return Receipt(str(rows[0]["history_id"]), judgement.verdicts)

    async def knows(self, device: Device) -> bool:
        """Whether the device is enrolled, in this store of this tenant. Raises Unavailable."""
        async with self._database.transaction(device.tenant_id) as transaction:
            row = await transaction.fetch_one(
                _SQL["device"], device.tenant_id, device.device_id, device.store_id
            )
        return row is not None


async def _head_and_holders(
    transaction: Transaction, tenant_id: UUID, examined: Iterable[Candidate | Refusal]
) -> list[Row]:
    keys = [event.key for event in examined if isinstance(event, Candidate)]
    rows = await transaction.fetch(_SQL["head_and_holders"], tenant_id, keys)
    if not rows:
        raise NotFound("The tenant is gone.", reason=ErrorReason.ERROR_REASON_TENANT_GONE)
    return rows


def _held(rows: Iterable[Row]) -> dict[str, Holder]:
    return {row["key"]: (row["position"], row["digest"]) for row in rows if row["key"] is not None}


async def _seen(
    transaction: Transaction, tenant_id: UUID, numbers: Mapping[Outbox, Ranges]
) -> dict[Outbox, Ranges]:
    if not numbers:
        return {}
    rows = await transaction.fetch(
        _SQL["seen_sequences"], tenant_id, *_columns(_progress_rows(numbers), _PROGRESS_COLUMNS)
    )
    return {
        (row["device_id"], row["outbox_epoch"]): tuple(
            (part.lower, part.upper) for part in row["sequences"]
        )
        for row in rows
    }


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
    if judgement.quarantined:
        rows = map(_quarantine_row, judgement.quarantined)
        await transaction.execute(_SQL["quarantine"], tenant_id, *_columns(rows, 6))
    if judgement.rejected:
        refusals = (refusal[:5] for refusal in judgement.rejected)
        await transaction.execute(_SQL["reject"], tenant_id, *_columns(refusals, 5))


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[Sequence[Any]]:
    """Rows as the columns that unnest() takes: `width` of them, also when there is no row."""
    return list(zip(*rows, strict=True)) or [()] * width


def _event_columns(stored: Sequence[Candidate]) -> list[Any]:
    """What `write` takes for the history, in order; the last column of a Candidate stays here."""
    columns = _columns(stored, len(Candidate._fields))[:-1]
    for index in _LITERALS:
        columns[index] = _array(columns[index])
    columns[_AMOUNTS] = [_amounts_json(amounts) for amounts in columns[_AMOUNTS]]
    return columns


def _array(column: Sequence[object]) -> str:
    """Numbers, ids, dates and the like, which need no quoting, as one array literal: asyncpg takes
    several times as long to encode an array of them, item by item, as Postgres to parse it."""
    texts = {value: "NULL" if value is None else str(value) or '""' for value in set(column)}
    return "{" + ",".join(map(texts.__getitem__, column)) + "}"


def _book_rows(judgement: Judgement) -> list[tuple[Any, ...]]:
    return [
        (*day, total.event_count, str(total.amount_minor), str(total.digest_sum % DIGEST_MODULUS))
        for day, total in judgement.days.items()
    ]


def _progress_rows(progress: Mapping[Outbox, Ranges]) -> list[tuple[UUID, int, str]]:
    return [(*outbox, _multirange(ranges)) for outbox, ranges in progress.items()]


def _quarantine_row(quarantined: tuple[int, Candidate]) -> tuple[Any, ...]:
    held_position, event = quarantined
    envelope = event.source.SerializeToString()
    return (event.key, event.digest, held_position, event.store_id, event.device_id, envelope)


def _multirange(ranges: Ranges) -> str:
    return "{" + ",".join(f"[{first},{end})" for first, end in ranges) + "}"


def _amounts_json(amounts: Mapping[str, int]) -> str:
    return "{" + ",".join([f"{_quoted(name)}:{minor}" for name, minor in amounts.items()]) + "}"


@lru_cache(maxsize=1024)
def _quoted(currency: str) -> str:
    return json.dumps(currency)
