"""Forgets deletions that are old: the horizon moves first, then the rows go."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Role, statements
from tillsync_service.foundation.errors import ServiceError
from tillsync_service.sync.store import LOCK_HEAD

log = structlog.get_logger(__name__)

_SQL = statements("tillsync_service.sync")


class Forgetting:
    """Keeps deletions for `keep_days`: a device that was away for longer loads everything anew."""

    def __init__(self, database: Database, keep_days: int) -> None:
        self._database = database
        self._keep_days = keep_days

    async def run(self, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Until cancelled: looks at every tenant now and then. Replicas may do it together."""
        while True:
            await pause(limits.FORGET_EVERY_SECONDS)
            try:
                for tenant_id in await self._tenants():
                    await self.forget(tenant_id)
            except ServiceError as error:
                log.warning("forgetting_waits", cause=str(error))
            except Exception as error:  # whatever it is, this must go on
                log.exception("forgetting_failed", exc_info=error)

    async def forget(self, tenant_id: UUID) -> int:
        """How many of the tenant's deletions are forgotten now."""
        async with self._database.transaction(tenant_id, role=Role.WORKER) as transaction:
            row = await transaction.fetch_one(_SQL["forgotten_before"], tenant_id, self._keep_days)
        version = row["version"] if row else None
        if version is None:
            return 0
        lock = LOCK_HEAD.format(tenant=tenant_id)
        async with self._database.transaction(
            tenant_id, role=Role.WORKER, then=lock
        ) as transaction:
            await transaction.execute(_SQL["move_horizon"], tenant_id, version)
            status = await transaction.execute(_SQL["forget"], tenant_id, version)
        forgotten = int(status.removeprefix("DELETE "))
        log.info("deletions_forgotten", tenant_id=str(tenant_id), count=forgotten)
        return forgotten

    async def _tenants(self) -> list[UUID]:
        async with self._database.transaction(None, role=Role.WORKER) as transaction:
            rows = await transaction.fetch(_SQL["tenants_with_records"])
        return [row["tenant_id"] for row in rows]
