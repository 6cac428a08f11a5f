"""Records in both directions, beside the sales: opens the replica, pushes, pulls, keeps house.

Whatever goes wrong in here, sales go on: the replica is opened again later, and a fault is logged.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from logging import getLogger
from typing import TypeVar

from tillsync_agent.agentnote import AgentNote
from tillsync_agent.config import Settings
from tillsync_agent.errors import OutboxUnavailable
from tillsync_agent.link import Link
from tillsync_agent.linkstate import LinkState
from tillsync_agent.outbox import Outbox
from tillsync_agent.puller import Puller
from tillsync_agent.pusher import Pusher
from tillsync_agent.replica import Replica

_log = getLogger(__name__)
T = TypeVar("T")

AGAIN_SECONDS = 60.0
HOUSEKEEPING_SECONDS = 60.0


class Syncer:
    """Keeps the replica of one device in sync over the agent's link. `outbox_worker` is the thread
    that the outbox is used on."""

    def __init__(
        self,
        outbox: Outbox,
        link: Link,
        state: LinkState,
        settings: Settings,
        *,
        note: AgentNote,
        monotonic: Callable[[], float],
        outbox_worker: ThreadPoolExecutor,
        on_step: Callable[[str], None] = lambda _step: None,
    ) -> None:
        self._outbox = outbox
        self._link = link
        self._state = state
        self._settings = settings
        self._note = note
        self._monotonic = monotonic
        self._outbox_worker = outbox_worker
        self._on_step = on_step

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        while not stop.is_set():
            try:
                await self._sync(stop)
            except OutboxUnavailable as error:
                _log.warning("records are not synchronised: %s", error)
            except Exception:  # noqa: BLE001 - a fault in here must stop no sale
                _log.exception("the synchronisation of records ended")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), AGAIN_SECONDS)

    async def _sync(self, stop: asyncio.Event) -> None:
        # A thread of its own: applying a catalogue must not hold up a sale.
        with ThreadPoolExecutor(1, "tillsync-replica") as worker:
            loop = asyncio.get_running_loop()
            replica = await loop.run_in_executor(worker, Replica.open, self._settings.replica_path)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._pusher(replica, worker).run(stop))
                    tasks.create_task(self._puller(replica, worker).run(stop))
                    tasks.create_task(_keep_house(replica, worker, stop))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            finally:
                await loop.run_in_executor(worker, replica.close)

    def _pusher(self, replica: Replica, worker: ThreadPoolExecutor) -> Pusher:
        return Pusher(
            replica,
            self._link,
            self._state,
            note=self._note,
            idle_poll_seconds=self._settings.idle_poll_seconds,
            worker=worker,
            on_step=self._on_step,
        )

    def _puller(self, replica: Replica, worker: ThreadPoolExecutor) -> Puller:
        async def last_sale() -> int:
            return await _on(self._outbox_worker, lambda: self._outbox.last_id)

        async def uploads_wait(until_sale: int) -> bool:
            waiting = await _on(self._outbox_worker, lambda: self._outbox.take(1))
            if waiting and waiting[0].id <= until_sale:
                return True
            return await _on(worker, replica.edits_waiting) > 0

        return Puller(
            replica,
            self._link,
            self._state,
            note=self._note,
            monotonic=self._monotonic,
            worker=worker,
            last_sale=last_sale,
            uploads_wait=uploads_wait,
            on_step=self._on_step,
        )


async def _on(worker: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(worker, call)


async def _keep_house(replica: Replica, worker: ThreadPoolExecutor, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        try:
            await loop.run_in_executor(worker, replica.prune)
            await loop.run_in_executor(worker, replica.checkpoint)
        except OutboxUnavailable as error:
            _log.warning("housekeeping of the replica waits: %s", error)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), HOUSEKEEPING_SECONDS)
