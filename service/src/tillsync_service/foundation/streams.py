"""What any stream of messages may need."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")

_END = object()


async def one_ahead(
    items: AsyncIterator[T], work: Callable[[T], Awaitable[Result]]
) -> AsyncGenerator[Result, None]:
    """What `work` makes of each item, made while the result before it is used; never of two items
    at once. An error ends them in its turn, after the results before it. No item and no result
    that was used is held on to: the next one may be hours away."""
    coming = asyncio.ensure_future(_next(items, work))
    try:
        while (result := await coming) is not _END:
            coming = asyncio.ensure_future(_next(items, work))
            yield result  # type: ignore[misc]  # what is not _END is a Result
            del result
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def or_none_every(
    items: AsyncGenerator[T, None], seconds: float
) -> AsyncGenerator[T | None, None]:
    """The items, and None whenever the next one takes longer than `seconds`. None is made before
    the one before it was used. Closes `items`."""
    coming: asyncio.Future[T | object] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(items, _as_it_is))
            if not (await asyncio.wait([coming], timeout=seconds))[0]:
                yield None
                continue
            if (item := coming.result()) is _END:
                return
            coming = None
            yield item  # type: ignore[misc]  # what is not _END is an item
            del item
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await items.aclose()


async def _as_it_is(item: T) -> T:
    return item


async def _next(items: AsyncIterator[T], work: Callable[[T], Awaitable[Result]]) -> Result | object:
    try:
        item = await anext(items)
    except StopAsyncIteration:
        return _END
    return await work(item)
