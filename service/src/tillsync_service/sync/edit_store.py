"""Applies devices' edits under the order rule: lock the record head, look, judge, write, commit."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation.db import Database, Row, Transaction, statements
from tillsync_service.foundation.errors import NotFound, StateForbids
from tillsync_service.foundation.identity import Device
from tillsync_service.sync.bodies import DIGEST_MODULUS, record_hash
from tillsync_service.sync.edits import (
    Conflict,
    Edit,
    Judgement,
    Known,
    RecordKey,
    Result,
    Setting,
    judge,
)
from tillsync_service.sync.store import LOCK_HEAD

_SQL = statements("tillsync_service.sync")
_RECORD_COLUMNS = 8
_PART_COLUMNS = 4
_RESULT_COLUMNS = 7
_CONFLICT_COLUMNS = 11


@dataclass(frozen=True, slots=True)
class Receipt:
    """One result per edit, in order; none if the edits begin after `next_sequence`."""

    history_id: UUID
    next_sequence: int
    results: Sequence[Result]


class EditStore:
    """`changed` is called with the tenant after each commit that a device may want to hear of."""

    def __init__(self, database: Database, changed: Callable[[UUID], None]) -> None:
        self._database = database
        self._changed = changed
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def push(self, device: Device, epoch: int, edits: Sequence[Edit]) -> Receipt:
        """Applies what is new of the edits, each once, all in one transaction, committed.

        Raises StateForbids (MUTATION_REUSED), NotFound for a tenant or device that is gone."""
        tenant_id = device.tenant_id
        lock = LOCK_HEAD.format(tenant=tenant_id)
        # One at a time waits for the head row, on a connection: while an import holds it, the
        # others of the tenant would keep every connection from every other tenant.
        turn = self._turns.setdefault(tenant_id, asyncio.Lock())
        async with turn, self._database.transaction(tenant_id, then=lock) as transaction:
            place = await transaction.fetch_one(
                _SQL["push_place"], tenant_id, device.device_id, epoch
            )
            if place is None:
                raise NotFound(
                    "The tenant or the device is gone.",
                    reason=ErrorReason.ERROR_REASON_TENANT_GONE,
                )
            last = place["last_sequence"]
            if edits[0].sequence > last + 1:
                return Receipt(place["history_id"], last + 1, ())
            known = [edit for edit in edits if edit.sequence <= last]
            results = await _first_results(transaction, device, epoch, known)
            if len(results) < len(known):
                return Receipt(place["history_id"], known[len(results)].sequence, results)
            fresh = edits[len(known) :]
            if fresh:
                results += await self._apply(transaction, device, epoch, fresh, place)
                last = fresh[-1].sequence
        if fresh:
            self._changed(tenant_id)
        return Receipt(place["history_id"], last + 1, results)

    async def _apply(
        self,
        transaction: Transaction,
        device: Device,
        epoch: int,
        edits: Sequence[Edit],
        place: Row,
    ) -> list[Result]:
        tenant_id = device.tenant_id
        names = sorted({edit.key[0] for edit in edits})
        policies = await transaction.fetch(_SQL["policies"], tenant_id, names)
        known = await known_records(transaction, tenant_id, {edit.key for edit in edits})
        setting = Setting(
            device_id=device.device_id,
            store_id=place["store_id"],  # as of now, whatever the token says
            head=place["position"],
            horizon=place["horizon"],
            policies={row["name"]: row["policy"] for row in policies},
        )
        # Some hundred edits of large records take seconds, which are nobody else's.
        judgement = await asyncio.to_thread(judge, edits, setting, known)
        # A version for the news that these edits are dealt with, also where they changed nothing.
        judgement.head += 1
        await write_records(transaction, tenant_id, judgement.records, known)
        await _write_results(transaction, device, epoch, edits, judgement)
        return judgement.results


async def write_records(
    transaction: Transaction,
    tenant_id: UUID,
    records: Mapping[RecordKey, Known],
    known: Mapping[RecordKey, Known],
) -> None:
    """Records as they are now, and what that makes of their parts' digests. The caller holds the
    head row, and advances it."""
    if not records:
        return
    parts: dict[tuple[str, UUID], list[int]] = {}
    rows: list[tuple[Any, ...]] = []
    for key, record in records.items():
        collection, scope, record_id = key
        part = parts.setdefault((collection, scope), [0, 0])
        before = known.get(key)
        if before is not None and before.body is not None:
            part[0] -= 1
            part[1] -= record_hash(record_id, before.body)
        new_hash = None
        if record.body is not None:
            new_hash = record_hash(record_id, record.body)
            part[0] += 1
            part[1] += new_hash
        text = None if new_hash is None else str(new_hash)
        rows.append((*key, record.version, record.body, text, record.edited_by, record.edited_from))
    totals = [
        (*part, count, str(digest % DIGEST_MODULUS)) for part, (count, digest) in parts.items()
    ]
    await transaction.execute(
        _SQL["write_records"],
        tenant_id,
        *_columns(rows, _RECORD_COLUMNS),
        *_columns(totals, _PART_COLUMNS),
    )


async def known_records(
    transaction: Transaction, tenant_id: UUID, keys: Iterable[RecordKey]
) -> dict[RecordKey, Known]:
    """Those of the records that there are, deleted ones too."""
    rows = await transaction.fetch(_SQL["records"], tenant_id, *_columns(sorted(keys), 3))
    return {
        (row["collection"], row["scope"], row["record_id"]): Known(
            row["version"], row["body"], row["edited_by"], row["edited_from"] or 0
        )
        for row in rows
    }


async def _first_results(
    transaction: Transaction, device: Device, epoch: int, edits: Sequence[Edit]
) -> list[Result]:
    """What became of edits that were dealt with before, up to the first whose number was used for
    another edit. Raises StateForbids when that is the first of all."""
    if not edits:
        return []
    span = (edits[0].sequence, edits[-1].sequence)
    rows = await transaction.fetch(
        _SQL["results"], device.tenant_id, device.device_id, epoch, *span
    )
    same = list(
        takewhile(lambda pair: pair[0].digest == pair[1]["digest"], zip(edits, rows, strict=True))
    )
    if not same:
        raise StateForbids(
            f"Number {edits[0].sequence} of epoch {epoch} was used for another edit; number the "
            "waiting ones anew under a new epoch.",
            reason=ErrorReason.ERROR_REASON_MUTATION_REUSED,
        )
    return [
        Result(row["outcome"], row["version"], row["reason"], row["field"], row["description"])
        for _, row in same
    ]


async def _write_results(
    transaction: Transaction,
    device: Device,
    epoch: int,
    edits: Sequence[Edit],
    judgement: Judgement,
) -> None:
    results = [
        (edit.sequence, edit.digest, r.outcome, r.version, r.reason, r.field, r.description)
        for edit, r in zip(edits, judgement.results, strict=True)
    ]
    await transaction.execute(
        _SQL["write_results"],
        device.tenant_id,
        device.device_id,
        epoch,
        judgement.head,
        *_columns(results, _RESULT_COLUMNS),
    )
    if judgement.conflicts:
        conflicts = map(_conflict_row, judgement.conflicts)
        await transaction.execute(
            _SQL["write_conflicts"],
            device.tenant_id,
            device.device_id,
            epoch,
            *_columns(conflicts, _CONFLICT_COLUMNS),
        )


def _conflict_row(conflict: Conflict) -> tuple[Any, ...]:
    edit, met = conflict.edit, conflict.met
    return (
        conflict.conflict_id,
        edit.sequence,
        *edit.key,
        edit.kind,
        edit.base_version,
        edit.body,
        met.version if met else 0,
        met.body if met else None,
        conflict.outcome,
        conflict.description,
    )


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[Sequence[Any]]:
    """Rows as the columns that unnest() takes: `width` of them, also when there is no row."""
    return list(zip(*rows, strict=True)) or [()] * width
