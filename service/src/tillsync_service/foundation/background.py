"""Work that goes on beside everything else, for as long as what it belongs to."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class Background:
    """Tasks that go on until `resources` are released. One that ends before is named in `ended`:
    its work is not done any more, and nothing but a new start brings it back."""

    def __init__(self, resources: AsyncExitStack) -> None:
        self._resources = resources
        self._stopping: set[asyncio.Task[None]] = set()
        self.ended: list[str] = []

    def run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Begins `work`. What is begun later is ended earlier."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._note)

        async def end() -> None:
            self._stopping.add(task)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._resources.push_async_callback(end)

    def _note(self, task: "asyncio.Task[None]") -> None:
        if task in self._stopping:
            return
        self.ended.append(task.get_name())
        error = None if task.cancelled() else task.exception()
        log.error("background_work_ended", logger=task.get_name(), exc_info=error)
