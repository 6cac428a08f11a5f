"""One subscription: page after page up to the head, and then, live, whatever comes.

A stream holds the page that is being sent and the next one, which is read meanwhile, and nothing
else; no place and no connection is held while a peer takes a page, so that one that takes none
holds nobody up.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from tillsync_service.feed.cursors import Cursor
from tillsync_service.feed.heads import Heads
from tillsync_service.feed.store import FeedStore, Page, Wanted
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import Overloaded
from tillsync_service.foundation.streams import one_ahead

Rendered = TypeVar("Rendered")


@dataclass(slots=True)
class _Tenant:
    """A tenant's streams. Its reads take turns among themselves, so that another tenant's wait
    for no more than a few of them, however many streams it opens."""

    streams: int = 0
    reads: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(limits.MAX_FEED_READS_PER_TENANT)
    )


class Feeds:
    """The subscriptions of this replica. `observe` is called with how many are open, whenever that
    changes; `luck` gives numbers from [0, 1): streams that began together do not end together."""

    def __init__(
        self,
        store: FeedStore,
        heads: Heads,
        *,
        heartbeat_seconds: float = limits.HEARTBEAT_SECONDS,
        max_seconds: float = limits.MAX_FEED_SECONDS,
        luck: Callable[[], float] = random.random,
        observe: Callable[[int], None] = lambda _streams: None,
    ) -> None:
        self._store = store
        self._heads = heads
        self._heartbeat_seconds = heartbeat_seconds
        self._max_seconds = max_seconds
        self._luck = luck
        self._observe = observe
        self._tenants: dict[UUID, _Tenant] = {}
        self._open_streams = 0

    async def stream(
        self,
        tenant_id: UUID,
        cursor: Cursor,
        wanted: Wanted,
        render: Callable[[Page], Awaitable[Rendered]],
        *,
        live: bool,
    ) -> AsyncGenerator[Rendered, None]:
        """What `render` makes of each page after the cursor. Ends when caught up, or, live, when
        its time is over. Raises what FeedStore.page does, and Overloaded."""
        with self._open(tenant_id) as tenant:
            pages = self._pages(tenant_id, tenant, cursor, wanted, live=live)
            async with aclosing(pages), aclosing(one_ahead(pages, render)) as rendered:
                async for each in rendered:
                    yield each
                    del each  # the next one may be minutes away

    @contextmanager
    def _open(self, tenant_id: UUID) -> Iterator[_Tenant]:
        tenant = self._tenants.get(tenant_id) or _Tenant()
        if (
            tenant.streams >= limits.MAX_FEED_STREAMS_PER_TENANT
            or self._open_streams >= limits.MAX_FEED_STREAMS
        ):
            raise Overloaded("More feeds are open than the service takes on.")
        self._tenants[tenant_id] = tenant
        tenant.streams += 1
        self._count(1)
        try:
            yield tenant
        finally:
            self._count(-1)
            tenant.streams -= 1
            if not tenant.streams:
                del self._tenants[tenant_id]

    def _count(self, more: int) -> None:
        self._open_streams += more
        self._observe(self._open_streams)

    async def _pages(
        self, tenant_id: UUID, tenant: _Tenant, cursor: Cursor, wanted: Wanted, *, live: bool
    ) -> AsyncGenerator[Page, None]:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._max_seconds * (1 - 0.2 * self._luck())
        quiet_since = -limits.FEED_QUIET_SECONDS
        with self._heads.followed(tenant_id) as followed:
            while True:
                changes = followed.changes
                async with tenant.reads:
                    page = await self._store.page(tenant_id, cursor, wanted)
                cursor = page.cursor
                is_last = loop.time() >= ends_at or (page.caught_up and not live)
                is_news = bool(page.rows) or not page.caught_up
                if is_last or is_news or loop.time() - quiet_since >= limits.FEED_QUIET_SECONDS:
                    yield page
                    quiet_since = loop.time()
                if is_last:
                    return
                if page.caught_up:
                    page = Page(cursor, page.head_position)  # without the rows that were sent
                    # Many small commits become a few pages.
                    await asyncio.sleep(limits.WAKE_EVERY_SECONDS)
                    silent_until = min(quiet_since + self._heartbeat_seconds, ends_at)
                    await followed.changed_since(changes, silent_until - loop.time())
                    if loop.time() >= silent_until:
                        quiet_since = -limits.FEED_QUIET_SECONDS  # a word is due
