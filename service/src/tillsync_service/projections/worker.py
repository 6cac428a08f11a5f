"""Keeps the projected tables level with the history, tenant by tenant, for as long as it runs."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Protocol
from uuid import UUID

import structlog

from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import ServiceError
from tillsync_service.projections.halving import Stride
from tillsync_service.projections.store import ProjectionStore, Turn

log = structlog.get_logger(__name__)


class Observe(Protocol):
    """Is told figures by their metrics' names: how many more of a counter, how much a gauge is."""

    def __call__(self, name: str, value: float, **labels: str) -> None: ...


def nobody(name: str, value: float, **labels: str) -> None:
    """Lets figures go by."""


class Worker:
    """`workers` tenants at a time, a page each, so that a large one does not keep the others
    waiting. Replicas share the tenants by their rows' locks.

    `observe` hears `projection_events_total` (by `tenant` and `outcome`: projected, skipped, dead),
    `projection_lag_events` and `dead_letters_waiting` (by `tenant`). `chance` gives numbers from 0
    to 1, `clock` seconds."""

    def __init__(
        self,
        store: ProjectionStore,
        workers: int,
        *,
        observe: Observe = nobody,
        clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._workers = workers
        self._observe = observe
        self._clock = clock
        self._chance = chance
        self._queue: asyncio.Queue[UUID] = asyncio.Queue()
        self._queued: set[UUID] = set()
        self._strides: dict[UUID, Stride] = {}
        self._failures: dict[UUID, int] = {}
        self._resting: dict[UUID, float] = {}
        self._lagging: set[UUID] = set()
        self._waiting: dict[UUID, int] = {}
        self._counted_at = float("-inf")

    def wake(self, tenant_id: UUID) -> None:
        """After a commit of events: the tenant is looked at without waiting for the next second.
        Cheap, never fails, and may be left out."""
        if tenant_id not in self._queued and self._clock() >= self._resting.get(tenant_id, 0.0):
            self._queued.add(tenant_id)
            self._queue.put_nowait(tenant_id)

    async def run(self, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Until cancelled. What is under way then is as if it had not begun."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())
            group.create_task(self._poll(pause))

    async def _poll(self, pause: Callable[[float], Awaitable[object]]) -> None:
        while True:
            try:
                await self._look()
            except ServiceError as error:
                log.warning("projections_wait", cause=str(error))
            except Exception as error:  # whatever it is, this must go on
                log.exception("projections_not_seen", exc_info=error)
            await pause(limits.POLL_EVERY_SECONDS)

    async def _look(self) -> None:
        behind = {row["tenant_id"]: row["lag"] for row in await self._store.behind()}
        for tenant_id, lag in behind.items():
            self._say_lag(tenant_id, lag)
            self.wake(tenant_id)
        for tenant_id in self._lagging - behind.keys():
            self._say_lag(tenant_id, 0)
        self._lagging = set(behind)
        if self._clock() - self._counted_at >= limits.COUNT_DEAD_LETTERS_SECONDS:
            self._counted_at = self._clock()
            waiting = await self._store.waiting()
            for tenant_id in self._waiting.keys() | waiting.keys():
                self._observe(
                    "dead_letters_waiting", waiting.get(tenant_id, 0), tenant=str(tenant_id)
                )
            self._waiting = waiting

    async def _work(self) -> None:
        while True:
            tenant_id = await self._queue.get()
            self._queued.discard(tenant_id)
            try:
                again = await self._turn(tenant_id)
            except ServiceError as error:
                log.warning("projection_waits", tenant_id=str(tenant_id), cause=str(error))
                self._rest(tenant_id)
                continue
            except Exception as error:  # whatever it is, this must go on
                log.exception("projection_failed", tenant_id=str(tenant_id), exc_info=error)
                self._rest(tenant_id)
                continue
            self._failures.pop(tenant_id, None)
            self._resting.pop(tenant_id, None)
            if again:
                self.wake(tenant_id)
            else:
                self._strides.pop(tenant_id, None)

    async def _turn(self, tenant_id: UUID) -> bool:
        """A page of what is new, and one of a rebuild; whether there is more to do."""
        stride = self._strides.setdefault(tenant_id, Stride(limits.PROJECT_PAGE_EVENTS))
        turn = await stride.step(partial(self._store.advance, tenant_id))
        self._say(tenant_id, turn)
        if turn is None:
            return False
        rebuilding = turn.rebuilding
        if rebuilding:
            rebuilt = await stride.step(partial(self._store.rebuild, tenant_id))
            rebuilding = rebuilt is not None and rebuilt.rebuilding
        return turn.lag > 0 or rebuilding

    def _rest(self, tenant_id: UUID) -> None:
        """It is tried again for ever, and not at once: after a second or so, and at most thirty."""
        failures = self._failures.get(tenant_id, 0)
        self._failures[tenant_id] = failures + 1
        bound = min(
            limits.MAX_PROJECT_RETRY_SECONDS, limits.PROJECT_RETRY_SECONDS * 2 ** min(failures, 10)
        )
        self._resting[tenant_id] = self._clock() + bound * self._chance()

    def _say(self, tenant_id: UUID, turn: Turn | None) -> None:
        if turn is None:
            return
        outcome = turn.outcome
        for name, count in (
            ("projected", outcome.projected),
            ("skipped", outcome.skipped),
            ("dead", len(outcome.dead)),
        ):
            if count:
                self._observe("projection_events_total", count, tenant=str(tenant_id), outcome=name)
        self._say_lag(tenant_id, turn.lag)

    def _say_lag(self, tenant_id: UUID, lag: int) -> None:
        self._observe("projection_lag_events", lag, tenant=str(tenant_id))
