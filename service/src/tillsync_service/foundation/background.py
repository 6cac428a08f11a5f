"""Work that goes on beside everything else, for as long as what it belongs to."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any


def run_beside(resources: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until `resources` are released."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    resources.push_async_callback(end)
