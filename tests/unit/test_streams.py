"""Streams of batches: the next one is made ready while the service works on the one before."""

import asyncio
import weakref

import pytest

from tillsync_service.foundation.streams import one_ahead


class Source:
    """Gives 1, 2, 3, … and fails at the number `bad`."""

    def __init__(self, *, bad: int | None = None, end: int = 5) -> None:
        self.given = 0
        self.closed = False
        self._bad, self._end = bad, end

    async def items(self):
        try:
            for number in range(1, self._end):
                self.given = number
                if number == self._bad:
                    raise ValueError(number)
                yield number
        finally:
            self.closed = True


async def as_it_is(item):
    return item


async def test_the_next_batch_is_fetched_while_one_is_stored():
    """A till's second batch is ready when its first is answered, and no third is taken in yet."""
    source = Source()
    stream = one_ahead(source.items(), as_it_is)

    assert await anext(stream) == 1
    for _ in range(5):
        await asyncio.sleep(0)

    assert source.given == 2
    assert [number async for number in stream] == [2, 3, 4]


async def test_a_failure_comes_in_its_turn():
    """A till whose token ends in the middle of a stream still hears what became of the batches
    before."""
    stream = one_ahead(Source(bad=3).items(), as_it_is)

    assert [await anext(stream), await anext(stream)] == [1, 2]
    with pytest.raises(ValueError, match="3"):
        await anext(stream)


async def test_a_till_that_hangs_up_leaves_nothing_running():
    """What was being fetched for a till that is gone is let go of."""
    entered, released = asyncio.Event(), asyncio.Event()

    async def items():
        yield 1
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            released.set()

    stream = one_ahead(items(), as_it_is)
    assert await anext(stream) == 1
    await entered.wait()

    await stream.aclose()

    assert released.is_set()


async def test_a_silent_till_costs_nothing():
    """A till was answered and says nothing for hours: of what it sent, nothing is kept."""

    class Batch:
        """Something that a weak reference can point to."""

    sent = []

    async def items():
        batch = Batch()
        sent.append(weakref.ref(batch))
        yield batch
        del batch
        await asyncio.Event().wait()

    stream = one_ahead(one_ahead(items(), as_it_is), as_it_is)
    async for result in stream:
        del result
        silent = asyncio.ensure_future(anext(stream))
        for _ in range(10):
            await asyncio.sleep(0)
        break

    assert sent[0]() is None
    silent.cancel()
    await asyncio.gather(silent, return_exceptions=True)
