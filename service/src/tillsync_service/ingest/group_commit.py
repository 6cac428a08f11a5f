"""Group commit: concurrent callers of one tenant share a transaction.

While one group is on its way, the next gathers, with no timer. A group that is full does not wait
for the one before it: it queues at the tenant's head row, in Postgres. A group is bounded by events
and by bytes, and so is what waits. Each caller gets its own verdicts. Where Postgres refuses data,
the group is split by caller and then in halves until the culprit is alone. A caller that hangs up
changes nothing for the others.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import UUID

import structlog
from opentelemetry.trace import SpanContext

from tillsync_service.foundation import limits, tracing
from tillsync_service.foundation.db import DataRefused
from tillsync_service.foundation.errors import Overloaded, Unavailable
from tillsync_service.ingest.batch import Batch
from tillsync_service.ingest.examine import UNHOLDABLE
from tillsync_service.ingest.observing import Observer
from tillsync_service.ingest.store import Receipt

log = structlog.get_logger(__name__)

# Unique and foreign keys. Whether a key or a position is taken was looked up under the lock.
_CONTRADICTIONS = ("23505", "23503")


class Store(Protocol):
    """Where a group goes; see IngestStore.commit."""

    async def commit(self, tenant_id: UUID, batches: Sequence[Batch]) -> list[Receipt]: ...


@dataclass(slots=True)
class _Submission:
    batch: Batch
    answer: asyncio.Future[Receipt]
    bytes: int
    caller: SpanContext | None


@dataclass(slots=True)
class _Lane:
    """What waits and what is on its way for one tenant."""

    waiting: deque[_Submission] = field(default_factory=deque)
    waiting_events: int = 0
    waiting_bytes: int = 0
    groups: set[asyncio.Task[None]] = field(default_factory=set)

    def add(self, submission: _Submission) -> None:
        self.waiting.append(submission)
        self.waiting_events += len(submission.batch)
        self.waiting_bytes += submission.bytes

    def take(self, max_events: int, max_bytes: int) -> list[_Submission]:
        """The oldest submissions: at least one, and up to `max_events` and `max_bytes` together."""
        group: list[_Submission] = []
        events = size = 0
        while self.waiting and (
            not group
            or (
                events + len(self.waiting[0].batch) <= max_events
                and size + self.waiting[0].bytes <= max_bytes
            )
        ):
            group.append(self.waiting.popleft())
            events += len(group[-1].batch)
            size += group[-1].bytes
        self.waiting_events -= events
        self.waiting_bytes -= size
        return group


class GroupCommit:
    """One per process. `max_group_events` 1 turns grouping off, which is for measuring only."""

    def __init__(
        self,
        store: Store,
        observer: Observer | None = None,
        *,
        max_group_events: int = limits.MAX_GROUP_EVENTS,
        max_groups_per_tenant: int = limits.MAX_GROUPS_PER_TENANT,
        max_waiting_events: int = limits.MAX_WAITING_EVENTS,
        max_group_bytes: int = limits.MAX_GROUP_BYTES,
        max_waiting_bytes: int = limits.MAX_WAITING_BYTES,
    ) -> None:
        self._store = store
        self._observer = observer or Observer()
        self._max_group_events = max_group_events
        self._max_groups_per_tenant = max_groups_per_tenant
        self._max_waiting_events = max_waiting_events
        self._max_group_bytes = max_group_bytes
        self._max_waiting_bytes = max_waiting_bytes
        self._lanes: dict[UUID, _Lane] = {}

    async def submit(self, tenant_id: UUID, batch: Batch) -> Receipt:
        """Stores the batch, in one transaction with those of other callers, and returns its own
        verdicts. Raises Overloaded when too much waits already, and what IngestStore.commit
        raises, save DataRefused: that becomes the verdict of the event at fault.
        """
        lane = self._lanes.setdefault(tenant_id, _Lane())
        size = sum(map(len, batch.bodies))
        if (
            lane.waiting_events + len(batch) > self._max_waiting_events
            or lane.waiting_bytes + size > self._max_waiting_bytes
        ):
            raise Overloaded("More events of this tenant wait than the service takes on.")
        answer = asyncio.get_running_loop().create_future()
        submission = _Submission(batch, answer, size, tracing.current_span_context())
        lane.add(submission)
        self._start_groups(tenant_id, lane)
        return await submission.answer

    @property
    def waiting_events(self) -> int:
        """How many events wait for a transaction."""
        return sum(lane.waiting_events for lane in list(self._lanes.values()))

    async def drain(self) -> None:
        """Returns when nothing is on its way. Keeping new calls out is up to the caller."""
        while groups := [group for lane in self._lanes.values() for group in lane.groups]:
            await asyncio.wait(groups)

    def _start_groups(self, tenant_id: UUID, lane: _Lane) -> None:
        while lane.waiting and (
            not lane.groups
            or (
                (
                    lane.waiting_events >= self._max_group_events
                    or lane.waiting_bytes >= self._max_group_bytes
                )
                and len(lane.groups) < self._max_groups_per_tenant
            )
        ):
            group = lane.take(self._max_group_events, self._max_group_bytes)
            task = asyncio.create_task(self._commit(tenant_id, group))
            lane.groups.add(task)
            task.add_done_callback(lambda done: self._group_done(tenant_id, lane, done))

    def _group_done(self, tenant_id: UUID, lane: _Lane, done: asyncio.Task[None]) -> None:
        lane.groups.discard(done)
        self._start_groups(tenant_id, lane)
        if not lane.groups:
            self._lanes.pop(tenant_id, None)

    async def _commit(self, tenant_id: UUID, group: list[_Submission]) -> None:
        """Answers every submission of the group, whatever happens."""
        batches = [submission.batch for submission in group]
        try:
            with self._observer.group(batches, [s.caller for s in group]) as seen:
                receipts = await self._store.commit(tenant_id, batches)
                seen.extend(receipts)
        except DataRefused:
            for submission in group:
                await self._commit_alone(tenant_id, submission)
        except Exception as error:  # noqa: BLE001  # each caller meets it at its own await
            for submission in group:
                _fail(submission, error)
        else:
            for submission, receipt in zip(group, receipts, strict=True):
                _succeed(submission, receipt)

    async def _commit_alone(self, tenant_id: UUID, submission: _Submission) -> None:
        try:
            _succeed(submission, await self._commit_in_parts(tenant_id, submission.batch))
        except Exception as error:  # noqa: BLE001  # as above
            _fail(submission, error)

    async def _commit_in_parts(self, tenant_id: UUID, batch: Batch) -> Receipt:
        """The batch in as few transactions as leave each refused event alone in its own."""
        try:
            (receipt,) = await self._store.commit(tenant_id, [batch])
        except DataRefused as refused:
            if refused.sqlstate in _CONTRADICTIONS:
                # No event is at fault: the database is not as it should be (half restored?), and
                # a refusal would be for ever.
                log.exception("database_contradicts_itself", exc_info=refused)
                raise Unavailable(
                    "The database cannot take this now; send the same again."
                ) from refused
            if len(batch) == 1:
                log.warning("event_refused_by_database", sqlstate=refused.sqlstate)
                refusal = replace(batch, refusals=[UNHOLDABLE])
                (receipt,) = await self._store.commit(tenant_id, [refusal])
                return receipt
        else:
            return receipt
        middle = len(batch) // 2
        first = await self._commit_in_parts(tenant_id, batch.part(0, middle))
        second = await self._commit_in_parts(tenant_id, batch.part(middle, len(batch)))
        return Receipt(second.history_id, first.verdicts + second.verdicts)


def _succeed(submission: _Submission, receipt: Receipt) -> None:
    if not submission.answer.done():  # its caller hung up
        submission.answer.set_result(receipt)


def _fail(submission: _Submission, error: Exception) -> None:
    if not submission.answer.done():
        submission.answer.set_exception(error)
