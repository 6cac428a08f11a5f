"""What operators ask of the projections themselves: how far they are, and all rows anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tillsync_service.foundation.db import Database, Role, Row, statements
from tillsync_service.foundation.errors import NotFound
from tillsync_service.foundation.pages import Asked, Page, page
from tillsync_service.projections.writing import BY_INDEX, SQL

_SQL = statements("tillsync_service.projections", "operator_queries.sql")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild has come. `joined`: somebody else began it."""

    done: int
    total: int
    started_by: str
    started_at: datetime
    joined: bool = False
    finished: bool = False


class RebuildStore:
    """Begins rebuilds and watches them; the workers do them. `wake` is called with the tenant when
    one was begun."""

    def __init__(
        self, database: Database, wake: Callable[[UUID], None] = lambda _tenant_id: None
    ) -> None:
        self._database = database
        self._wake = wake

    async def list_projections(self, tenant_id: UUID | None, asked: Asked) -> Page:
        """A page of all tenants' projections, or the one tenant's. Raises NotFound."""
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(
                _SQL["list_projections"], asked.after, asked.rows_to_read, tenant_id
            )
        if tenant_id is not None and not rows:
            raise _no_tenant()
        return page(asked, rows, "tenant_id")

    async def tenants(self) -> Sequence[UUID]:
        """All tenants, in order."""
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(_SQL["tenants"])
        return [row["tenant_id"] for row in rows]

    async def start(self, tenant_id: UUID, actor: str) -> Progress:
        """A rebuild that is begun, committed, or the one that was under way. Raises NotFound."""
        async with self._database.transaction(
            tenant_id, role=Role.WORKER, then=BY_INDEX
        ) as transaction:
            await transaction.execute(SQL["begin"], tenant_id)
            status = await transaction.execute(SQL["start_rebuild"], tenant_id, actor)
            row = await transaction.fetch_one(_SQL["place"], tenant_id)
        if row is None:
            raise _no_tenant()
        self._wake(tenant_id)
        return _progress(row, joined=status == "UPDATE 0")

    async def watch(self, tenant_id: UUID, before: Progress) -> Progress:
        """How far the rebuild has come since. Raises NotFound."""
        async with self._database.transaction(tenant_id, snapshot=True) as transaction:
            row = await transaction.fetch_one(_SQL["place"], tenant_id)
        if row is None:
            raise _no_tenant()
        if row["rebuild_position"] is None:
            return Progress(
                before.total,
                before.total,
                before.started_by,
                before.started_at,
                before.joined,
                finished=True,
            )
        return _progress(row, joined=before.joined)


def _progress(row: Row, *, joined: bool) -> Progress:
    return Progress(
        row["rebuild_position"] - row["rebuild_from"],
        max(row["rebuild_until"] - row["rebuild_from"], 0),
        row["rebuild_by"],
        row["rebuild_started_at"],
        joined,
    )


def _no_tenant() -> NotFound:
    return NotFound("There is no such tenant.")
