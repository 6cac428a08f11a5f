"""How far behind the consumers are, for whoever watches."""

import asyncio
from collections.abc import Callable, Mapping
from uuid import UUID

import structlog

from tillsync_service.feed.store import FeedStore
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import ServiceError

log = structlog.get_logger(__name__)


class LagWatch:
    """Calls `observe` every 15 s with the lags of all consumers, (tenant id, consumer name) to
    events: one that is not among them any more was deleted."""

    def __init__(
        self, store: FeedStore, observe: Callable[[Mapping[tuple[UUID, str], int]], None]
    ) -> None:
        self._store = store
        self._observe = observe

    async def look(self) -> None:
        """Once. Raises Unavailable."""
        lags = await self._store.lags(limits.MAX_FEED_LAGS)
        self._observe(lags)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except ServiceError:
                pass  # the database is away: readiness says so
            except Exception as error:  # whatever it is, this must go on
                log.exception("feed_lag_failed", exc_info=error)
            await asyncio.sleep(limits.FEED_LAG_EVERY_SECONDS)
