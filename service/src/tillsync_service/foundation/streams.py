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


async def _next(items: AsyncIterator[T], work: Callable[[T], Awaitable[Result]]) -> Result | object:
    try:
        item = await anext(items)
    except StopAsyncIteration:
        return _END
    return await work(item)
