"""What any stream of messages may need."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")

_END = object()


async def one_ahead(items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The items, each fetched while the one before it is worked on. An error ends them in its
    turn, after the items before it."""
    coming = asyncio.ensure_future(_next(items))
    try:
        while (item := await coming) is not _END:
            coming = asyncio.ensure_future(_next(items))
            yield item  # type: ignore[misc]  # what is not _END is a T
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _next(items: AsyncIterator[T]) -> T | object:
    return await anext(items, _END)
