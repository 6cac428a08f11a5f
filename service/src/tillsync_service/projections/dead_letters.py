"""What operators do with events that could not be projected: look, replay, discard."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import (
    Database,
    DataRefused,
    Role,
    Row,
    Transaction,
    statements,
)
from tillsync_service.foundation.errors import NotFound, StateForbids
from tillsync_service.projections.halving import Stride
from tillsync_service.projections.reasons import Reason, Why
from tillsync_service.projections.rows import Dead
from tillsync_service.projections.writing import BY_INDEX, SQL, bury, project, recorded

_SQL = statements("tillsync_service.projections", "operator_queries.sql")
_LAST_POSITION = 2**63 - 1
WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters: those that fit everything that is set."""

    from_position: int = 0
    to_position: int = 0
    reason: str = ""
    type_name: str = ""
    store_id: UUID | None = None

    @property
    def arguments(self) -> tuple[object, ...]:
        """What the statements take for it."""
        until = self.to_position or _LAST_POSITION
        return (self.from_position, until, self.reason, self.type_name, self.store_id)


@dataclass(frozen=True, slots=True)
class Asked:
    """A page of at most `size` of them, after the position `after`. `dry_run`: nothing is
    written."""

    chosen: Filter
    after: int
    size: int
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a page: `last` is the position of its last dead letter, 0 without one."""

    tried: int = 0
    changed: int = 0
    last: int = 0
    more: bool = False


class _DryRun(Exception):
    """Ends a transaction that must leave nothing behind."""


class DeadLetterStore:
    """Acts for operators, on one tenant at a time. What writes has the tenant's projection locked
    for a page at most, so that live events wait for a moment only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_dead_letters(
        self, tenant_id: UUID, asked: Asked, state: str
    ) -> tuple[list[Row], bool]:
        """A page in the `state` (empty: any), and whether there are more. Raises NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            await _must_exist(transaction, tenant_id)
            rows = await _found(transaction, tenant_id, asked, state)
        return rows[: asked.size], len(rows) > asked.size

    async def dead_letter(self, tenant_id: UUID, position: int) -> tuple[Row, Row | None]:
        """One, and its event unless it was pruned. Raises NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            letter = await transaction.fetch_one(_SQL["dead_letter"], tenant_id, position)
            event = await transaction.fetch_one(_SQL["event"], tenant_id, position)
        if letter is None:
            raise NotFound("There is no such dead letter.")
        return letter, event

    async def replay(self, tenant_id: UUID, asked: Asked) -> Done:
        """Projects a page of those that wait again, in one transaction. `changed` are dead no
        longer, the others have one more attempt. Raises NotFound, StateForbids, Unavailable."""
        return await Stride(asked.size).step(partial(self._replay, tenant_id, asked))

    async def discard(self, tenant_id: UUID, asked: Asked, because: str, actor: str) -> Done:
        """Discards a page of those that wait, committed. Raises NotFound, Unavailable."""
        async with self._writing(tenant_id, dry_run=asked.dry_run) as transaction:
            await _lock(transaction, tenant_id)
            rows = await _found(transaction, tenant_id, asked, WAITING)
            positions = [row["position"] for row in rows[: asked.size]]
            await transaction.execute(_SQL["discard"], tenant_id, positions, because, actor)
        found = len(positions)
        return Done(found, found, positions[-1] if positions else 0, len(rows) > found)

    async def _replay(
        self, tenant_id: UUID, asked: Asked, most: int, refused: DataRefused | None
    ) -> Done:
        async with self._writing(tenant_id, dry_run=asked.dry_run) as transaction:
            if not await _lock(transaction, tenant_id):
                raise StateForbids(
                    "The database was restored, and the tables do not follow yet: try again once "
                    "the rebuild has begun."
                )
            bounds = (most + 1, limits.PROJECT_PAGE_BYTES)
            rows = await transaction.fetch(
                _SQL["replayed"], tenant_id, asked.after, *asked.chosen.arguments, *bounds
            )
            page = rows[:most]
            revived = await _revive(transaction, tenant_id, page, refused) if page else 0
        if not page:
            return Done()
        return Done(len(page), revived, page[-1]["position"], page[0]["found"] > len(page))

    @asynccontextmanager
    async def _writing(self, tenant_id: UUID, *, dry_run: bool) -> AsyncIterator[Transaction]:
        """A transaction that is committed, or, in a dry run, rolled back at its end."""
        with suppress(_DryRun):
            async with self._database.transaction(
                tenant_id, role=Role.WORKER, then=BY_INDEX
            ) as transaction:
                yield transaction
                _must_be_kept(dry_run=dry_run)


def _must_be_kept(*, dry_run: bool) -> None:
    if dry_run:
        raise _DryRun


async def _revive(
    transaction: Transaction, tenant_id: UUID, page: Sequence[Row], refused: DataRefused | None
) -> int:
    """How many of the page's events are projected or skipped now."""
    events = [recorded(row) for row in page if row["body"] is not None]
    outcome = await project(transaction, tenant_id, events, refused=refused, anywhere=True)
    pruned = [Dead(recorded(row), _pruned(row["reason"])) for row in page if row["body"] is None]
    dead = {event.position for event, _ in outcome.dead}
    revived = [event.position for event in events if event.position not in dead]
    await transaction.execute(SQL["raise"], tenant_id, revived)
    await bury(transaction, tenant_id, [*outcome.dead, *pruned])
    return len(revived)


def _pruned(reason: str) -> Why:
    return Why(Reason.EVENT_PRUNED, "", f"The event was pruned. It had been put aside as {reason}.")


async def _found(transaction: Transaction, tenant_id: UUID, asked: Asked, state: str) -> list[Row]:
    """The page that was asked for, and one more, if there are more."""
    arguments = (*asked.chosen.arguments, state, asked.size + 1)
    return await transaction.fetch(_SQL["list_dead_letters"], tenant_id, asked.after, *arguments)


async def _lock(transaction: Transaction, tenant_id: UUID) -> bool:
    """Whether the projection, now locked, is of the present history. Raises NotFound."""
    row = await transaction.fetch_one(_SQL["lock"], tenant_id)
    if row is None:
        await _must_exist(transaction, tenant_id)
    return row is None or row["current"]


async def _must_exist(transaction: Transaction, tenant_id: UUID) -> None:
    if await transaction.fetch_one(_SQL["find_tenant"], tenant_id) is None:
        raise NotFound("There is no such tenant.")
