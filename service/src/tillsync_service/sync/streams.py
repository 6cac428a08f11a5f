"""One device's pull: first what it lacks, step by step from the database, and then, as long as it
is live, what the tail says."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.identity import Device
from tillsync_service.foundation.streams import one_ahead, or_none_every
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
        patience_seconds: float = limits.PEER_PATIENCE_SECONDS,
        luck: Callable[[], float] = random.random,
    ) -> None:
        """`luck` gives numbers from [0, 1): streams that began together do not end together."""
        self._store = store
        self._tails = tails
        self._behind = asyncio.Semaphore(max_behind)
        self._heartbeat_seconds = heartbeat_seconds
        self._patience_seconds = patience_seconds
        self._luck = luck
        self.live = 0
        """How many pulls have everything, and hear of changes."""

    async def stream(
        self, device: Device, cursor: Cursor | None, reload: Sequence[str], *, live: bool
    ) -> AsyncGenerator[Step | None, None]:
        """What the device is sent; None says that the stream lives. Ends after its first
        checkpoint, or, live, when its time is over; and earlier where others wait for their turn.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limits.MAX_PULL_SECONDS * (1 - 0.2 * self._luck())
        while loop.time() < ends_at:
            behind = self._catching_up(device, cursor, reload)
            async with aclosing(or_none_every(behind, self._heartbeat_seconds)) as steps:
                async for step in steps:
                    cursor = cursor if step is None else step.cursor
                    yield step
            if cursor is None or not cursor.whole or not live:
                return
            reload = ()
            self.live += 1
            try:
                async with aclosing(self._following(device, cursor, ends_at)) as following:
                    async for news in following:
                        cursor = cursor if news is None else news.cursor
                        yield news
            finally:
                self.live -= 1

    async def _catching_up(
        self, device: Device, cursor: Cursor | None, reload: Sequence[str]
    ) -> AsyncGenerator[Step, None]:
        """Steps up to a checkpoint, the next one read while one is sent. Ends without one when the
        turn is over and others wait."""
        async with _turn(self._behind) as turn:
            loop = asyncio.get_running_loop()
            turn_ends_at = loop.time() + limits.BEHIND_TURN_SECONDS
            steps = _steps(self._store, device, cursor, reload)
            async with aclosing(one_ahead(steps, _as_it_is)) as made:
                async for step in made:
                    with turn.lent_if_slow(self._patience_seconds):
                        yield step
                    if self._behind.locked() and (turn.is_lent or loop.time() > turn_ends_at):
                        return
                    await turn.take_back()

    async def _following(
        self, device: Device, cursor: Cursor, ends_at: float
    ) -> AsyncGenerator[Step | None, None]:
        """What happens from `cursor`, a checkpoint's, on. Ends when the tail cannot tell."""
        loop = asyncio.get_running_loop()
        scope = cursor.store_id
        position = cursor.position
        async with self._tails.followed(device.tenant_id, cursor) as tail:
            # News of others are no word for this one: its peer hears nothing meanwhile.
            silent_until = loop.time() + self._heartbeat_seconds
            while loop.time() < ends_at:
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
                        silent_until = loop.time() + self._heartbeat_seconds
                        continue
                if await _grown(tail, min(silent_until, ends_at) - loop.time()):
                    continue
                if cursor.position == position:
                    yield None
                else:
                    # How far it is, although nothing was for it: the horizon moves on, too.
                    cursor = replace(cursor, position=position)
                    yield Step(cursor, checkpoint=_NOTHING)
                silent_until = loop.time() + self._heartbeat_seconds


class _Turn:
    """A place among those who are behind. Made by `_turn`, which holds it."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self.is_lent = False
        """Whether others may have the place, because the peer does not take what it was sent."""

    @contextmanager
    def lent_if_slow(self, patience_seconds: float) -> Iterator[None]:
        """While a peer takes a step. gRPC waits for it, and nobody can end that."""
        timer = asyncio.get_running_loop().call_later(patience_seconds, self.give_back)
        try:
            yield
        finally:
            timer.cancel()

    async def take_back(self) -> None:
        if self.is_lent:
            await self._places.acquire()
            self.is_lent = False

    def give_back(self) -> None:
        if not self.is_lent:
            self.is_lent = True
            self._places.release()


@asynccontextmanager
async def _turn(places: asyncio.Semaphore) -> AsyncIterator[_Turn]:
    await places.acquire()
    turn = _Turn(places)
    try:
        yield turn
    finally:
        turn.give_back()


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
