"""One device's pull: first what it lacks, step by step from the database, and then, as long as it
is live, what the tail says."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.identity import Device
from tillsync_service.foundation.streams import one_ahead
from tillsync_service.sync.cursors import Cursor
from tillsync_service.sync.pull import Checkpoint, Step
from tillsync_service.sync.read_store import Batch, ReadStore
from tillsync_service.sync.scopes import TENANT
from tillsync_service.sync.tail import Tail, Tails


class Pulls:
    """The pulls of this replica."""

    def __init__(
        self,
        store: ReadStore,
        tails: Tails,
        *,
        max_behind: int = limits.MAX_STREAMS_BEHIND,
        heartbeat_seconds: float = limits.HEARTBEAT_SECONDS,
        luck: Callable[[], float] = random.random,
    ) -> None:
        """`luck` gives numbers from [0, 1): streams that began together do not end together."""
        self._store = store
        self._tails = tails
        self._behind = asyncio.Semaphore(max_behind)
        self._heartbeat_seconds = heartbeat_seconds
        self._luck = luck

    async def stream(
        self, device: Device, cursor: Cursor | None, reload: Sequence[str], *, live: bool
    ) -> AsyncGenerator[Step | None, None]:
        """What the device is sent; None says that the stream lives. Ends after its first
        checkpoint, or, live, when its time is over; and earlier where others wait for their turn.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limits.MAX_PULL_SECONDS * (1 - 0.2 * self._luck())
        while loop.time() < ends_at:
            async for step in self._catching_up(device, cursor, reload):
                cursor = step.cursor
                yield step
            if cursor is None or not cursor.whole or not live:
                return
            reload = ()
            async for news in self._following(device, cursor, ends_at):
                cursor = cursor if news is None else news.cursor
                yield news

    async def _catching_up(
        self, device: Device, cursor: Cursor | None, reload: Sequence[str]
    ) -> AsyncIterator[Step]:
        """Steps up to a checkpoint, the next one read while one is sent. Ends without one when the
        turn is over and others wait."""
        async with self._behind:
            loop = asyncio.get_running_loop()
            turn_ends_at = loop.time() + limits.BEHIND_TURN_SECONDS
            steps = _steps(self._store, device, cursor, reload)
            async with aclosing(one_ahead(steps, _as_it_is)) as made:
                async for step in made:
                    yield step
                    if self._behind.locked() and loop.time() > turn_ends_at:
                        return

    async def _following(
        self, device: Device, cursor: Cursor, ends_at: float
    ) -> AsyncIterator[Step | None]:
        """What happens from `cursor`, a checkpoint's, on. Ends when the tail cannot tell."""
        loop = asyncio.get_running_loop()
        scope = cursor.store_id
        position = cursor.position
        async with self._tails.followed(device.tenant_id, cursor) as tail:
            while (left_seconds := ends_at - loop.time()) > 0:
                batches = tail.since(position, scope)
                if batches is None or tail.position < 0:
                    return
                if any(device.device_id in batch.moved for batch in batches):
                    return
                if batches:
                    position = batches[-1].end
                    step = live_step(cursor, batches, device)
                    if step.checkpoint is not None:
                        yield step
                        cursor = step.cursor
                    continue
                if not await _grown(tail, min(self._heartbeat_seconds, left_seconds)):
                    if cursor.position == position:
                        yield None
                        continue
                    # How far it is, although nothing was for it: the horizon moves on, too.
                    cursor = replace(cursor, position=position)
                    yield Step(cursor, checkpoint=_NOTHING)


_NOTHING = Checkpoint((), (), None, complete=False)


def live_step(cursor: Cursor, batches: Sequence[Batch], device: Device) -> Step:
    """The changes of some batches for one device; without a checkpoint if there is nothing for
    it."""
    rows: list[Row] = []
    digests: dict[tuple[str, object], Row] = {}
    marks: dict[int, int] = {}
    definitions = None
    for batch in batches:
        for scope in (TENANT, cursor.store_id):
            rows += (batch.rows or {}).get(scope, ())
            for row in batch.digests.get(scope, ()):
                digests[row["collection"], scope] = row
        marks.update(batch.marks.get(device.device_id, ()))
        definitions = batch.definitions if batch.definitions is not None else definitions
    following = replace(cursor, position=batches[-1].end)
    if not rows and not marks and definitions is None:
        return Step(following)
    checkpoint = Checkpoint(
        list(digests.values()), list(marks.items()), definitions, complete=False
    )
    return Step(following, rows=rows, checkpoint=checkpoint)


async def _steps(
    store: ReadStore, device: Device, cursor: Cursor | None, reload: Sequence[str]
) -> AsyncIterator[Step]:
    while True:
        step = await store.step(device, cursor, reload)
        yield step
        if step.checkpoint is not None:
            return
        cursor, reload = step.cursor, ()


async def _as_it_is(step: Step) -> Step:
    return step


async def _grown(tail: Tail, within_seconds: float) -> bool:
    done, _ = await asyncio.wait([tail.grown], timeout=within_seconds)
    return bool(done)
