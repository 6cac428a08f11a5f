"""Whether there is something new for the live streams of this replica.

The rule is a poll: one statement each 200 ms for all tenants with live streams, none without. A
commit in this replica says so besides, without a round trip. Ingest tells no other replica: that
would cost each of its commits something, and would save a reader a tenth of a second.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from tillsync_service.feed.store import FeedStore, Head
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import ServiceError

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Followed:
    """A tenant with live streams. `changes` counts what may have been one: whoever has read after
    he saw a number has missed nothing while it stays."""

    streams: int = 0
    changes: int = 0
    known: Head | None = None
    _changed: asyncio.Future[None] = field(default_factory=asyncio.Future)

    def wake(self) -> None:
        self.changes += 1
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)

    async def changed_since(self, changes: int, within_seconds: float) -> bool:
        """Whether `changes` is another number, as soon as it is or when the time is over."""
        if self.changes == changes and within_seconds > 0:
            await asyncio.wait([self._changed], timeout=within_seconds)
        return self.changes != changes


class Heads:
    """The heads that this replica's live streams wait for."""

    def __init__(self, store: FeedStore, poll_seconds: float = limits.FEED_POLL_SECONDS) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._followed: dict[UUID, Followed] = {}

    @contextmanager
    def followed(self, tenant_id: UUID) -> Iterator[Followed]:
        """For one stream, from before its first page on."""
        followed = self._followed.setdefault(tenant_id, Followed())
        followed.streams += 1
        try:
            yield followed
        finally:
            followed.streams -= 1
            if not followed.streams:
                del self._followed[tenant_id]

    def wake(self, tenant_id: UUID) -> None:
        """Events of the tenant were stored by this replica."""
        if followed := self._followed.get(tenant_id):
            followed.wake()

    async def poll(self) -> None:
        """Until cancelled: looks at the heads, whoever moves them."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                if self._followed:
                    self._compare(await self._store.heads(self._followed))
            except ServiceError:
                pass  # the database is away: asked again at once
            except Exception as error:  # whatever it is, this must go on
                log.exception("feed_poll_failed", exc_info=error)

    def _compare(self, heads: dict[UUID, Head]) -> None:
        for tenant_id, followed in self._followed.items():
            head = heads.get(tenant_id)  # none: the tenant is gone, which its streams are told
            if head != followed.known:
                followed.known = head
                followed.wake()
