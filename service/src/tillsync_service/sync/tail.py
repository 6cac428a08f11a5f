"""The latest changes of each tenant with live streams: read once in this replica, for all of them.

A stream has a position and nothing else, so a slow one holds no memory: who asks for changes that
are not remembered any more reads the database again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import ServiceError
from tillsync_service.sync.cursors import Cursor
from tillsync_service.sync.read_store import Batch, ReadStore
from tillsync_service.sync.scopes import TENANT

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Tail:
    """One tenant's latest changes, up to `position`; -1: they are of another history now.

    `scopes` counts the streams of each."""

    history_id: UUID
    position: int
    scopes: dict[UUID, int] = field(default_factory=dict)
    batches: deque[Batch] = field(default_factory=deque)
    grown: asyncio.Future[None] = field(default_factory=asyncio.Future)
    wanted: bool = False
    """Whether something happened since the last read began."""
    reading: "asyncio.Task[None] | None" = None

    def since(self, position: int, scope: UUID) -> list[Batch] | None:
        """What a stream of the scope at `position` has not seen, oldest first; None: it is not
        known here."""
        if self.position <= position:
            return []
        following = [batch for batch in self.batches if batch.end > position]
        if not following or following[0].start > position:
            return None
        if any(batch.rows is None or scope not in batch.scopes for batch in following):
            return None
        return following

    def add(self, batch: Batch) -> None:
        """Remembers a batch, forgets the oldest ones beyond the bounds, and wakes the streams."""
        self.batches.append(batch)
        self.position = batch.end
        records = sum(_records(known) for known in self.batches)
        size_bytes = sum(known.size_bytes for known in self.batches)
        while len(self.batches) > 1 and (
            records > limits.MAX_TAIL_RECORDS
            or size_bytes > limits.MAX_TAIL_BYTES
            or len(self.batches) > limits.MAX_TAIL_BATCHES
        ):
            gone = self.batches.popleft()
            records -= _records(gone)
            size_bytes -= gone.size_bytes
        self.wake()

    def wake(self) -> None:
        grown, self.grown = self.grown, asyncio.get_running_loop().create_future()
        grown.set_result(None)


class Tails:
    """The tails of this replica. `wake` and `poll` make them grow; which of the two it was is
    nothing that correctness depends on."""

    def __init__(self, store: ReadStore) -> None:
        self._store = store
        self._tails: dict[UUID, Tail] = {}

    @asynccontextmanager
    async def followed(self, tenant_id: UUID, cursor: Cursor) -> AsyncIterator[Tail]:
        """The tenant's tail, for a stream that has seen everything up to `cursor`."""
        tail = self._tails.get(tenant_id)
        if tail is not None and tail.history_id != cursor.history_id:
            self._lose(tenant_id, tail)  # its streams would wait for what nobody reads any more
            tail = None
        if tail is None:
            tail = self._tails[tenant_id] = Tail(cursor.history_id, cursor.position)
        wanted_scopes = (TENANT, cursor.store_id)
        for wanted in wanted_scopes:
            tail.scopes[wanted] = tail.scopes.get(wanted, 0) + 1
        # What was committed between the stream's last snapshot and now woke nobody.
        self.wake(tenant_id)
        try:
            yield tail
        finally:
            for wanted in wanted_scopes:
                tail.scopes[wanted] -= 1
                if not tail.scopes[wanted]:
                    del tail.scopes[wanted]
            if not tail.scopes:
                self._drop(tenant_id, tail)

    def wake(self, tenant_id: UUID | None) -> None:
        """Something of the tenant (None: of any) may have changed."""
        tenants = list(self._tails) if tenant_id is None else [tenant_id]
        for each in tenants:
            if tail := self._tails.get(each):
                tail.wanted = True
                if tail.reading is None:
                    tail.reading = asyncio.create_task(self._read(each, tail))

    async def poll(self) -> None:
        """Until cancelled: looks every second whether a wake-up was missed."""
        while True:
            await asyncio.sleep(limits.POLL_EVERY_SECONDS)
            try:
                if self._tails:
                    for tenant_id, head in (await self._store.heads(self._tails)).items():
                        tail = self._tails.get(tenant_id)
                        if tail and head != (tail.history_id, tail.position):
                            self.wake(tenant_id)
            except ServiceError:
                pass  # the database is away: asked again in a second
            except Exception as error:  # whatever it is, this must go on
                log.exception("poll_failed", exc_info=error)

    async def _read(self, tenant_id: UUID, tail: Tail) -> None:
        try:
            while tail.wanted:
                tail.wanted = False
                scopes = frozenset(tail.scopes)
                batch = await self._store.batch(tenant_id, tail.history_id, tail.position, scopes)
                if batch is None:
                    continue
                if batch.end < tail.position or batch.history_id != tail.history_id:
                    # Restored from a backup: nothing that is remembered belongs to it. The streams
                    # look into the database again, and are told.
                    self._lose(tenant_id, tail)
                    return
                tail.add(batch)
        except ServiceError:
            pass  # the poll comes back to it
        except Exception as error:  # nobody waits for this task
            log.exception("tail_failed", exc_info=error)
        finally:
            tail.reading = None

    def _lose(self, tenant_id: UUID, tail: Tail) -> None:
        tail.batches.clear()
        tail.position = -1
        if self._tails.get(tenant_id) is tail:
            del self._tails[tenant_id]
        tail.wake()

    def _drop(self, tenant_id: UUID, tail: Tail) -> None:
        if self._tails.get(tenant_id) is tail:
            del self._tails[tenant_id]
        if tail.reading is not None:
            tail.reading.cancel()


def _records(batch: Batch) -> int:
    return sum(map(len, (batch.rows or {}).values()))
