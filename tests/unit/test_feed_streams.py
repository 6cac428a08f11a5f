"""Who may read the history when, and what a stream holds meanwhile."""

import asyncio
from collections import Counter
from contextlib import aclosing
from uuid import UUID, uuid4

from support.polling import eventually
from tillsync_service.feed.cursors import Cursor
from tillsync_service.feed.heads import Heads
from tillsync_service.feed.store import Page, Wanted
from tillsync_service.feed.streams import Feeds
from tillsync_service.foundation import limits

HISTORY = uuid4()
START = Cursor(HISTORY, 0)


class EndlessStore:
    """A history without an end, behind a pool of connections that are given out in turn."""

    def __init__(self) -> None:
        self._pool = asyncio.Semaphore(limits.FEED_POOL_CONNECTIONS)
        self.reads: Counter[UUID] = Counter()

    async def page(self, tenant_id: UUID, cursor: Cursor, _wanted: Wanted) -> Page:
        async with self._pool:
            self.reads[tenant_id] += 1
            await asyncio.sleep(0.001)
            return Page(Cursor(HISTORY, cursor.position + 1), 1_000_000, ["an event"])


async def as_it_is(page: Page) -> Page:
    return page


async def test_a_tenant_with_many_streams_leaves_the_others_their_turn():
    """One retailer's integrator opens as many feeds as it may, all of them far behind: another
    retailer's single feed gets every third read at least."""
    store = EndlessStore()
    feeds = Feeds(store, Heads(store))
    busy, quiet = uuid4(), uuid4()

    async def read(tenant_id, pages):
        stream = feeds.stream(tenant_id, START, Wanted(), as_it_is, live=False)
        async with aclosing(stream):
            async for _ in stream:
                pages -= 1
                if not pages:
                    return

    greedy = [
        asyncio.create_task(read(busy, 1_000_000))
        for _ in range(limits.MAX_FEED_STREAMS_PER_TENANT)
    ]
    await eventually(lambda: store.reads[busy] > 100)
    before = store.reads[busy]
    await read(quiet, 50)

    assert store.reads[busy] - before < 3 * store.reads[quiet]
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_a_stream_reads_one_page_ahead_and_no_more():
    """A reader that stops reading costs the page that it was sent and the one after it."""
    store = EndlessStore()
    feeds = Feeds(store, Heads(store))
    tenant_id = uuid4()
    stream = feeds.stream(tenant_id, START, Wanted(), as_it_is, live=True)
    async with aclosing(stream):
        await anext(stream)
        for _ in range(20):
            await asyncio.sleep(0.002)
        assert store.reads[tenant_id] == 2
    assert feeds._tenants == {}
    assert feeds._heads._followed == {}
