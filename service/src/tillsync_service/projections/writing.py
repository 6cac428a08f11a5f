"""Writes what events become, within a transaction that holds the tenant's projection."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import DataRefused, Row, Transaction, statements
from tillsync_service.projections.enrich import enrich
from tillsync_service.projections.reasons import Reason, Why
from tillsync_service.projections.rows import Dead, Recorded, Rows, Sums
from tillsync_service.projections.voids import Target, Voiding, judge

SQL = statements("tillsync_service.projections")

# For the opening round trip. Every statement here finds its rows by an index; a table that the
# planner knows nothing of yet is not read from end to end because it was empty when it looked.
BY_INDEX = "SET LOCAL enable_seqscan = off"

_ENVELOPE = len(Recorded._fields)


@dataclass(frozen=True, slots=True)
class Before:
    """How documents were taken back before a page's rows were made anew: `kept` by others, `held`
    by events of the page."""

    kept: Sequence[Voiding] = ()
    held: Collection[Voiding] = ()


_NOTHING_BEFORE = Before()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a page: the numbers of events, and the dead ones. `loose`: the positions of
    voids of documents that there were, and are no more."""

    projected: int = 0
    skipped: int = 0
    dead: Sequence[Dead] = ()
    loose: Sequence[int] = ()


def recorded(row: Row) -> Recorded:
    """The event in a row that begins with its columns."""
    return Recorded._make(row[:_ENVELOPE])


async def project(
    transaction: Transaction,
    tenant_id: UUID,
    events: Sequence[Recorded],
    *,
    refused: DataRefused | None = None,
    anywhere: bool = False,
    before: Before = _NOTHING_BEFORE,
) -> Outcome:
    """Writes the rows of `events`, of which none has rows yet. The dead ones are returned, and not
    buried. `refused`: what Postgres said of these events when it was asked before. `anywhere`: a
    void may take back what came after it.

    Raises DataRefused when Postgres refuses one of their rows; nothing can be written after that.
    """
    if refused is not None:
        return Outcome(
            dead=[Dead(event, _refusal(refused)) for event in events],
            loose=[voiding.position for voiding in before.kept],
        )
    pages = await _written(transaction, tenant_id, events)
    loose: list[int] = []
    if before.kept:
        written = {position for rows in pages for position in rows.documents()}
        kept = [voiding for voiding in before.kept if voiding.target in written]
        loose = [voiding.position for voiding in before.kept if voiding.target not in written]
        await _take_back(transaction, tenant_id, kept)
    dead = [one for rows in pages for one in rows.dead]
    voids = [void for rows in pages for void in rows.voids]
    if voids:
        targets = await _targets(transaction, tenant_id, voids)
        voidings, unknown = judge(voids, targets, anywhere=anywhere, held=before.held)
        await _take_back(transaction, tenant_id, voidings)
        dead += unknown
    skipped = sum(len(rows.skipped) for rows in pages)
    return Outcome(len(events) - skipped - len(dead), skipped, dead, loose)


class _Chunk(NamedTuple):
    """Some events' rows, and what the statements take for them."""

    rows: Rows
    documents: Sequence[Any]
    movements: Sequence[Any]


async def _written(
    transaction: Transaction, tenant_id: UUID, events: Sequence[Recorded]
) -> list[Rows]:
    """The events' rows, written, and what they come to, added. While Postgres writes some, the next
    are looked into."""
    sums = Sums()
    chunk = await _looked_into(events[: limits.PROJECT_CHUNK_EVENTS], sums)
    chunks = [chunk]
    for start in range(limits.PROJECT_CHUNK_EVENTS, len(events), limits.PROJECT_CHUNK_EVENTS):
        following = events[start : start + limits.PROJECT_CHUNK_EVENTS]
        _, chunk = await asyncio.gather(
            _write(transaction, tenant_id, chunk), _looked_into(following, sums)
        )
        chunks.append(chunk)
    await _write(transaction, tenant_id, chunk)
    if any(one.documents or one.movements for one in chunks):
        await transaction.execute(SQL["add"], tenant_id, *sums.columns())
    return [one.rows for one in chunks]


async def _looked_into(events: Sequence[Recorded], sums: Sums) -> _Chunk:
    rows = Rows()
    for start in range(0, len(events), limits.PROJECT_SLICE_EVENTS):
        enrich(events[start : start + limits.PROJECT_SLICE_EVENTS], rows)
        await asyncio.sleep(0)
    rows.add_to(sums)
    await asyncio.sleep(0)
    return _Chunk(
        rows,
        rows.document_columns() if rows.sales else (),
        rows.movement_columns() if rows.movements else (),
    )


async def _write(transaction: Transaction, tenant_id: UUID, chunk: _Chunk) -> None:
    if chunk.rows.sales:
        await transaction.execute(SQL["write"], tenant_id, *chunk.documents)
    if chunk.rows.movements:
        await transaction.execute(SQL["write_movements"], tenant_id, *chunk.movements)


async def _take_back(
    transaction: Transaction, tenant_id: UUID, voidings: Sequence[Voiding]
) -> None:
    """Marks documents as taken back; the sums follow."""
    await mark(
        transaction,
        tenant_id,
        [voiding.target for voiding in voidings],
        [voiding.position for voiding in voidings],
    )


async def mark(
    transaction: Transaction,
    tenant_id: UUID,
    documents: Sequence[int],
    voided_by: Sequence[int | None],
) -> None:
    """Says of documents by which event each was taken back, None: by none. The sums follow."""
    if documents:
        await transaction.execute(SQL["count"], tenant_id, documents, -1)
        await transaction.execute(SQL["mark_sales"], tenant_id, documents, voided_by)
        await transaction.execute(SQL["mark_movements"], tenant_id, documents, voided_by)
        await transaction.execute(SQL["count"], tenant_id, documents, 1)


async def bury(transaction: Transaction, tenant_id: UUID, dead: Sequence[Dead]) -> None:
    """Writes down which events cannot be projected; one that could not be before is tried once
    more by it."""
    if dead:
        rows = [
            (event.position, event.key, event.store_id, event.device_id, event.type_url, *why)
            for event, why in dead
        ]
        await transaction.execute(SQL["bury"], tenant_id, *zip(*rows, strict=True))


async def _targets(
    transaction: Transaction, tenant_id: UUID, voids: Sequence[tuple[Recorded, str]]
) -> dict[str, Target]:
    # A longer key no event can have.
    keys = list({key for _, key in voids if len(key) <= limits.MAX_KEY_CHARACTERS})
    found = await transaction.fetch(SQL["targets"], tenant_id, keys)
    return {row["key"]: Target(row["position"], row["voided_by"]) for row in found}


def _refusal(refused: DataRefused) -> Why:
    named = f", {refused.constraint}" if refused.constraint else ""
    return Why(
        Reason.DATABASE_REFUSED, "", f"The database refused it: SQLSTATE {refused.sqlstate}{named}."
    )
