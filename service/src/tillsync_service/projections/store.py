"""A tenant's turn: the next page of its history, or of a rebuild, in one transaction each."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, DataRefused, Role, Row, Transaction
from tillsync_service.projections.rows import Dead
from tillsync_service.projections.voids import VOID_UNKNOWN, Voiding
from tillsync_service.projections.writing import (
    BY_INDEX,
    SQL,
    Before,
    Outcome,
    bury,
    mark,
    project,
    recorded,
)

# What a rebuild is said to be started by, where nobody asked for it.
HISTORY_CHANGED = "history changed"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn did. `lag`: how many events wait still. `rebuilding`: rows wait to be made
    anew."""

    outcome: Outcome
    lag: int
    rebuilding: bool


class ProjectionStore:
    """The writer of the projected tables. Several may work on one database: a tenant is of whom
    has its row of projection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def behind(self) -> list[Row]:
        """`tenant_id`, `lag` and `rebuilding` of the tenants that there is something to do for."""
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            return await transaction.fetch(SQL["behind"])

    async def waiting(self) -> dict[UUID, int]:
        """How many dead letters wait, by tenant."""
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(SQL["waiting"])
        return {row["tenant_id"]: row["waiting"] for row in rows}

    async def advance(
        self, tenant_id: UUID, most_events: int, refused: DataRefused | None = None
    ) -> Turn | None:
        """Projects the next events: all their rows, the dead letters and the cursor are committed
        together. None where another replica has the tenant, or where it is gone.

        `refused`: what Postgres said of the next event, which is buried for it. Raises DataRefused
        when it refuses one of the events, Unavailable when nothing is known to be written."""
        async with self._database.transaction(
            tenant_id, role=Role.WORKER, then=BY_INDEX
        ) as transaction:
            place = await _take(transaction, tenant_id)
            if place is None:
                return None
            if place["history_id"] != place["head_history_id"]:
                return await _follow(transaction, tenant_id, place)
            rows = await _page(
                transaction, tenant_id, place["position"], place["head"], most_events
            )
            if not rows:
                return Turn(Outcome(), 0, place["rebuild_position"] is not None)
            outcome = await project(
                transaction, tenant_id, [recorded(row) for row in rows], refused=refused
            )
            await bury(transaction, tenant_id, outcome.dead)
            position = rows[-1]["position"]
            await transaction.execute(SQL["move"], tenant_id, position)
        return Turn(outcome, place["head"] - position, place["rebuild_position"] is not None)

    async def rebuild(
        self, tenant_id: UUID, most_events: int, refused: DataRefused | None = None
    ) -> Turn | None:
        """Makes the next page of a rebuild's rows anew, in their place: whoever reads the tables
        sees either all of the page's old rows, and sums with them, or all of its new ones. None as
        in `advance`, and raises as it does."""
        async with self._database.transaction(
            tenant_id, role=Role.WORKER, then=BY_INDEX
        ) as transaction:
            place = await _take(transaction, tenant_id)
            if place is None:
                return None
            lag = place["head"] - place["position"]
            if place["rebuild_position"] is None:
                return Turn(Outcome(), lag, rebuilding=False)
            rows = await _page(
                transaction,
                tenant_id,
                place["rebuild_position"],
                place["rebuild_until"],
                most_events,
            )
            if not rows:
                await transaction.execute(SQL["end_rebuild"], tenant_id)
                return Turn(Outcome(), lag, rebuilding=False)
            outcome = await _anew(transaction, tenant_id, rows, refused)
            await transaction.execute(SQL["move_rebuild"], tenant_id, rows[-1]["position"])
        return Turn(outcome, lag, rebuilding=True)


async def _take(transaction: Transaction, tenant_id: UUID) -> Row | None:
    """The tenant's projection, locked; None where another has it, or there is no such tenant."""
    place = await transaction.fetch_one(SQL["take"], tenant_id)
    if place is None:
        await transaction.execute(SQL["begin"], tenant_id)
        place = await transaction.fetch_one(SQL["take"], tenant_id)
    return place


async def _page(
    transaction: Transaction, tenant_id: UUID, after: int, until: int, most_events: int
) -> list[Row]:
    return await transaction.fetch(
        SQL["events"], tenant_id, after, until, most_events, limits.PROJECT_PAGE_BYTES
    )


async def _follow(transaction: Transaction, tenant_id: UUID, place: Row) -> Turn:
    """One step into another history: first what lies beyond its end goes, page by page, and then
    everything that is left is rebuilt."""
    lag = max(place["head"] - place["position"], 1)
    beyond = await transaction.fetch(
        SQL["beyond"], tenant_id, place["head"], limits.PROJECT_PAGE_EVENTS
    )
    if beyond:
        first, last = beyond[0]["position"], beyond[-1]["position"]
        await _retract(transaction, tenant_id, first, last)
        await transaction.execute(SQL["remove_dead_between"], tenant_id, first, last)
    else:
        await transaction.execute(
            SQL["new_history"], tenant_id, place["head_history_id"], place["head"]
        )
        # One that was under way was of the other history.
        await transaction.execute(SQL["end_rebuild"], tenant_id)
        await transaction.execute(SQL["start_rebuild"], tenant_id, HISTORY_CHANGED)
    return Turn(Outcome(), lag, rebuilding=True)


async def _anew(
    transaction: Transaction, tenant_id: UUID, rows: Sequence[Row], refused: DataRefused | None
) -> Outcome:
    """The rows of these events, made anew. What others took back stays so."""
    before = await _retract(transaction, tenant_id, rows[0]["position"], rows[-1]["position"])
    events = [recorded(row) for row in rows if not row["discarded"]]
    outcome = await project(transaction, tenant_id, events, refused=refused, before=before)
    dead = {event.position for event, _ in outcome.dead}
    alive = [event.position for event in events if event.position not in dead]
    await transaction.execute(SQL["raise"], tenant_id, alive)
    await bury(transaction, tenant_id, outcome.dead)
    if outcome.loose:
        voids = await transaction.fetch(SQL["events_at"], tenant_id, outcome.loose)
        await bury(transaction, tenant_id, [Dead(recorded(row), VOID_UNKNOWN) for row in voids])
    return outcome


async def _retract(transaction: Transaction, tenant_id: UUID, first: int, last: int) -> Before:
    """Takes the rows of the events from `first` to `last` out of the tables, and what these events
    did to others."""
    held = [
        Voiding(row["voided_by"], row["position"])
        for row in await transaction.fetch(SQL["voided_between"], tenant_id, first, last)
    ]
    await mark(transaction, tenant_id, [one.target for one in held], [None] * len(held))
    documents = await transaction.fetch(SQL["documents_between"], tenant_id, first, last)
    if documents:
        positions = [row["position"] for row in documents]
        await transaction.execute(SQL["count"], tenant_id, positions, -1)
        await transaction.execute(SQL["remove_between"], tenant_id, first, last)
    kept = [
        Voiding(row["voided_by"], row["position"])
        for row in documents
        if row["voided_by"] is not None
    ]
    return Before(kept, held)
